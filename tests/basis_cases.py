"""Task vectors for the tests of Gram matrices and bases: named, deterministic, with the degenerate ones among them."""

from __future__ import annotations

import numpy as np
import torch

import taskvec as tv
from vector_cases import factored, normal

SHAPES = {"emb": (310, 241), "w": (7, 33), "b": (5,), "s": ()}


def base_tensors() -> dict[str, torch.Tensor]:
    tensors = {n: normal(*shape, seed=i).float() for i, (n, shape) in enumerate(SHAPES.items(), 1)}
    return {**tensors, "steps": torch.arange(3)}


def tuned_vectors(
    count: int, *, shared: float = 0.3, scale: float = 0.01, base: tv.Checkpoint | None = None
) -> dict[str, tv.TaskVector]:
    """`count` fine-tunes of one base, float32, with a common part."""
    point = base or tv.Checkpoint.from_tensors(base_tensors())
    common = {n: normal(*s, seed=50 + i) for i, (n, s) in enumerate(SHAPES.items())}
    out = {}
    for t in range(count):
        moved = {
            n: (x + scale * (shared * common[n] + normal(*x.shape, seed=1000 * t + i + 7))).float()
            for i, (n, x) in enumerate(base_tensors().items())
            if n != "steps"
        }
        out[f"task{t}"] = tv.Checkpoint.from_tensors({**moved, "steps": torch.arange(3)}) - point
    return out


def plain(columns: torch.Tensor, name: str = "w") -> dict[str, tv.TaskVector]:
    """The columns of a matrix (entries, task) as float64 task vectors."""
    return {
        f"t{i}": tv.TaskVector.from_tensors({name: column.double().clone()})
        for i, column in enumerate(columns.unbind(1))
    }


def adapters(count: int, shapes: dict[str, tuple[int, int]] | None = None) -> dict[str, tv.TaskVector]:
    """LoRA vectors, no base recorded."""
    wanted = shapes or {"emb": (310, 241), "w": (7, 33)}
    return {f"lora{i}": factored(wanted, rank=2 + i, seed=9 + 10 * i) for i in range(count)}


def flat(vector: tv.TaskVector) -> torch.Tensor:
    """All entries of a vector in float64, tensors by name."""
    return torch.cat([torch.from_numpy(vector.values(n, 0, vector.specs[n].numel)) for n in sorted(vector.specs)])


def stacked(vectors: dict[str, tv.TaskVector]) -> torch.Tensor:
    """The vectors as columns (entries, task), float64; what a vector does not move is 0."""
    names = sorted({n for v in vectors.values() for n in v.specs})
    sizes = {n: s.numel for v in vectors.values() for n, s in v.specs.items()}

    def column(vector: tv.TaskVector) -> torch.Tensor:
        parts = (vector.values(n, 0, sizes[n]) if n in vector.specs else np.zeros(sizes[n]) for n in names)
        return torch.from_numpy(np.concatenate(list(parts)))

    return torch.stack([column(v) for v in vectors.values()], 1)


# --- Gram matrices whose answer is known, or that a solver finds hard -----------------------------------------------


def with_cosines(cosines: torch.Tensor, norms: torch.Tensor) -> torch.Tensor:
    return cosines * norms[:, None] * norms[None, :]


def clustered(count: int, groups: int, *, inside: float = 0.4, across: float = 0.06) -> torch.Tensor:
    """Unit vectors in groups of equal size, neighbours in turn: task t belongs to group t modulo `groups`."""
    label = torch.arange(count) % groups
    cosines = torch.where(label[:, None] == label[None, :], inside, across).double()
    return cosines.fill_diagonal_(1.0)


def random_gram(count: int, *, seed: int, mean: float = 0.0, rows: int = 60) -> torch.Tensor:
    """The Gram matrix of Gaussian vectors with a common part and norms from 1.2 to 3.5."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, count, generator=generator, dtype=torch.float64)
    x = x + mean * torch.randn(rows, 1, generator=generator, dtype=torch.float64)
    x = x / x.norm(dim=0)
    norms = 1.2 + 2.3 * torch.rand(count, generator=generator, dtype=torch.float64)
    x = x * norms
    return x.T @ x


GRAMS = {
    "orthogonal": 4.0 * torch.eye(8, dtype=torch.float64),
    "cosine 0.1": 4.0 * (0.1 + 0.9 * torch.eye(8, dtype=torch.float64)),
    "clustered": 4.0 * clustered(8, 4),
    "heterogeneous": random_gram(8, seed=3, mean=0.5),
    "mixed signs": random_gram(8, seed=4),
    "twenty": random_gram(20, seed=5, mean=0.4),
    "one task": torch.tensor([[2.5]], dtype=torch.float64),
    "duplicates": torch.block_diag(*[torch.full((2, 2), float(i + 1), dtype=torch.float64) for i in range(3)]),
    "a zero task": torch.block_diag(random_gram(5, seed=6, mean=0.4), torch.zeros(1, 1, dtype=torch.float64)),
    "scales apart": with_cosines(
        random_gram(6, seed=7, mean=0.6), torch.tensor([1e-3, 1.0, 1e3, 1.0, 1e-3, 1e3], dtype=torch.float64)
    ),
}
