"""The matrix that acts on every task's inputs most like that task's delta, which stands in for them (WUDI).

With K_t = δ_tᵀ δ_t / ‖δ_t‖², the loss Σ_t ‖(M - δ_t) δ_tᵀ‖² / ‖δ_t‖² is Σ_t tr (M - δ_t) K_t (M - δ_t)ᵀ: least squares.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from taskvec.ops.spectral import column_gram, decompose

_FIRST, _SECOND, _SMALL = 0.9, 0.999, 1e-8  # Adam's moments and the number that keeps it from dividing by 0

_NOISE = 2.0**-40  # gradients below this share of the largest entry are rounding


def _live(stacked: Tensor) -> tuple[Tensor, Tensor]:
    """The deltas that are not 0, and the same over their Frobenius norms; float64."""
    exact = stacked.double()
    norms = torch.linalg.vector_norm(exact.flatten(1), dim=1)
    live = exact[norms > 0]
    return live, live / norms[norms > 0, None, None]


def least_squares(
    stacked: Float[Tensor, "task m n"], *, ridge: float = 0.0, tolerance: float = 1e-6
) -> Float64[Tensor, "m n"]:
    """(Σ δ_t K_t + ε δ̄)(Σ K_t + ε I)⁻¹, with δ̄ the mean and ε = `ridge` times the mean eigenvalue of Σ K_t.

    It minimizes the loss plus ε ‖M - δ̄‖². Without a ridge the pseudo-inverse, over the directions in which Σ K_t has
    more than `tolerance`² of its largest eigenvalue: the solution to which gradient descent from the sum converges.
    """
    live, unit = _live(stacked)
    if not live.numel():
        return torch.zeros(stacked.shape[1:], dtype=torch.float64)
    mean = live.mean(0)
    tasks, _, n = live.shape
    return mean + _pulled(live.sub_(mean), unit, ridge * tasks / n, tolerance)


def _pulled(live: Tensor, unit: Tensor, epsilon: float, tolerance: float) -> Tensor:
    """(Σ δ_t K_t)(Σ K_t + ε I)⁻¹, or with (Σ K_t)⁺.

    By the smaller Gram matrix of the factors of Σ K_t, where its condition leaves it 8 digits, else by their singular
    values.
    """
    tasks, m, n = live.shape
    rows, wide = unit.reshape(tasks * m, n), tasks * m < n
    gram, targets = (column_gram(rows.T), None) if wide else _weighed(live, unit)
    floor = 1e-8 * torch.linalg.matrix_norm(gram)
    gram.diagonal().add_(epsilon)
    if not int(torch.linalg.cholesky_ex(gram - floor * torch.eye(len(gram), dtype=torch.float64)).info):
        right = torch.cat(list(live @ unit.mT), 1) if targets is None else targets
        found = torch.cholesky_solve(right.T, torch.linalg.cholesky(gram)).T
        return found @ rows if wide else found
    factors = decompose(rows)
    kept = factors.s > tolerance * factors.s[0]
    s = factors.s[kept]
    parts = torch.split(factors.u[:, kept] * (s / (s**2 + epsilon)), m)
    sides = zip(live, unit, parts, strict=True)
    merged: Tensor = torch.stack([delta @ (one.T @ part) for delta, one, part in sides]).sum(0) @ factors.v[:, kept].T
    return merged


def _weighed(live: Tensor, unit: Tensor) -> tuple[Tensor, Tensor]:
    """Σ K_t and Σ δ_t K_t, the latter by way of the smaller of m x m and n x n."""
    _, m, n = live.shape
    if m < n:
        return column_gram(unit.reshape(-1, n)), _targets(live, unit)
    targets, total = torch.zeros_like(live[0]), live.new_zeros(n, n)
    for delta, one in zip(live, unit, strict=True):
        weights = column_gram(one)
        total += weights
        targets += delta @ weights
    return total, targets


def _targets(live: Tensor, unit: Tensor) -> Tensor:
    """Σ δ_t K_t of deltas with fewer rows than columns."""
    targets = torch.zeros_like(live[0])
    for delta, one in zip(live, unit, strict=True):
        targets += (delta @ one.T) @ one
    return targets


def descended(stacked: Float[Tensor, "task m n"], *, steps: int, rate: float) -> Float64[Tensor, "m n"]:
    """The sum, moved down the loss by `steps` of Adam; a gradient that is rounding is 0, and moves nothing."""
    live, unit = _live(stacked)
    merged = live.sum(0)
    if not live.numel():
        return merged
    tasks, m, n = live.shape
    rows = unit.reshape(tasks * m, n)
    weights, target = _weighed(live, unit) if n <= 2 * tasks * m else (None, _targets(live, unit))
    noise = _NOISE * float(live.abs().amax())
    first, second = torch.zeros_like(merged), torch.zeros_like(merged)
    for step in range(1, steps + 1):
        product = merged @ weights if weights is not None else (merged @ rows.T) @ rows
        gradient = 2.0 * (product - target)
        gradient[gradient.abs() <= noise] = 0.0
        first.lerp_(gradient, 1.0 - _FIRST)
        second.mul_(_SECOND).addcmul_(gradient, gradient, value=1.0 - _SECOND)
        size = (second / (1.0 - _SECOND**step)).sqrt_().add_(_SMALL)
        merged.addcdiv_(first, size, value=-rate / (1.0 - _FIRST**step))
    return merged
