"""Certificates: equality on quadratics, convexity, optimal coefficients against a brute search, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import taskvec as tv
from basis_cases import GRAMS, plain, random_gram, stacked, tuned_vectors
from taskvec import basis, errors
from taskvec.basis.simplex import smallest_ball
from taskvec.gramian import Gram
from vector_cases import normal


def q_of(gram: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
    e = a[:, None] - torch.eye(len(gram), dtype=torch.float64)
    return (e * (gram @ e)).sum(0)


def draw(count: int, seed: int) -> torch.Tensor:
    x = torch.rand(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return -torch.log(x) / -torch.log(x).sum()


# --- the bound ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_it_holds_with_equality_on_quadratics(seed):
    v = normal(30, 6, seed=seed)
    a, curvature = normal(6, seed=seed + 50), 0.5 + draw(6, seed)
    found = tv.certificate(Gram.of(plain(v)), a, smoothness=curvature)
    for i, row in enumerate(found.tasks):
        loss = 0.5 * float(curvature[i]) * float((v @ a - v[:, i]).square().sum())
        assert row["bound"] == pytest.approx(loss, rel=1e-12)
    assert [row["name"] for row in found.tasks] == [f"t{i}" for i in range(6)]


def test_a_first_order_term_is_added_as_given():
    v, gradient = normal(10, 3, seed=1), normal(10, seed=2)
    a = torch.full((3,), 1 / 3, dtype=torch.float64)
    moved = v @ a - v[:, 0]
    found = tv.certificate(v.T @ v, smoothness=2.0, first_order=[float(gradient @ moved), 0.0, 0.0])
    assert found.tasks[0]["bound"] == pytest.approx(float(gradient @ moved + moved @ moved))
    assert found.tasks[1]["first_order"] == 0.0


@pytest.mark.parametrize("case", GRAMS)
def test_on_the_simplex_it_is_convex_and_no_worse_than_the_farthest_pair(case):
    gram = GRAMS[case]
    squares = gram.diagonal()
    pairs = squares[:, None] + squares[None, :] - 2.0 * gram
    for seed in range(10):
        a, b = draw(len(gram), seed), draw(len(gram), seed + 99)
        q, r = q_of(gram, a), q_of(gram, b)
        assert bool((q_of(gram, 0.5 * (a + b)) <= 0.5 * (q + r) + 1e-9 * squares.max()).all())
        found = torch.tensor([row["q"] for row in tv.certificate(gram, a).tasks], dtype=torch.float64)
        assert torch.allclose(found, q, atol=1e-12 * float(squares.max()), rtol=1e-9)
        assert bool((found <= pairs @ a + 1e-9 * squares.max()).all())


def test_the_average_of_equal_norms_and_cosines_is_the_formula():
    t, c, norm = 8, 0.1, 4.0
    found = tv.certificate(GRAMS["cosine 0.1"])
    assert found.worst == pytest.approx(norm * (1 - 1 / t) * (1 - c))
    assert found.average == pytest.approx(found.worst)
    assert found.largest_cosine == pytest.approx(c)


# --- optimal coefficients -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", GRAMS)
@pytest.mark.parametrize("weighted", [False, True])
def test_no_random_coefficients_beat_the_optimal_ones(case, weighted):
    gram = GRAMS[case]
    weights = 0.3 + draw(len(gram), 7) if weighted else torch.ones(len(gram), dtype=torch.float64)
    found = tv.certificate(gram, smoothness=weights if weighted else None).optimal
    for kind, value in (("average", torch.mean), ("worst", torch.max)):
        a = torch.tensor(list(found[kind]["coefficients"].values()), dtype=torch.float64)
        assert float(a.sum()) == pytest.approx(1.0)
        assert bool((a >= 0.0).all())
        mine = float(value(weights * q_of(gram, a)))
        assert mine == pytest.approx(found[kind][kind], rel=1e-7, abs=1e-7 * float(gram.max()))
        for seed in range(30):
            other = (a + 0.03 * draw(len(gram), seed)) / 1.03 if seed % 2 else draw(len(gram), seed)
            assert float(value(weights * q_of(gram, other))) >= mine - 1e-9 * float(gram.max())


@pytest.mark.parametrize("weighted", [False, True])
def test_the_worst_is_enclosed_from_below(weighted):
    gram = random_gram(60, seed=2, mean=0.5, rows=200)
    weights = 0.2 + draw(60, 3) * 60 if weighted else torch.ones(60, dtype=torch.float64)
    a, floor = smallest_ball(gram, weights)
    assert float((weights * q_of(gram, a)).max()) == pytest.approx(floor, rel=1e-9)
    touching = weights * q_of(gram, a) >= floor * (1 - 1e-6)
    assert bool(touching[a > 1e-9].all()), "only the farthest tasks have a coefficient"


def test_two_tasks_meet_in_the_middle_whatever_their_norms():
    gram = torch.tensor([[1.0, 0.0], [0.0, 9.0]], dtype=torch.float64)
    found = tv.certificate(gram).optimal["worst"]
    assert found["coefficients"] == pytest.approx({"0": 0.5, "1": 0.5})
    assert found["worst"] == pytest.approx(2.5)


# --- sizes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", GRAMS)
def test_the_sizes_are_those_of_principal_components(case):
    gram = GRAMS[case]
    rows = tv.certificate(gram).sizes
    assert [r["size"] for r in rows] == list(range(len(gram) + 1))
    assert rows[0]["tail"] == pytest.approx(1.0)
    assert rows[-1] == {"size": len(gram), "tail": 0.0, "worst": 0.0, "median": 0.0}
    norms = gram.diagonal().sqrt()
    for m in range(1, len(gram)):
        codes = basis.solve(gram, m, "pca")
        lost = q_of_codes(gram, codes)
        assert rows[m]["tail"] * float(gram.trace()) == pytest.approx(float(lost.sum()), abs=1e-9 * float(gram.trace()))
        known = norms > 0.0
        assert rows[m]["worst"] == pytest.approx(float((lost[known].sqrt() / norms[known]).max()), abs=1e-6)


def q_of_codes(gram: torch.Tensor, codes: basis._solver.Codes) -> torch.Tensor:
    e = codes.encoder @ codes.decoder - torch.eye(len(gram), dtype=torch.float64)
    return (e * (gram @ e)).sum(0).clamp(min=0.0)


# --- negation and transfer ------------------------------------------------------------------------------------------


def test_negation_bounds_quadratics():
    v = normal(12, 4, seed=3)
    gram = v.T @ v
    for scale in (0.0, 0.5, 1.0):
        rows = basis.negation(gram, "1", scale, smoothness=3.0).tasks
        strict = basis.negation(gram, "1", scale, minimum=True, smoothness=3.0).tasks
        assert [r["name"] for r in rows] == ["0", "2", "3"]
        for row, tight in zip(rows, strict, strict=True):
            j = int(row["name"])
            rise = 1.5 * float((-scale * v[:, 1] - v[:, j]).square().sum() - v[:, j].square().sum())
            assert rise <= tight["bound"] + 1e-12 <= row["bound"] + 1e-12
            assert row["extra"] == 0.0


def test_a_recovered_vector_adds_its_error():
    v = normal(12, 4, seed=4)
    wrong = normal(12, seed=5, scale=0.3)
    recovered = v[:, 0] + wrong
    rows = basis.negation(v.T @ v, "0", 0.7, error=float(wrong.norm())).tasks
    for row in rows:
        j = int(row["name"])
        exact = float((v[:, j] + 0.7 * recovered).square().sum() + v[:, j].square().sum())
        assert exact <= row["q"] + 1e-12


def test_a_task_in_the_span_is_reached_and_another_is_as_far_as_its_projection():
    v = normal(20, 4, seed=6)
    inside, outside = v @ torch.tensor([1.0, -2.0, 0.0, 0.5]).double(), normal(20, seed=7)
    found = basis.transfer(v.T @ v, v.T @ inside, float(inside @ inside), smoothness=4.0)
    assert found.best["q"] <= 1e-12
    assert list(found.coefficients.values()) == pytest.approx([1.0, -2.0, 0.0, 0.5], abs=1e-6)
    found = basis.transfer(v.T @ v, v.T @ outside, float(outside @ outside), smoothness=4.0)
    a = torch.linalg.lstsq(v, outside[:, None]).solution[:, 0]
    assert found.best["q"] == pytest.approx(float((v @ a - outside).square().sum()))
    assert found.best["bound"] == pytest.approx(2.0 * found.best["q"])
    nearest = (v - outside[:, None]).square().sum(0)
    assert found.single["q"] == pytest.approx(float(nearest.min()))
    assert found.single["name"] == str(int(nearest.argmin()))


def test_one_source_that_points_the_same_way_bounds_the_excess():
    v = normal(50, 3, seed=8)
    v = v / v.norm(dim=0)
    target = v[:, 1] + 0.3 * normal(50, seed=9) / 7
    target = target / target.norm()
    found = basis.transfer(v.T @ v, v.T @ target, 1.0)
    assert found.single["q"] <= 2.0 * (1.0 - found.single["beta"]) + 1e-12


# --- real vectors, JSON, refusals -----------------------------------------------------------------------------------


def test_vectors_streamed_from_checkpoints(tmp_path: Path):
    vectors = tuned_vectors(4)
    columns = stacked(vectors)
    found = tv.certificate(Gram.of(vectors), {"task0": 0.5, "task3": 0.25})
    a = torch.tensor([0.5, 0.0, 0.0, 0.25]).double()
    expected = (columns @ a[:, None] - columns).square().sum(0)
    assert [row["q"] for row in found.tasks] == pytest.approx(expected.tolist(), rel=1e-6)
    table = json.loads(found.save(tmp_path / "c.json").read_text())
    assert table["tasks"][3]["coefficient"] == 0.25
    assert table == json.loads(found.to_json())


def test_a_zero_task_is_named():
    found = tv.certificate(GRAMS["a zero task"])
    assert found.tasks[5]["relative"] is None
    assert "task '5' has norm 0" in found.notes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"coefficients": [1.0]}, "coefficients: 1 values for 8 tasks"),
        ({"coefficients": [float("nan")] * 8}, "coefficients: a value is not finite"),
        ({"smoothness": [1.0] * 7 + [0.0]}, "smoothness=0 of task '7' is not above 0"),
        ({"smoothness": {"0": 1.0}}, "smoothness: there is none for '1'"),
    ],
)
def test_values_that_cannot_be(options, message):
    with pytest.raises(errors.ParameterError, match=message):
        tv.certificate(GRAMS["orthogonal"], **options)


def test_names_and_matrices_that_cannot_be():
    with pytest.raises(errors.UnknownName, match="coefficients: no task is named '9'"):
        tv.certificate(GRAMS["orthogonal"], {"9": 1.0})
    with pytest.raises(errors.UnknownName, match="no task named 'x'"):
        basis.negation(GRAMS["orthogonal"], "x")
    with pytest.raises(errors.ParameterError, match="scale=-1"):
        basis.negation(GRAMS["orthogonal"], "0", -1.0)
    with pytest.raises(errors.SchemaError, match="no vectors have these inner products"):
        tv.certificate(torch.tensor([[1.0, 2.0], [2.0, 1.0]], dtype=torch.float64))
    with pytest.raises(errors.SchemaError, match="no vectors have these inner products"):
        basis.transfer(torch.eye(2, dtype=torch.float64), [2.0, 0.0], 1.0)
