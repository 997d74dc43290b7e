"""Leading triplets by every route: exact against a float64 SVD, degenerate inputs, thread counts, cost model."""

import itertools

import pytest
import torch

from taskvec.errors import ConvergenceError
from taskvec.ops.factored import leading_of_product
from taskvec.ops.polar import polar
from taskvec.ops.spectral import cheapest, column_gram, decompose, leading, leading_for, shelf
from taskvec.ops.triplets import Triplets

ROUTES = ("svd", "gram64", "gram32")
SHAPES = ((96, 96), (200, 80), (80, 200))


def matrix(m, n, power, seed=0):
    """Singular values j^-power between random orthonormal vectors; float32."""
    generator, r = torch.Generator().manual_seed(seed), min(m, n)
    u, v = (torch.linalg.qr(torch.randn(k, r, generator=generator, dtype=torch.float64)).Q for k in (m, n))
    return ((u * torch.arange(1, r + 1, dtype=torch.float64) ** -power) @ v.T).float()


def truncated(x, rank):
    u, s, vh = torch.linalg.svd(x.double(), full_matrices=False)
    return (u[:, :rank] * s[:rank]) @ vh[:rank], s


def distance(found, expected):
    return float((found.to(torch.float64).matrix() - expected).norm() / expected.norm())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("power", [0.3, 0.6, 1.5, 4.0])
@pytest.mark.parametrize("route", ROUTES)
def test_every_route_gives_the_leading_triplets(route, power, shape):
    x, rank = matrix(*shape, power), 10
    found, (expected, s) = leading(x, rank, route=route), truncated(x, rank)
    assert found.triplets.rank == rank
    assert distance(found.triplets, expected) < (1e-4 if route == "gram32" else 1e-6)
    assert torch.allclose(found.triplets.s, s[:rank], rtol=1e-5, atol=1e-7)
    for side in (found.triplets.u, found.triplets.v):
        assert torch.allclose(side.double().T @ side.double(), torch.eye(rank, dtype=torch.float64), atol=1e-5)


@pytest.mark.parametrize("route", ROUTES)
def test_the_residual_stated_is_the_residual(route):
    x = matrix(120, 90, 0.7)
    found = leading(x, 12, route=route)
    u, s, v = (y.double() for y in (found.triplets.u, found.triplets.s, found.triplets.v))
    assert found.residual <= 1e-5
    assert float((x.double().T @ u - v * s).norm() / s.norm()) == pytest.approx(found.residual, rel=0.5, abs=1e-7)


def test_float32_goes_on_to_float64_where_the_triplets_wanted_are_weak():
    assert leading(matrix(96, 96, 0.3), 12, route="gram32").route == "gram32"
    weak = leading(matrix(96, 96, 3.0), 12, route="gram32")
    assert weak.route == "gram64"
    assert distance(weak.triplets, truncated(matrix(96, 96, 3.0), 12)[0]) < 1e-6


@pytest.mark.parametrize("route", ROUTES)
def test_a_matrix_of_low_rank_has_no_more_triplets_than_that(route):
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(100, 3, generator=generator) @ torch.randn(3, 90, generator=generator)
    found = leading(x, 20, route=route)
    assert found.triplets.rank == 3
    assert distance(found.triplets, x.double()) < 1e-6


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("shape", [(1, 9), (9, 1), (1, 1), (70, 1), (1, 70), (2, 100)])
def test_thin_matrices(route, shape):
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(3))
    assert distance(leading(x, min(shape), route=route).triplets, x.double()) < 1e-5


@pytest.mark.parametrize("route", [None, *ROUTES])
def test_nothing_has_no_triplets(route):
    for shape in ((5, 4), (0, 4), (4, 0), (100, 90)):
        found = leading(torch.zeros(shape), min(shape), route=route)
        assert (found.triplets.rank, found.triplets.shape, found.route) == (0, shape, "zero")
    assert leading(torch.ones(5, 4), 0).triplets.rank == 0


