"""The protocols of a run, one a file: a function from what is given to plain data, the record's entry of its name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from taskvec.bench.given import Given
from taskvec.bench.protocols.addition import addition
from taskvec.bench.protocols.analogy import analogy
from taskvec.bench.protocols.analysis import analysis
from taskvec.bench.protocols.arrival import arrival
from taskvec.bench.protocols.bases import bases
from taskvec.bench.protocols.compression import compression
from taskvec.bench.protocols.disentanglement import disentanglement
from taskvec.bench.protocols.disentanglement_pairs import disentanglement_pairs
from taskvec.bench.protocols.few_shot import few_shot
from taskvec.bench.protocols.gradient_ascent import gradient_ascent
from taskvec.bench.protocols.local_energy import local_energy
from taskvec.bench.protocols.negation import negation
from taskvec.bench.protocols.negation_baselines import negation_baselines
from taskvec.bench.protocols.nonlinear_advantage import nonlinear_advantage
from taskvec.bench.protocols.to_first_order import to_first_order
from taskvec.errors import UnknownName

Protocol = Callable[[Given], Any]

PROTOCOLS: Mapping[str, Protocol] = {
    each.__name__: each
    for each in (
        addition,
        compression,
        negation,
        disentanglement,
        analysis,
        negation_baselines,
        to_first_order,
        nonlinear_advantage,
        disentanglement_pairs,
        bases,
        arrival,
        few_shot,
        local_energy,
        analogy,
        gradient_ascent,
    )
}
"""In the order in which they run: what is asked for first comes first."""


def chosen(names: Iterable[str] | None) -> Mapping[str, Protocol]:
    """Those of these names, in their own order; all for None.

    Raises:
        UnknownName: there is no such protocol; the nearest is suggested.
    """
    wanted = set(PROTOCOLS if names is None else names)
    for name in sorted(wanted - PROTOCOLS.keys()):
        raise UnknownName.among(f"there is no protocol '{name}'.", name, PROTOCOLS)
    return {name: run for name, run in PROTOCOLS.items() if name in wanted}
