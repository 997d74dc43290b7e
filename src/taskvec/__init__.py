"""Task vectors: extract, store, add, subtract and merge fine-tuned checkpoints, exactly and out of core.

    import taskvec as tv
    base = tv.Checkpoint.open("base")
    tau = tv.Checkpoint.open("tuned") - base
    (base + 0.4 * tau).save("edited")

Nothing heavy is imported until it is needed: `import taskvec` loads neither torch nor numpy.
"""

import importlib
from typing import TYPE_CHECKING, Any

from taskvec import codecs as codecs
from taskvec import edited as _edited  # noqa: F401  # fills the operators of Checkpoint
from taskvec.adapters import reader as _adapter  # noqa: F401  # fills `base+adapter`
from taskvec.checkpoint.checkpoint import Checkpoint as Checkpoint
from taskvec.codecs import _open as _codec_files  # noqa: F401  # fills TaskVector.open and .save
from taskvec.vector import TaskVector as TaskVector

if TYPE_CHECKING:
    from taskvec import analyze as analyze
    from taskvec import basis as basis
    from taskvec import bench as bench
    from taskvec import evaluate as evaluate
    from taskvec import methods as methods
    from taskvec import report as report
    from taskvec import suites as suites
    from taskvec import transforms as transforms
    from taskvec import tune as tune
    from taskvec.basis.basis import Basis as Basis
    from taskvec.basis.certificates import certificate as certificate
    from taskvec.engine.merge import merge as merge
    from taskvec.engine.transform import transform as transform
    from taskvec.evaluate.disentanglement import disentanglement as disentanglement
    from taskvec.gramian import Gram as Gram
    from taskvec.gramian import gram as gram
    from taskvec.recipes.plan import Plan as Plan
    from taskvec.recipes.recipe import Recipe as Recipe
    from taskvec.store import Store as Store
    from taskvec.suites.linearize import linearize as linearize

__version__ = "0.1.0.dev0"

# Public names whose modules import torch or transformers, or are not needed by everyone: loaded at first use.
_LAZY = {
    "Basis": "taskvec.basis",
    "Gram": "taskvec.gramian",
    "Plan": "taskvec.recipes.plan",
    "Recipe": "taskvec.recipes.recipe",
    "Store": "taskvec.store",
    "certificate": "taskvec.basis",
    "disentanglement": "taskvec.evaluate",
    "gram": "taskvec.gramian",
    "linearize": "taskvec.suites.linearize",
    "merge": "taskvec.engine.merge",
    "transform": "taskvec.engine.transform",
}
_LAZY_ROOMS = ("analyze", "basis", "bench", "evaluate", "methods", "report", "suites", "transforms", "tune")


def __getattr__(name: str) -> Any:
    if name in _LAZY_ROOMS:
        return importlib.import_module(f"taskvec.{name}")
    if name not in _LAZY:
        raise AttributeError(f"module 'taskvec' has no attribute '{name}'")
    value = globals()[name] = getattr(importlib.import_module(_LAZY[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY, *_LAZY_ROOMS])
