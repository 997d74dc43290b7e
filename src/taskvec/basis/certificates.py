"""Certificates: what a sum, a negation or a foreign task can lose at most, from inner products and a curvature.

With a loss L_i that is stationary at θ_i = θ0 + τ_i and l_i-smooth between there and θ_a = θ0 + Σ a_j τ_j,

    L_i(θ_a) − L_i(θ_i) ≤ (l_i / 2) q_i(a),     q_i(a) = (a − e_i)ᵀ G (a − e_i) = ‖Σ a_j τ_j − τ_i‖²

q is exact from the Gram matrix G; only l_i needs the model (a smoothness estimate gives it). A fine-tuning that
stopped early is not stationary: its first-order term ⟨∇L_i(θ_i), θ_a − θ_i⟩ is then added as given. The bounds are on
losses, not on accuracies, and l_i is local. Every loss is in the unit that l_i is in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float64
from torch import Tensor

from taskvec.basis.algebra import best_decoder, check_gram, norms_of, root, sizes
from taskvec.basis.simplex import smallest_ball
from taskvec.basis.tables import Table
from taskvec.errors import ParameterError, UnknownName
from taskvec.gramian import Gram

Values = float | Mapping[str, float] | Sequence[float] | Tensor
CAVEAT = "bounds a loss, not an accuracy; the smoothness is local; stationarity fails for models that stopped early"


@final
@dataclass(frozen=True, slots=True)
class Certificate(Table):
    """What the sum of tasks with `coefficients` can lose, task by task.

    Rows of `tasks`: name, norm, coefficient, distance² `q`, `relative` = √q / norm (None for a task of norm 0), and,
    with a smoothness, `smoothness`, `first_order` and `bound`. `optimal` holds the coefficients on the simplex with the
    least average and the least worst l_i q_i (l_i = 1 where no smoothness is given). `sizes` has a row for every M from
    0 to T: the part of the energy Σ ‖τ_i‖² that the best M vectors lose (`tail`), and the `worst` and `median` of the
    relative errors with which they give the tasks back.
    """

    tasks: tuple[dict[str, Any], ...]
    average: float
    worst: float
    optimal: dict[str, dict[str, Any]]
    sizes: tuple[dict[str, Any], ...]
    largest_cosine: float | None
    notes: tuple[str, ...]


def certificate(
    gram: Gram | Float64[Tensor, "task task"],
    coefficients: Values | None = None,
    *,
    smoothness: Values | None = None,
    first_order: Values | None = None,
) -> Certificate:
    """What θ0 + Σ coefficients_j τ_j can lose on each task, and which coefficients would lose least.

    Args:
        gram: `tv.Gram.of(vectors)`, or a matrix (tasks are then named "0", "1", …).
        coefficients: by name, in order, or one number for all; default: the plain average, 1/T each.
        smoothness: l_i > 0 by task, in order, or one for all; default: none, and no bound but q.
        first_order: ⟨∇L_i(θ_i), θ_a − θ_i⟩ by task where it is known; default 0.

    Raises:
        SchemaError: not a Gram matrix. ParameterError: a value that is not finite, or a smoothness that is not above 0.
        UnknownName: a coefficient for a task that is not there.
    """
    names, matrix = _named(gram)
    count = len(names)
    given = vector_of("coefficients", 1.0 / count if coefficients is None else coefficients, names, missing=0.0)
    curvature = None if smoothness is None else positive("smoothness", smoothness, names)
    slope = vector_of("first_order", 0.0 if first_order is None else first_order, names, missing=0.0)
    q, norms = distances(matrix, given), norms_of(matrix)
    rows = []
    for i, name in enumerate(names):
        row: dict[str, Any] = {"name": name, "norm": float(norms[i]), "coefficient": float(given[i]), "q": float(q[i])}
        row["relative"] = float(q[i].sqrt() / norms[i]) if norms[i] > 0.0 else None
        if curvature is not None:
            bound = float(slope[i] + 0.5 * curvature[i] * q[i])
            row |= {"smoothness": float(curvature[i]), "first_order": float(slope[i]), "bound": bound}
        rows.append(row)
    weights = torch.ones(count, dtype=torch.float64) if curvature is None else curvature
    return Certificate(
        tuple(rows),
        float(q.mean()),
        float(q.max()),
        _optimal(names, matrix, weights),
        tuple(sizes(matrix)),
        _largest_cosine(matrix, norms),
        (CAVEAT, *(f"task '{n}' has norm 0" for n, x in zip(names, norms, strict=True) if x == 0.0)),
    )


def distances(gram: Float64[Tensor, "task task"], coefficients: Float64[Tensor, " task"]) -> Float64[Tensor, " task"]:
    """q_i(a) = ‖Σ a_j τ_j − τ_i‖² for every task i, without cancellation between large terms."""
    factor = root(gram)
    return (factor @ (coefficients[:, None] - torch.eye(len(gram), dtype=torch.float64))).square().sum(0)


def _optimal(names: Sequence[str], gram: Tensor, weights: Tensor) -> dict[str, dict[str, Any]]:
    share = weights / weights.sum()
    ball, floor = smallest_ball(gram, weights)
    out = {}
    for kind, a in (("average", share), ("worst", ball)):
        q = distances(gram, a)
        own = {"average": float((weights * q).mean()), "worst": float((weights * q).max())}
        out[kind] = {"coefficients": dict(zip(names, a.tolist(), strict=True)), **own}
    out["worst"]["at_least"] = floor
    return out


def _largest_cosine(gram: Tensor, norms: Tensor) -> float | None:
    known = norms > 0.0
    if int(known.sum()) < 2:
        return None
    cosines = gram[known][:, known] / norms[known][:, None] / norms[known][None, :]
    return float(cosines.fill_diagonal_(0.0).abs().max())


@final
@dataclass(frozen=True, slots=True)
class NegationCertificate(Table):
    """What θ0 − scale · τ̂ can lose beside θ0 on every other task: rows name, `q`, and `bound` with a smoothness.

    `error` is ‖τ̂ − τ‖ where τ̂ is a recovered vector (0 for the vector itself), `extra` what it adds to q at most.
    Nothing bounds from below how much of the task is forgotten.
    """

    task: str
    scale: float
    error: float
    tasks: tuple[dict[str, Any], ...]
    notes: tuple[str, ...]


def negation(
    gram: Gram | Float64[Tensor, "task task"],
    task: str,
    scale: float = 1.0,
    *,
    error: float = 0.0,
    minimum: bool = False,
    smoothness: Values | None = None,
) -> NegationCertificate:
    """What subtracting a task can cost the others.

    L_j(θ0 − s τ_i) − L_j(θ0) ≤ (l_j / 2) (s² G_ii + 2 s G_ij + 2 G_jj); with `minimum` (each θ_j is a minimum between
    here and there) the last term is G_jj. A vector that is recovered with `error` ‖τ̂ − τ‖ adds at most
    2 s error ‖τ_j + s τ_i‖ + s² error² to that.

    Raises:
        UnknownName: no such task. ParameterError: a scale or an error that is negative or not finite.
    """
    names, matrix = _named(gram)
    if task not in names:
        raise UnknownName.among(f"no task named '{task}' is in the Gram matrix.", task, names)
    for what, value in (("scale", scale), ("error", error)):
        if not 0.0 <= value < float("inf"):
            raise ParameterError(f"negation: {what}={value} is negative or not finite.")
    i, own = names.index(task), 1.0 if minimum else 2.0
    curvature = None if smoothness is None else positive("smoothness", smoothness, names)
    rows = []
    for j, name in enumerate(names):
        if j == i:
            continue
        moved = float(scale**2 * matrix[i, i] + 2.0 * scale * matrix[i, j] + matrix[j, j])
        extra = 2.0 * scale * error * max(moved, 0.0) ** 0.5 + (scale * error) ** 2
        row: dict[str, Any] = {"name": name, "q": moved + (own - 1.0) * float(matrix[j, j]) + extra, "extra": extra}
        if curvature is not None:
            row["bound"] = 0.5 * float(curvature[j]) * row["q"]
        rows.append(row)
    return NegationCertificate(task, scale, error, tuple(rows), (CAVEAT,))


@final
@dataclass(frozen=True, slots=True)
class TransferCertificate(Table):
    """How near the library comes to a task that is not in it.

    `single` is the one vector (scale 1) that is nearest, `beta` its ⟨τ_*, τ_i⟩ / max(‖τ_*‖², ‖τ_i‖²); `coefficients`
    are those of the nearest point of the span. `q` are squared distances, `bound` half the smoothness times them.
    """

    single: dict[str, Any]
    best: dict[str, Any]
    coefficients: dict[str, float]
    notes: tuple[str, ...]


def transfer(
    gram: Gram | Float64[Tensor, "task task"],
    products: Values,
    squared_norm: float,
    *,
    smoothness: float | None = None,
) -> TransferCertificate:
    """What a task τ_* outside the library can lose at least distance: from ⟨τ_i, τ_*⟩ (one more row) and ‖τ_*‖².

    L_*(θ0 + V a) − L_*(θ_*) ≤ (l_* / 2) (‖τ_*‖² − gᵀ G⁺ g) at a = G⁺ g.

    Raises:
        SchemaError: the row and the norm are not those of any vector beside these (not positive semidefinite).
        ParameterError: values that are not finite.
    """
    names, matrix = _named(gram)
    row = vector_of("products", products, names)
    if not 0.0 <= squared_norm < float("inf"):
        raise ParameterError(f"transfer: squared_norm={squared_norm} is negative or not finite.")
    whole = torch.zeros(len(names) + 1, len(names) + 1, dtype=torch.float64)
    whole[:-1, :-1], whole[-1, :-1], whole[:-1, -1], whole[-1, -1] = matrix, row, row, squared_norm
    check_gram(whole, [*names, "the new task"])
    factor = root(whole)
    target = factor[:, -1:]
    span = torch.eye(len(names) + 1, dtype=torch.float64)[:, :-1]
    a = best_decoder(factor, span, torch.eye(len(names) + 1, dtype=torch.float64)[:, -1:])[:, 0]
    apart = (factor[:, :-1] - target).square().sum(0)
    nearest = int(apart.argmin())
    larger = max(squared_norm, float(matrix[nearest, nearest]))
    single: dict[str, Any] = {"name": names[nearest], "q": float(apart[nearest])}
    single["beta"] = float(row[nearest]) / larger if larger else None
    best: dict[str, Any] = {"q": float((factor[:, :-1] @ a[:, None] - target).square().sum())}
    if smoothness is not None:
        l_new = float(positive("smoothness", smoothness, ["new"])[0])
        for table in (single, best):
            table["bound"] = 0.5 * l_new * table["q"]
    return TransferCertificate(single, best, dict(zip(names, a.tolist(), strict=True)), (CAVEAT,))


def _named(gram: Gram | Tensor) -> tuple[list[str], Tensor]:
    names, matrix = (gram.names, gram.matrix) if isinstance(gram, Gram) else (None, gram)
    known = [str(i) for i in range(len(matrix))] if names is None else list(names)
    check_gram(matrix, known)
    return known, matrix


def vector_of(
    what: str, values: Values, names: Sequence[str], *, missing: float | None = None
) -> Float64[Tensor, " task"]:
    """Values by name, in order, or one for all, as a vector; `missing` stands for names that are left out.

    Raises:
        UnknownName: a name that is not among `names`. ParameterError: too few, too many, or not finite.
    """
    if isinstance(values, Mapping):
        for key in values:
            if key not in names:
                raise UnknownName.among(f"{what}: no task is named '{key}'.", key, names)
        lacking = [n for n in names if n not in values]
        if lacking and missing is None:
            raise ParameterError(f"{what}: there is none for '{lacking[0]}'.", "give one for every task.")
        values = [values.get(n, missing if missing is not None else 0.0) for n in names]
    out = torch.as_tensor(values, dtype=torch.float64).reshape(-1)
    out = out.expand(len(names)).clone() if isinstance(values, int | float) else out.clone()
    if len(out) != len(names):
        raise ParameterError(f"{what}: {len(out)} values for {len(names)} tasks.", "give one for every task, in order.")
    if not bool(torch.isfinite(out).all()):
        raise ParameterError(f"{what}: a value is not finite.")
    return out


def positive(what: str, values: Values, names: Sequence[str]) -> Float64[Tensor, " task"]:
    """As `vector_of`, every value above 0.

    Raises:
        ParameterError: one is not.
    """
    out = vector_of(what, values, names)
    if not bool((out > 0.0).all()):
        name = names[int((out <= 0.0).nonzero()[0])]
        raise ParameterError(f"{what}={float(out.min()):g} of task '{name}' is not above 0.")
    return out
