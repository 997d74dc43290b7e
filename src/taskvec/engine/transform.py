"""`transform`: task vectors become as many others, lazily, by a registered transform."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, final

from taskvec import transforms
from taskvec.checkpoint.layout import Layout
from taskvec.checkpoint.progress import Progress, unseen
from taskvec.delta import BLOCK, AbstractDelta
from taskvec.engine.device import CPU
from taskvec.engine.merge import Merged, Vectors, named_inputs
from taskvec.errors import SpaceError
from taskvec.methods._parameters import Bound, PerTensor
from taskvec.transforms import Transform
from taskvec.vector import TaskVector, check_compatible

if TYPE_CHECKING:
    from taskvec.ops.bits import Floats


def transform(
    name: str | Transform,
    vectors: Vectors,
    /,
    *,
    layout: Layout | None = None,
    threads: int | None = None,
    device: str = CPU,
    **parameters: Any,
) -> dict[str, TaskVector]:
    """The task vectors that a transform makes of these, by name; lazy.

    Args:
        name: a registry name (`tv.transforms.names()`), or a `Transform`.
        vectors: a mapping name → vector, or a sequence (names "0", "1", …). Their order is part of the input.
        layout: the role of each tensor, for transforms of matrices; default: decided from shapes.
        threads: workers of the folds; default: one a processor.
        device: where the transform runs, as in `merge`.
        **parameters: those of the transform.

    A transform of matrices computes those of all tasks when one is read, and keeps them until all were: read the
    vectors side by side (a merge does), or save them.

    Raises:
        UnknownName: no such transform. ParameterError: a parameter out of its range, or no vectors.
        SchemaError: vectors of different models or bases. SpaceError: an input that is not a task vector.
    """
    chosen = transforms.get(name) if isinstance(name, str) else name
    named = named_inputs(vectors)
    bound = chosen.method.bind(parameters, list(named))
    for task, given in named.items():
        if not isinstance(given, TaskVector):
            what = f"input '{task}' of {chosen.name} is a {type(given).__name__}, not a TaskVector."
            raise SpaceError(what, "subtract the base first: tuned - base.")
        check_compatible(next(iter(named.values())), given)
    if chosen.alone:
        groups = [({task: vector}, _of_task(bound, i)) for i, (task, vector) in enumerate(named.items())]
    else:
        groups = [(named, bound)]
    found: dict[str, TaskVector] = {}
    for members, parameters_of_group in groups:
        merged = Merged(chosen.method, members, parameters_of_group, layout=layout, threads=threads, device=device)
        rows = _Rows(merged, keep=(threads or os.cpu_count() or 1) + 1)
        found |= {task: TaskVector(((1.0, Transformed(rows, task, i)),)) for i, task in enumerate(members)}
    return found


def _of_task(bound: Bound, task: int) -> Bound:
    """The parameters of one task."""

    def one(value: Any) -> Any:
        if isinstance(value, PerTensor):
            return PerTensor(tuple((pattern, one(v)) for pattern, v in value.rules), one(value.default))
        return value[task : task + 1] if isinstance(value, tuple) else value

    return Bound({key: one(value) for key, value in bound.values.items()})


@final
class _Rows:
    """What the transform makes of a tensor, a row a task; of a whole tensor kept until every task was read."""

    def __init__(self, merged: Merged, *, keep: int) -> None:
        self.merged, self.tasks, self._keep = merged, len(merged.vectors), keep
        self._held: OrderedDict[str, tuple[Any, set[int]]] = OrderedDict()
        self._lock = threading.Lock()
        self._locks = {name: threading.Lock() for name in merged.specs}

    def add_to(self, task: int, total: Floats, coefficient: float, name: str, start: int) -> None:
        """`total += coefficient * row[task][start : start + total.size]`, in float64."""
        merging, stop = self.merged.merging, start + total.size
        merging.fold()
        if merging.acts_on(name) != "element":
            total += coefficient * self._whole(task, name, last=stop)[start:stop]
            return
        for first in range(start, stop, BLOCK):
            last = min(first + BLOCK, stop)
            rows = merging.block(name, first, last).reshape(self.tasks, -1)
            total[first - start : last - start] += coefficient * rows[task]

    def _whole(self, task: int, name: str, *, last: int) -> Any:
        import numpy as np

        entries = self.merged.specs[name].numel
        with self._locks[name]:
            with self._lock:
                rows, readers = self._held.pop(name, (None, set()))
            if rows is None:
                rows = self.merged.merging.block(name, 0, entries).astype(np.float32).reshape(self.tasks, -1)
            readers = readers | {task} if last == entries else readers
            with self._lock:
                if len(readers) < self.tasks:
                    self._held[name] = (rows, readers)
                while len(self._held) > self._keep:
                    self._held.popitem(last=False)
        return rows[task]


@final
class Transformed(AbstractDelta):
    """One of the task vectors that a transform makes of several, as a leaf."""

    def __init__(self, rows: _Rows, task: str, number: int) -> None:
        self._rows, self._task, self._number = rows, task, number
        self._merged = rows.merged
        self.specs, self.base, self.partial = self._merged.specs, self._merged.base, self._merged.partial

    def add_to(self, total: Floats, coefficient: float, name: str, start: int) -> None:
        """See the base class."""
        self._rows.add_to(self._number, total, coefficient, name, start)

    def is_zero(self, name: str) -> bool:
        """See the base class: where all inputs are 0, under a transform that has the law."""
        return self._merged.is_zero(name)

    def blame(self, name: str, start: int, stop: int) -> str | None:
        """See the base class."""
        return self._merged.blame(name, start, stop)

    def check(self, progress: Progress = unseen) -> None:
        """See the base class."""
        self._merged.check(progress)

    def hash_inputs(self, name: str) -> None:
        """See the base class."""
        self._merged.hash_inputs(name)

    def inputs(self) -> tuple[object, ...] | None:
        """See the base class."""
        found = self._merged.inputs()
        return None if found is None else (*found, "transform", self._task)

    def notes(self) -> Mapping[str, Mapping[str, float]]:
        """See the base class."""
        return self._merged.notes()

    def recipe(self, *, blank: bool) -> dict[str, object]:
        """See the base class."""
        known = self._merged.recipe(blank=blank)
        return {"transform": known.pop("method"), "task": self._task, **known}

    def describe(self) -> str:
        """See the base class."""
        return f"'{self._task}' of {self._merged.describe()}"
