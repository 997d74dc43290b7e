"""Kernel regression with the tangent kernel: what tangent fine-tuning with the square loss tends to."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from taskvec.errors import NonFiniteError, ParameterError
from taskvec.evaluate.ntk import Kernel, kernel_of
from taskvec.evaluate.scores import Score, Scores
from taskvec.evaluate.scoring import Prepared, PreparedTask, score
from taskvec.evaluate.search import only
from taskvec.suites import Encoder
from taskvec.suites.linearize import LinearizedEncoder


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Regression:
    """The fitted model to first order is f(x; θ0) + J(x) τ.

    `unfitted` is ‖targets − f_lin‖ / ‖targets − f0‖ on the training inputs, `gradient` the norm of the loss's gradient
    at τ relative to that at 0: small where the fit is done.
    """

    tau: Mapping[str, Tensor]
    unfitted: float
    gradient: float
    iterations: int


def kernel_regression(
    kernel: Kernel,
    targets: Float[Tensor, "input out"],
    *,
    ridge: float = 0.0,
    tolerance: float = 1e-6,
    iterations: int = 1000,
) -> Regression:
    """τ = Jᵀ (K + ridge I)⁻¹ (targets − f0), so that f0(x) + J(x) τ = f0(x) + k(x, X) (K + ridge I)⁻¹ (y − f0(X)).

    That is where gradient descent on ½ ‖f_lin(X) − targets‖² ends when it starts at τ = 0 (arXiv:2305.12827; with a
    ridge: of that plus ½ ridge ‖τ‖²; targets out of reach: the fit of least squares and least norm). By conjugate
    gradients on the least-squares problem (CGLS, Hestenes and Stiefel 1952), one product with the kernel a step.

    Args:
        kernel: on the training inputs.
        targets: what the outputs should be.
        ridge: ≥ 0.
        tolerance: the relative gradient at which to stop.
        iterations: at most so many products.

    Raises:
        ParameterError: targets of another shape than the outputs, or a negative ridge.
    """
    if targets.shape != kernel.start.shape:
        raise ParameterError(f"the targets have shape {tuple(targets.shape)}, the outputs {tuple(kernel.start.shape)}.")
    if not 0.0 <= ridge < torch.inf:
        raise ParameterError(f"ridge={ridge} is not a number from 0.")

    left = (targets - kernel.start).to(kernel.start)
    missing, done = float(left.double().norm()), 0
    slope = kernel.pull(left)
    tau, direction = {name: torch.zeros_like(x) for name, x in slope.items()}, slope
    steepness = first = _square(slope.values())
    while done < iterations and steepness > tolerance**2 * first:
        image = kernel.push(direction)
        step = steepness / (_square([image]) + ridge * _square(direction.values()))
        tau, left = _sum(tau, direction, step), left - step * image
        slope = _sum(kernel.pull(left), tau, -ridge)
        steepness, before = _square(slope.values()), steepness
        direction = _sum(slope, direction, steepness / before)
        done += 1
    return Regression(
        tau=tau,
        unfitted=float(left.double().norm()) / missing if missing else 0.0,
        gradient=math.sqrt(steepness / first) if first else 0.0,
        iterations=done,
    )


def _square(tensors: Iterable[Tensor]) -> float:
    total = sum(float(each.double().square().sum()) for each in tensors)
    if not math.isfinite(total):
        raise NonFiniteError("the kernel gives products that are not finite.", "check the weights for NaN and Inf.")
    return total


def _sum(first: Mapping[str, Tensor], second: Mapping[str, Tensor], factor: float) -> dict[str, Tensor]:
    return {name: each + factor * second[name] for name, each in first.items()}


def kernel_reference(
    encoder: Encoder,
    train: Prepared,
    test: Prepared,
    *,
    names: Iterable[str] | None = None,
    ridge: float = 0.0,
    tolerance: float = 1e-3,
    iterations: int = 100,
) -> Scores:
    """Each task scored by kernel regression of its features onto its class embeddings: a reference for tangent tuning.

    The target of an input is the embedding of its class, at the mean length of the base's features.

    Args:
        encoder: the model at θ0.
        train: inputs to fit; every task of `test`.
        test: inputs to score; the regime of the scores is "kernel".
        names: the parameters of the kernel; None: all.
        ridge: see `kernel_regression`.
        tolerance: see there.
        iterations: see there.

    Raises:
        UnknownName: a task of `test` without training inputs.
    """
    chosen = None if names is None else tuple(names)
    rows: list[Score] = []
    for task in test.tasks:
        (fitted,) = only(train, (task.task.name,))
        kernel = kernel_of(encoder, fitted.inputs, names=chosen)
        found = kernel_regression(
            kernel, _class_targets(fitted, kernel.start), ridge=ridge, tolerance=tolerance, iterations=iterations
        )
        alone = Prepared(suite=test.suite, split=test.split, tasks=(task,))
        rows += score(LinearizedEncoder(origin=encoder, tau=found.tau), alone).rows
    return Scores(rows=tuple(rows), suite=test.suite, split=test.split, regime="kernel")


def _class_targets(task: PreparedTask, start: Tensor) -> Tensor:
    targets: Tensor = task.head.embeddings[task.labels].to(start) * start.norm(dim=-1).mean()
    return targets
