"""`merge`: a method and its inputs become a lazy leaf. Folds run once, before the first merged block is read."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, final

from taskvec import methods
from taskvec.checkpoint.layout import Layout
from taskvec.checkpoint.source import TensorSpec
from taskvec.delta import BLOCK, AbstractDelta
from taskvec.errors import NonFiniteError, ParameterError, SpaceError
from taskvec.methods._method import Fold, MergeMethod, Place
from taskvec.methods._parameters import Parameter, Range
from taskvec.vector import TaskVector, check_compatible

if TYPE_CHECKING:
    import torch

    from taskvec.ops.bits import Floats

Vectors = Mapping[str, TaskVector] | Sequence[TaskVector]
_SCALE = Parameter("scale", float, 1.0, Range(-float("inf")), (), per_task=False)


def merge(
    method: str | MergeMethod, vectors: Vectors, *, scale: float = 1.0, layout: Layout | None = None, **parameters: Any
) -> TaskVector:
    """The merge of task vectors by a registered method (or a `MergeMethod`), times `scale`; lazy.

    Args:
        method: a registry name, or the method itself.
        vectors: a mapping name → TaskVector, or a sequence (names "0", "1", …). Their order is part of the input.
        scale: multiplies the merged vector.
        layout: the role of each tensor, for methods on matrices; default: decided from names and shapes.
        **parameters: those of the method.

    Raises:
        UnknownName: no such method. ParameterError: a parameter out of its range, or no vectors.
        SchemaError: vectors of different models or bases. SpaceError: inputs that are not task vectors.
    """
    chosen = methods.get(method) if isinstance(method, str) else method
    named = named_vectors(vectors)
    bound = chosen.bind(parameters, list(named))
    factor = _SCALE.check(chosen.name, scale)
    first = next(iter(named.values()))
    for other in named.values():
        check_compatible(first, other)
    merged = TaskVector(((1.0, Merged(chosen, named, bound, layout)),))
    return merged if factor == 1.0 else factor * merged


def named_vectors(vectors: Vectors) -> dict[str, TaskVector]:
    """The inputs by name, in order.

    Raises:
        ParameterError: there are none. SpaceError: one is not a task vector.
    """
    named = dict(vectors) if isinstance(vectors, Mapping) else {str(i): v for i, v in enumerate(vectors)}
    if not named:
        raise ParameterError("a merge needs at least one task vector; it got none.")
    for name, vector in named.items():
        if not isinstance(vector, TaskVector):
            raise SpaceError(
                f"input '{name}' of the merge is a {type(vector).__name__}, not a TaskVector.",
                "subtract the base from each tuned checkpoint first.",
            )
    return named


@final
class Merged(AbstractDelta):
    """What a method makes of several vectors, block by block."""

    def __init__(
        self, method: MergeMethod, vectors: Mapping[str, TaskVector], bound: Mapping[str, Any], layout: Layout | None
    ) -> None:
        self.method, self.vectors, self.bound = method, dict(vectors), dict(bound)
        self.specs: dict[str, TensorSpec] = {}
        for vector in self.vectors.values():
            for name, spec in vector.specs.items():
                self.specs.setdefault(name, spec)
        self.base = next((v.base for v in self.vectors.values() if v.base is not None), None)
        self.partial = any(leaf.partial for v in self.vectors.values() for _, leaf in v.terms)
        self._layout = layout or Layout.of(self.specs)
        self._states: dict[str | None, Any] = {}
        self._folded = not method.folds
        self._lock = threading.Lock()
        self._whole: dict[str, Floats] = {}

    def stack(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Entries [start, stop) of every vector's delta of `name`, as float32 (task, n).

        Raises:
            NonFiniteError: NaN or Inf, naming tensor and vector.
        """
        import numpy as np
        import torch

        out = np.empty((len(self.vectors), stop - start), np.float32)
        with np.errstate(over="ignore"):
            for row, vector in zip(out, self.vectors.values(), strict=True):
                row[:] = vector.values(name, start, stop) if name in vector.specs else 0.0
        finite = np.isfinite(out).all(1)
        if not finite.all():
            task = list(self.vectors)[int(np.argmin(finite))]
            raise NonFiniteError(
                f"the delta of tensor '{name}' has NaN or Inf in '{task}' ({self.vectors[task].describe()}).",
                "repair the checkpoint it was cut from.",
            )
        return torch.from_numpy(out)

    def add_to(self, total: Floats, coefficient: float, name: str, start: int) -> None:
        """See the base class."""
        self._fold()
        method = self._method_for(name)
        if method.acts_on != "element":
            whole = self._whole_tensor(method, name)
            total += coefficient * whole[start : start + total.size]
            if start + total.size == whole.size:
                self._whole.pop(name, None)
            return
        for at in range(start, start + total.size, BLOCK):
            stop = min(at + BLOCK, start + total.size)
            block = self._apply(method, self.stack(name, at, stop), self._place(name, at))
            total[at - start : stop - start] += coefficient * block

    def _apply(self, method: MergeMethod, deltas: torch.Tensor, at: Place) -> Any:
        bound = self.bound if method is self.method else method.bind({}, list(self.vectors))
        state = self._states.get(at.tensor, self._states.get(None))
        return method(deltas, state=state, at=at, **bound).double().reshape(-1).numpy()

    def _whole_tensor(self, method: MergeMethod, name: str) -> Floats:
        whole = self._whole.get(name)
        if whole is None:
            spec = self.specs[name]
            deltas = self.stack(name, 0, spec.numel).reshape(-1, *spec.shape)
            whole = self._whole[name] = self._apply(method, deltas, self._place(name, 0))
        return whole

    def _method_for(self, name: str) -> MergeMethod:
        if self.method.otherwise is None or self._layout[name].role == "matrix":
            return self.method
        return methods.get(self.method.otherwise)

    def _place(self, name: str, start: int) -> Place:
        return Place(name, self.specs[name].shape, start, tuple(self.vectors))

    def _fold(self) -> None:
        with self._lock:
            for fold in () if self._folded else self.method.folds:
                self._states = self._run(fold, self._states)
            self._folded = True

    def _run(self, fold: Fold, before: Mapping[str | None, Any]) -> dict[str | None, Any]:
        """One fold over every block, in order; its state a tensor, or under None for the model."""
        totals: dict[str | None, Any] = {}
        entries: dict[str | None, int] = {}
        for name, spec in self.specs.items():
            key = name if fold.scope == "tensor" else None
            for start in range(0, spec.numel, BLOCK):
                deltas = self.stack(name, start, min(start + BLOCK, spec.numel))
                state = before.get(name, before.get(None))
                statistic = fold.step(deltas, at=self._place(name, start), state=state, **self.bound)
                totals[key] = totals[key] + statistic if key in totals else statistic
            entries[key] = entries.get(key, 0) + spec.numel
        return {
            key: fold.finish(total, before.get(key, before.get(None)), entries[key], **self.bound)
            for key, total in totals.items()
        }

    def is_zero(self, name: str) -> bool:
        """Zero inputs merge to zero under every method that has the law."""
        if name not in self.specs:
            return True
        return "zero" in self._method_for(name).laws and all(v.is_zero(name) for v in self.vectors.values())

    def check(self) -> None:
        """See the base class."""
        for vector in self.vectors.values():
            vector.check()

    def inputs(self) -> tuple[object, ...] | None:
        """See the base class."""
        parts = [leaf.inputs() for v in self.vectors.values() for _, leaf in v.terms]
        terms = [[c for c, _ in v.terms] for v in self.vectors.values()]
        known = (self.method.name, sorted(self.bound.items()), list(self.vectors), terms)
        return None if any(p is None for p in parts) else (*parts, known)

    def recipe(self, *, blank: bool) -> dict[str, object]:
        """See the base class."""
        inputs = {
            name: [{"coefficient": c, **leaf.recipe(blank=blank)} for c, leaf in vector.terms]
            for name, vector in self.vectors.items()
        }
        return {"method": self.method.name, "parameters": dict(self.bound), "inputs": inputs}

    def describe(self) -> str:
        """See the base class."""
        return f"{self.method.name}({', '.join(self.vectors)})"
