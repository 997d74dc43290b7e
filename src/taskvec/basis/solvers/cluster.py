"""Clusters of similar tasks, one merged vector each: the first version of arXiv:2502.01015."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

import torch

from taskvec.basis._solver import Codes, Problem, solver
from taskvec.basis.algebra import Matrix, best_decoder, norms_of
from taskvec.engine.merge import merge
from taskvec.errors import ParameterError
from taskvec.vector import TaskVector

Decode = Literal["centroid", "least_squares"]
Inner = str | Callable[[Mapping[str, TaskVector]], TaskVector]


def merged(
    vectors: Mapping[str, TaskVector],
    codes: Codes,
    *,
    inner: Inner = "mean",
    parameters: Mapping[str, Any] | None = None,
    **_: Any,
) -> list[TaskVector] | None:
    """One vector a cluster by the method `inner`; None for the mean, which is linear."""
    if inner == "mean":
        return None
    groups: list[dict[str, TaskVector]] = [{} for _ in range(codes.encoder.shape[1])]
    for (name, vector), label in zip(vectors.items(), codes.report["labels"], strict=True):
        groups[label][name] = vector
    return [_merged(group, inner, dict(parameters or {})) for group in groups]


def _merged(group: Mapping[str, TaskVector], inner: Inner, parameters: dict[str, Any]) -> TaskVector:
    if len(group) == 1:
        return next(iter(group.values()))
    if not isinstance(inner, str):
        return inner(group)
    if inner == "top5":
        share = {"density": 0.05, "gamma": 0.0, "coefficients": 1.0 / len(group)}
        return merge("breadcrumbs", group, **{**share, **parameters})
    return merge(inner, group, **parameters)


@solver(source="arXiv:2502.01015v1-v3", online="nearest", build=merged)
def cluster(
    problem: Problem,
    *,
    inner: Inner = "mean",
    parameters: Mapping[str, Any] | None = None,
    decode: Decode = "centroid",
) -> Codes:
    """Spectral clustering of the cosines; the vector of a cluster is a merge of its members.

    Affinity max(cos, 0), with 1 on the diagonal; eigenvectors of the normalized Laplacian I − D^-1/2 K D^-1/2; labels
    by the columns of a pivoted orthogonalization (Damle, Minden and Ying 2019), which needs no random start. Without a
    size, the largest gap between neighbors among the first half of the eigenvalues decides.

    `inner` is "mean", "top5" (the largest 5 % of each member's tensors, over the number of members), any registered
    merge method with its `parameters`, or a function from the members {name: vector} to one vector (a joint
    fine-tuning of the cluster, a merge that needs data); a cluster of one keeps its vector. A task is decoded as the
    vector of its cluster (`decode="least_squares"`, with the mean: the best combination of all).

    Differs from the released code: its affinities may be negative, its gap is that of the unnormalized Laplacian, and
    its top5 counts 5 % over all tensors together.

    Raises:
        ParameterError: an unknown `decode`, or least squares with another inner merge than the mean.
    """
    if decode not in get_args(Decode):
        raise ParameterError(f"cluster: decode={decode!r} is neither 'centroid' nor 'least_squares'.")
    if decode == "least_squares" and inner != "mean":
        raise ParameterError(f"cluster: least squares need inner='mean', not {inner!r}.", "leave out decode.")
    values, vectors = _spectrum(problem.gram)
    gaps = (values[1:] - values[:-1])[: max(1, len(values) // 2)].tolist()
    suggested = 1 + max(range(len(gaps)), key=gaps.__getitem__) if gaps else 1
    size = min(suggested if problem.size is None else problem.size, len(values))
    labels = _labels(vectors[:, :size])
    found = sorted(set(labels.tolist()))
    members = (labels[:, None] == torch.tensor(found)[None, :]).double()
    encoder = members / members.sum(0) / problem.scales[:, None]
    decoder = members.T * problem.scales if decode == "centroid" else best_decoder(problem.factor, encoder)
    report = {
        "labels": [found.index(int(x)) for x in labels],
        "laplacian": values.tolist(),
        "gaps": gaps,
        "suggested": suggested,
    }
    notes = (f"{len(found)} clusters were found, not {size}.",) if len(found) < size else ()
    return Codes(encoder, decoder, report, notes)


def _spectrum(gram: Matrix) -> tuple[torch.Tensor, Matrix]:
    """Eigenvalues, ascending, and eigenvectors of the normalized Laplacian of the clipped cosines."""
    norms = norms_of(gram)
    scale = torch.where(norms > 0.0, norms, 1.0)
    affinity = (gram / scale[:, None] / scale[None, :]).clamp(min=0.0).fill_diagonal_(1.0)
    degree = affinity.sum(1).sqrt()
    laplacian = torch.eye(len(gram), dtype=torch.float64) - affinity / degree[:, None] / degree[None, :]
    values, vectors = torch.linalg.eigh(laplacian)
    return values.clamp(min=0.0), vectors


def _labels(vectors: Matrix) -> torch.Tensor:
    """The cluster of each row of eigenvectors (task, size): exemplars by pivoting, then their polar frame."""
    left, pivots = vectors.clone(), []
    for _ in range(vectors.shape[1]):
        pivots.append(int(left.square().sum(1).argmax()))
        row = left[pivots[-1]]
        left = left - torch.outer(left @ row, row) / (row @ row)
    u, _, vh = torch.linalg.svd(vectors[pivots].T)
    labels: torch.Tensor = (vectors @ (u @ vh)).abs().argmax(1)
    return labels
