"""`tv.gram` against stacked float64 vectors, and what must not change its bits: threads, shards, order, company."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import taskvec as tv
from basis_cases import adapters, base_tensors, flat, plain, stacked, tuned_vectors
from taskvec import errors
from taskvec.gramian import Gram
from taskvec.ops.gram import factored_products, products
from vector_cases import normal, same_bits


def reference(vectors: dict[str, tv.TaskVector]) -> torch.Tensor:
    columns = stacked(vectors)
    return columns.T @ columns


def close(found: torch.Tensor, expected: torch.Tensor, tolerance: float) -> bool:
    norms = expected.diagonal().sqrt()
    scale = (norms[:, None] * norms[None, :]).clamp(min=1e-300)
    return bool(((found - expected).abs() / scale).max() <= tolerance)


# --- the kernels ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 7, 8, 13])
@pytest.mark.parametrize("size", [0, 1, 7, 1023, 1024, 1025, 5000])
def test_products_are_those_of_float64(kind, rows, size):
    x = np.random.default_rng(rows).normal(size=(rows, size)).astype(kind)
    y = np.random.default_rng(99).normal(size=(3, size)).astype(kind)
    assert np.allclose(products(x), x.astype(float) @ x.astype(float).T, rtol=1e-12, atol=1e-12)
    assert np.allclose(products(x, y), x.astype(float) @ y.astype(float).T, rtol=1e-12, atol=1e-12)


def test_a_product_does_not_depend_on_the_rows_beside_it():
    x = np.random.default_rng(1).normal(size=(9, 4099)).astype(np.float32)
    whole = products(x)
    for i in range(9):
        for j in range(9):
            assert products(x[[i]], x[[j]])[0, 0] == whole[i, j]
    order = np.random.default_rng(2).permutation(9)
    assert (products(x[order]) == whole[np.ix_(order, order)]).all()


@pytest.mark.parametrize("first", [0, 1, 3])
def test_factored_products_are_those_of_the_multiplied_matrices(first):
    rng = np.random.default_rng(3)
    factors = [(rng.normal(size=(11, r)), rng.normal(size=(r, 6))) for r in (1, 3, 2, 5)]
    dense = np.stack([(a @ b).ravel() for a, b in factors])
    assert np.allclose(factored_products(factors, first), dense[first:] @ dense.T, rtol=1e-12)


# --- the whole ------------------------------------------------------------------------------------------------------


def test_differences_of_checkpoints():
    vectors = tuned_vectors(5)
    found = tv.gram(vectors)
    assert found.dtype == torch.float64
    assert found.shape == (5, 5)
    assert close(found, reference(vectors), 1e-7)
    assert torch.equal(found, found.T)


def test_factored_sparse_quantized_and_dense_vectors_mix(tmp_path: Path):
    tuned = tuned_vectors(3)
    vectors = {**tuned, **{n: v.rebased() for n, v in adapters(2).items()}, "sum": 0.5 * tuned["task0"]}
    for codec, options in (("sparse", {"density": 0.05}), ("int8", {}), ("tsv", {"density": 0.5}), ("dense", {})):
        tuned["task1"].save(tmp_path / f"{codec}.tv.safetensors", codec=codec, **options)
        vectors[codec] = tv.TaskVector.open(tmp_path / f"{codec}.tv.safetensors")
    assert close(tv.gram(vectors), reference(vectors), 1e-7)


def test_factored_vectors_are_not_multiplied_out(monkeypatch):
    from taskvec.adapters.lora import LoraDelta

    vectors = adapters(4)
    expected = reference(vectors)
    monkeypatch.setattr(LoraDelta, "add_to", lambda *_: pytest.fail("a factored vector was multiplied out"))
    assert close(tv.gram(vectors), expected, 1e-12)


def test_integers_in_float64_are_exact():
    columns = torch.randint(-9, 10, (70_000, 6), generator=torch.Generator().manual_seed(1)).double()
    assert torch.equal(tv.gram(plain(columns)), columns.T @ columns)


@pytest.mark.parametrize("scale", [1e-30, 1e-140, 1e30, 1e140])
def test_extreme_scales_in_float64(scale):
    columns = normal(300, 4, seed=3)
    assert close(tv.gram(plain(scale * columns)) / scale**2, columns.T @ columns, 1e-12)


def test_a_difference_that_float32_cannot_hold():
    base = tv.Checkpoint.from_tensors({"w": torch.tensor([-3e38, 1.0])})
    tuned = tv.Checkpoint.from_tensors({"w": torch.tensor([3e38, 2.0])})
    vectors = {"a": tuned - base, "b": tv.Checkpoint.from_tensors({"w": torch.tensor([-3e38, 5.0])}) - base}
    assert close(tv.gram(vectors), reference(vectors), 1e-12)


def test_the_bits_depend_on_neither_threads_nor_order_nor_company():
    vectors = tuned_vectors(7)
    whole = tv.gram(vectors, threads=1)
    assert same_bits(tv.gram(vectors, threads=3), whole)
    order = [3, 0, 6, 2, 5, 1, 4]
    names = list(vectors)
    permuted = tv.gram({names[i]: vectors[names[i]] for i in order})
    assert same_bits(permuted, whole[order][:, order])
    assert same_bits(tv.gram([vectors["task2"], vectors["task5"]]), whole[[2, 5]][:, [2, 5]])


def test_the_bits_depend_neither_on_shards_nor_on_the_order_of_tensors(tmp_path: Path):
    def sharded(tensors: dict[str, torch.Tensor], folder: Path, cuts: list[list[str]]) -> tv.Checkpoint:
        folder.mkdir()
        files = {}
        for i, names in enumerate(cuts):
            save_file({n: tensors[n] for n in names}, folder / f"model-{i}.safetensors")
            files |= dict.fromkeys(names, f"model-{i}.safetensors")
        index = {"metadata": {}, "weight_map": files}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        return tv.Checkpoint.open(folder)

    models = [base_tensors()] + [
        {n: t if n == "steps" else t + 0.01 * normal(*t.shape, seed=i).float() for n, t in base_tensors().items()}
        for i in (31, 32, 33)
    ]
    cuts = [[["emb", "w", "b", "s", "steps"]], [["s", "b"], ["steps", "w"], ["emb"]]]
    grams = []
    for k, cut in enumerate(cuts):
        base, *tuned = [sharded(m, tmp_path / f"{k}-{i}", cut) for i, m in enumerate(models)]
        grams.append(tv.gram([t - base for t in tuned]))
    assert same_bits(*grams)


def test_the_shares_of_the_tensors_add_up():
    vectors = {**tuned_vectors(3), **adapters(1)}
    found = Gram.of(vectors, per_tensor=True)
    assert found.per_tensor is not None
    assert list(found.per_tensor) == ["b", "emb", "s", "w"]
    total = torch.stack(list(found.per_tensor.values())).sum(0)
    assert torch.allclose(total, found.matrix, rtol=1e-14)
    assert same_bits(found.matrix, tv.gram(vectors))
    assert float(found.per_tensor["s"][3, 3]) == 0.0


def test_a_row_is_appended_without_recomputing_the_rest(monkeypatch):
    vectors = tuned_vectors(5)
    whole = Gram.of(vectors, per_tensor=True)
    first = {n: vectors[n] for n in list(vectors)[:4]}
    before = Gram.of(first, per_tensor=True)
    shapes = []
    monkeypatch.setattr("taskvec.gramian.products", lambda x, y=None: shapes.append((len(x), y)) or products(x, y))
    after = before.extended("task4", vectors["task4"], first)
    assert same_bits(after.matrix, whole.matrix)
    assert after.names == whole.names
    assert all(same_bits(after.per_tensor[n], whole.per_tensor[n]) for n in whole.per_tensor)
    assert all(rows == 1 and y is not None for rows, y in shapes)


def test_appending_zero_and_factored_vectors():
    vectors = {**adapters(3), "zero": tv.TaskVector.from_tensors({"w": torch.zeros(7, 33)})}
    before = Gram.of({n: vectors[n] for n in ("lora0", "lora1")}, per_tensor=True)
    after = before.extended("lora2", vectors["lora2"], vectors).extended("zero", vectors["zero"], vectors)
    assert torch.allclose(after.matrix, tv.gram(vectors), rtol=1e-14)
    with pytest.raises(errors.ParameterError, match="'zero' already"):
        after.extended("zero", vectors["zero"], vectors)
    with pytest.raises(errors.UnknownName, match="no vector named 'lora0'"):
        before.extended("x", vectors["zero"], {"lora1": vectors["lora1"]})


def test_a_scale_squares_and_a_vector_twice_is_itself():
    vectors = tuned_vectors(2)
    v = vectors["task0"]
    found = tv.gram([v, v, 2.0 * v, 0.0 * v, v - v])
    assert torch.allclose(found[:3, :3], found[0, 0] * torch.tensor([[1, 1, 2], [1, 1, 2], [2, 2, 4]]), rtol=1e-7)
    assert torch.equal(found[3:], torch.zeros(2, 5, dtype=torch.float64))
    assert found[0, 0] == pytest.approx(v.norm() ** 2, rel=1e-7)
    assert float(flat(v) @ flat(v)) == pytest.approx(float(found[0, 0]), rel=1e-7)


def test_it_is_written_as_json(tmp_path: Path):
    found = Gram.of(adapters(2), per_tensor=True)
    table = json.loads(found.save(tmp_path / "gram.json").read_text())
    assert table["names"] == ["lora0", "lora1"]
    assert table["matrix"] == found.matrix.tolist()
    assert set(table["per_tensor"]) == {"emb", "w"}


# --- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", ["tuned", "factor"])
def test_what_is_not_finite_is_named(value, where):
    vectors = tuned_vectors(2)
    if where == "tuned":
        bad = base_tensors()
        bad["w"][3, 3] = value
        vectors["broken"] = tv.Checkpoint.from_tensors(bad) - tv.Checkpoint.from_tensors(base_tensors())
        match = "tensor 'w' has NaN or Inf in 'broken' \\(the tuned model"
    else:
        from taskvec.adapters.lora import LoraDelta, Pair, Part
        from taskvec.checkpoint.source import MemorySource, TensorSpec
        from taskvec.ops.dtypes import DTYPES

        tensors = {"a": torch.full((1, 33), value), "b": torch.ones(7, 1)}
        part = Part(TensorSpec((7, 33), DTYPES["F32"]), Pair("a", "b", 1.0, False))
        vectors = {"broken": tv.TaskVector(((1.0, LoraDelta(MemorySource(tensors), {"w": part}, None)),))}
        match = "tensor 'w' has NaN or Inf in 'broken'"
    with pytest.raises(errors.NonFiniteError, match=match):
        tv.gram(vectors)


def test_a_square_beyond_float64():
    with pytest.raises(errors.NonFiniteError, match="beyond float64"):
        tv.gram(plain(torch.full((3, 2), 1e200, dtype=torch.float64)))


def test_two_bases_are_told_apart_by_their_bytes():
    other = base_tensors()
    other["b"][0] += 1.0
    vectors = {"a": tuned_vectors(1)["task0"], "b": tuned_vectors(1, base=tv.Checkpoint.from_tensors(other))["task0"]}
    with pytest.raises(errors.SchemaError, match=r"different bases \(tensor 'b'"):
        tv.gram(vectors)
    assert tv.gram([v.rebased() for v in vectors.values()]).shape == (2, 2)
    twin = tuned_vectors(1, base=tv.Checkpoint.from_tensors(base_tensors()))["task0"]
    assert tv.gram({"a": vectors["a"], "twin": twin}).shape == (2, 2)


def test_other_models_nothing_and_other_things():
    with pytest.raises(errors.SchemaError, match="tensor 'w'"):
        tv.gram([*tuned_vectors(1).values(), *plain(torch.ones(3, 1)).values()])
    with pytest.raises(errors.ParameterError, match="no task vectors"):
        tv.gram({})
    with pytest.raises(errors.SpaceError, match="'0' is a Checkpoint"):
        tv.gram([tv.Checkpoint.from_tensors(base_tensors())])
    with pytest.raises(errors.ParameterError, match="threads=0"):
        tv.gram(tuned_vectors(1), threads=0)


def test_progress_counts_every_byte_once():
    seen: list[tuple[str, int, int]] = []
    vectors = tuned_vectors(3)
    tv.gram(vectors, progress=lambda *step: seen.append(step))
    total = 3 * sum(s.nbytes for s in vectors["task0"].specs.values())
    assert seen[-1] == ("reading inner products", total, total)
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)
