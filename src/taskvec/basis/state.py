"""What is known of a basis without its vectors, and how that changes when a task arrives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, final

import torch
from jaxtyping import Float64
from torch import Tensor

from taskvec.basis._solver import Codes, get
from taskvec.basis.algebra import Matrix, best_decoder, losses, norms_of, relative, root
from taskvec.basis.solve import solve


@final
@dataclass(frozen=True, eq=False, slots=True)
class Asked:
    """How a basis was asked for; the same again when a task arrives. `settings` are weights and the like, by name."""

    method: str
    size: int | None
    normalize: bool = False
    weights: Mapping[str, float] = field(default_factory=dict)
    coefficients: Mapping[str, float] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    def solve(self, gram: Float64[Tensor, "task task"], names: tuple[str, ...], size: int | None) -> Codes:
        """The codes of tasks with that Gram matrix; weights and coefficients that are not given are 1."""

        def vector(table: Mapping[str, float]) -> Tensor | None:
            return torch.tensor([table.get(n, 1.0) for n in names], dtype=torch.float64) if table else None

        settings: dict[str, Any] = {"weights": vector(self.weights), "totals": vector(self.coefficients)}
        return solve(gram, size, self.method, normalize=self.normalize, **settings, **self.options)


@final
@dataclass(frozen=True, eq=False, slots=True)
class State:
    """Tasks and members by their inner products.

    Task j is recovered as Σ_m decoder[m, j] s_m. `lost[j]` is ‖recovered − τ_j‖; for a task that was there before
    another was `added`, a bound of it. `gram` is that of the tasks, once some were added of the tasks as they were
    recovered before; `members` that of the basis vectors, Σ_j encoder[j, m] τ_j where they are such combinations.
    `labels` are the clusters of the tasks. `tied`: the members know nothing of the tasks, and stay.
    """

    names: tuple[str, ...]
    norms: Float64[Tensor, " task"]
    lost: Float64[Tensor, " task"]
    gram: Float64[Tensor, "task task"]
    members: Float64[Tensor, "size size"]
    decoder: Matrix
    encoder: Matrix | None = None
    labels: tuple[int, ...] | None = None
    added: tuple[str, ...] = ()
    tied: bool = False
    report: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def condition(self) -> float:
        """The largest over the smallest singular value of the basis vectors, each scaled to norm 1 (those of 0 aside).

        So many times larger than itself a relative error of one of them can come out in a task.
        """
        norms = norms_of(self.members)
        kept = norms > 0.0
        if not bool(kept.any()):
            return 1.0
        s = torch.linalg.svdvals(root(self.members)[:, kept] / norms[kept])
        return float(s[0] / s[-1]) if s[-1] > 0.0 else float("inf")

    @property
    def errors(self) -> Float64[Tensor, " task"]:
        """Relative errors lost / norm; for a task of norm 0, 0 where nothing is lost and else infinite."""
        return relative(self.lost, self.norms)


def fitted(names: tuple[str, ...], gram: Float64[Tensor, "task task"], codes: Codes) -> State:
    """The state of a basis whose vectors are the combinations that `codes` say."""
    factor = root(gram)
    made = factor @ codes.encoder
    lost = losses(factor, codes.encoder @ codes.decoder)
    return State(names, norms_of(gram), lost, gram, made.T @ made, codes.decoder, codes.encoder, **_told(codes))


def built(names: tuple[str, ...], whole: Float64[Tensor, "both both"], codes: Codes) -> State:
    """The state of a basis of other vectors; `whole` is the Gram matrix of the tasks and, after them, of these."""
    factor, t = root(whole), len(names)
    same = torch.eye(len(whole), dtype=torch.float64)
    tasks, members = same[:, :t], same[:, t:]
    decoder = best_decoder(factor, members, tasks) if codes.refit else codes.decoder
    lost = losses(factor, members @ decoder, tasks)
    gram, own = whole[:t, :t], whole[t:, t:]
    return State(names, norms_of(gram), lost, gram, own, decoder, tied=codes.refit, **_told(codes))


def _told(codes: Codes) -> dict[str, Any]:
    labels = codes.report.get("labels")
    return {"labels": None if labels is None else tuple(labels), "report": codes.report, "notes": codes.notes}


@final
@dataclass(frozen=True, eq=False, slots=True)
class Arrival:
    """A state with one more task; member m is now Σ_k mix[k, m] of the members before and, last, the new vector."""

    state: State
    mix: Matrix


def arrived(state: State, name: str, products: Float64[Tensor, " size"], squared_norm: float, asked: Asked) -> Arrival:
    """One more task, known by its inner products with the members and its norm; no task vector is needed.

    What every task loses in this step is exact and is added to what it had lost before.
    """
    size = len(state.members)
    whole = torch.zeros(size + 1, size + 1, dtype=torch.float64)
    whole[:size, :size], whole[size, :size], whole[:size, size] = state.members, products, products
    whole[size, size] = squared_norm
    factor = root(whole)
    tasks = torch.zeros(size + 1, len(state.names) + 1, dtype=torch.float64)  # what stands for them, in `factor`
    tasks[:size, :-1], tasks[size, -1] = state.decoder, 1.0
    mix, decoder, labels, codes = _resolved(state, name, factor, tasks, asked)
    step = losses(factor, mix @ decoder, tasks)
    before = torch.cat([state.lost, torch.zeros(1, dtype=torch.float64)])
    made, stand = factor @ mix, factor @ tasks
    after = State(
        (*state.names, name),
        torch.cat([state.norms, torch.tensor([max(squared_norm, 0.0) ** 0.5], dtype=torch.float64)]),
        before + step,
        stand.T @ stand,
        made.T @ made,
        decoder,
        codes.encoder if codes is not None else None,
        labels,
        (*state.added, name),
        state.tied,
        codes.report if codes else {},
        codes.notes if codes else (),
    )
    return Arrival(after, mix)


def _resolved(
    state: State, name: str, factor: Matrix, tasks: Matrix, asked: Asked
) -> tuple[Matrix, Matrix, tuple[int, ...] | None, Codes | None]:
    """(mix, decoder, labels, the solver's own answer)."""
    size, names, online = len(factor) - 1, (*state.names, name), get(asked.method).online
    wanted = size if asked.size is None else asked.size
    if state.tied:
        mix = torch.eye(size + 1, dtype=torch.float64)[:, :size]
        return mix, best_decoder(factor, mix, tasks), None, None
    if wanted >= len(names) or online == "recovered":  # as many as tasks: every solver keeps them
        stand = factor @ tasks
        codes = asked.solve(stand.T @ stand, names, wanted)
        labels = tuple(range(len(names))) if state.labels is not None else None
        return tasks @ codes.encoder, codes.decoder, labels, codes
    if online == "members":
        plain = replace(asked, weights={}, coefficients={}, normalize=False)
        codes = plain.solve(factor.T @ factor, tuple(str(i) for i in range(size + 1)), wanted)
        return codes.encoder, best_decoder(factor, codes.encoder, tasks), None, None
    return _joined(state, factor, tasks, least_squares=asked.options.get("decode") == "least_squares")


def _joined(
    state: State, factor: Matrix, tasks: Matrix, *, least_squares: bool
) -> tuple[Matrix, Matrix, tuple[int, ...] | None, Codes | None]:
    """The nearest cluster, by cosine, takes the new task in: s ← (n s + τ) / (n + 1)."""
    size = len(factor) - 1
    new, members = factor[:, size], factor[:, :size]
    norms = members.norm(dim=0)
    cosines = torch.where(norms > 0.0, (new @ members) / torch.where(norms > 0.0, norms, 1.0), -torch.inf)
    nearest = int(cosines.argmax())
    labels = (*(state.labels or range(len(state.names))), nearest)
    count = labels.count(nearest)
    mix = torch.eye(size + 1, dtype=torch.float64)[:, :size].clone()
    mix[nearest, nearest], mix[size, nearest] = (count - 1) / count, 1.0 / count
    joined = torch.zeros(size, 1, dtype=torch.float64)
    joined[nearest] = 1.0
    decoder = best_decoder(factor, mix, tasks) if least_squares else torch.cat([state.decoder, joined], 1)
    return mix, decoder, labels, None