@pytest.mark.parametrize("exponent", [-140, -60, 60, 120])
def test_magnitudes_make_no_difference(exponent):
    x = torch.randint(-9, 10, (90, 80), generator=torch.Generator().manual_seed(4)).float()
    scaled, plain = leading(torch.ldexp(x, torch.tensor(exponent)), 10), leading(x, 10)
    assert torch.equal(scaled.triplets.s, torch.ldexp(plain.triplets.s, torch.tensor(exponent)))
    assert torch.equal(scaled.triplets.u, plain.triplets.u)


def test_equal_singular_values_decompose_to_the_same_triplets_each_time():
    x = torch.eye(100)[torch.randperm(100, generator=torch.Generator().manual_seed(5))]
    first, again = leading(x, 30), leading(x.clone(), 30)
    assert torch.equal(first.triplets.u, again.triplets.u)
    assert torch.allclose(first.triplets.s, torch.ones(30, dtype=torch.float64))


@pytest.mark.parametrize("route", ["gram64", "gram32"])
def test_no_other_subspace_of_that_rank_keeps_more(route):
    x = matrix(128, 100, 0.6)
    found, (expected, _) = leading(x, 16, route=route), truncated(x, 16)
    assert float(found.triplets.s.norm()) >= float(expected.norm()) * (1 - 1e-6)


@pytest.mark.parametrize("shape", [(128, 128), (400, 120), (120, 400)])
@pytest.mark.parametrize("power", [1.4, 2.0, 4.0])
def test_the_energy_that_is_certified_is_kept(power, shape):
    x, rank = matrix(*shape, power), 16
    found, (expected, s) = leading(x, rank, energy=0.999), truncated(x, rank)
    assert found.route == "sampled"
    kept = float(found.triplets.matrix().square().sum() / expected.square().sum())
    assert 0.999 <= found.energy <= kept + 1e-6
    assert float((x.double() - found.triplets.matrix()).square().sum()) <= float(
        s[rank:].square().sum() + 0.001 * s.square().sum()
    )
    assert torch.equal(found.triplets.u, leading(x.clone(), rank, energy=0.999).triplets.u)


def test_what_cannot_be_certified_is_decomposed():
    for power in (0.0, 0.3, 1.0):
        found = leading(matrix(128, 128, power), 16, energy=0.999)
        assert found.route != "sampled"
        assert found.energy == 1.0
    assert leading(matrix(60, 60, 3.0), 8, energy=0.999).route == "svd"


def test_factors_are_decomposed_without_their_product():
    left, right = torch.randn(300, 4, dtype=torch.float64), torch.randn(4, 250, dtype=torch.float64)
    found = leading_of_product(left, right, 3)
    assert (found.triplets.rank, found.route) == (3, "factors")
    assert distance(found.triplets, truncated(left @ right, 3)[0]) < 1e-12
    twice = leading_of_product(torch.cat([left, left], 1), torch.cat([right, right]), 8)
    assert twice.triplets.rank == 4
    assert leading_of_product(left, 0 * right, 3).triplets.rank == 0
    assert leading_of_product(left[:, :0], right[:0], 3).triplets.rank == 0


def test_the_cost_model_takes_svd_for_small_matrices_and_the_gram_matrix_for_large_ones():
    assert {cheapest(m, n, 4) for m, n in ((8, 8), (64, 1000), (5, 64))} == {"svd"}
    assert {cheapest(m, n, 96) for m, n in itertools.product((768, 2304, 3072), repeat=2)} == {"gram32"}


def test_shelves():
    assert [shelf(k, 96) for k in (0, 1, 2, 3, 6, 7, 12, 13, 24, 25, 48, 49, 96)] == [
        1, 1, 3, 3, 6, 12, 12, 24, 24, 48, 48, 96, 96,
    ]  # fmt: skip
    assert shelf(1, 1) == 1
    x = matrix(96, 128, 0.5)
    cut = leading_for(x, 20).triplets
    assert torch.equal(cut.u, leading_for(x, 24).triplets.u[:, :20])


def test_a_gram_matrix_is_that_of_the_columns():
    for m, n in ((5, 3), (100, 64), (200, 65), (90, 131), (0, 70), (70, 0)):
        x = torch.randn(m, n, dtype=torch.float64)
        assert torch.allclose(column_gram(x), x.T @ x, atol=1e-12)


