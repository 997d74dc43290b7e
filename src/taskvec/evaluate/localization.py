"""Local energy: do the kernel's eigenfunctions that represent a task live on the task's inputs (arXiv:2305.12827)?"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from taskvec.errors import ParameterError, SchemaError
from taskvec.evaluate.ntk import kernel_of
from taskvec.evaluate.patch import deltas_of
from taskvec.evaluate.record import Record
from taskvec.evaluate.scoring import Prepared, prepare
from taskvec.evaluate.search import only
from taskvec.ops.krylov import Eigenpairs
from taskvec.suites import Bucketed, Encoder, Suite
from taskvec.vector import TaskVector


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class LocalEnergyRow:
    """Mean local energy on the inputs of a task and of a control, with standard errors.

    The eigenfunctions have unit norm over both sets together, so `uniform`, selected / inputs, is what both means
    would be if they lived everywhere alike. `share` is the part of the task's function that the selected ones hold.
    """

    task: str
    control: str
    on_task: float
    on_task_stderr: float
    on_control: float
    on_control_stderr: float
    uniform: float
    selected: int
    share: float

    @property
    def ratio(self) -> float:
        """Energy on the task over energy on the control; 1 where the task is not local."""
        return self.on_task / self.on_control if self.on_control else math.inf


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Localization(Record):
    """Two rows, each task with the other as its control; the kernel's eigenvalues and their largest relative residual.

    `products` is how many products with the kernel were spent.
    """

    rows: tuple[LocalEnergyRow, ...]
    eigenvalues: tuple[float, ...]
    residual: float
    products: int

    def plain(self) -> dict[str, Any]:
        """All fields, and the ratio in each row."""
        rows = [{**asdict(row), "ratio": row.ratio} for row in self.rows]
        found = {"eigenvalues": list(self.eigenvalues), "residual": self.residual, "products": self.products}
        return {"local_energy": rows, **found}


def local_energy(
    functions: Float[Tensor, "count input out"], chosen: Bool[Tensor, " count"]
) -> Float[Tensor, " input"]:
    """E(x) = Σ_ρ ‖φ_ρ(x)‖² over the chosen eigenfunctions; k for every x if they are a complete basis."""
    return functions[chosen].square().sum(dim=(0, 2))


def representing(
    pairs: Eigenpairs, target: Float[Tensor, "size *out"], *, threshold: float
) -> tuple[Bool[Tensor, " count"], float]:
    """The fewest eigenvectors that hold `threshold` of ‖target‖² (all columns), and the share that they hold.

    All of them if they hold less together.

    Raises:
        ParameterError: the target is zero, or the threshold is outside (0, 1].
    """
    if not 0 < threshold <= 1:
        raise ParameterError(f"threshold={threshold} is outside (0, 1].")
    target = target.double().reshape(len(pairs.vectors), -1)
    whole = float(target.square().sum())
    if whole == 0.0:
        raise ParameterError("the function that the eigenfunctions should represent is zero everywhere.")
    parts = (pairs.vectors.T @ target).square().sum(dim=1) / whole
    order = parts.argsort(descending=True, stable=True)
    held = parts[order].cumsum(0)
    last = min(int((held < threshold).sum()), len(order) - 1)
    chosen = torch.zeros(len(order), dtype=torch.bool)
    chosen[order[: last + 1]] = True
    return chosen, float(held[last])


def localization(
    encoder: Encoder,
    vectors: Mapping[str, TaskVector],
    suite: Suite | Prepared,
    *,
    limit: int | None = None,
    count: int = 32,
    threshold: float = 0.9,
    projection: Float[Tensor, "dim out"] | None = None,
    trace: bool = False,
    tolerance: float = 1e-3,
    budget: int | None = None,
    seed: int = 0,
) -> Localization:
    """Local energy of the eigenfunctions that represent each of two tasks, on its inputs and on those of the other.

    The kernel is that of the parameters which either vector moves, on both sets of inputs together. A task's function
    is J(x) τ on its inputs and 0 on the other's. The paper leaves open how outputs become one kernel, how many inputs
    and which rule selects; here: `projection` or `trace`, `limit`, and the fewest eigenfunctions that hold `threshold`
    of the function's squared norm.

    Args:
        encoder: the model at θ0.
        vectors: the two tasks' names → their τ.
        suite: the suite of the two tasks, whose test inputs are used, or prepared inputs of these tasks at least.
        limit: only the first so many test inputs of a suite's tasks.
        count: how many eigenfunctions are computed.
        threshold: see above.
        projection: see `kernel_of`.
        trace: the n × n kernel summed over outputs instead; k times the cost.
        tolerance: of the eigenpairs, as in `largest_eigenpairs`.
        budget: as there.
        seed: as there.

    Raises:
        SchemaError: a vector moves nothing of the model. UnknownName: a task that the suite does not have.
        ParameterError: not two vectors; see `kernel_of` and `representing`.
    """
    if len(vectors) != 2:
        raise ParameterError(f"local energy is of two tasks; {len(vectors)} vectors were given.", "choose two.")
    if isinstance(suite, Suite):
        suite = prepare(encoder, suite, split="test", limit=limit, tasks=vectors)
    tasks = only(suite, vectors)
    deltas = [_moving(encoder, name, vector) for name, vector in vectors.items()]
    kernel = kernel_of(
        encoder,
        joined(tasks[0].inputs, tasks[1].inputs),
        names=sorted(set().union(*deltas)),
        projection=projection,
    )
    size = len(kernel.start) if trace else kernel.size
    pairs = kernel.eigenpairs(min(count, size), trace=trace, tolerance=tolerance, budget=budget, seed=seed)
    n = len(tasks[0].labels)
    rows = []
    for i, delta in enumerate(deltas):
        target, own = kernel.push(delta), torch.arange(len(kernel.start)) < n
        own = own if i == 0 else ~own
        target[~own] = 0.0
        chosen, share = representing(pairs, target if trace else target.flatten(), threshold=threshold)
        energy = local_energy(pairs.vectors.T.reshape(len(chosen), len(target), -1), chosen)
        rows.append(
            LocalEnergyRow(
                task=tasks[i].task.name,
                control=tasks[1 - i].task.name,
                on_task=float(energy[own].mean()),
                on_task_stderr=_stderr(energy[own]),
                on_control=float(energy[~own].mean()),
                on_control_stderr=_stderr(energy[~own]),
                uniform=int(chosen.sum()) / len(energy),
                selected=int(chosen.sum()),
                share=share,
            )
        )
    return Localization(
        rows=tuple(rows),
        eigenvalues=tuple(pairs.values.tolist()),
        residual=float(pairs.residuals.max() / pairs.values.max()),
        products=pairs.products,
    )


def _moving(encoder: Encoder, name: str, vector: TaskVector) -> dict[str, Tensor]:
    delta = deltas_of(encoder, vector)
    if not delta:
        raise SchemaError(f"the vector '{name}' moves no tensor of the model.", "give a vector of this model.")
    point = encoder.module.state_dict()
    return {tensor: change.to(point[tensor]) for tensor, change in delta.items()}


def joined(first: Bucketed, second: Bucketed) -> Bucketed:
    """The batches of both, those of `second` counted on from the last position of `first`."""
    offset = sum(len(positions) for positions in first.positions)
    return Bucketed(first.batches + second.batches, first.positions + tuple(p + offset for p in second.positions))


def _stderr(values: Tensor) -> float:
    return float(values.std(correction=0)) / math.sqrt(len(values))
