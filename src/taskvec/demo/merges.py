"""The merges that the demonstration compares: one line of data each, and how each finds its scale."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import final

from taskvec import methods
from taskvec.demo.state import Demo, to_rows
from taskvec.engine.merge import merge
from taskvec.evaluate import Scores, deltas_of, search_scale
from taskvec.vector import TaskVector

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
        "iso_c": (0.7, 1.0, 1.3, 1.6, 2.0),
    }
)
WRITTEN = "task_arithmetic"  # also written as a model folder, and scored as transformers loads it from there


@final
@dataclass(frozen=True, slots=True)
class Merge:
    """One merge of all vectors: its method, the scale that validation chose, and the vector before scaling."""

    method: str
    scale: float
    vector: TaskVector

    @property
    def title(self) -> str:
        """How the table calls it."""
        return self.method if self.scale == 1.0 else f"{self.scale:g} × {self.method}"


def merges(demo: Demo, vectors: Mapping[str, TaskVector], single: Scores) -> list[Merge]:
    """The merge of all vectors by each method that is installed, at its best scale on validation texts.

    Args:
        demo: the base and its tasks.
        vectors: by task.
        single: the scores of the fine-tuned models on the validation texts.
    """
    chosen = {name: scales for name, scales in SCALES.items() if name in methods.names()}
    found = []
    for name, scales in chosen.items():
        vector = merge(name, vectors)
        found.append(Merge(name, _best_scale(demo, name, vector, scales, single), vector))
    return found


def _best_scale(demo: Demo, name: str, vector: TaskVector, scales: tuple[float, ...], single: Scores) -> float:
    if len(scales) == 1:
        return scales[0]
    tasks = demo.suite.names()
    weights = (demo.base + vector).fingerprint()
    key = {**demo.data_key("val", tasks), "weights": weights, "search": scales, "single": to_rows(single)}

    def compute() -> float:
        demo.say(f"  {name} on val, at {len(scales)} scales")
        prepared, deltas = demo.prepared("val", tasks), deltas_of(demo.encoder, vector)
        return search_scale(demo.encoder, prepared, deltas, scales=scales, single=single, autocast=True).scale

    return float(demo.memo(key, compute))
