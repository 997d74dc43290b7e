"""The solvers against what is known of their optimum: identities, spectral bounds, degenerate Gram matrices."""

from __future__ import annotations

import math
import time

import pytest
import torch

from basis_cases import GRAMS, clustered, random_gram
from taskvec import basis, errors
from taskvec.basis.algebra import best_decoder, check_gram, root
from taskvec.basis.solve import solve

METHODS = basis.names()
CONVEX = ("addition_exact", "autoencoder", "cluster")
QUICK = {"autoencoder": {"steps": 400}}
NON_NEGATIVE = ("orthogonal", "cosine 0.1", "clustered")


def residual(gram: torch.Tensor, codes: basis._solver.Codes) -> float:
    e = codes.encoder @ codes.decoder - torch.eye(len(gram), dtype=torch.float64)
    return float((e * (gram @ e)).sum())


def tail(gram: torch.Tensor, size: int) -> float:
    return float(torch.linalg.eigvalsh(gram)[: len(gram) - size].clamp(min=0.0).sum())


def vectors_of(gram: torch.Tensor) -> torch.Tensor:
    """Columns with these inner products, by an independent way (eigenvectors, times an orthogonal matrix)."""
    values, u = torch.linalg.eigh(gram)
    turn, _ = torch.linalg.qr(
        torch.randn(len(gram) + 3, len(gram), generator=torch.Generator().manual_seed(0)).double()
    )
    return turn @ (values.clamp(min=0.0).sqrt()[:, None] * u.T)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("case", GRAMS)
@pytest.mark.parametrize("share", [0.25, 0.5])
def test_the_trace_is_the_explicit_loss_and_the_spectrum_bounds_it(method, case, share):
    gram = GRAMS[case]
    size = max(1, int(share * len(gram)))
    codes = solve(gram, size, method, **QUICK.get(method, {}))
    assert codes.encoder.shape[0] == codes.decoder.shape[1] == len(gram)
    assert codes.encoder.shape[1] == codes.decoder.shape[0] <= size
    v = vectors_of(gram)
    lost = float((v @ codes.encoder @ codes.decoder - v).square().sum())
    total = float(gram.trace())
    assert residual(gram, codes) == pytest.approx(lost, rel=1e-9, abs=1e-12 * total)
    assert residual(gram, codes) >= tail(gram, size) - 1e-12 * total
    if method in CONVEX:
        assert bool((codes.encoder >= 0.0).all())
        assert torch.allclose(codes.encoder.sum(0), torch.ones((), dtype=torch.float64), atol=1e-12)


@pytest.mark.parametrize("case", GRAMS)
def test_pca_reaches_the_spectral_bound(case):
    gram = GRAMS[case]
    for size in range(1, len(gram)):
        codes = solve(gram, size, "pca")
        assert residual(gram, codes) == pytest.approx(tail(gram, size), rel=1e-9, abs=1e-12 * float(gram.trace()))
        cross = codes.encoder.T @ gram @ codes.encoder
        assert torch.allclose(cross, torch.diag(cross.diagonal()), atol=1e-9 * float(gram.trace()))


@pytest.mark.parametrize("case", GRAMS)
def test_addition_exact_keeps_the_total(case):
    gram = GRAMS[case]
    v = vectors_of(gram)
    for size in range(1, len(gram)):
        codes = solve(gram, size)
        m = codes.encoder.shape[1]
        assert torch.allclose(codes.encoder.sum(1), torch.full((len(gram),), m / len(gram)).double(), atol=1e-12)
        assert float((v @ codes.encoder.sum(1) - m / len(gram) * v.sum(1)).norm()) <= 1e-12 * float(v.norm())
        assert float((v @ codes.encoder @ codes.decoder.sum(1) - v.sum(1)).norm()) <= 1e-9 * float(v.norm())


@pytest.mark.parametrize("case", ["heterogeneous", "mixed signs", "twenty"])
def test_addition_exact_is_the_best_of_what_keeps_the_total(case):
    gram = GRAMS[case]
    one = torch.ones(len(gram), dtype=torch.float64)
    g = gram @ one
    p = torch.eye(len(gram), dtype=torch.float64) - torch.outer(one, g) / (one @ g)
    for size in range(1, len(gram)):
        assert residual(gram, solve(gram, size)) == pytest.approx(tail(p.T @ gram @ p, size - 1), rel=1e-9)


