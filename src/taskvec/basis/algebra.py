"""What the solvers share: square roots of Gram matrices, best decoders, residuals; float64, task by task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor

from taskvec.errors import SchemaError

Matrix = Float64[Tensor, "rows columns"]
_ROUNDING = 1e-7  # of norms: rows that were added later may have been read in another precision


def check_gram(matrix: Tensor, names: Sequence[str]) -> None:
    """Refuse what no vectors can have as their inner products.

    Raises:
        SchemaError: not (task, task), not float64, not finite, not symmetric, or of cosines with an eigenvalue that is
            negative beyond rounding (1e-7 of the largest).
    """
    t = len(names)
    if matrix.shape != (t, t) or matrix.dtype != torch.float64:
        raise SchemaError(f"a Gram matrix of {t} vectors is float64 [{t}, {t}], not {matrix.dtype} {[*matrix.shape]}.")
    norms = matrix.diagonal().abs().sqrt()
    scale = torch.where(norms > 0.0, norms, 1.0)
    cosines = matrix / scale[:, None] / scale[None, :]
    if not torch.isfinite(matrix).all() or not torch.allclose(cosines, cosines.T, rtol=0.0, atol=_ROUNDING):
        raise SchemaError("the Gram matrix is not finite and symmetric.", "compute it with tv.gram(vectors).")
    values = torch.linalg.eigvalsh(cosines)
    if float(values[0]) < -_ROUNDING * max(float(values[-1]), 0.0) or float(values[-1]) < 0.0:
        raise SchemaError(
            f"the cosines have the eigenvalue {float(values[0]):.6g} beside {float(values[-1]):.6g}: no vectors "
            "have these inner products.",
            "compute it with tv.gram(vectors).",
        )


def root(gram: Float64[Tensor, "task task"]) -> Float64[Tensor, "task task"]:
    """F with FᵀF = gram: its columns are the vectors in coordinates of their span.

    Taken of the cosines, so that a task of small norm keeps its digits; directions that rounding cannot tell from 0
    are 0.
    """
    norms = norms_of(gram)
    scale = torch.where(norms > 0.0, norms, 1.0)
    values, vectors = torch.linalg.eigh(gram / scale[:, None] / scale[None, :])
    floor = len(gram) * torch.finfo(torch.float64).eps * float(values[-1].clamp(min=0.0)) * 4
    kept = torch.where(values > floor, values, 0.0).sqrt()
    factor: Matrix = (kept[:, None] * vectors.T) * norms[None, :]
    return factor


def norms_of(gram: Float64[Tensor, "task task"]) -> Float64[Tensor, " task"]:
    """The norms of the vectors."""
    return gram.diagonal().clamp(min=0.0).sqrt()


def best_decoder(factor: Matrix, encoder: Matrix, targets: Matrix | None = None) -> Matrix:
    """W (size, task) that minimizes ‖F encoder W − F targets‖ (default: the tasks themselves), of the least norm."""
    wanted = factor if targets is None else factor @ targets
    bases = factor @ encoder
    scale = bases.norm(dim=0)
    scale = torch.where(scale > 0.0, scale, 1.0)
    u, s, vh = torch.linalg.svd(bases / scale, full_matrices=False)
    kept = s > len(factor) * torch.finfo(torch.float64).eps * 4 * (s[0] if len(s) else 0.0)
    inverse = torch.where(kept, 1.0 / torch.where(kept, s, 1.0), 0.0)
    decoder: Matrix = (vh.T * inverse) @ (u.T @ wanted) / scale[:, None]
    return decoder


def losses(factor: Matrix, made: Matrix, targets: Matrix | None = None) -> Float64[Tensor, " task"]:
    """‖F made_j − F target_j‖ for each task (default: the tasks themselves)."""
    wanted = torch.eye(factor.shape[1], dtype=torch.float64) if targets is None else targets
    lost: Tensor = (factor @ (made - wanted)).norm(dim=0)
    return lost


def relative(lost: Float64[Tensor, " task"], norms: Float64[Tensor, " task"]) -> Float64[Tensor, " task"]:
    """Relative errors lost / norm; for a task of norm 0, 0 where nothing is lost and else infinite."""
    return torch.where(lost > 0.0, lost / norms, 0.0)


def principal(factor: Matrix, count: int) -> tuple[Matrix, Float64[Tensor, " count"]]:
    """The `count` largest eigenvectors (task, ·) of FᵀF, signs fixed, and their eigenvalues; those of 0 are left out.

    The sign is the one that makes the sum of the cubes of an eigenvector positive: it moves with the tasks.
    """
    _, s, vh = torch.linalg.svd(factor, full_matrices=False)
    kept = int((s > len(factor) * torch.finfo(torch.float64).eps * 4 * (s[0] if len(s) else 0.0)).sum())
    vectors = vh[: min(count, kept)].T
    skew = (vectors**3).sum(0)
    largest = vectors.gather(0, vectors.abs().argmax(0, keepdim=True)).squeeze(0) if len(vectors) else skew
    sign = torch.where(skew.abs() > 1e-9, skew.sign(), largest.sign())
    return vectors * sign, s[: vectors.shape[1]] ** 2


def sizes(gram: Float64[Tensor, "task task"]) -> list[dict[str, Any]]:
    """For every M from 0 to T: what the best M vectors lose of Σ ‖τ_i‖², worst and median relative error of a task."""
    factor, norms = root(gram), norms_of(gram)
    vectors, values = principal(factor, len(gram))
    total, squares = float(gram.diagonal().sum()), gram.diagonal()
    kept = (vectors.square() * values).cumsum(1)  # of each task, by the first m directions
    out = []
    for m in range(len(gram) + 1):
        have = kept[:, min(m, kept.shape[1]) - 1] if m and kept.shape[1] else torch.zeros_like(squares)
        exact = m >= kept.shape[1]
        lost = torch.zeros_like(squares) if exact else (squares - have).clamp(min=0.0)
        errors = relative(lost.sqrt(), norms)
        tail = float(lost.sum()) / total if total else 0.0
        out.append({"size": m, "tail": tail, "worst": float(errors.max()), "median": float(errors.median())})
    return out
