"""The heart of a merge: a method, its inputs and its parameters, evaluated block by block wherever it is read."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, final

from taskvec import methods
from taskvec.checkpoint.layout import Layout
from taskvec.checkpoint.source import TensorSpec
from taskvec.delta import BLOCK
from taskvec.engine.folding import States, run_fold
from taskvec.errors import NonFiniteError
from taskvec.methods._method import MergeMethod, Place
from taskvec.methods._parameters import Bound

if TYPE_CHECKING:
    import torch

    from taskvec.ops.bits import Floats


class Input(Protocol):
    """What the engine needs of a task vector or a checkpoint."""

    @property
    def specs(self) -> Mapping[str, TensorSpec]:
        """Shape and dtype of each tensor."""

    def add_to(self, total: Floats, coefficient: float, name: str, start: int) -> None:
        """`total += coefficient * values[start : start + total.size]`, in float64; nothing where it has no `name`."""

    def describe(self) -> str:
        """What to call it in a message."""


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
        base: Input | None = None,
    ) -> None:
        self.method, self.inputs, self.bound, self.specs = method, dict(inputs), bound, specs
        self._rows = [*([("base", base)] if base is not None else []), *self.inputs.items()]
        self._based = base is not None
        self._layout = layout or Layout.of(specs)
        self._threads = threads
        self._states: States = {}
        self._folds = method.folds_for(bound)
        self._folded = not self._folds
        self._lock = threading.Lock()
        self._whole: dict[str, Floats] = {}
        self._weights: dict[str, torch.Tensor | None] = {}

    def place(self, name: str, start: int) -> Place:
        """What a method may know of a block."""
        return Place(name, self.specs[name].shape, start, tuple(self.inputs))

    def stack(self, name: str, start: int, stop: int) -> Any:
        """Entries [start, stop) of every input's `name`, as float32 (task, n); those of a base come first.

        Raises:
            NonFiniteError: NaN or Inf, naming tensor and input.
        """
        import numpy as np

        out = np.empty((len(self._rows), stop - start), np.float32)
        row64 = np.empty(stop - start)
        with np.errstate(over="ignore"):
            for row, (_, source) in zip(out, self._rows, strict=True):
                row64.fill(0.0)
                source.add_to(row64, 1.0, name, start)
                row[:] = row64
        if not np.isfinite(out).all():
            self._refuse(name, start, out)
        return out

    def _refuse(self, name: str, start: int, out: Any) -> None:
        import numpy as np

        task, source = self._rows[int(np.argmin(np.isfinite(out).all(1)))]
        values = np.zeros(out.shape[1])
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
        self.fold()
        method = self.method_for(name)
        weights = self.weights(name)
        if weights is not None:
            self._add_combination(weights, total, coefficient, name, start)
        elif method.acts_on == "element":
            for at in range(start, start + total.size, BLOCK):
                stop = min(at + BLOCK, start + total.size)
                total[at - start : stop - start] += coefficient * self._block(method, name, at, stop)
        else:
            self._add_whole(method, total, coefficient, name, start)

    def weights(self, name: str) -> torch.Tensor | None:
        """The coefficients of a linear combination (*unit, task), where the merge of this tensor is one."""
        self.fold()
        method = self.method_for(name)
        if method.weigh is None or not self.specs[name].numel:
            return None
        with self._lock:
            if name not in self._weights:
                known = self._state(name) if method.gram is not None else len(self.inputs)
                self._weights[name] = method.weigh(known, **self._bound(method, name))
            return self._weights[name]

    def single(self, name: str) -> str | None:
        """The input that the merge of this tensor is, taken once; None where it is no such thing."""
        weights = self.weights(name)
        each = weights.tolist() if weights is not None and weights.ndim == 1 else []
        taken = [task for task, weight in zip(self.inputs, each, strict=False) if weight != 0.0]
        return taken[0] if len(taken) == 1 and 1.0 in each else None

    def _add_combination(self, weights: torch.Tensor, total: Floats, coefficient: float, name: str, start: int) -> None:
        if weights.ndim == 1:
            for weight, source in zip(weights.tolist(), self.inputs.values(), strict=True):
                if weight != 0.0:
                    source.add_to(total, coefficient * weight, name, start)
            return
        import numpy as np

        from taskvec.ops.gram import unit_of

        method = self.method_for(name)
        kind = method.gram(**self._bound(method, name)) if method.gram is not None else None
        spread = weights.numpy()[unit_of(kind, self.specs[name].shape, start, start + total.size)]
        row = np.empty(total.size)
        for task, source in enumerate(self.inputs.values()):
            row.fill(0.0)
            source.add_to(row, coefficient, name, start)
            total += spread[:, task] * row

    def _block(self, method: MergeMethod, name: str, start: int, stop: int) -> Any:
        block, base = self.parts(self.stack(name, start, stop))
        options = {"state": self._state(name), "at": self.place(name, start), **self._bound(method, name)}
        compiled = method.kernel(block, **base, **options) if method.kernel is not None else None
        if compiled is not None:
            return compiled
        import torch

        options |= {key: torch.from_numpy(row) for key, row in base.items()}
        return method(torch.from_numpy(block), **options).double().numpy()

    def _add_whole(self, method: MergeMethod, total: Floats, coefficient: float, name: str, start: int) -> None:
        """Methods that need a whole tensor: computed at its first range, dropped after its last."""
        with self._lock:
            whole = self._whole.get(name)
        if whole is None:
            whole = self._tensor(method, name)
            with self._lock:
                self._whole[name] = whole
        total += coefficient * whole[start : start + total.size]
        if start + total.size == whole.size:
            with self._lock:
                self._whole.pop(name, None)

    def _tensor(self, method: MergeMethod, name: str) -> Floats:
        import torch

        spec = self.specs[name]
        rows: torch.Tensor = torch.from_numpy(self.stack(name, 0, spec.numel)).reshape(-1, *spec.shape)
        stacked, base = self.parts(rows)
        bound = self._bound(method, name)
        merged = method(stacked, state=self._state(name), at=self.place(name, 0), **base, **bound)
        values: Floats = merged.double().reshape(-1).numpy()
        return values

    def method_for(self, name: str) -> MergeMethod:
        """The method itself, or the one it names for tensors that are not matrices."""
        if self.method.otherwise is None or self._layout[name].role == "matrix":
            return self.method
        return methods.get(self.method.otherwise)

    def _bound(self, method: MergeMethod, name: str) -> dict[str, Any]:
        return (self.bound if method is self.method else method.bind({}, list(self.inputs))).at(name)

    def _state(self, name: str) -> Any:
        return self._states.get(name, self._states.get(None))

    def fold(self) -> None:
        """Run the folds, once."""
        with self._lock:
            for fold in () if self._folded else self._folds:
                self._states = run_fold(self, fold, self._states, threads=self._threads)
            self._folded = True
