"""Every error that taskvec raises on purpose.

TaskVecError                 base: message = the fact with name and value, then `Fix:` when there is one
├── SpaceError               an operation that points and displacements do not have
├── SchemaError              names, shapes, dtypes or bases that do not fit together
├── FormatError              a file that is corrupt, unsafe or of an unknown kind
├── ParameterError           an option out of its range
├── UnknownName              a name that is not known here (the nearest known one is suggested)
├── NonFiniteError           NaN or Inf where numbers are needed
├── ConvergenceError         a decomposition that does not converge by any route
├── ExpressionError          an expression string that does not parse (points at the column)
├── DestinationError         an output that exists already, is in use, or does not fit on the disk
├── TimeLimit                work that was not done when its time was over
└── StoreError               a store that is damaged or does not hold what was asked for
"""

import difflib
from collections.abc import Iterable


class TaskVecError(Exception):
    """Base of all errors raised on purpose; `fact` and `fix` are its two sentences."""

    def __init__(self, fact: str, fix: str | None = None) -> None:
        self.fact = fact
        self.fix = fix
        super().__init__(fact if fix is None else f"{fact}\nFix: {fix}")


class SpaceError(TaskVecError, TypeError):
    """An operation that points and displacements do not have, e.g. the sum of two checkpoints."""


class SchemaError(TaskVecError, ValueError):
    """Names, shapes, dtypes or bases that do not fit together."""


class FormatError(TaskVecError, ValueError):
    """A file that is corrupt, unsafe or of an unknown kind."""


class ParameterError(TaskVecError, ValueError):
    """An option that is unknown, missing or out of its range."""


class UnknownName(TaskVecError, KeyError):
    """A name that is not known here; the nearest known one is suggested."""

    __str__ = Exception.__str__  # KeyError would print the repr

    @classmethod
    def among(cls, fact: str, name: str, known: Iterable[str]) -> "UnknownName":
        """The error for `name`, suggesting the nearest of `known`, or listing them when none is near."""
        known = sorted(known)
        near = difflib.get_close_matches(name, known, n=1)
        if near:
            return cls(fact, f"did you mean '{near[0]}'?")
        shown = ", ".join(known[:12]) + (", …" if len(known) > 12 else "")
        return cls(fact, f"known: {shown}." if known else "there are none yet.")


class NonFiniteError(TaskVecError, ValueError):
    """NaN or Inf where numbers are needed; never silently turned into numbers."""


class ConvergenceError(TaskVecError, ArithmeticError):
    """A matrix whose decomposition does not converge by any route."""


class ExpressionError(TaskVecError, ValueError):
    """An expression string that does not parse; the message points at the column."""


class DestinationError(TaskVecError, OSError):
    """An output that exists already, is in use by another process, or does not fit on the disk."""

    __str__ = Exception.__str__  # OSError would print a tuple


class TimeLimit(TaskVecError, TimeoutError):
    """Work that was not done when its time was over; what was done is kept where the message says."""

    __str__ = Exception.__str__  # as an OSError, it would print a tuple


class StoreError(TaskVecError, RuntimeError):
    """A store that is damaged or does not hold what was asked for."""
