"""What the demonstration tries: a few methods, each with scales that suit it, and a little of everything else."""

from collections.abc import Mapping
from types import MappingProxyType

from taskvec import methods
from taskvec.bench import QUICK, BenchSettings
from taskvec.tune import Settings

# Method, with its default parameters, and the scales to try on validation texts. An average has no scale of its own:
# at another one it is task arithmetic.
SCALES: Mapping[str, tuple[float, ...]] = MappingProxyType(
    {
        "average": (1.0,),
        "task_arithmetic": (0.2, 0.3, 0.4, 0.5, 0.7),
        "ties": (0.8, 1.2, 1.6, 2.0, 2.4),
        "dare_ties": (0.8, 1.2, 1.6, 2.0, 2.4),
        "pcb": (0.8, 1.2, 1.6, 2.0, 2.4),
        "tsv_m": (0.5, 0.7, 1.0, 1.3, 1.6),
        "iso_c": (1.0, 1.5, 2.0, 2.5, 3.2),
    }
)
WRITTEN = "task_arithmetic"  # also written as a model folder, and scored as transformers loads it from there


def demo_settings(settings: Settings, *, target: str) -> BenchSettings:
    """All test texts, 80 validation texts a task, one negation, one small map."""
    return BenchSettings(
        steps=settings.steps,
        seeds=(settings.seed,),
        learning_rate=settings.learning_rate,
        limit=100_000,
        validation=80,
        methods=tuple(name for name in SCALES if name in methods.names()),
        scales_of=SCALES,
        codecs={"int8": ("int8", {}), "tsv 1/8": ("tsv", {"density": 0.125})},
        negation_scales=(0.0, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0),
        targets=(target,),
        pairs=1,
        grid=(-2.0, -1.0, 0.0, 1.0, 2.0),
        map_limit=64,
        protocols=QUICK,
    )