def test_addition_exact_with_coefficients_and_weights():
    gram, pi = GRAMS["heterogeneous"], torch.tensor([1.0, 2.0, 0.5, 1.0, 3.0, 1.0, 1.0, 0.1], dtype=torch.float64)
    v = vectors_of(gram)
    codes = solve(gram, 4, totals=pi)
    assert torch.allclose(v @ codes.encoder.sum(1), 4 / pi.sum() * v @ pi, atol=1e-12)
    for normalize in (False, True):
        codes = solve(gram, 4, weights=pi, normalize=normalize)
        assert torch.allclose(v @ codes.encoder @ codes.decoder.sum(1), v.sum(1), atol=1e-10)
    with pytest.raises(errors.ParameterError, match="positive coefficients"):
        solve(gram, 4, totals=-pi)
    with pytest.raises(errors.ParameterError, match="weights: -3 is not above 0"):
        solve(gram, 4, weights=-pi)


def test_cosines_spread_the_error_over_small_tasks():
    gram = random_gram(20, seed=5, mean=0.4)
    norms = gram.diagonal().sqrt()

    def worst(normalize: bool) -> float:
        codes = solve(gram, 10, normalize=normalize)
        e = codes.encoder @ codes.decoder - torch.eye(20, dtype=torch.float64)
        return float(((e * (gram @ e)).sum(0).sqrt() / norms).max())

    assert worst(True) < worst(False)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("case", ["orthogonal", "heterogeneous", "duplicates", "a zero task"])
@pytest.mark.parametrize("more", [0, 3])
def test_as_many_vectors_as_tasks_are_exact(method, case, more):
    gram = GRAMS[case]
    codes = solve(gram, len(gram) + more, method)
    assert residual(gram, codes) == 0.0
    assert "the tasks themselves are kept" in codes.notes[0]


@pytest.mark.parametrize("method", ["addition_exact", "pca", "cluster", "select"])
def test_duplicates_drop_the_rank(method):
    gram = GRAMS["duplicates"]  # three pairs
    codes = solve(gram, 3, method)
    assert residual(gram, codes) <= 1e-20
    if method in ("addition_exact", "pca"):
        codes = solve(gram, 5, method)
        assert codes.encoder.shape[1] == 3
        assert "3 vectors hold what 5 could" in codes.notes[0]
        assert residual(gram, codes) <= 1e-20


@pytest.mark.parametrize("method", METHODS)
def test_identical_vectors_need_one(method):
    gram = torch.full((5, 5), 2.0, dtype=torch.float64)
    codes = solve(gram, 1, method, **({"steps": 3000} if method == "autoencoder" else {}))
    assert residual(gram, codes) <= (1e-6 if method == "autoencoder" else 1e-20)


@pytest.mark.parametrize("method", ["addition_exact", "pca", "cluster", "select"])
@pytest.mark.parametrize("case", ["heterogeneous", "mixed signs", "twenty"])
def test_permuting_the_tasks_permutes_the_codes(method, case):
    gram = GRAMS[case]
    order = torch.randperm(len(gram), generator=torch.Generator().manual_seed(2))
    size = len(gram) // 2
    codes, permuted = solve(gram, size, method), solve(gram[order][:, order], size, method)
    ours = (codes.encoder @ codes.decoder)[order][:, order]
    assert torch.allclose(permuted.encoder @ permuted.decoder, ours, atol=1e-8)
    if method in ("addition_exact", "pca"):
        assert torch.allclose(permuted.encoder, codes.encoder[order], atol=1e-8)
        assert torch.allclose(permuted.decoder, codes.decoder[:, order], atol=1e-8)


