"""Matrices with other singular values, and the methods that make them, beside full decompositions in float64."""

from pathlib import Path

import pytest
import torch

import taskvec as tv
from taskvec.checkpoint.decompositions import Decompositions
from taskvec.errors import ConvergenceError
from taskvec.ops.alignment import common_basis
from taskvec.ops.isotropic import isotropic_subspaces, isotropic_sum, shares
from taskvec.ops.layerwise import least_squares
from taskvec.ops.polar import polar
from taskvec.ops.reshaping import reshaped
from vector_cases import normal

SHAPES = [(90, 70), (70, 90), (150, 80), (80, 80), (40, 30)]


def svd(matrix):
    u, s, vh = torch.linalg.svd(matrix.double(), full_matrices=False)
    return u, s, vh.T


def decaying(shape, *, power, seed):
    u, _, v = svd(normal(*shape, seed=seed))
    return (u * torch.arange(1, min(shape) + 1).double() ** -power) @ v.T


def stack(shape, tasks=4):
    return torch.stack([decaying(shape, power=0.3 + 0.2 * t, seed=t) for t in range(tasks)]).float()


def distance(found, expected):
    return float((found - expected).norm() / expected.norm())


CURVES = {
    "root": lambda s: s.sqrt(),
    "flat": torch.ones_like,
    "a few": lambda s: s * (torch.arange(len(s)) < 5),
    "none": torch.zeros_like,
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("curve", CURVES.values(), ids=list(CURVES))
@pytest.mark.parametrize("power", [0.2, 1.0, 4.0])
def test_the_directions_stay_and_the_values_are_those_of_the_curve(shape, curve, power):
    matrix = decaying(shape, power=power, seed=3)
    u, s, v = svd(matrix)
    expected = (u * curve(s)) @ v.T
    assert float((reshaped(matrix, curve) - expected).norm()) <= 1e-5 * float(expected.norm())


@pytest.mark.parametrize("shape", SHAPES)
def test_weak_directions_are_taken_from_a_decomposition(shape):
    """Their squares are lost beside the largest one's."""
    s = torch.logspace(0, -12, min(shape)).double()
    u, _, v = svd(normal(*shape, seed=1))
    assert distance(reshaped((u * s) @ v.T, torch.ones_like), u @ v.T) < 1e-3
    assert float((reshaped((u * s) @ v.T, lambda s: s * (s > 1e-3)) - (u * s * (s > 1e-3)) @ v.T).norm()) < 1e-12


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (90, 70)])
def test_what_is_zero_stays_zero(shape):
    assert torch.equal(reshaped(torch.zeros(shape), torch.ones_like), torch.zeros(shape).double())


def test_eigenvectors_that_do_not_converge_give_way_to_the_decomposition(monkeypatch):
    def fails(_):
        raise torch.linalg.LinAlgError("no")

    matrix = decaying((90, 70), power=0.5, seed=1)
    u, s, v = svd(matrix)
    monkeypatch.setattr(torch.linalg, "eigh", fails)
    assert distance(reshaped(matrix, torch.sqrt), (u * s.sqrt()) @ v.T) < 1e-12
    assert common_basis(matrix[None].float(), tolerance=1e-6).shape == (90, 70)
    monkeypatch.setattr(torch.linalg, "svd", lambda *_, **__: fails(0))
    with pytest.raises(ConvergenceError, match="90 x 70 does not converge"):
        reshaped(matrix, torch.sqrt)


def star_of(stacked, density):
    total = torch.zeros(stacked.shape[1:]).double()
    for delta in stacked:
        u, s, v = svd(delta)
        k = int((s.cumsum(0) < density * s.sum()).sum()) + 1
        total += (u[:, :k] * s[:k]) @ v[:, :k].T * (s.sum() / s[:k].sum())
    return total / len(stacked)


def cart_of(stacked, density):
    mean, total = stacked.double().mean(0), stacked.double().mean(0)
    for delta in stacked:
        u, s, v = svd(delta - mean)
        k = int(density * len(s))
        total = total + (u[:, :k] * s[:k]) @ v[:, :k].T
    return total


