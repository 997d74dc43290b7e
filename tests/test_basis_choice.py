"""The joint choice of fewer vectors, fewer bits and lower rank: errors are upper bounds, bytes the files'."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import taskvec as tv
from basis_cases import flat, plain, tuned_vectors
from taskvec import basis as bases
from taskvec import errors
from vector_cases import normal


def written(vectors: list[tv.TaskVector], row: dict, folder: Path) -> list[tv.TaskVector]:
    codec = {"float32": "dense", "bfloat16": "dense"}.get(row["codec"], row["codec"])
    out = []
    for i, vector in enumerate(vectors):
        path = folder / f"{row['codec']}-{row['size']}-{i}.tv.safetensors"
        vector.save(path, codec=codec, **row["parameters"])
        out.append(tv.TaskVector.open(path))
    return out


def data(vector: tv.TaskVector) -> int:
    leaf = vector.single()
    return sum(part.part_spec(role).nbytes for part in leaf.parts.values() for role in part.parts)


@pytest.mark.parametrize("budget", ["25%", "60%"])
def test_every_option_is_what_it_would_be_on_the_disk(budget: str, tmp_path: Path) -> None:
    vectors = tuned_vectors(5)
    found = bases.choose(vectors, budget)
    assert {(r["codec"], r["basis"]) for r in found.options} >= {
        ("bfloat16", False),
        ("int8", False),
        ("float32", True),
    }
    for row in found.options:
        basis = tv.Basis.fit(vectors, row["size"])
        stored = written(basis.vectors(), row, tmp_path)
        assert sum(map(data, stored)) == row["bytes"], row["codec"]
        for name, vector in vectors.items():
            coefficients = basis.coefficients(name).tolist()
            back = sum(c * flat(v) for c, v in zip(coefficients, stored, strict=True))
            lost = float((back - flat(vector)).norm() / flat(vector).norm())
            assert lost <= row["errors"][name] * (1 + 1e-6) + 1e-9, (row["codec"], row["size"], name)
        assert row["worst"] == max(row["errors"].values())


def test_unrelated_tasks_are_better_off_without_a_basis() -> None:
    vectors = plain(normal(3000, 8, seed=1))
    found = bases.choose(vectors, "25%", precisions=["float32", "bfloat16", "int8"])
    assert not found.use_basis
    assert found.recommendation.startswith("do not use a basis: keep all 8 vectors in int8")
    best, *others = (r for r in found.options if r["fits"])
    assert (best["size"], best["codec"]) == (8, "int8")
    assert best["worst"] < 0.01
    assert min(r["worst"] for r in others) > 0.3


def test_tasks_of_few_directions_are_better_off_with_one() -> None:
    vectors = plain(normal(3000, 2, seed=1) @ normal(2, 8, seed=2))
    found = bases.choose(vectors, "25%", precisions=["float32", "bfloat16", "int8"])
    assert found.use_basis
    assert found.recommendation.startswith("a basis of 2 vectors in float32")
    assert found.options[0]["worst"] < 1e-6


def test_tensors_that_no_task_moves_take_no_room() -> None:
    vectors = plain(normal(3000, 2, seed=1) @ normal(2, 8, seed=2))
    still = {"still": torch.zeros(9000, dtype=torch.float64)}
    padded = {n: v + tv.TaskVector.from_tensors(still) for n, v in vectors.items()}
    (best, *_) = bases.choose(padded, "7%", precisions=["float32"]).options
    assert (best["size"], best["bytes"]) == (2, 2 * 4 * 3000)


def test_low_rank_spends_the_budget() -> None:
    vectors = tuned_vectors(4)
    found = bases.choose(vectors, "25%", precisions=["tsv"])
    assert {r["size"] for r in found.options} == {4, 2}
    assert all(r["fits"] for r in found.options)
    assert all(r["share"] > 0.2 for r in found.options)


def test_a_budget_below_everything() -> None:
    found = bases.choose(tuned_vectors(3), 8)
    assert not any(r["fits"] for r in found.options)
    assert "allow more bytes" in found.recommendation
    assert any("tsv" in note for note in found.notes)


def test_a_zero_task_is_no_ones_error() -> None:
    vectors = {**plain(normal(500, 3, seed=1)), "zero": tv.TaskVector.from_tensors({"w": torch.zeros(500).double()})}
    found = bases.choose(vectors, "50%", precisions=["bfloat16"])
    assert found.options[0]["errors"]["zero"] == 0.0
    assert json.loads(found.to_json())["tasks"] == list(vectors)


@pytest.mark.parametrize("budget", ["0%", "x%", "-5%", 0, "12 apples"])
def test_budgets_that_are_none(budget: object) -> None:
    with pytest.raises(errors.ParameterError):
        bases.choose(plain(normal(5, 2, seed=1)), budget)


def test_precisions_that_are_none() -> None:
    with pytest.raises(errors.UnknownName, match="no precision named 'int7'"):
        bases.choose(plain(normal(5, 2, seed=1)), "50%", precisions=["int7"])
