"""Laws of the solvers and certificates on Gram matrices nobody chose: rank-deficient, opposed, tiny beside huge."""

from __future__ import annotations

from itertools import pairwise

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import taskvec as tv
from taskvec import basis, errors
from taskvec.basis.algebra import norms_of, root
from taskvec.basis.solve import solve

QUICK = ("addition_exact", "pca", "cluster", "select", "random")


@st.composite
def grams(draw: st.DrawFn) -> torch.Tensor:
    """Inner products of a few vectors of small integers, some of them repeated, opposed or zero, and rescaled."""
    tasks, rows = draw(st.integers(1, 9)), draw(st.integers(1, 6))
    entries = st.lists(st.integers(-3, 3), min_size=rows, max_size=rows)
    x = torch.tensor(draw(st.lists(entries, min_size=tasks, max_size=tasks)), dtype=torch.float64)
    scales = draw(st.lists(st.sampled_from([1e-6, 1e-3, 1.0, 1e3]), min_size=tasks, max_size=tasks))
    x = x * torch.tensor(scales, dtype=torch.float64)[:, None]
    return x @ x.T


def lost(gram: torch.Tensor, codes: basis._solver.Codes) -> torch.Tensor:
    error = codes.encoder @ codes.decoder - torch.eye(len(gram), dtype=torch.float64)
    return (root(gram) @ error).norm(dim=0)


@settings(max_examples=150, deadline=None)
@given(grams(), st.sampled_from(QUICK), st.integers(1, 9), st.booleans())
def test_no_solver_beats_the_spectrum_or_returns_what_is_not_finite(gram, method, size, normalize):
    try:
        codes = solve(gram, size, method, normalize=normalize)
    except errors.ParameterError:
        assert method == "addition_exact", "alone it refuses tasks that cancel"
        return
    assert bool(torch.isfinite(codes.encoder).all())
    assert bool(torch.isfinite(codes.decoder).all())
    values = torch.linalg.eigvalsh(gram).clamp(min=0.0)
    bound = float(values[: max(0, len(gram) - size)].sum())
    assert float(lost(gram, codes).square().sum()) >= bound * (1 - 1e-6) - 1e-10 * float(values.sum())


@settings(max_examples=150, deadline=None)
@given(grams(), st.integers(1, 9), st.booleans())
def test_the_sum_is_kept(gram, size, normalize):
    try:
        codes = solve(gram, size, normalize=normalize)
    except errors.ParameterError:
        return
    factor, one = root(gram), torch.ones(len(gram), dtype=torch.float64)
    total, scale = factor @ one, float(norms_of(gram).sum())
    amplified = float((factor @ codes.encoder).norm(dim=0) @ codes.decoder.abs().sum(1))  # nearly parallel vectors
    assert float((factor @ codes.encoder @ codes.decoder @ one - total).norm()) <= 1e-7 * scale + 1e-13 * amplified
    if not normalize:
        m = codes.encoder.shape[1]
        assert float((factor @ codes.encoder.sum(1) - m / len(gram) * total).norm()) <= 1e-10 * scale
        assert bool((codes.encoder >= 0.0).all())


@settings(max_examples=100, deadline=None)
@given(grams())
def test_certificates_enclose_the_best_coefficients(gram):
    found = tv.certificate(gram)
    best = found.optimal["worst"]
    largest = float(gram.diagonal().max())
    assert best["worst"] <= found.worst + 1e-9 * largest
    assert best["at_least"] <= best["worst"] + 1e-9 * largest
    assert best["worst"] - best["at_least"] <= 1e-6 * largest
    tails = [row["tail"] for row in found.sizes]
    assert all(a >= b - 1e-12 for a, b in pairwise(tails))
    assert tails[-1] == 0.0
