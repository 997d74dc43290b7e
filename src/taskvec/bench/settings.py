"""What a run of a suite tries: seeds, sizes, methods, codecs and grids, checked once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Self, final

from taskvec import codecs, methods
from taskvec.errors import ParameterError
from taskvec.suites import Suite
from taskvec.tune import Settings, regime_of

CODECS: Mapping[str, tuple[str, Mapping[str, Any]]] = MappingProxyType(
    {
        "exact": ("dense", {}),
        "bfloat16": ("dense", {"dtype": "bfloat16"}),
        "int8": ("int8", {}),
        "int4": ("int4", {}),
        "tsv 1/4": ("tsv", {"density": 0.25}),
        "tsv 1/8": ("tsv", {"density": 0.125}),
        "tsv 1/20": ("tsv", {"density": 0.05}),
        "tsv 1/8 int8": ("tsv", {"density": 0.125, "dtype": "int8", "other": "int8"}),
        "tsv 1/20 int8": ("tsv", {"density": 0.05, "dtype": "int8", "other": "int8"}),
        "tsv 1.5% int8": ("tsv", {"budget": "1.5%", "dtype": "int8", "other": "int8"}),
    }
)
SCALES = (0.1, 0.2, 0.3, 0.45, 0.7, 1.0, 1.5, 2.5)
NEGATION_SCALES = (0.0, 0.1, 0.2, 0.3, 0.45, 0.7, 1.0, 1.5, 2.0)
BEYOND = (4.0, 6.5, 10.0)
GRID = (-3.0, -2.25, -1.5, -0.75, 0.0, 0.75, 1.5, 2.25, 3.0)


QUICK = ("addition", "compression", "negation", "disentanglement", "analysis")
"""The protocols of a taste."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class BenchSettings:
    """One run: fine-tuning, merges, codecs, negations, maps of disentanglement.

    Args:
        regime: of the fine-tuning; its vectors are evaluated as they were trained.
        seeds: one fine-tuning of all tasks each.
        steps: of every fine-tuning.
        learning_rate: its peak; None for the suite's own at this regime.
        limit: test texts a task, at most.
        validation: validation texts a task, at most; no more than `limit`.
        protocols: names of `taskvec.bench.PROTOCOLS`; None for all.
        methods: merge methods; None for all that merge vectors.
        codecs: label → codec and parameters.
        scales: tried for every merge, and `refine` more around the best of them.
        scales_of: other scales for some methods, and no more than these.
        negation_scales: tried for every negation; with 0.
        beyond: tried, too, where the largest scale is the best.
        targets: the tasks that are negated; None for all.
        pairs: how many pairs of tasks get a map of disentanglement, over grid × grid, of at most `map_limit` texts.
        energy_limit: texts a task of whose tangent kernel all eigenfunctions are computed.
        bases: solvers, each at half and a quarter of the tasks; the first is that of few shots.
        arrivals: merge methods of tasks that come one by one, of at most `map_limit` test texts.
        shots: examples a class of a task that is held out.
        time_limit: seconds for the fine-tuning of one task; what was done by then is kept.

    Raises:
        ParameterError: a number out of its range. UnknownName: no such regime, method or codec.
    """

    regime: str = "standard"
    seeds: tuple[int, ...] = (0,)
    steps: int = 150
    learning_rate: float | None = None
    limit: int = 1000
    validation: int = 200
    protocols: tuple[str, ...] | None = None
    methods: tuple[str, ...] | None = None
    codecs: Mapping[str, tuple[str, Mapping[str, Any]]] = field(default_factory=lambda: CODECS)
    scales: tuple[float, ...] = SCALES
    refine: int = 4
    scales_of: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    negation_scales: tuple[float, ...] = NEGATION_SCALES
    beyond: tuple[float, ...] = BEYOND
    targets: tuple[str, ...] | None = None
    pairs: int = 3
    grid: tuple[float, ...] = GRID
    map_limit: int = 256
    energy_limit: int = 24
    bases: tuple[str, ...] = ("addition_exact",)
    arrivals: tuple[str, ...] = ("task_arithmetic", "tsv_m")
    shots: int = 4
    time_limit: float | None = None

    def __post_init__(self) -> None:
        regime_of(self.regime)
        for name in (*(self.methods or ()), *self.arrivals):
            methods.get(name)
        for name, _ in self.codecs.values():
            codecs.get(name)
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ParameterError(f"seeds={list(self.seeds)} are not one or more different numbers.")
        ranges = {
            "limit": self.limit >= 1,
            "validation": self.validation >= 1,
            "refine": self.refine >= 0,
            "pairs": self.pairs >= 0,
            "map_limit": self.map_limit >= 1,
            "energy_limit": self.energy_limit >= 1,
            "shots": self.shots >= 1,
            "time_limit": self.time_limit is None or self.time_limit > 0,
        }
        for name, holds in ranges.items():
            if not holds:
                raise ParameterError(f"{name}={getattr(self, name)} is out of its range.")
        self.tuning(self.seeds[0], {})

    def quick(self) -> Self:
        """A taste of the same: fewer steps, texts, scales, methods and codecs."""
        known = ("average", "task_arithmetic", "ties", "tsv_m")
        return replace(
            self,
            steps=min(self.steps, 30),
            limit=min(self.limit, 100),
            methods=self.methods or tuple(name for name in known if name in methods.names()),
            codecs={label: self.codecs[label] for label in ("exact", "int8", "tsv 1/8") if label in self.codecs},
            scales=self.scales[1::2],
            refine=0,
            negation_scales=self.negation_scales[::2],
            pairs=min(self.pairs, 1),
            grid=self.grid[::2],
            map_limit=min(self.map_limit, 64),
            protocols=self.protocols or QUICK,
        )

    def tuning(self, seed: int, rates: Mapping[str, float]) -> Settings:
        """How each task is fine-tuned; `rates` are the suite's learning rates."""
        own = rates.get(self.regime, Settings().learning_rate)
        rate = own if self.learning_rate is None else self.learning_rate
        return Settings(steps=self.steps, seed=seed, learning_rate=rate)

    @property
    def chosen_on(self) -> int:
        """Validation texts a task, at most, on which scales are chosen."""
        return min(self.limit, self.validation)


def basis_sizes(count: int) -> tuple[int, ...]:
    """A half and a quarter of so many tasks; fewer than all of them, and one at least."""
    return tuple(size for size in dict.fromkeys((max(count // 2, 1), max(count // 4, 1))) if size < count)


def pairs_of(suite: Suite, count: int) -> list[tuple[str, str]]:
    """The first pairs of tasks: neighbors in the suite's order, each task in one pair."""
    names = suite.names()
    return list(zip(names[::2], names[1::2], strict=False))[:count]
