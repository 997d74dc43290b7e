"""The point of a simplex whose worst weighted squared distance to the vertices is least, from a Gram matrix alone."""

from __future__ import annotations

import torch
from jaxtyping import Float64
from torch import Tensor

_STEPS, _TOLERANCE = 50_000, 1e-12


def smallest_ball(
    gram: Float64[Tensor, "task task"], weights: Float64[Tensor, " task"]
) -> tuple[Float64[Tensor, " task"], float]:
    """Coefficients a ≥ 0, Σ a = 1, that minimize max_i weights_i ‖V a − τ_i‖², and a lower bound of that minimum.

    The dual is to maximize Σ_i λ_i w_i q_i(a), a ∝ λ w, over probability vectors λ; its slope in λ_i is w_i q_i(a).
    Mass moves from the supported vertex of the least slope to the one of the greatest, by as much as the slopes stay
    apart (sequential minimal optimization), until the worst distance and the dual value, which encloses the minimum
    from below, agree to 1e-12. Weights are positive.
    """
    diagonal = gram.diagonal()
    mass = (1.0 / weights) / (1.0 / weights).sum()  # λ; a is uniform
    for _ in range(_STEPS):
        slopes, coefficients = _slopes(gram, diagonal, weights, mass)
        worst, value = float(slopes.max()), float(slopes @ mass)
        if worst - value <= _TOLERANCE * max(worst, 0.0):
            break
        up = int(slopes.argmax())
        down = int(torch.where(mass > 0.0, slopes, torch.inf).argmin())
        step = _step(gram, weights, mass, up, down)
        mass[up] += step
        mass[down] = max(float(mass[down]) - step, 0.0)
    return coefficients, value


def _slopes(gram: Tensor, diagonal: Tensor, weights: Tensor, mass: Tensor) -> tuple[Tensor, Tensor]:
    coefficients = mass * weights
    coefficients = coefficients / coefficients.sum()
    products = gram @ coefficients
    distances = (diagonal - 2.0 * products + coefficients @ products).clamp(min=0.0)
    return weights * distances, coefficients


def _step(gram: Tensor, weights: Tensor, mass: Tensor, up: int, down: int) -> float:
    """How much mass to move: up to all there is, or until both slopes are equal (they approach each other)."""
    taken = mass * weights
    products = gram @ taken
    whole, square = float(taken.sum()), float(taken @ products)
    wu, wd = float(weights[up]), float(weights[down])
    pu, pd = float(products[up]), float(products[down])
    guu, gdd, gud = (float(gram[i, j]) for i, j in ((up, up), (down, down), (up, down)))

    def apart(step: float) -> float:
        """The slope of `up` less that of `down` after a step."""
        total = whole + step * (wu - wd)
        here = pu + step * (wu * guu - wd * gud)
        there = pd + step * (wu * gud - wd * gdd)
        norm = square + 2.0 * step * (wu * pu - wd * pd)
        norm += step * step * (wu * wu * guu - 2.0 * wu * wd * gud + wd * wd * gdd)
        norm /= total * total
        return wu * (guu - 2.0 * here / total + norm) - wd * (gdd - 2.0 * there / total + norm)

    low, high = 0.0, float(mass[down])
    if apart(high) >= 0.0:
        return high
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if apart(middle) > 0.0 else (low, middle)
    return 0.5 * (low + high)
