"""Counter-based random numbers: the published generator, uniform, independent, the same however they are asked for."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskvec.ops.random import stream_key, stream_keys, thresholds, uniforms

N = 1 << 18
MASK = (1 << 64) - 1


def splitmix64(key: int, position: int) -> int:
    z = (key + (position + 1) * 0x9E3779B97F4A7C15) & MASK
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & MASK
    return z ^ (z >> 31)


def stream(*names, seed=0, n=N):
    return uniforms(stream_keys(seed, names[:-1], names[-1]), 0, n)


def test_the_reference_is_the_published_generator():
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert [splitmix64(1234567, i) for i in range(4)] == published


@given(key=st.integers(0, MASK), start=st.integers(0, 2**40), n=st.integers(0, 40))
def test_the_compiled_numbers_are_those_of_the_reference(key, start, n):
    expected = [(splitmix64(key, start + i) >> 11) / 2**53 for i in range(n)]
    assert uniforms(np.array([key], np.uint64), start, n)[0].tolist() == expected


@given(cuts=st.lists(st.integers(0, 5000), max_size=5))
def test_the_numbers_do_not_depend_on_how_they_are_cut(cuts):
    keys, edges = stream_keys(3, ["a", "b"], "w"), [0, *sorted(cuts), 5000]
    parts = [uniforms(keys, a, b - a) for a, b in itertools.pairwise(edges)]
    assert (np.concatenate(parts, axis=1) == uniforms(keys, 0, 5000)).all()


@given(p=st.floats(0.0, 1.0), key=st.integers(0, MASK), position=st.integers(0, 2**40))
def test_the_integer_threshold_decides_as_the_number_does(p, key, position):
    bits = splitmix64(key, position) >> 11
    assert (bits < int(thresholds([p])[0])) == (bits / 2**53 < p)


def test_every_number_is_below_one_and_zero_is_never_below_nothing():
    assert int(thresholds([1.0])[0]) == 1 << 53
    assert int(thresholds([0.0])[0]) == 0


def test_seed_task_and_tensor_each_make_another_stream():
    keys = {stream_key(s, t, n) for s in (0, 1, 12) for t in ("", "a", "b", "1") for n in ("", "a", "b", "2")}
    assert len(keys) == 3 * 4 * 4
    assert stream_key(1, "2", "w") != stream_key(12, "", "w")
    assert stream_key(0, "a\0b", "c") != stream_key(0, "a", "b\0c")


@pytest.mark.parametrize(
    "names", [("a", "w"), ("b", "w"), ("a", "x"), ("0", "layer.0.weight"), ("1", "layer.0.weight")]
)
def test_the_numbers_are_uniform(names):
    u = stream(*names)[0]
    counts = np.bincount((u * 256).astype(int), minlength=256)
    chi2 = ((counts - N / 256) ** 2 / (N / 256)).sum()
    assert abs(chi2 - 255) < 5 * math.sqrt(2 * 255)
    assert abs(u.mean() - 0.5) < 5 / math.sqrt(12 * N)
    assert abs((u**2).mean() - 1 / 3) < 5 * math.sqrt(4 / 45 / N)


@pytest.mark.parametrize("bit", [1, 2, 8, 20, 32, 52])
def test_every_bit_is_fair(bit):
    values = (stream("a", "w")[0] * 2.0**53).astype(np.int64)
    assert abs(((values >> (53 - bit)) & 1).mean() - 0.5) < 5 * 0.5 / math.sqrt(N)


@pytest.mark.parametrize("lag", [1, 2, 3, 64, 4096, 65536])
def test_neighbours_are_independent(lag):
    u = stream("a", "w")[0] - 0.5
    correlation = 12 * (u[lag:] * u[:-lag]).mean()
    assert abs(correlation) < 5 / math.sqrt(N - lag)


def joint_chi2(a, b):
    cells = np.bincount((a * 16).astype(int) * 16 + (b * 16).astype(int), minlength=256)
    return ((cells - N / 256) ** 2 / (N / 256)).sum()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("a", "w", 0), ("b", "w", 0)),
        (("0", "w", 0), ("1", "w", 0)),
        (("a", "layer.0", 0), ("a", "layer.1", 0)),
        (("a", "w", 0), ("a", "w", 1)),
        (("a", "w", 0), ("w", "a", 0)),
    ],
)
def test_streams_of_other_tasks_tensors_and_seeds_are_independent(one, other):
    a, b = (stream(task, tensor, seed=seed)[0] for task, tensor, seed in (one, other))
    assert abs(12 * ((a - 0.5) * (b - 0.5)).mean()) < 5 / math.sqrt(N)
    for lag in (0, 1, 7):
        assert abs(joint_chi2(np.roll(a, lag), b) - 255) < 5 * math.sqrt(2 * 255)


def test_consecutive_triples_fill_the_cube():
    u = stream("a", "w", n=3 * N)[0].reshape(-1, 3)
    cells = np.bincount(((u * 8).astype(int) @ [64, 8, 1]), minlength=512)
    assert abs(((cells - N / 512) ** 2 / (N / 512)).sum() - 511) < 5 * math.sqrt(2 * 511)


@given(low=st.floats(0.0, 1.0), high=st.floats(0.0, 1.0))
def test_masks_are_nested(low, high):
    low, high = sorted((low, high))
    u = uniforms(stream_keys(0, ["a"], "w"), 0, 2000)
    assert not ((u < low) & ~(u < high)).any()


@pytest.mark.parametrize("p", [0.05, 0.2, 0.5, 0.8, 0.95])
def test_as_many_entries_are_kept_as_the_density_says(p):
    u = stream("a", "b", "c", "w")
    for row in u:
        assert abs((row < p).sum() - N * p) < 5 * math.sqrt(N * p * (1 - p))
