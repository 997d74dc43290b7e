"""Inner products, cosines and norms of task vectors, over all tensors that move."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from taskvec.analyze._analysis import Row, Tables, analysis, pairs
from taskvec.errors import NonFiniteError
from taskvec.ops.gram import products

Floats = npt.NDArray[np.float64]


def _finish(found: Mapping[str, Floats], tasks: Sequence[str]) -> Tables:
    total = sum(found.values(), np.zeros((len(tasks), len(tasks))))
    if not np.isfinite(total).all():
        raise NonFiniteError(
            "an inner product is beyond float64's range.", "look for values beyond 1e150 in the inputs."
        )
    return {
        "gram": _products(total, tasks),
        "norms": [{"task": t, "norm": math.sqrt(total[i, i])} for i, t in enumerate(tasks)],
        "layer_norms": [
            {"name": name, "task": t, "norm": math.sqrt(each[i, i])}
            for name, each in found.items()
            for i, t in enumerate(tasks)
        ],
        "gram_spectrum": _spectrum(total),
    }


def _products(total: Floats, tasks: Sequence[str]) -> list[Row]:
    rows = []
    for i, j in pairs(tasks):
        norms = math.sqrt(total[i, i]) * math.sqrt(total[j, j])
        cosine = float(total[i, j]) / norms if norms else None
        rows.append({"task": tasks[i], "other": tasks[j], "dot": float(total[i, j]), "cosine": cosine})
    return rows


def _spectrum(total: Floats) -> list[Row]:
    values = np.linalg.eigvalsh(total)[::-1].clip(0.0)
    whole = float(values.sum())
    return [
        {"size": size, "eigenvalue": float(value), "lost": float(values[size:].sum()) / whole if whole else None}
        for size, value in enumerate(values, 1)
    ]


@analysis(
    on="entries",
    source="arXiv:2212.04089; arXiv:2502.01015, the spectral bound",
    finish=_finish,
    tables={
        "gram": "Inner product and cosine of every two task vectors; cosines near 0 mean that they barely meet.",
        "norms": "Euclidean norm of each task vector: how far fine-tuning went.",
        "layer_norms": "Euclidean norm of each task's delta, tensor by tensor.",
        "gram_spectrum": "Eigenvalues of the Gram matrix; `lost` is the share of all squared norms that the best basis "
        "of that many vectors cannot hold.",
    },
)
def gram(block: Floats) -> Floats:
    """G = VᵀV of the task vectors V = [τ₁ .. τ_T], their cosines G_ij / √(G_ii G_jj), norms and eigenvalues.

    A vector that is 0 has no cosine.
    """
    return products(block)
