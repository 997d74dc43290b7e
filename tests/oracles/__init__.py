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
