"""What the dialects of one method share: which parameters belong to which, and how their votes differ."""

from __future__ import annotations

from typing import Any, Literal

from taskvec.errors import ParameterError
from taskvec.ops.signs import Rule

Dialect = Literal["paper", "mergekit", "peft"]
TwoDialects = Literal["paper", "mergekit"]  # of methods that PEFT does not have
Majority = Literal["total", "frequency"]


def only_in(dialects: tuple[str, ...], *, method: str, dialect: str, **given: tuple[Any, Any]) -> None:
    """Refuse values outside the dialects that know them; `given` maps a parameter to (value, what means nothing).

    Raises:
        ParameterError: a value that the dialect has no meaning for.
    """
    for key, (value, neutral) in given.items():
        values = value if isinstance(value, tuple) else (value,)
        if dialect not in dialects and any(v != neutral for v in values):
            shown = value[0] if isinstance(value, tuple) and len(set(value)) == 1 else value
            raise ParameterError(
                f"{method}: {key}={shown!r} has no meaning in the dialect '{dialect}'.",
                f'dialect="{dialects[0]}", or leave {key} out.',
            )


def vote_rule(dialect: Dialect, *, normalize: bool = True, majority: Majority = "total") -> Rule:
    """How entries vote in a dialect, and what those who agree are divided by.

    paper     unweighted; a zero vote elects nobody; the mean of those who agree
    mergekit  weighted; a zero vote elects +; divided by the sum of the agreeing coefficients, or not at all
    peft      unweighted, by value or by sign; a zero vote elects +; divided by the number of those who agree
    """
    if dialect == "paper":
        return Rule()
    if dialect == "mergekit":
        return Rule("weighted", 1.0, "coefficients" if normalize else "none")
    return Rule("signs" if majority == "frequency" else "values", 1.0)


def check_sum(method: str, coefficients: tuple[float, ...], normalize: bool) -> None:
    """Refuse to divide by coefficients that sum to 0.

    Raises:
        ParameterError: they do, to within rounding.
    """
    if normalize and abs(sum(coefficients)) <= 2.0**-40 * sum(abs(c) for c in coefficients):
        raise ParameterError(
            f"{method}: the coefficients {list(coefficients)} sum to 0, and normalize divides by their sum.",
            "normalize=False, or other coefficients.",
        )
