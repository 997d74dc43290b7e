"""What a method that merges matrices by their singular triplets declares."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from taskvec.ops.triplets import Triplets


@final
@dataclass(frozen=True, slots=True)
class Wanted:
    """How many leading triplets of each task a method needs of a matrix.

    `exact`: from a decomposition in float64, whatever it costs.
    """

    rank: int
    exact: bool = False


@final
@dataclass(frozen=True, slots=True)
class Spectral:
    """A merge of matrices by the tasks' leading singular triplets.

    `wanted(shape, tasks, **parameters)` says which, before anything is read; `merge(spectra, **parameters)` maps them,
    one `Triplets` a task, to the merged ones and numbers worth reporting.
    """

    merge: Callable[..., tuple[Triplets, Mapping[str, float]]]
    wanted: Callable[..., Wanted]