def boosted_of(stacked, beta):
    u, s, v = svd(stacked.double().sum(0))
    return (u * s.clamp(min=s[int((s.cumsum(0) < beta * s.sum()).sum())])) @ v.T


def iso_cts_of(stacked, common):
    exact = stacked.double()
    c, own = shares(min(stacked.shape[1:]), len(stacked), common)
    u, s, v = (x[..., :c] for x in svd(exact.sum(0)))
    parts = [tuple(x[..., :own] for x in svd(delta - u @ (u.T @ delta))) for delta in exact]
    left, right = (polar(torch.cat([*(p[i] for p in parts), x], 1)).factor for i, x in ((0, u), (2, v)))
    return torch.cat([*(p[1] for p in parts), s]).mean() * left @ right.T


@pytest.mark.parametrize("shape", SHAPES[:4])
def test_merges_are_those_of_full_decompositions(shape):
    stacked = stack(shape)
    vectors = [tv.TaskVector.from_tensors({"w": delta}) for delta in stacked]

    def merged(method, **given):
        return tv.merge(method, vectors, **given)["w"].double()

    u, s, v = svd(stacked.double().sum(0))
    assert distance(merged("iso_c"), s.mean() * u @ v.T) < 1e-6
    assert distance(merged("iso_cts", common=0.6), iso_cts_of(stacked, 0.6)) < 1e-4
    assert distance(merged("star", density=0.4), star_of(stacked, 0.4)) < 1e-6
    assert distance(merged("cart", density=0.1), cart_of(stacked, 0.1)) < 1e-5
    assert distance(merged("subspace_boosting", beta=0.3), boosted_of(stacked, 0.3)) < 1e-6


@pytest.mark.parametrize("shape", SHAPES)
def test_the_common_basis_spans_the_deltas_and_no_more(shape):
    stacked = stack(shape, 2)
    basis = common_basis(stacked, tolerance=1e-6)
    beside = torch.cat(list(stacked.double()), 1)
    kept = svd(beside)[1] > 1e-6 * svd(beside)[1][0]
    assert basis.shape == (shape[0], int(kept.sum()))
    assert float((basis.T @ basis - torch.eye(basis.shape[1])).abs().max()) < 1e-12
    assert float((beside - basis @ (basis.T @ beside)).norm()) < 1e-5 * float(beside.norm())


@pytest.mark.parametrize("shape", SHAPES)
def test_wudi_solves_its_least_squares(shape):
    exact = stack(shape).double()
    weights = [d.T @ d / d.square().sum() for d in exact]
    epsilon = 0.1 * len(exact) / shape[1]
    right = sum(d @ k for d, k in zip(exact, weights, strict=True)) + epsilon * exact.mean(0)
    expected = torch.linalg.solve(sum(weights) + epsilon * torch.eye(shape[1]).double(), right, left=False)
    assert distance(least_squares(exact.float(), ridge=0.1), expected) < 1e-6


@pytest.mark.parametrize(("method", "given"), [("iso_cts", {}), ("cart", {"scale": 0.5})])
def test_a_sweep_over_scales_decomposes_once(tmp_path: Path, method, given):
    cache, shape = Decompositions(tmp_path / "cache"), (90, 70)
    vectors = [tv.TaskVector.from_tensors({"w": delta}) for delta in stack(shape)]
    first = tv.merge(method, vectors, cache=cache)["w"]
    misses = cache.misses
    assert misses >= len(vectors)
    tv.merge(method, vectors, cache=cache, **given)["w"]
    assert (cache.misses, cache.hits) == (misses, misses)
    assert torch.equal(first, tv.merge(method, vectors, threads=1)["w"])


def test_iso_cts_without_room_for_the_tasks_is_iso_c_beyond_small_matrices():
    stacked = stack((90, 70), 3)
    found, plain = isotropic_subspaces(stacked, common=1.0, tolerance=1e-6), isotropic_sum(stacked, tolerance=1e-6)
    assert torch.equal(found.matrix, plain.matrix)
    assert (found.level, found.dropped) == (plain.level, plain.dropped)
