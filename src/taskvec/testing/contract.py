"""The laws of merge methods, checked through the public door."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from taskvec.methods import MergeMethod
from taskvec.methods._over import composed
from taskvec.testing.adversarial import Stacks, named
from taskvec.testing.evaluation import (
    RTOL,
    ContractError,
    Result,
    check_close,
    chosen,
    evaluate,
    fit,
    has_base,
    spaces,
    spread,
)

Reference = Callable[..., Mapping[str, Any]]
_TINY, _HUGE = 2.0**-120, 2.0**100  # factors that would leave float32's normal range are not tried


@final
@dataclass(frozen=True, slots=True)
class _Trial:
    """One method on one input in one space."""

    method: MergeMethod
    rows: Stacks
    points: bool
    rtol: float
    parameters: Mapping[str, Any]

    @property
    def names(self) -> list[str]:
        """The names of the rows, the base's among them."""
        extra = int(has_base(self.method, self.points))
        return ["base"][:extra] + [str(i) for i in range(len(next(iter(self.rows.values()))) - extra)]

    def run(self, rows: Stacks, **options: Any) -> Result:
        """What the method makes of some rows."""
        return evaluate(self.method, rows, points=self.points, **{**self.parameters, **options})

    def same(self, found: Result, expected: Mapping[str, Any], rows: Stacks, what: str) -> None:
        """Refuse a difference; `rows` tell how large one may be."""
        entrywise = self.method.acts_on not in {"matrix", "tensor"}
        check_close(found, expected, rows, what=f"{self.method.name} {what}", rtol=self.rtol, entrywise=entrywise)


def check_law(method: str | MergeMethod, law: str, stacks: Stacks, /, *, rtol: float = RTOL, **parameters: Any) -> None:
    """Hold a method to one law on one input; where it takes vectors and points, on both.

        permutation   the order of the tasks makes no difference; for a method with a `seed`, that of named tasks
        homogeneous   f(c x) = c f(x) for c in 2, 1/2, 1024 and -1
        zero          f(0, …, 0) = 0
        idempotent    f(x, …, x) = x
        additive      f(x + y) = f(x) + f(y)

    Raises:
        ContractError: the law does not hold.
    """
    it = chosen(method)
    for points in spaces(it):
        _LAWS[law](_Trial(it, fit(it, stacks, points=points), points, rtol, parameters))


def _permutation(trial: _Trial) -> None:
    rows, names, seeded = trial.rows, trial.names, "seed" in trial.method.parameters
    extra = int(has_base(trial.method, trial.points))
    options = spread(trial.parameters, names[extra:])
    by_name = seeded or any(isinstance(value, dict) for value in options.values())
    expected = trial.run(rows)
    for order in _orders(len(names) - extra):
        moved = [*range(extra), *(extra + i for i in order)]
        turned = {n: x[moved] for n, x in rows.items()}
        what = f"depends on the order of the tasks (here {order})"
        trial.same(trial.run(turned, tasks=[names[i] for i in moved], **options), expected, rows, what)
        if not by_name:
            trial.same(trial.run(turned), expected, rows, f"{what} and their names")


def _orders(tasks: int) -> list[list[int]]:
    """The reverse, and two rotations."""
    line = list(range(tasks))
    return [order for order in (line[::-1], line[1:] + line[:1], line[-1:] + line[:-1]) if order != line]


def _homogeneous(trial: _Trial) -> None:
    once = trial.run(trial.rows)
    sizes = np.concatenate([np.abs(x[x != 0]) for x in trial.rows.values()])
    for factor in (2.0, 0.5, 1024.0, -1.0):
        if sizes.size and not _TINY <= sizes.min() * abs(factor) <= sizes.max() * abs(factor) <= _HUGE:
            continue
        scaled = {n: x * np.float32(factor) for n, x in trial.rows.items()}
        expected = {n: factor * x for n, x in once.items()}
        trial.same(trial.run(scaled), expected, scaled, f"is not homogeneous: f({factor:g} x) is not {factor:g} f(x)")


def _zero(trial: _Trial) -> None:
    nothing = {n: np.zeros_like(x) for n, x in trial.rows.items()}
    trial.same(trial.run(nothing), {n: x[0] for n, x in nothing.items()}, nothing, "does not map zeros to zero")


def _idempotent(trial: _Trial) -> None:
    copies = {n: np.repeat(x[:1], len(x), axis=0) for n, x in trial.rows.items()}
    trial.same(trial.run(copies), {n: x[0] for n, x in copies.items()}, copies, "does not return equal inputs")


def _additive(trial: _Trial) -> None:
    rows = trial.rows
    other = {n: np.roll(x.reshape(len(x), -1), 1, axis=1).reshape(x.shape) for n, x in rows.items()}
    first, second = trial.run(rows), trial.run(other)
    total = trial.run({n: rows[n] + other[n] for n in rows})
    both = {n: np.concatenate([rows[n], other[n]]) for n in rows}
    trial.same(total, {n: first[n] + second[n] for n in rows}, both, "is not additive: f(x + y) is not f(x) + f(y)")


_LAWS: dict[str, Callable[[_Trial], None]] = {
    "permutation": _permutation,
    "homogeneous": _homogeneous,
    "zero": _zero,
    "idempotent": _idempotent,
    "additive": _additive,
}


def check_reference(
    method: str | MergeMethod, reference: Reference, stacks: Stacks, /, *, rtol: float = RTOL, **parameters: Any
) -> None:
    """Compare a method with its float64 reference on one input; where it takes vectors and points, on both.

    Raises:
        ContractError: they differ.
    """
    it = composed(chosen(method), parameters)
    for points in spaces(it):
        rows = fit(it, stacks, points=points)
        extra = int(has_base(it, points))
        tasks = [str(i) for i in range(len(next(iter(rows.values()))) - extra)]
        bound = it.bind(spread(parameters, tasks), tasks).at("")
        expected = reference({n: x.astype(np.float64) for n, x in rows.items()}, **bound)
        found = evaluate(it, rows, points=points, **parameters)
        what = f"{it.name} differs from its reference"
        check_close(found, expected, rows, what=what, rtol=rtol, entrywise=it.acts_on not in {"matrix", "tensor"})


def check_method(
    method: str | MergeMethod,
    reference: Reference,
    *,
    settings: Sequence[Mapping[str, Any]] = ({},),
    inputs: Mapping[str, Stacks] | None = None,
    rtol: float = RTOL,
) -> None:
    """Hold a method to its laws (under the first of the settings) and to its reference (under all of them).

    Args:
        method: a name, or a method.
        reference: the same in float64, written independently.
        settings: parameters to try; a list among them is spread over the tasks.
        inputs: what to try them on; default: all named adversarial inputs.
        rtol: how much a result may differ, relative to the inputs or the result, whichever is larger.

    Raises:
        ContractError: a law or the reference does not hold; names the input.
    """
    it = chosen(method)
    for case, stacks in (named() if inputs is None else inputs).items():
        try:
            for law in sorted(it.laws):
                check_law(it, law, stacks, rtol=rtol, **settings[0])
            for setting in settings:
                check_reference(it, reference, stacks, rtol=rtol, **setting)
        except ContractError as error:
            raise ContractError(f"on the input '{case}': {error}") from error
