"""The heart of a merge: a method, its inputs and its parameters, evaluated block by block wherever it is read."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, final

from taskvec.checkpoint.decompositions import Decompositions, using
from taskvec.checkpoint.layout import Layout
from taskvec.checkpoint.progress import Meter, Progress, unseen
from taskvec.checkpoint.roles import default_role
from taskvec.checkpoint.source import TensorSpec
from taskvec.delta import BLOCK, Factors
from taskvec.engine.device import CPU, device_of
from taskvec.engine.folding import FoldJob, States, run_fold
from taskvec.engine.runner import LocalRunner
from taskvec.engine.spectra import Spectra
from taskvec.errors import ConvergenceError, NonFiniteError, SchemaError
from taskvec.methods._method import MergeMethod
from taskvec.methods._parameters import Bound
from taskvec.methods._place import Place
from taskvec.ops.threads import one_thread

if TYPE_CHECKING:
    from taskvec.ops.bits import Floats


class Input(Protocol):
    """What the engine needs of a task vector or a checkpoint."""

    @property
    def specs(self) -> Mapping[str, TensorSpec]:
        """Shape and dtype of each tensor."""

    def add_to(self, total: Floats, coefficient: float, name: str, start: int) -> None:
        """`total += coefficient * values[start : start + total.size]`, in float64; nothing where it has no `name`."""

    def read32(self, out: Any, name: str, start: int) -> int:
        """`out = values[start : start + out.size]` rounded once to float32; how many entries are not finite."""

    def is_zero(self, name: str) -> bool:
        """Whether `name` is known to be 0 everywhere without reading it."""

    def factors(self, name: str) -> Factors | None:
        """`name` as a product of two thin matrices, where it is kept so."""

    def describe(self) -> str:
        """What to call it in a message."""


@final
class _Held:
    """A block of which `unread` entries are still to be read; whoever has the lock computes it."""

    def __init__(self, unread: int) -> None:
        self.lock, self.merged, self.unread = threading.Lock(), None, unread


@final
class Merging:
    """Lazy: the folds run before the first block is read; then every block is computed when it is read."""

    def __init__(
        self,
        method: MergeMethod,
        inputs: Mapping[str, Input],
        bound: Bound,
        *,
        specs: Mapping[str, TensorSpec],
        layout: Layout | None,
        threads: int | None = None,
        device: str = CPU,
        base: Input | None = None,
        cache: Decompositions | None = None,
    ) -> None:
        self._device_name, self._device = device, device_of(device)
        self.method, self.inputs, self.bound, self.specs = method, dict(inputs), bound, specs
        self._rows = [*([("base", base)] if base is not None else []), *self.inputs.items()]
        self._based = base is not None
        self._methods: dict[str, MergeMethod] = {}
        self._together: dict[str, int] = {}
        self._weights: dict[str, Floats | None] = {}
        self.layout = layout or Layout.of(specs)
        self._runner, self._cache = LocalRunner(threads), cache
        self._states: States = {}
        self.notes: dict[str, dict[str, float]] = {}
        self._noting = threading.Lock()
        for name, spec in specs.items():
            if self.layout[name].spec.shape != spec.shape:
                what = f"tensor '{name}' is {spec}, and {self.layout[name].spec} in the layout."
                raise SchemaError(what, "give the layout of this model.")
            method.check_at(bound.at(name))
        self.spectra = None
        if method.spectral is not None:
            self.spectra = Spectra(self, method.spectral, keep=self._runner.threads + 1)
        self._folds = method.folds_for(bound)
        self._folded = not self._folds
        self._lock = threading.Lock()
        self._blocks: dict[tuple[str, int], _Held] = {}

    def place(self, name: str, start: int) -> Place:
        """What a method may know of a block."""
        shape, split = self.specs[name].shape, self.layout[name].split
        pieces = tuple(split.pieces(shape)) if split else ()
        return Place(name, shape, start, tuple(self.inputs), pieces, functools.partial(self.note, name))

    def note(self, name: str, what: str, number: float) -> None:
        """Keep the largest of each number that the method reports of a tensor."""
        with self._noting:
            known = self.notes.setdefault(name, {})
            known[what] = max(number, known.get(what, number))

    def stack(self, name: str, start: int, stop: int) -> Any:
        """Entries [start, stop) of every input's `name`, as float32 (task, n); those of a base come first.

        Raises:
            NonFiniteError: NaN or Inf, naming tensor and input.
        """
        import numpy as np

        out = np.empty((len(self._rows), stop - start), np.float32)
        bad = sum(source.read32(row, name, start) for row, (_, source) in zip(out, self._rows, strict=True))
        if bad:
            self._refuse(name, start, out)
        return out

    def _refuse(self, name: str, start: int, out: Any) -> NoReturn:
        import numpy as np

        self.refuse(name, start, out.shape[1], *self._rows[int(np.argmin(np.isfinite(out).all(1)))])

    def refuse(self, name: str, start: int, entries: int, task: str, source: Input) -> NoReturn:
        """Say what is wrong with a block of one input that has no finite float32 values.

        Raises:
            NonFiniteError: always.
        """
        import numpy as np

        values = np.zeros(entries)
        source.add_to(values, 1.0, name, start)
        what = "a value beyond the range of float32" if np.isfinite(values).all() else "NaN or Inf"
        raise NonFiniteError(
            f"tensor '{name}' has {what} in '{task}' ({source.describe()}).",
            "repair the checkpoint it comes from.",
        )

    def parts(self, rows: Any) -> tuple[Any, dict[str, Any]]:
        """Stacked rows as the inputs', and the base's as a keyword, if there is one."""
        return (rows[1:], {"base": rows[0]}) if self._based else (rows, {})

    def add_to(self, total: Floats, coefficient: float, name: str, start: int) -> None:
        """`total += coefficient * merged[start : start + total.size]` of the flattened tensor, in float64."""
        if not self._folded:
            self.fold()
        if self.spectra is not None and name in self.spectra:
            self.spectra.add_to(total, coefficient, name, start)
            return
        weights = self.weights(name)
        if weights is not None:
            self._add_combination(weights, total, coefficient, name, start)
        else:
            self._add_blocks(total, coefficient, name, start)

    def _add_blocks(self, total: Floats, coefficient: float, name: str, start: int) -> None:
        """A block at a time; blocks of rows begin before the range and end after it, where it cuts a row."""
        row, stop = self._row(name), start + total.size
        size = max(1, BLOCK // row) * row
        for first in range(start - start % row, stop, size):
            last = min(first + size, stop + -stop % row)
            low, high = max(first, start), min(last, stop)
            merged = self.block(name, first, last) if row <= BLOCK else self._held(name, first, last, high - low)
            part = merged[low - first : high - first]
            total[low - start : high - start] += part if coefficient == 1.0 else coefficient * part

    def _row(self, name: str) -> int:
        """How many entries the method must see together: 1, a slice of the first axis, or the whole tensor."""
        known = self._together.get(name)
        if known is None:
            known = self._together[name] = self._entries_together(name)
        return known

    def _entries_together(self, name: str) -> int:
        acts_on, spec = self.acts_on(name), self.specs[name]
        if acts_on == "element" or not spec.numel:
            return 1
        return spec.numel // spec.shape[0] if acts_on == "row" and spec.shape else spec.numel

    def acts_on(self, name: str) -> str:
        """As `MergeMethod.acts_on`; a vector is one row, so that it must be seen whole."""
        method = self.method_for(name)
        acts_on = method.unit_of(self._bound(method, name))
        return "tensor" if acts_on == "row" and len(self.specs[name].shape) < 2 else acts_on

    def _held(self, name: str, first: int, last: int, entries: int) -> Any:
        """A block that several ranges read: computed by the first that asks, dropped when all its entries are read."""
        with self._lock:
            held = self._blocks.setdefault((name, first), _Held(last - first))
        with held.lock:
            if held.merged is None:
                held.merged = self.block(name, first, last)
        with self._lock:
            held.unread -= entries
            if held.unread <= 0 and self._blocks.get((name, first)) is held:
                del self._blocks[name, first]
        return held.merged

    def weights(self, name: str) -> Floats | None:
        """The coefficients of a linear combination (*unit, task), where the merge of this tensor is one."""
        if name not in self._weights:
            self._weights[name] = self._weigh(name)
        return self._weights[name]

    def _weigh(self, name: str) -> Floats | None:
        import numpy as np

        self.fold()
        method = self.method_for(name)
        if method.weigh is None or not self.specs[name].numel:
            return None
        known = self._state(name) if method.gram is not None else len(self.inputs)
        found = method.weigh(known, **self._bound(method, name))
        return None if found is None else np.asarray(found, np.float64)

    def single(self, name: str) -> str | None:
        """The input that the merge of this tensor is, taken once; None where it is no such thing."""
        weights = self.weights(name)
        each = weights.tolist() if weights is not None and weights.ndim == 1 else []
        taken = [task for task, weight in zip(self.inputs, each, strict=False) if weight != 0.0]
        return taken[0] if len(taken) == 1 and 1.0 in each else None

    def _add_combination(self, weights: Floats, total: Floats, coefficient: float, name: str, start: int) -> None:
        if weights.ndim == 1:
            for weight, source in zip(weights.tolist(), self.inputs.values(), strict=True):
                if weight != 0.0:
                    source.add_to(total, coefficient * weight, name, start)
            return
        import numpy as np

        from taskvec.ops.gram import unit_of

        method = self.method_for(name)
        kind = method.gram(**self._bound(method, name)) if method.gram is not None else None
        spread = weights[unit_of(kind, self.specs[name].shape, start, start + total.size)]
        row = np.empty(total.size)
        for task, source in enumerate(self.inputs.values()):
            row.fill(0.0)
            source.add_to(row, coefficient, name, start)
            total += spread[:, task] * row

    def block(self, name: str, start: int, stop: int) -> Any:
        """The merge of entries [start, stop), which are whole rows where the method acts on such; float64 (n,)."""
        method, spec = self.method_for(name), self.specs[name]
        block, base = self.parts(self.stack(name, start, stop))
        options = {"state": self._state(name), "at": self.place(name, start), **self._bound(method, name)}
        compiled = None
        if method.kernel is not None and self._device is None:
            compiled = method.kernel(block, **base, **options)
        if compiled is not None:
            return compiled
        import torch

        acts_on, row = self.acts_on(name), self._row(name)
        shape = {"element": (stop - start,), "row": ((stop - start) // row, *spec.shape[1:])}.get(acts_on, spec.shape)
        try:
            with self.computing():
                options |= {key: torch.as_tensor(values).reshape(shape) for key, values in base.items()}
                merged = method(torch.as_tensor(block).reshape(-1, *shape), **options)
                return merged.double().reshape(-1).cpu().numpy()
        except ConvergenceError as error:
            raise ConvergenceError(f"{method.name} of tensor '{name}': {error.fact}", error.fix) from error

    @contextlib.contextmanager
    def computing(self) -> Iterator[None]:
        """Within it, what is made with as_tensor lies where the method runs; on a processor one thread computes.

        Decompositions go through the cache.
        """
        with one_thread(), using(self._cache), self._device or contextlib.nullcontext():
            yield

    def layout_changes(self) -> dict[str, dict[str, str]]:
        """What was asked for besides the default: roles, and splits where the method acts on matrices."""
        places, splits = self.layout.places, self.method.elsewhere is not None
        roles: dict[str, str] = {n: p.role for n, p in places.items() if p.role != default_role(p.spec)}
        cut = {n: str(p.split) for n, p in places.items() if splits and p.split is not None}
        return {key: found for key, found in (("roles", roles), ("splits", cut)) if found}

    def identity(self) -> tuple[object, ...]:
        """What decides the result besides the inputs, for resuming a run; devices differ in the last bit."""
        return (self.method.name, self.bound.to_plain(), self.layout_changes(), self._device_name)

    def method_for(self, name: str) -> MergeMethod:
        """The method itself, or the one it names for tensors that are not matrices."""
        known = self._methods.get(name)
        if known is None:
            known = self._methods[name] = self.method.acting(self.layout[name], len(self.inputs))
        return known

    def _bound(self, method: MergeMethod, name: str) -> dict[str, Any]:
        return (self.bound if method is self.method else self._others).at(name)

    @functools.cached_property
    def _others(self) -> Bound:
        """The parameters of the method for tensors that are not matrices: those that it has, too."""
        other = self.method.elsewhere or self.method
        return other.bind(self.bound.only(other.parameters), list(self.inputs))

    def _state(self, name: str) -> Any:
        return self._states.get(name, self._states.get(None))

    def fold(self, progress: Progress = unseen) -> None:
        """Run the folds, once."""
        with self._lock:
            for number, fold in enumerate(() if self._folded else self._folds, 1):
                done = self._reading(progress, f"reading for statistics ({number} of {len(self._folds)})")
                self._states = run_fold(self, fold, self._states, runner=self._runner, done=done)
            self._folded = True

    def _reading(self, progress: Progress, step: str) -> Callable[[FoldJob], None]:
        """What a fold tells of its jobs, as bytes of the inputs."""
        rows = len(self._rows)
        meter = Meter(progress, step, rows * sum(s.nbytes for s in self.specs.values()))

        def done(job: FoldJob) -> None:
            spec = self.specs[job.name]
            meter.reach(job.name, rows * (spec.nbytes * job.stop // spec.numel))

        return done
