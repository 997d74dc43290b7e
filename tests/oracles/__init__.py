"""One slow float64 reference a method, `oracles/<method>.py`, written from its formulas and not from our code.

    reference(stacks, **parameters)   stacks: tensor name -> float64 (task, *shape), in file order; whole-model
                                      statistics use all of them; weights for methods on points (row 0 is the base
                                      where the method requires one). parameters: all of the method's, defaults
                                      filled in, per-task ones as tuples. Tasks are called "0", "1", ...
                                      Returns tensor name -> float64 (*shape).
    SETTINGS (optional)               the parameters to try, [{}] if absent; the laws run under the first.
                                      A list among the values is spread over the tasks.
    RTOL (optional)                   how far a result may lie from it, 1e-6 if absent.

A few shared definitions follow (section 1 of the method card).
"""

import importlib
import math
from types import ModuleType

import numpy as np


def load(name: str) -> ModuleType:
    """The oracle of a method; fails if there is none."""
    return importlib.import_module(f"oracles.{name}")


def settings(name: str) -> list[dict]:
    return getattr(load(name), "SETTINGS", [{}])


def kept(density: float, n: int) -> int:
    return max(1, math.ceil(density * n)) if n else 0


def top(x: np.ndarray, k: int) -> np.ndarray:
    """x where |x| is at least its k-th largest magnitude, by a full sort; all entries equal to it stay."""
    if k == 0:
        return np.zeros_like(x)
    return np.where(np.abs(x) >= np.sort(np.abs(x), axis=None)[-k], x, 0.0)


def elect(rows: np.ndarray) -> np.ndarray:
    """The sign of the sum of (task, ...); 0 where it is within rounding of 0."""
    total = np.sum(rows, 0)
    return np.where(np.abs(total) <= 2.0**-40 * np.sum(np.abs(rows), 0), 0.0, np.sign(total))


def agree_mean(rows: np.ndarray) -> np.ndarray:
    """The mean of the entries whose sign is the elected one; 0 where there is none."""
    agrees = (np.sign(rows) == elect(rows)) & (rows != 0)
    return np.sum(np.where(agrees, rows, 0.0), 0) / np.maximum(agrees.sum(0), 1)


def flat(stacks: dict[str, np.ndarray]) -> np.ndarray:
    """All tensors of every task side by side, (task, entries)."""
    return np.concatenate([x.reshape(len(x), -1) for x in stacks.values()], axis=1)


def unflat(vector: np.ndarray, stacks: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A whole-model vector cut back into tensors."""
    out, at = {}, 0
    for name, x in stacks.items():
        size = math.prod(x.shape[1:])
        out[name] = vector[at : at + size].reshape(x.shape[1:])
        at += size
    return out


def drawn(seed: int, name: str, x: np.ndarray) -> np.ndarray:
    """The random number of every entry of (task, *shape); the function has tests of its own."""
    from taskvec.ops.random import stream_keys, uniforms

    keys = stream_keys(seed, [str(t) for t in range(len(x))], name)
    return uniforms(keys, 0, math.prod(x.shape[1:])).reshape(x.shape)


def per_task(values, x: np.ndarray) -> np.ndarray:
    """One number a task, shaped to multiply (task, *shape)."""
    return np.array(values, float).reshape(-1, *[1] * (x.ndim - 1))


def l1_rescaled(kept_rows: np.ndarray, x: np.ndarray) -> np.ndarray:
    """mergekit's rescaling: each task's tensor gets its L1 norm back, unless one of the two is below 1e-7."""
    out = kept_rows.copy()
    for t in range(len(x)):
        before, after = np.abs(x[t]).sum(), np.abs(kept_rows[t]).sum()
        if before >= 1e-7 and after >= 1e-7:
            out[t] *= before / after
    return out


def weighted_vote(rows, coefficients, *, normalize):
    """mergekit's consensus: votes are weighted, a zero vote is +."""
    c = per_task(coefficients, rows)
    u = c * rows
    elected = np.where(elect(u) < 0, -1.0, 1.0)
    agrees = (np.sign(u) == elected) & (u != 0)
    mixed = np.where(agrees, u, 0.0).sum(0)
    divisor = np.where(agrees, c, 0.0).sum(0)
    return mixed / np.where(divisor == 0, 1.0, divisor) if normalize else mixed


def peft_vote(rows, coefficients, *, majority):
    """PEFT's: unweighted votes by value or sign, a zero vote is +, divided by the number of those who agree."""
    votes = np.sign(rows) if majority == "frequency" else rows
    elected = np.where(elect(votes) < 0, -1.0, 1.0)
    agrees = (np.sign(rows) == elected) & (rows != 0)
    mixed = np.where(agrees, per_task(coefficients, rows) * rows, 0.0).sum(0)
    return mixed / np.maximum(agrees.sum(0), 1)


def by_matrix(stacks, merge, otherwise=lambda x: x.mean(0)):
    """`merge` of matrices (task, m, n), `otherwise` of the rest."""
    return {n: (merge if is_matrix(x) else otherwise)(x) for n, x in stacks.items()}


def is_matrix(x):
    """Whether (task, m, n), with m and n larger than 1 and not below the number of tasks."""
    return x.ndim == 3 and min(x.shape[1:]) >= max(2, len(x))


def polar(columns, tolerance=1e-6):
    """The orthonormal columns nearest to `columns`, without directions below the tolerance."""
    p, d, qh = np.linalg.svd(columns, full_matrices=False)
    kept = d > tolerance * d.max() if d.size else d > 0
    return p[:, kept] @ qh[kept]
