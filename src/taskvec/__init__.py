"""Task vectors: extract, store, add, subtract and merge fine-tuned checkpoints, exactly and out of core.

    import taskvec as tv
    base = tv.Checkpoint.open("base")
    tau = tv.Checkpoint.open("tuned") - base
    (base + 0.4 * tau).save("edited")

Nothing heavy is imported until it is needed: `import taskvec` loads neither torch nor numpy.
"""

from taskvec import edited as _edited  # noqa: F401  # fills the operators of Checkpoint
from taskvec.checkpoint.checkpoint import Checkpoint as Checkpoint
from taskvec.vector import TaskVector as TaskVector

__version__ = "0.1.0.dev0"