@pytest.mark.parametrize("method", [m for m in METHODS if m != "autoencoder"])
@pytest.mark.parametrize("scale", [1e-20, 3.0, 1e20])
def test_scaling_all_vectors_changes_nothing(method, scale):
    gram = GRAMS["heterogeneous"]
    codes, scaled = solve(gram, 3, method), solve(scale**2 * gram, 3, method)
    assert torch.allclose(scaled.encoder, codes.encoder, atol=1e-9)
    assert torch.allclose(scaled.decoder, codes.decoder, atol=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_a_solver_gives_the_same_bits_twice(method):
    gram = GRAMS["twenty"]
    a, b = (solve(gram, 5, method, **QUICK.get(method, {})) for _ in range(2))
    assert torch.equal(a.encoder, b.encoder)
    assert torch.equal(a.decoder, b.decoder)


@pytest.mark.parametrize("case", NON_NEGATIVE)
@pytest.mark.parametrize("size", [2, 4])
def test_the_autoencoder_is_within_a_percent_of_the_bound(case, size):
    codes = solve(GRAMS[case], size, "autoencoder")
    assert codes.report["bound"] * 64 == pytest.approx(tail(GRAMS[case], size))
    assert codes.report["loss"] * 64 == pytest.approx(residual(GRAMS[case], codes))
    assert 1.0 - 1e-9 <= codes.report["ratio"] <= 1.01


def test_the_autoencoder_follows_torchs_own_adam():
    gram = GRAMS["heterogeneous"]
    codes = solve(gram, 4, "autoencoder", steps=50)
    a = torch.randn(8, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    w = torch.zeros(4, 8, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([a, w], lr=1e-2, weight_decay=1e-6)
    for _ in range(50):
        e = torch.softmax(a / 5.0, 0) @ w - torch.eye(8, dtype=torch.float64)
        loss = (e * (gram @ e)).sum() / 64
        adam.zero_grad()
        loss.backward()
        adam.step()
    assert torch.allclose(codes.encoder, torch.softmax(a.detach() / 5.0, 0), atol=1e-9)
    assert torch.allclose(codes.decoder, w.detach(), atol=1e-9)


def test_centered_principal_components_as_published():
    gram = GRAMS["heterogeneous"]
    v = vectors_of(gram)
    mean = v.mean(1, keepdim=True)
    codes = solve(gram, 4, "pca", centered=True)
    u, s, vh = torch.linalg.svd(v - mean, full_matrices=False)
    best = float((mean + u[:, :3] * s[:3] @ vh[:3] - v).square().sum())
    assert torch.allclose(v @ codes.encoder[:, 0], mean[:, 0], atol=1e-12)
    assert residual(gram, codes) <= best + 1e-9, "least squares also use the mean"
    uncentered = solve(gram, 4, "pca")
    assert residual(gram, uncentered) <= residual(gram, codes)


def test_clusters_are_found_and_counted():
    gram = clustered(12, 3)
    codes = solve(gram, None, "cluster")
    assert codes.report["suggested"] == 3
    labels = codes.report["labels"]
    assert all((labels[i] == labels[j]) == (i % 3 == j % 3) for i in range(12) for j in range(12))
    expected = torch.zeros(12, 3, dtype=torch.float64)
    expected[range(12), labels] = 0.25
    assert torch.allclose(codes.encoder, expected)
    assert torch.allclose(codes.decoder, 4.0 * expected.T)
    assert len(codes.report["gaps"]) == 6


def test_opposed_tasks_are_never_one_cluster():
    cosines = torch.tensor([[1.0, 0.6, -0.5, -0.6], [0.6, 1, -0.6, -0.5], [-0.5, -0.6, 1, 0.7], [-0.6, -0.5, 0.7, 1]])
    labels = solve(cosines.double(), None, "cluster").report["labels"]
    assert labels[0] == labels[1] != labels[2] == labels[3]


def test_one_cluster_is_the_plain_mean():
    codes = solve(GRAMS["heterogeneous"], 1, "cluster")
    assert torch.allclose(codes.encoder, torch.full((8, 1), 1 / 8).double())
    assert torch.equal(codes.decoder, torch.ones(1, 8).double())


def test_clusters_decoded_by_least_squares_lose_no_more():
    gram = GRAMS["twenty"]
    near, best = (solve(gram, 6, "cluster", decode=d) for d in ("centroid", "least_squares"))
    assert torch.equal(near.encoder, best.encoder)
    assert residual(gram, best) <= residual(gram, near)
    with pytest.raises(errors.ParameterError, match="decode='x'"):
        solve(gram, 6, "cluster", decode="x")
    with pytest.raises(errors.ParameterError, match="least squares need inner='mean'"):
        solve(gram, 6, "cluster", decode="least_squares", inner="ties")


def test_selected_tasks_stay_as_they_are():
    gram = clustered(12, 3)
    for by in ("medoids", "leverage"):
        codes = solve(gram, 3, "select", by=by)
        members = codes.report["members"]
        assert sorted(i % 3 for i in members) == [0, 1, 2], by
        assert torch.equal(codes.encoder, torch.eye(12, dtype=torch.float64)[:, members])
        assert torch.allclose(codes.decoder[:, members], torch.eye(3, dtype=torch.float64), atol=1e-12)
    with pytest.raises(errors.ParameterError, match="by='x'"):
        solve(gram, 3, "select", by="x")


def test_medoids_are_the_best_of_all_choices():
    gram = random_gram(8, seed=3, mean=0.5)
    squares = gram.diagonal()
    distances = squares[:, None] + squares[None, :] - 2.0 * gram

    def cost(members: list[int]) -> float:
        return float(distances[:, members].min(1).values.sum())

    best = min(cost(list(c)) for c in torch.combinations(torch.arange(8), 3).tolist())
    assert cost(solve(gram, 3, "select").report["members"]) == pytest.approx(best)


def test_a_random_sample_depends_on_its_seed_alone():
    gram = GRAMS["twenty"]
    drawn = [solve(gram, 5, "random", seed=s).report["members"] for s in range(20)]
    assert drawn == [solve(gram, 5, "random", seed=s).report["members"] for s in range(20)]
    assert len({tuple(d) for d in drawn}) > 10
    assert set(torch.tensor(drawn).unique().tolist()) == set(range(20))


@pytest.mark.parametrize("method", [m for m in METHODS if m != "autoencoder"])
def test_two_hundred_tasks_take_less_than_a_second(method):
    gram = random_gram(200, seed=8, mean=0.4, rows=400)
    before = time.process_time()
    codes = solve(gram, 50, method)
    assert codes.encoder.shape == (200, 50)
    assert time.process_time() - before < 10.0  # generous: machines are shared; it takes a few tenths


def test_roots_keep_the_digits_of_small_tasks():
    gram = GRAMS["scales apart"]
    factor = root(gram)
    norms = gram.diagonal().sqrt()
    assert float(((factor.T @ factor - gram) / norms[:, None] / norms[None, :]).abs().max()) < 1e-13
    w = best_decoder(factor, torch.eye(6, dtype=torch.float64))
    assert torch.allclose(w, torch.eye(6, dtype=torch.float64), atol=1e-6)


# --- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, -1, True, 2.0])
def test_sizes_that_cannot_be(size):
    with pytest.raises(errors.ParameterError, match="size="):
        solve(GRAMS["orthogonal"], size)


def test_only_clusters_choose_their_number():
    with pytest.raises(errors.ParameterError, match="size is not given"):
        solve(GRAMS["orthogonal"], None)


def test_vectors_that_cancel_have_no_total():
    gram = torch.tensor([[1.0, -1.0, 0.0], [-1.0, 1.0, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    with pytest.raises(errors.ParameterError, match="cancel"):
        solve(gram, 1)
    assert residual(gram, solve(gram, 1, "pca")) <= 1e-15


def test_unknown_methods_and_options_are_refused_with_the_nearest():
    with pytest.raises(errors.UnknownName, match="did you mean 'cluster'"):
        solve(GRAMS["orthogonal"], 2, "clusters")
    with pytest.raises(errors.ParameterError, match="did you mean 'centered'"):
        solve(GRAMS["orthogonal"], 2, "pca", centred=True)
    for options in ({"steps": 0}, {"rate": 0.0}, {"temperature": -1.0}, {"decay": math.nan}):
        with pytest.raises(errors.ParameterError, match="autoencoder: steps="):
            solve(GRAMS["orthogonal"], 2, "autoencoder", **options)
    with pytest.raises(errors.ParameterError, match="kind='x'"):
        solve(GRAMS["orthogonal"], 2, "random", kind="x")


def test_matrices_that_no_vectors_have():
    good = GRAMS["heterogeneous"][:3, :3]
    check_gram(good, "abc")
    check_gram(torch.zeros(2, 2, dtype=torch.float64), "ab")
    check_gram(torch.ones(2, 2, dtype=torch.float64), "ab")
    with pytest.raises(errors.SchemaError, match="eigenvalue -1 beside 3"):
        check_gram(torch.tensor([[1.0, 2.0], [2.0, 1.0]], dtype=torch.float64), "ab")
    with pytest.raises(errors.SchemaError, match="eigenvalue"):
        check_gram(-torch.eye(2, dtype=torch.float64), "ab")
    with pytest.raises(errors.SchemaError, match="symmetric"):
        check_gram(torch.tensor([[1.0, 0.5], [0.2, 1.0]], dtype=torch.float64), "ab")
    with pytest.raises(errors.SchemaError, match="symmetric"):
        check_gram(torch.full((2, 2), float("nan"), dtype=torch.float64), "ab")
    with pytest.raises(errors.SchemaError, match="float64"):
        check_gram(good, "ab")
