"""The published autoencoder: softmax encoder over tasks, linear decoder, Adam; beside its closed-form optimum."""

from __future__ import annotations

import torch

from taskvec.basis._solver import Codes, Problem, solver
from taskvec.basis.algebra import Matrix
from taskvec.errors import ParameterError

_BETAS, _TINY = (0.9, 0.999), 1e-8


@solver(source="arXiv:2502.01015 (v4 and later) and its code")
def autoencoder(
    problem: Problem,
    *,
    steps: int = 6000,
    rate: float = 1e-2,
    temperature: float = 5.0,
    decay: float = 1e-6,
    seed: int = 0,
) -> Codes:
    """B = softmax(A / temperature) over tasks and W minimize tr(Eᵀ G E) / T², E = B W − I, by Adam from A ~ N(0, 1).

    Settings are those of the released script: 6000 steps, rate 1e-2, L2 decay 1e-6 on A and W, temperature 5, no
    annealing. In float64, with gradients in closed form. The report has the loss, the spectral bound Σ_{k > M} λ_k / T²
    that no choice of B and W can beat, and their ratio. Takes time in proportion to the steps, unlike other methods.

    Raises:
        ParameterError: a setting out of its range.
    """
    if not (steps >= 1 and rate > 0.0 and temperature > 0.0 and decay >= 0.0):
        raise ParameterError(
            f"autoencoder: steps={steps}, rate={rate}, temperature={temperature}, decay={decay}.",
            "steps from 1, rate and temperature above 0, decay from 0.",
        )
    gram, tasks, size = problem.gram, len(problem.gram), problem.wanted
    logits = torch.randn(tasks, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    encoder, decoder = _train(gram, logits, steps=steps, rate=rate, temperature=temperature, decay=decay)
    values = torch.linalg.eigvalsh(gram).clamp(min=0.0)
    loss, bound = _loss(gram, encoder, decoder), float(values[: max(tasks - size, 0)].sum()) / tasks**2
    ratio = loss / bound if bound > 1e-14 * float(values.sum()) / tasks**2 else None
    return Codes(encoder, decoder, {"loss": loss, "bound": bound, "ratio": ratio, "steps": steps, "seed": seed})


def _loss(gram: Matrix, encoder: Matrix, decoder: Matrix) -> float:
    error = encoder @ decoder - torch.eye(len(gram), dtype=torch.float64)
    return float((error * (gram @ error)).sum()) / len(gram) ** 2


def _train(
    gram: Matrix, logits: Matrix, *, steps: int, rate: float, temperature: float, decay: float
) -> tuple[Matrix, Matrix]:
    decoder = torch.zeros(logits.shape[1], len(gram), dtype=torch.float64)
    moments = [(torch.zeros_like(x), torch.zeros_like(x)) for x in (logits, decoder)]
    factor = 2.0 / len(gram) ** 2
    for step in range(1, steps + 1):
        encoder = torch.softmax(logits / temperature, 0)
        half = gram @ encoder
        to_decoder = factor * ((encoder.T @ half) @ decoder - half.T)
        to_encoder = factor * (half @ (decoder @ decoder.T) - gram @ decoder.T)
        to_logits = encoder * (to_encoder - (encoder * to_encoder).sum(0)) / temperature
        for x, slope, (mean, square) in zip((logits, decoder), (to_logits, to_decoder), moments, strict=True):
            gradient = slope + decay * x
            mean.lerp_(gradient, 1 - _BETAS[0])
            square.mul_(_BETAS[1]).addcmul_(gradient, gradient, value=1 - _BETAS[1])
            spread = (square / (1 - _BETAS[1] ** step)).sqrt_().add_(_TINY)
            x.addcdiv_(mean, spread, value=-rate / (1 - _BETAS[0] ** step))
    return torch.softmax(logits / temperature, 0), decoder
