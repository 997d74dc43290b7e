"""WUDI: the matrix that least disturbs every task (Cheng et al., ICML 2025, arXiv:2503.08099)."""

from typing import Annotated, Any, Literal

from jaxtyping import Float
from torch import Tensor

from taskvec.errors import ParameterError
from taskvec.methods._method import merge_method
from taskvec.methods._parameters import NonNegative, Range
from taskvec.ops.layerwise import descended, least_squares

Solver = Literal["closed", "adam"]
_DEFAULTS = {"closed": {"ridge": 0.1}, "adam": {"steps": 300, "rate": 1e-5}}


def _check(*, solver: Solver, **given: Any) -> None:
    for other, defaults in _DEFAULTS.items():
        for key, default in defaults.items():
            if other != solver and given[key] != default:
                raise ParameterError(f"wudi: {key}={given[key]!r} is of the solver '{other}'.", f"give solver={other}.")


@merge_method(
    source="arXiv:2503.08099, WUDI-Merging",
    acts_on="matrix",
    otherwise="average",
    check=_check,
    laws={"permutation", "homogeneous", "zero", "idempotent"},
)
def wudi(
    deltas: Float[Tensor, "task m n"],
    *,
    solver: Solver = "closed",
    ridge: NonNegative = 0.1,
    steps: Annotated[int, Range(0, closed=True)] = 300,
    rate: Annotated[float, Range(0.0)] = 1e-5,
    transpose: bool = False,
) -> Float[Tensor, "m n"]:
    """The matrix M that minimizes Σ_t ‖(M - δ_t) δ_tᵀ‖² / ‖δ_t‖²: the rows of δ_t stand in for the task's inputs.

    With K_t = δ_tᵀ δ_t / ‖δ_t‖² and δ̄ the mean: M = (Σ δ_t K_t + ε δ̄)(Σ K_t + ε I)⁻¹. Other tensors get the mean.

    One task and equal ones give the input, opposed ones 0, zero ones 0; a zero delta takes no part. Directions in which
    no task moves get 0. Tensors that are 0-d, empty or vectors are not matrices.

    Args:
        deltas: one delta a task (outputs, inputs), stacked on axis 0.
        solver: "closed" solves for M; "adam" walks from the sum towards it and stops early, as published. Its rate is
            a distance, so that it is not homogeneous.
        ridge: ε relative to the mean eigenvalue of Σ K_t, which is T / n. It moves M from the minimum (0; by the
            pseudo-inverse where Σ K_t is singular) towards the mean (large), first in directions in which all tasks
            move little: what the minimum is there rests on little. So do the few steps of "adam".
        steps: of Adam.
        rate: how far a step of Adam moves an entry at most, in the unit of the weights.
        transpose: for weights that are kept as (inputs, outputs).

    Differs from the paper: solved with a ridge instead of a descent that is cut short, unless asked; all matrices take
    part (the published code moves four kinds of layers of a ViT and leaves every other tensor at the base).
    """
    stacked = deltas.transpose(1, 2) if transpose else deltas
    adam = solver == "adam"
    merged = descended(stacked, steps=steps, rate=rate) if adam else least_squares(stacked, ridge=ridge)
    return merged.T if transpose else merged
