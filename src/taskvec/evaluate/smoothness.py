"""How curved a task's loss is: the constants that turn a certificate's ½ l ‖θ_a − θ_i‖² into a bound on the loss."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, final

import torch
from torch import Tensor

from taskvec.errors import ParameterError, SchemaError
from taskvec.evaluate.objective import Objective, dot, objective_of
from taskvec.evaluate.patch import combined, deltas_of
from taskvec.evaluate.record import Record
from taskvec.evaluate.scoring import Prepared
from taskvec.evaluate.search import only
from taskvec.suites import Encoder
from taskvec.suites.linearize import Weights
from taskvec.vector import TaskVector


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Curvature:
    """The eigenvalue of largest size of a Hessian; `residual` is ‖H v − λ v‖ for the unit vector v that was found.

    An eigenvalue lies within `residual` of `value`. |value| is the smoothness constant l at that point.
    """

    value: float
    residual: float
    products: int


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class SmoothnessRow:
    """The loss L of one task between θ_i, its tuned weights, and θ_a, the merged ones; d = θ_a − θ_i.

    `first_order` is ∇L(θ_i) · d, 0 at a stationary point, and not where tuning stopped early. `mean_curvature` is
    (∇L(θ_a) − ∇L(θ_i)) · d / ‖d‖², the mean of dᵀ∇²L d / ‖d‖² over the segment; `secant` is ‖∇L(θ_a) − ∇L(θ_i)‖ / ‖d‖,
    at most any l that holds on the segment; `tight` is 2 (L(θ_a) − L(θ_i) − first_order) / ‖d‖², the l that makes the
    certificate exact here. `curvature` is the largest one at θ_i, where it was asked for.
    """

    name: str
    distance: float
    loss: float
    merged_loss: float
    first_order: float
    mean_curvature: float
    secant: float
    tight: float
    curvature: Curvature | None

    def bound(self, smoothness: float) -> float:
        """L(θ_i) + first_order + ½ · smoothness · ‖d‖²; at least `merged_loss` for a constant that holds."""
        return self.loss + self.first_order + 0.5 * smoothness * self.distance**2


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Smoothness(Record):
    """One row a task."""

    coefficients: Mapping[str, float]
    rows: tuple[SmoothnessRow, ...]

    def plain(self) -> dict[str, Any]:
        """The coefficients and the rows."""
        return {"coefficients": dict(self.coefficients), "smoothness": [asdict(row) for row in self.rows]}


def smoothness(
    encoder: Encoder,
    vectors: Mapping[str, TaskVector],
    prepared: Prepared,
    coefficients: Mapping[str, float],
    *,
    products: int = 0,
    tolerance: float = 1e-2,
    seed: int = 0,
) -> Smoothness:
    """The loss of each task along the way from its tuned weights to θ0 + Σ c_t τ_t: two gradients a task.

    A certificate (arXiv:2502.01015) bounds L_i(θ_a) by L_i(θ_i) + ∇L_i(θ_i) · d + (l_i / 2) ‖d‖²; the Gram matrix gives
    ‖d‖, and this the rest. The first-order term vanishes in the paper, which assumes that θ_i is stationary.

    Args:
        encoder: the model at θ0.
        vectors: task → τ.
        prepared: the inputs of these tasks (labels are used): training or validation inputs.
        coefficients: task → c; missing ones are 0.
        products: at most so many Hessian products a task for the largest curvature at θ_i; 0: none.
        tolerance: of the largest curvature, relative.
        seed: of its start.

    Raises:
        SchemaError: a vector moves nothing of the model. UnknownName: a task that was not prepared.
        ParameterError: a coefficient of a task without a vector, or θ_a is θ_i. NonFiniteError: a loss is not finite.
    """
    unknown = [name for name in coefficients if name not in vectors]
    if unknown:
        raise ParameterError(f"there is no vector for the coefficient of '{unknown[0]}'.", f"give {list(vectors)}.")
    deltas = {name: deltas_of(encoder, vector) for name, vector in vectors.items()}
    for name, delta in deltas.items():
        if not delta:
            raise SchemaError(f"the vector '{name}' moves no tensor of the model.", "give a vector of this model.")
    names = tuple(sorted(set().union(*deltas.values())))
    rows = []
    for task in only(prepared, vectors):
        own = deltas[task.task.name]
        way = combined(deltas, {**coefficients, task.task.name: coefficients.get(task.task.name, 0.0) - 1.0})
        objective = objective_of(encoder, task, names=names)
        top = None
        if products:
            top = largest_curvature(objective, own, products=products, tolerance=tolerance, seed=seed)
        rows.append(along_segment(objective, task.task.name, own, way, curvature=top))
    return Smoothness(coefficients=dict(coefficients), rows=tuple(rows))


def along_segment(
    objective: Objective, name: str, start: Weights, way: Weights, *, curvature: Curvature | None = None
) -> SmoothnessRow:
    """The row for L between θ0 + start and θ0 + start + way.

    Raises:
        ParameterError: the way is zero.
    """
    square = dot(way, way)
    if square == 0.0:
        raise ParameterError(f"the weights of '{name}' are the merged ones, and no curvature can be seen.")
    end = _plus(start, way)
    slopes = [objective.gradient(point) for point in (start, end)]
    change = {n: slopes[1][n] - slope for n, slope in slopes[0].items()}
    losses, first = [objective.value(point) for point in (start, end)], dot(slopes[0], way)
    return SmoothnessRow(
        name=name,
        distance=math.sqrt(square),
        loss=losses[0],
        merged_loss=losses[1],
        first_order=first,
        mean_curvature=dot(change, way) / square,
        secant=math.sqrt(dot(change, change) / square),
        tight=2.0 * (losses[1] - losses[0] - first) / square,
        curvature=curvature,
    )


def largest_curvature(
    objective: Objective, at: Weights, *, products: int = 30, tolerance: float = 1e-2, seed: int = 0
) -> Curvature:
    """The eigenvalue of largest size of ∇²L(θ0 + at), by power iteration: two vectors of memory, one product a step.

    Stops when the residual is at most `tolerance` · |value|, or after `products` steps; the residual tells.

    Raises:
        ParameterError: fewer than one product. NonFiniteError: a product is not finite.
    """
    if products < 1:
        raise ParameterError(f"products={products} is below 1.")
    generator = torch.Generator().manual_seed(seed)
    image = {
        n: torch.randn(w.shape, generator=generator, dtype=torch.float64).to(w)
        for n, w in objective.encoder.module.named_parameters()
        if n in objective.names
    }
    size, done, value, residual = math.sqrt(dot(image, image)), 0, 0.0, 0.0
    while done < products and size > 0.0:
        vector = {n: x / size for n, x in image.items()}
        image = objective.hessian_product(at, vector)
        square, value = dot(image, image), dot(image, vector)
        size, residual, done = math.sqrt(square), math.sqrt(max(0.0, square - value**2)), done + 1
        if residual <= tolerance * abs(value):
            break
    return Curvature(value=value, residual=residual, products=done)


def _plus(first: Weights, second: Weights) -> dict[str, Tensor]:
    shared = {n: each + second[n] if n in second else each for n, each in first.items()}
    return {**second, **shared}
