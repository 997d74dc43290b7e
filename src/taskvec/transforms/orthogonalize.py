"""The tasks' parts of TSV-Merge: each low-rank, and orthogonal to the others (arXiv:2412.00081)."""

from typing import Annotated

from jaxtyping import Float
from torch import Tensor

from taskvec.checkpoint.decompositions import leading_of
from taskvec.methods._parameters import Range
from taskvec.methods._place import Place
from taskvec.ops.whitening import orthogonalized
from taskvec.transforms._transform import vector_transform


def share(deltas: Float[Tensor, "task *shape"]) -> Float[Tensor, "task *shape"]:
    """Each task's share of the mean."""
    return deltas.double() / len(deltas)


@vector_transform(
    source="arXiv:2412.00081, section 4 and Algorithm 1",
    acts_on="matrix",
    otherwise=share,
    laws={"permutation", "homogeneous", "zero"},
)
def orthogonalize(
    deltas: Float[Tensor, "task m n"], *, tolerance: Annotated[float, Range(0.0, 0.5, closed=True)] = 1e-6, at: Place
) -> Float[Tensor, "task m n"]:
    """Each delta's leading triplets, with its singular vectors made orthogonal to those of the other tasks.

    Of every matrix with r = min(m, n) the r // T largest triplets stay; all left vectors side by side are replaced by
    their polar factor U⊥, the right ones by V⊥, and task t gets its columns: U⊥_t diag(s_t) V⊥_tᵀ. The parts are
    orthogonal to each other, and their sum is TSV-Merge. Every other tensor, and a matrix with r < T, is divided by T,
    so that the sum is the mean there.

    Zero deltas give 0. Equal ones each get 1/T of their truncated delta. 0-d and empty tensors are divided by T.

    Args:
        deltas: one delta a task, stacked on axis 0.
        tolerance: directions of the vectors side by side weaker than this share of the strongest are left out.
        at: is told how many were, the condition of the rest, and how many pairs of deltas are nearly equal.

    Differs from the paper: dependent directions are left out instead of being made up, and so are triplets that are
    rounding (2^-20 of a delta's largest).
    """
    rank = min(deltas.shape[1:]) // len(deltas)
    found = orthogonalized([leading_of(delta, rank).triplets for delta in deltas], tolerance=tolerance)
    for what, number in found.notes().items():
        at.report(what, number)
    return found.parts()