@pytest.mark.parametrize("threads", [2, 3])
def test_two_workers_find_the_bytes_of_one(threads):
    from concurrent.futures import ThreadPoolExecutor

    xs = [matrix(120, 90, 0.6, seed) for seed in range(6)]
    alone = [leading(x, 10).triplets for x in xs]
    with ThreadPoolExecutor(threads) as pool:
        together = list(pool.map(lambda x: leading(x, 10).triplets, xs))
    assert all(torch.equal(a.u, b.u) and torch.equal(a.v, b.v) for a, b in zip(alone, together, strict=True))


class Failing:
    """A LAPACK routine that does not converge, for matrices of some dtypes."""

    def __init__(self, real, dtypes):
        self.real, self.dtypes = real, dtypes

    def __call__(self, x, *args, **options):
        if x.dtype in self.dtypes:
            raise torch.linalg.LinAlgError("the algorithm failed to converge")
        return self.real(x, *args, **options)


def test_what_does_not_converge_goes_another_way(monkeypatch):
    x = matrix(90, 70, 0.5)
    expected, _ = truncated(x, 70)
    svd, eigh, both = torch.linalg.svd, torch.linalg.eigh, (torch.float32, torch.float64)
    for failing in ((torch.float32,), both):
        monkeypatch.setattr(torch.linalg, "svd", Failing(svd, failing))
        assert distance(decompose(x), expected) < 1e-5
    assert distance(leading(x, 70, route="svd").triplets, expected) < 1e-5
    monkeypatch.setattr(torch.linalg, "svd", svd)
    monkeypatch.setattr(torch.linalg, "eigh", Failing(eigh, both))
    assert distance(leading(x, 70, route="gram32").triplets, expected) < 1e-5
    monkeypatch.setattr(torch.linalg, "svd", Failing(svd, both))
    with pytest.raises(ConvergenceError, match="90 x 70 does not converge"):
        decompose(x)
    with pytest.raises(ConvergenceError, match="90 x 70 does not converge"):
        leading(x, 5)


@pytest.mark.parametrize("route", ["svd", "eigh", "newton_schulz"])
@pytest.mark.parametrize("shape", [(40, 12), (12, 12), (300, 100), (12, 40)])
def test_polar_factors_agree_to_their_stated_errors(route, shape):
    x = torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(6))
    p, _, qh = torch.linalg.svd(x, full_matrices=False)
    found = polar(x, route=route)
    assert torch.allclose(found.factor, p @ qh, atol=1e-16 * found.condition**2 + 1e-13 * found.condition)
    assert found.dropped == max(0, shape[1] - shape[0])
    singular = torch.linalg.svdvals(x)
    assert found.condition == pytest.approx(float(singular[0] / singular[-1]), rel=0.02)


def test_newton_schulz_leaves_dependent_columns_to_eigh():
    x = torch.randn(30, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    twice = torch.cat([x, x], 1)
    found = polar(twice, route="newton_schulz")
    assert (found.route, found.dropped) == ("eigh", 5)
    assert torch.allclose(found.factor, polar(twice).factor, atol=1e-10)


def test_triplets_scale_and_cut():
    x = Triplets(torch.eye(3), torch.tensor([3.0, 2.0, 1.0]), torch.eye(3))
    assert torch.equal(x.scaled(-2.0).matrix(), -2.0 * x.matrix())
    assert (x.scaled(-2.0).s >= 0).all()
    assert torch.equal(x.top(1).matrix(), torch.diag(torch.tensor([3.0, 0.0, 0.0])))
    assert not Triplets.none(2, 3).matrix().any()


@pytest.mark.parametrize("route", ["svd", "gram64", "gram32", None])
@pytest.mark.parametrize("seed", range(4))
def test_a_matrix_of_lower_rank_than_asked_for_has_the_triplets_it_has(route, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(100, 2, generator=generator) @ torch.randn(2, 90, generator=generator)
    for rank in (2, 11, 90):
        found = leading(x, rank, route=route).triplets
        assert found.rank == 2
        assert float((found.matrix() - x).norm()) < 1e-5 * float(x.norm())
