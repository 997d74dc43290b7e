"""From stacks to the public door and back: what a method makes of plain arrays, and how results are compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from taskvec import methods
from taskvec.checkpoint.checkpoint import Checkpoint
from taskvec.engine.merge import merge
from taskvec.methods import MergeMethod
from taskvec.testing.adversarial import Stacks
from taskvec.vector import TaskVector

Result = dict[str, npt.NDArray[np.float64]]
RTOL = 1e-6  # methods work in float32


class ContractError(AssertionError):
    """A method that does not do what it declares; names the law, the tensor and the entry."""


def chosen(method: str | MergeMethod) -> MergeMethod:
    """The method, by name or as it is."""
    return methods.get(method) if isinstance(method, str) else method


def spaces(method: MergeMethod) -> tuple[bool, ...]:
    """In which spaces to try a method: False for vectors, True for points."""
    return {"vector": (False,), "point": (True,), "either": (False, True)}[method.space]


def has_base(method: MergeMethod, points: bool) -> bool:
    """Whether row 0 of the stacks is the base."""
    return points and method.base == "required"


def fit(method: str | MergeMethod, stacks: Stacks, *, points: bool = False) -> Stacks:
    """The stacks with as many tasks as the method takes: repeated in order, or cut."""
    it = chosen(method)
    extra = int(has_base(it, points))
    tasks = max(len(next(iter(stacks.values()))), it.least + extra)
    tasks = tasks if it.most is None else min(tasks, it.most + extra)
    return {name: x[np.arange(tasks) % len(x)] for name, x in stacks.items()}


def spread(parameters: Mapping[str, Any], tasks: Sequence[str]) -> dict[str, Any]:
    """Lists among the parameters become one value a task (repeated in order), by task name."""
    return {
        key: {t: value[i % len(value)] for i, t in enumerate(tasks)} if isinstance(value, list | tuple) else value
        for key, value in parameters.items()
    }


def evaluate(
    method: str | MergeMethod,
    stacks: Stacks,
    /,
    *,
    tasks: Sequence[str] | None = None,
    points: bool = False,
    **parameters: Any,
) -> Result:
    """What `tv.merge` makes of the stacks, in float64 (of points: in float32).

    Args:
        method: a name, or a method.
        stacks: tensor name → (task, *shape).
        tasks: names of the rows; default "0", "1", … (and "base" before them where the method requires one).
        points: whether the rows are checkpoints.
        **parameters: options of the merge; a list is spread over the tasks.
    """
    it = chosen(method)
    extra = int(has_base(it, points))
    names = list(tasks) if tasks is not None else ["base"][:extra] + [str(i) for i in range(_tasks(stacks) - extra)]
    rows = {t: {n: torch.from_numpy(np.array(x[i])) for n, x in stacks.items()} for i, t in enumerate(names)}
    options = spread(parameters, names[extra:])
    if points:
        models = {t: Checkpoint.from_tensors(tensors) for t, tensors in rows.items()}
        base = models.pop(names[0]) if extra else None
        merged = merge(it, models, base=base, **options)
        return {n: merged[n].double().numpy() for n in stacks}
    vector = merge(it, {t: TaskVector.from_tensors(tensors) for t, tensors in rows.items()}, **options)
    return {n: vector.values(n, 0, x[0].size).reshape(x.shape[1:]) for n, x in stacks.items()}


def _tasks(stacks: Stacks) -> int:
    return len(next(iter(stacks.values())))


def check_close(
    found: Mapping[str, npt.NDArray[Any]],
    expected: Mapping[str, npt.NDArray[Any]],
    stacks: Stacks,
    *,
    what: str,
    rtol: float = RTOL,
    entrywise: bool = True,
) -> None:
    """Refuse results that differ by more than `rtol` of the inputs' or the result's magnitude.

    The magnitude is that of each entry, or with `entrywise=False` the largest of its tensor.

    Raises:
        ContractError: they differ; names the tensor, the entry and both values.
    """
    for name, stack in stacks.items():
        a, b = np.asarray(found[name], np.float64), np.asarray(expected[name], np.float64)
        if a.shape != stack.shape[1:] or b.shape != a.shape:
            raise ContractError(f"{what}: tensor '{name}' has the shape {a.shape}, not {stack.shape[1:]}.")
        if not a.size:
            continue
        size = np.maximum(np.abs(b), np.abs(stack.astype(np.float64)).sum(0))
        size = size if entrywise else np.broadcast_to(size.max(), size.shape)
        wrong = ~(np.isfinite(a) & np.isfinite(b) & (np.abs(a - b) <= rtol * size))
        if wrong.any():
            at = tuple(int(i) for i in np.argwhere(wrong)[0])
            inputs = [float(row[at]) for row in stack]
            raise ContractError(
                f"{what}: tensor '{name}' has {float(a[at])!r} at {at} where {float(b[at])!r} is expected; "
                f"the inputs there are {inputs} ({int(wrong.sum())} of {wrong.size} entries differ)."
            )
