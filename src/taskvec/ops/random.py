"""Counter-based random numbers: a uniform number for every (seed, task, tensor, position), in any order.

The stream of a (seed, task, tensor) is SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number
generators", OOPSLA 2014; it passes BigCrush), read at the position instead of one number after another:

    key       64 bits of the BLAKE3 hash of [seed, task, tensor] as JSON
    z         key + (position + 1) · 0x9E3779B97F4A7C15                            (all modulo 2^64)
    z         (z ^ z >> 30) · 0xBF58476D1CE4E5B9,   (z ^ z >> 27) · 0x94D049BB133111EB,   z ^ z >> 31
    u         (z >> 11) / 2^53, in [0, 1)

So numbers depend neither on how a tensor is cut nor on the order of tasks, and the entries with u < p are among those
with u < q for p < q. Two of a million streams of 2^32 numbers share a run with a probability of about 10^-4, and then
at different positions.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from taskvec.ops import random_kernels
from taskvec.ops.hashing import hash_of

Keys = npt.NDArray[np.uint64]


@functools.lru_cache(maxsize=4096)
def stream_key(seed: int, task: str, tensor: str) -> int:
    """The key of one stream, below 2^64."""
    return int(hash_of(json.dumps([seed, task, tensor]).encode())[:16], 16)


def stream_keys(seed: int, tasks: Sequence[str], tensor: str) -> Keys:
    """The keys of the streams of several tasks, uint64 (task,)."""
    return np.array([stream_key(seed, task, tensor) for task in tasks], np.uint64)


def uniforms(keys: Keys, start: int, n: int) -> npt.NDArray[np.float64]:
    """The numbers at the positions start, …, start + n - 1 of each stream, float64 (task, n), in [0, 1)."""
    out = np.empty((keys.size, n))
    random_kernels.uniforms(keys, np.uint64(start), out)
    return out


def thresholds(probabilities: Sequence[float]) -> npt.NDArray[np.uint64]:
    """The integers t with u < p exactly where z >> 11 < t."""
    return np.array([math.ceil(p * 2.0**53) for p in probabilities], np.uint64)
