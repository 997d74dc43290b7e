"""The named inputs that break merge methods: small, deterministic, each for one reason."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Stacks = dict[str, npt.NDArray[Any]]  # tensor name -> (task, *shape)


def _normal(*shape: int, seed: int = 0) -> npt.NDArray[np.float64]:
    x: npt.NDArray[np.float64] = np.random.default_rng([seed, *shape]).normal(size=shape)
    return x


def _copies(x: npt.NDArray[np.float64], *factors: float) -> npt.NDArray[np.float64]:
    return np.stack([factor * x for factor in factors])


def _whole(*shape: int) -> npt.NDArray[np.float64]:
    """Small integers, none of them 0: their multiples and sums are exact in float32."""
    x = np.random.default_rng([1, *shape]).integers(-9, 9, shape)
    return np.asarray(np.where(x >= 0, x + 1, x), np.float64)


def _disjoint(tasks: int, n: int) -> npt.NDArray[np.float64]:
    mine = np.arange(n) % tasks == np.arange(tasks)[:, None]
    return np.asarray(np.where(mine, _normal(tasks, n, seed=2), 0.0))


def _sparse(tasks: int, *shape: int) -> npt.NDArray[np.float64]:
    x = _normal(tasks, *shape, seed=3)
    return np.where(np.abs(x) > 1.5, x, 0.0)


def _signed_zeros() -> npt.NDArray[np.float64]:
    return np.array([[0.0, -0.0, 1.0, -0.0, -2.0], [-0.0, -0.0, -0.0, 3.0, -2.0], [0.0, 0.0, 1.0, -3.0, 0.0]])


def _scales() -> dict[str, npt.NDArray[np.float64]]:
    return {
        "embedding": _normal(3, 11, 4),
        "layer.0.weight": 1000.0 * _normal(3, 6, 5),
        "layer.0.bias": 1e-3 * _normal(3, 6),
        "logit_scale": _normal(3),
        "layer.1.kernel": 1e-6 * _normal(3, 2, 3, 2, 2),
    }


def named() -> dict[str, Stacks]:
    """The adversarial inputs by name, float32; a fresh copy at each call."""
    x = _normal(6, 5)
    one: dict[str, npt.NDArray[np.float64]] = {
        "ordinary": _normal(3, 6, 5),
        "one_task": _normal(1, 6, 5),
        "many_tasks": _normal(11, 4, 3),
        "zeros": np.zeros((3, 4, 3)),
        "a_zero_task": _normal(3, 6, 5) * np.array([1.0, 0.0, 1.0])[:, None, None],
        "duplicates": _copies(x, 1.0, 1.0, 1.0),
        "parallel": _copies(x, 1.0, 2.0, 0.5),
        "scaled_copies": _copies(x, 1.0, 10.0, 1000.0),
        "opposed": _copies(x, 1.0, -1.0),
        "cancelling_parallel": _copies(np.outer(_whole(6), _whole(5)), 1.0, 1.0, -2.0),
        "cancelling_votes": _copies(_whole(6, 5) * 2.0 ** (np.arange(30).reshape(6, 5) - 15), 1.0, 2.0, -3.0),
        "low_rank": np.einsum("tir,trj->tij", _normal(3, 8, 2), _normal(3, 2, 6)),
        "one_dominant": _normal(3, 6, 5) * np.array([1.0, 1e6, 1.0])[:, None, None],
        "equal_magnitudes": 0.5 * np.sign(_normal(3, 6, 5)),
        "constant": np.full((3, 6, 5), 0.25),
        "tiny": 1e-30 * _normal(3, 6, 5),
        "huge": 1e6 * _normal(3, 6, 5),
        "disjoint": _disjoint(3, 24),
        "sparse": _sparse(4, 9, 5),
        "signed_zeros": _signed_zeros(),
        "vector": _normal(3, 17),
        "scalar": _normal(3),
        "equal_scalars": np.full(2, 3.0),
        "opposed_scalars": np.array([3.0, -1.0]),
        "one_entry": _normal(3, 1),
        "one_row": _normal(3, 1, 9),
        "one_column": _normal(3, 9, 1),
        "empty": np.zeros((3, 0, 4)),
        "conv_kernel": _normal(3, 4, 2, 3, 3),
        "beyond_a_block": _normal(2, 65_536 + 1_000),
    }
    cases = {case: {"w": stack} for case, stack in one.items()}
    cases["several_scales"] = _scales()
    cases["empty_among_others"] = {"a": _normal(2, 0), "b": _normal(2, 3, 3), "c": _normal(2, 0, 2)}
    return {case: {n: s.astype(np.float32) for n, s in stacks.items()} for case, stacks in cases.items()}
