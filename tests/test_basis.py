"""`tv.Basis` against stacked float64 vectors: recovery, errors, sums, negation, arrival; and what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

import taskvec as tv
from basis_cases import adapters, flat, plain, stacked, tuned_vectors
from taskvec import basis as bases
from taskvec import errors
from taskvec.basis.basis import check_negation
from taskvec.gramian import Gram
from vector_cases import normal

KINDS = {
    "addition_exact": {},
    "pca": {},
    "autoencoder": {"steps": 300},
    "cluster": {},
    "select": {},
    "random": {},
    "gaussian": {"method": "random", "kind": "gaussian"},
    "ties": {"method": "cluster", "inner": "ties"},
    "top5": {"method": "cluster", "inner": "top5"},
}


def fit(vectors: dict[str, tv.TaskVector], size: int | None, kind: str, **options: object) -> tv.Basis:
    settings = {"method": kind, **KINDS[kind], **options}
    return tv.Basis.fit(vectors, size, **settings)


def related(count: int, *, rows: int = 400, groups: int = 3) -> dict[str, tv.TaskVector]:
    """Vectors in groups that share a part, with norms from 0.5 to 2."""
    centers = normal(rows, groups, seed=1)
    own = normal(rows, count, seed=2)
    norms = torch.linspace(0.5, 2.0, count, dtype=torch.float64)
    return plain(norms * (centers[:, torch.arange(count) % groups] + 0.8 * own))


def lost(basis: tv.Basis, vectors: dict[str, tv.TaskVector]) -> dict[str, float]:
    return {n: float((flat(basis.recover(n)) - flat(v)).norm() / flat(v).norm()) for n, v in vectors.items()}


# --- fitting --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1, 3, 5])
def test_errors_are_those_of_the_recovered_vectors(kind, size):
    vectors = related(7)
    basis = fit(vectors, size, kind)
    assert basis.size <= size
    assert len(basis.vectors()) == basis.size
    found = lost(basis, vectors)
    for name in vectors:
        assert basis.error(name) == pytest.approx(found[name], rel=1e-9, abs=1e-9), name
        by_hand = sum(float(c) * flat(v) for c, v in zip(basis.coefficients(name), basis.vectors(), strict=True))
        assert torch.allclose(flat(basis.recover(name)), by_hand, atol=1e-12)


def test_fine_tuned_models_of_several_tensors():
    vectors = tuned_vectors(5)
    basis = tv.Basis.fit(vectors, size=2)
    columns = stacked(vectors)
    coded = torch.stack([basis.coefficients(n) for n in vectors], 1)
    assert torch.allclose(
        stacked(dict(enumerate(basis.vectors()))) @ coded, stacked({n: basis.recover(n) for n in vectors})
    )
    assert basis.error("task1") == pytest.approx(lost(basis, vectors)["task1"], rel=1e-6)
    total = stacked({"sum": sum(basis.vectors()[1:], basis.vectors()[0])})[:, 0]
    assert torch.allclose(total, 2 / 5 * columns.sum(1), atol=1e-12)
    model = tv.Checkpoint.from_tensors({n: torch.zeros(s.shape) for n, s in vectors["task0"].specs.items()})
    moved = model + basis.recover("task1").rebased()
    assert torch.allclose(moved["w"].double().reshape(-1), torch.from_numpy(basis.recover("task1").values("w", 0, 231)))


@pytest.mark.parametrize("kind", KINDS)
def test_as_many_vectors_as_tasks_are_the_tasks(kind):
    vectors = related(4)
    for size in (4, 9):
        basis = fit(vectors, size, kind)
        assert all(basis.error(n) == 0.0 for n in vectors)
        assert all(torch.equal(flat(basis.recover(n)), flat(v)) for n, v in vectors.items())
        assert "the tasks themselves are kept" in basis.notes[0]


def test_factored_vectors_stay_factored():
    basis = tv.Basis.fit(adapters(4), size=2)
    assert basis.recover("lora0").factors("w") is not None


def test_a_known_gram_is_used_and_another_is_refused():
    vectors = related(5)
    known = Gram.of(vectors)
    assert torch.equal(tv.Basis.fit(vectors, 2, gram=known).gram.matrix, known.matrix)
    with pytest.raises(errors.ParameterError, match="of other vectors"):
        tv.Basis.fit({n: vectors[n] for n in list(vectors)[:4]}, 2, gram=known)


def test_a_zero_task_is_recovered_as_zero():
    vectors = {**related(4), "zero": tv.TaskVector.from_tensors({"w": torch.zeros(400, dtype=torch.float64)})}
    for kind in KINDS:
        basis = fit(vectors, 2, kind)
        assert basis.error("zero") in (0.0, math.inf) or basis.error("zero") < 1e-6
    assert tv.Basis.fit(vectors, 3, "pca").error("zero") == 0.0


# --- clusters -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inner", ["mean", "ties", "top5", "magmax"])
def test_a_cluster_is_the_merge_of_its_members(inner):
    vectors = related(7)
    basis = tv.Basis.fit(vectors, 3, "cluster", inner=inner)
    labels = basis.report["labels"]
    for k, member in enumerate(basis.vectors()):
        group = {n: v for (n, v), label in zip(vectors.items(), labels, strict=True) if label == k}
        if inner == "top5":
            expected = sum(
                torch.where(x.abs() >= x.abs().sort(descending=True).values[math.ceil(0.05 * len(x)) - 1], x, 0.0)
                for x in map(flat, group.values())
            ) / len(group)
        else:
            expected = flat(tv.merge({"mean": "average"}.get(inner, inner), group))
        expected = flat(next(iter(group.values()))) if len(group) == 1 else expected
        assert torch.allclose(flat(member), expected, atol=1e-6), inner
    assert all(torch.equal(flat(basis.recover("t0")), flat(basis.vectors()[labels[0]])) for _ in range(1))


def test_one_cluster_of_the_mean_is_the_average():
    vectors = related(5)
    basis = tv.Basis.fit(vectors, 1, "cluster")
    assert torch.allclose(flat(basis.vectors()[0]), flat(tv.merge("average", vectors)), atol=1e-7)


def test_a_function_may_merge_a_cluster():
    def longest(group):
        return max(group.values(), key=lambda v: v.norm())

    vectors = related(6)
    basis = tv.Basis.fit(vectors, 3, "cluster", inner=longest)
    kept = [n for n, v in vectors.items() if basis.error(n) == pytest.approx(0.0, abs=1e-7)]
    assert kept == ["t3", "t4", "t5"]


def test_centroids_merge_by_any_method():
    basis = tv.Basis.fit(related(7), None, "cluster")
    assert basis.size == 3
    assert torch.equal(flat(basis.merge("ties", density=0.3)), flat(tv.merge("ties", basis.named(), density=0.3)))


# --- sums and negation ----------------------------------------------------------------------------------------------


def test_sums_of_tasks_and_what_a_sum_of_vectors_is():
    vectors = related(6)
    basis = tv.Basis.fit(vectors, 3)
    columns = stacked(vectors)
    assert torch.allclose(flat(basis.combine(1.0)), columns.sum(1), atol=1e-9)
    assert basis.addition() == pytest.approx({"scale": 0.5, "cosine": 1.0})
    some = basis.combine({"t1": 2.0, "t4": -1.0})
    assert torch.allclose(flat(some), 2.0 * flat(basis.recover("t1")) - flat(basis.recover("t4")), atol=1e-12)
    found = tv.Basis.fit(vectors, 3, "pca")
    total = sum(flat(v) for v in found.vectors())
    cosine = float(total @ columns.sum(1) / total.norm() / columns.sum(1).norm())
    assert found.addition()["cosine"] == pytest.approx(cosine)
    assert fit(vectors, 3, "gaussian").addition() == {"scale": None, "cosine": None}


def test_what_does_not_come_back_is_not_negated():
    vectors = plain(normal(200, 6, seed=3))
    basis = tv.Basis.fit(vectors, 2)
    worst = max(vectors, key=basis.error)
    with pytest.raises(errors.ParameterError, match=f"'{worst}' comes back .* error of {basis.error(worst):.2f} "):
        basis.negate(worst)
    assert torch.allclose(flat(basis.negate(worst, 0.5, force=True)), -0.5 * flat(basis.recover(worst)))
    exact = tv.Basis.fit(vectors, 6)
    assert torch.equal(flat(exact.negate("t2")), -flat(vectors["t2"]))
    check_negation("x", 0.5, force=False)
    with pytest.raises(errors.ParameterError, match="force"):
        check_negation("x", 0.3, force=False, most=0.2)


def test_negation_certificates_hold_for_quadratics():
    vectors = related(6)
    basis = tv.Basis.fit(vectors, 3)
    rows = basis.certify_negation("t0", 0.8, smoothness=1.0).tasks
    away = -0.8 * flat(basis.recover("t0"))
    for row in rows:
        own = flat(vectors[row["name"]])
        rise = 0.5 * float((away - own).square().sum() - own.square().sum())
        assert rise <= row["bound"] + 1e-9


# --- arrival --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [2, 4])
def test_a_task_arrives_and_all_errors_stay_bounds(kind, size):
    vectors = related(8)
    names = list(vectors)
    basis = fit({n: vectors[n] for n in names[:5]}, size, kind)
    for k in (5, 6, 7):
        basis.add(names[k], vectors[names[k]])
        found = lost(basis, {n: vectors[n] for n in names[: k + 1]})
        assert basis.size <= size
        assert basis.names == tuple(names[: k + 1])
        for name, error in found.items():
            assert error <= basis.error(name) * (1 + 1e-9) + 1e-9, (kind, name)
        assert basis.error(names[k]) == pytest.approx(found[names[k]], rel=1e-6, abs=1e-9), "exact for the newest"
    assert [t["name"] for t in basis.plain()["tasks"] if t["added"]] == names[5:]


def test_the_sum_stays_exact_while_tasks_arrive():
    vectors = related(8)
    names = list(vectors)
    basis = tv.Basis.fit({n: vectors[n] for n in names[:4]}, 3)
    for k in range(4, 8):
        basis.add(names[k], vectors[names[k]])
    assert torch.allclose(flat(basis.combine(1.0)), stacked(vectors).sum(1), atol=1e-9)
    assert basis.addition()["scale"] == pytest.approx(3 / 8)


@pytest.mark.parametrize("kind", ["addition_exact", "pca", "select"])
def test_what_is_in_the_span_already_costs_nothing(kind):
    columns = normal(60, 3, seed=4)
    vectors = plain(torch.cat([columns, columns @ normal(3, 3, seed=5)], 1))
    basis = fit(vectors, 3, kind)
    before = {n: basis.error(n) for n in vectors}
    assert max(before.values()) < 1e-7
    basis.add("again", vectors["t0"] + 0.5 * vectors["t4"])
    assert basis.error("again") < 1e-6
    assert max(basis.error(n) for n in vectors) < 1e-6


def test_the_nearest_cluster_moves_towards_the_new_task():
    vectors = related(7)
    basis = tv.Basis.fit({n: vectors[n] for n in list(vectors)[:6]}, 3, "cluster")
    labels, before = basis.report["labels"], [flat(v) for v in basis.vectors()]
    basis.add("t6", vectors["t6"])
    after = [flat(v) for v in basis.vectors()]
    home = labels[0]  # t0, t3 and t6 share a part
    for k in range(3):
        expected = (2 * before[k] + flat(vectors["t6"])) / 3 if k == home else before[k]
        assert torch.allclose(after[k], expected, atol=1e-12)
    group = [flat(vectors[n]) for n in ("t0", "t3", "t6")]
    assert torch.allclose(flat(basis.recover("t6")), sum(group) / 3, atol=1e-12)


def test_room_that_was_left_is_used():
    vectors = related(6)
    basis = tv.Basis.fit({n: vectors[n] for n in ("t0", "t1")}, 4, "select")
    basis.add("t2", vectors["t2"])
    assert basis.size == 3
    assert all(basis.error(n) < 1e-9 for n in basis.names)
    basis.add("t3", vectors["t3"])
    basis.add("t4", vectors["t4"])
    assert basis.size == 4


# --- as data, refusals ----------------------------------------------------------------------------------------------


def test_a_basis_as_json(tmp_path: Path):
    basis = tv.Basis.fit(related(5), 2, normalize=True)
    table = json.loads(basis.save(tmp_path / "b.json").read_text())
    assert [t["name"] for t in table["tasks"]] == list(basis.names)
    assert table["tasks"][1]["error"] == basis.error("t1")
    assert torch.tensor(table["encoder"]).shape == (5, 2)
    assert table["addition"]["cosine"] is not None


def test_vectors_that_are_nearly_parallel_come_with_a_note():
    columns = normal(50, 4, seed=7)
    basis = tv.Basis.fit(plain(columns * torch.tensor([1e-5, 1.0, 1.0, 1e-5])), 3, normalize=True)
    made = torch.stack([flat(v) / flat(v).norm() for v in basis.vectors()], 1)
    assert basis.state.condition == pytest.approx(float(torch.linalg.cond(made)), rel=1e-3)
    assert "nearly parallel" in basis.notes[-1]
    assert tv.Basis.fit(plain(columns), 3).notes == ()
    assert tv.Basis.fit(plain(0.0 * columns), 2, "pca").state.condition == 1.0


def test_names_that_are_not_there_or_there_already():
    vectors = related(4)
    basis = tv.Basis.fit(vectors, 2)
    for call in (basis.recover, basis.error, basis.coefficients, basis.negate, basis.certify_negation):
        with pytest.raises(errors.UnknownName, match="no task named 't9'"):
            call("t9")
    with pytest.raises(errors.UnknownName, match="no task is named 'x'"):
        basis.combine({"x": 1.0})
    with pytest.raises(errors.ParameterError, match="'t1' already"):
        basis.add("t1", vectors["t1"])
    with pytest.raises(errors.SchemaError, match="tensor 'w'"):
        basis.add("other", tuned_vectors(1)["task0"])
    with pytest.raises(errors.ParameterError, match="no option 'inner'"):
        tv.Basis.fit(vectors, 2, inner="ties")
    with pytest.raises(errors.ParameterError, match="weights=0 of task 't2'"):
        tv.Basis.fit(vectors, 2, weights=[1.0, 1.0, 0.0, 1.0])
    with pytest.raises(errors.ParameterError, match="no task vectors"):
        tv.Basis.fit({}, 2)
    assert "2 vectors" in repr(basis)
    assert "addition_exact" in bases.names()


def test_vectors_of_two_bases_make_no_basis():
    other = tv.Checkpoint.from_tensors({"w": torch.ones(3)})
    base = tv.Checkpoint.from_tensors({"w": torch.zeros(3)})
    tuned = tv.Checkpoint.from_tensors({"w": torch.full((3,), 2.0)})
    with pytest.raises(errors.SchemaError, match="different bases"):
        tv.Basis.fit([tuned - base, tuned - other], 1)
