"""The codec `tsv` beside the float64 SVD: what it keeps, what it loses, what it takes, and what it says of both."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import taskvec as tv
from taskvec import errors
from taskvec.checkpoint.source import TensorSpec
from taskvec.codecs._codec import make
from taskvec.codecs._file import FileDelta
from taskvec.codecs._ranks import rank_at
from taskvec.codecs._singular import Shape
from taskvec.ops import factored as products
from taskvec.ops.allocation import Item, kept, spectrum, water_filling
from taskvec.ops.dtypes import DTYPES
from vector_cases import Tensors, factored, normal

Shapes = dict[str, tuple[int, ...]]
SHAPES: Shapes = {"tall": (90, 40), "wide": (30, 100), "square": (64, 64), "attn.qkv.weight": (96, 32), "bias": (64,)}


def decaying(m: int, n: int, *, power: float, seed: int, scale: float = 0.1) -> torch.Tensor:
    """A matrix whose j-th singular value is scale · j^-power."""
    r = min(m, n)
    u, v = (torch.linalg.qr(normal(x, r, seed=seed + i))[0] for i, x in enumerate((m, n)))
    return (u * scale * torch.arange(1, r + 1).double() ** -power) @ v.T


def deltas(shapes: Shapes = SHAPES) -> Tensors:
    """Matrices that decay at different speeds, and what is none."""
    return {
        name: decaying(*s, power=0.3 + 0.4 * i, seed=10 * i) if len(s) == 2 else normal(*s, seed=i, scale=0.01)
        for i, (name, s) in enumerate(shapes.items())
    }


def vector_of(tensors: Tensors) -> tv.TaskVector:
    return tv.TaskVector.from_tensors(tensors)


def saved(tmp_path: Path, vector: tv.TaskVector, name: str = "v", **options: Any) -> tv.TaskVector:
    path = vector.save(tmp_path / f"{name}.tv.safetensors", force=True, codec="tsv", **options)
    return tv.TaskVector.open(path)


def leaf_of(vector: tv.TaskVector) -> FileDelta:
    leaf = vector.single()
    assert isinstance(leaf, FileDelta)
    return leaf


def values(vector: tv.TaskVector, name: str) -> np.ndarray[Any, Any]:
    return vector.values(name, 0, vector.specs[name].numel)


def nbytes(vector: tv.TaskVector, name: str | None = None) -> int:
    parts = leaf_of(vector).parts
    found = parts.values() if name is None else [parts[name]]
    return sum(p.part_spec(role).nbytes for p in found for role in p.roles())


def rank(vector: tv.TaskVector, name: str) -> int:
    part = leaf_of(vector).parts[name]
    return int(part.part_spec("s").numel) if part.kind == "tsv" else -1


def total(vector: tv.TaskVector) -> float:
    found = leaf_of(vector).total_error()
    assert found is not None
    return found


def lost(vector: tv.TaskVector, again: tv.TaskVector, name: str) -> float:
    return float(np.linalg.norm(values(again, name) - values(vector, name)))


# --- oracle 9 of the card: the error squared is the sum of the squares that were dropped ---


@pytest.mark.parametrize("density", [0.05, 0.125, 0.25, 0.4])
def test_the_squared_error_is_the_sum_of_the_dropped_squares(tmp_path: Path, density: float) -> None:
    tensors = deltas()
    again = saved(tmp_path, vector_of(tensors), density=density)
    for name in ("tall", "wide", "square", "attn.qkv.weight"):
        s = torch.linalg.svdvals(tensors[name])
        k = math.floor(density * len(s))
        assert rank(again, name) == k
        dropped = math.sqrt(float(s[k:].square().sum()))
        assert lost(vector_of(tensors), again, name) == pytest.approx(dropped, rel=1e-6)
        assert leaf_of(again).error()[name] == pytest.approx(dropped / float(s.norm()), rel=1e-5)


def test_the_size_is_that_of_the_card(tmp_path: Path) -> None:
    tensors = deltas()
    for density, (dtype, width) in itertools.product((0.125, 0.3), (("fp32", 4), ("bf16", 2), ("fp16", 2))):
        again = saved(tmp_path, vector_of(tensors), density=density, dtype=dtype)
        for name in ("tall", "wide", "square"):
            m, n = tensors[name].shape
            k = math.floor(density * min(m, n))
            assert nbytes(again, name) == k * (width * (m + n) + 4)  # the scales s are always float32
    again = saved(tmp_path, vector_of(tensors), density=0.25, dtype="int8")
    assert nbytes(again, "tall") == 10 * (90 + 40 + 4) + 2 * (math.ceil(900 / 128) + math.ceil(400 / 128))
    assert nbytes(again, "bias") == 64 * 4


def test_the_table_of_the_paper_for_the_shapes_of_vit_b_32() -> None:
    """Base + T tasks: 2.52, 2.67 and 2.85 times the visual tower at T = 8, 14 and 20 (card, section 2)."""
    block = [(2304, 768), (768, 768), (3072, 768), (768, 3072)]
    matrices = [(50, 768), (768, 512), *block * 12]
    other = 87_850_000 - sum(m * n for m, n in matrices)
    for tasks, expected in ((8, 2.52), (14, 2.67), (20, 2.85)):
        codec = make("tsv", {"density": 1 / tasks})
        specs = [codec.bound(TensorSpec(shape, DTYPES["F32"])) for shape in matrices]
        each = sum(s.nbytes for parts in specs for s in parts.values()) + 4 * other
        assert 1 + tasks * each / (4 * 87_850_000) == pytest.approx(expected, abs=0.006)


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16", "int8"])
def test_the_error_of_each_tensor_and_of_all_is_true_for_every_dtype(tmp_path: Path, dtype: str) -> None:
    vector = vector_of({**deltas(), "kept": torch.zeros(20, 20)})
    again = saved(tmp_path, vector, density=0.25, dtype=dtype, other=dtype)
    errors_, norms = leaf_of(again).error(), {n: float(np.linalg.norm(values(vector, n))) for n in vector.names()}
    for name in vector.names():
        assert errors_[name] * norms[name] == pytest.approx(lost(vector, again, name), rel=1e-5, abs=1e-12)
        assert leaf_of(again).parts[name].norm == pytest.approx(norms[name], rel=1e-6)
    every = math.hypot(*(lost(vector, again, n) for n in vector.names()))
    assert total(again) == pytest.approx(every / math.hypot(*norms.values()), rel=1e-5)


def test_rounded_factors_cost_little_beside_what_was_dropped(tmp_path: Path) -> None:
    vector = vector_of(deltas())
    found = {d: total(saved(tmp_path, vector, density=0.25, dtype=d)) for d in ("fp32", "fp16", "bf16", "int8")}
    assert found["fp32"] <= found["fp16"] <= found["bf16"] <= found["int8"] < 1.002 * found["fp32"]


def test_the_scales_are_fitted_to_the_rounded_factors(tmp_path: Path) -> None:
    """Least squares along each stored u vᵀ: no other scale of one triplet, the rest left alone, would be nearer."""
    vector = vector_of({"w": decaying(40, 30, power=0.5, seed=3)})
    again = saved(tmp_path, vector, density=0.2, dtype="int8")
    found = again.factors("w")
    assert found is not None
    for j in range(found.right.shape[0]):
        one = np.outer(found.left[:, j], found.right[j])
        alone = float((one * values(vector, "w").reshape(40, 30)).sum() / (one * one).sum())
        assert alone == pytest.approx(1.0, abs=1e-6)


# --- what is decomposed ---


@pytest.mark.parametrize("options", [{}, {"energy": 0.5}, {"budget": "100%"}, {"dtype": "int8", "other": "int8"}])
def test_degenerate_tensors_are_stored_and_read(tmp_path: Path, options: dict[str, Any]) -> None:
    one = torch.outer(normal(50, seed=1), normal(60, seed=2))
    tensors = {
        "zero": torch.zeros(16, 16),
        "equal": torch.full((32, 48), 0.25),
        "rank one": one,
        "row": normal(1, 40, seed=3),
        "column": normal(40, 1, seed=4),
        "empty": torch.zeros(0, 4),
        "scalar": normal(seed=5),
        "kernel": normal(4, 3, 3, 3, seed=6),
        "tiny": 1e-30 * one,
        "two": normal(2, 2, seed=7),
    }
    again = saved(tmp_path, vector_of(tensors), **options)
    kinds = {n: p.kind for n, p in leaf_of(again).parts.items()}
    assert kinds["zero"] == kinds["empty"] == "zero"
    whole = "int8" if options.get("other") == "int8" else "dense"
    assert all(kinds[n] == whole for n in ("row", "column", "scalar", "kernel"))
    if "budget" not in options:
        assert kinds["rank one"] == kinds["equal"] == kinds["tiny"] == "tsv"
    for name, tensor in tensors.items():
        assert again[name].shape == tensor.shape
        assert leaf_of(again).error()[name] < (0.02 if "dtype" in options else 1e-6)


def test_a_matrix_is_left_whole_where_factors_are_not_smaller(tmp_path: Path) -> None:
    vector = vector_of({"w": normal(40, 24, seed=1), "thin": normal(7, 90, seed=2)})
    limit = 40 * 24 / (40 + 24 + 1)
    for k in range(1, 25):
        again = saved(tmp_path, vector, density=k / 24)
        assert leaf_of(again).parts["w"].kind == ("tsv" if k < limit else "dense")
    again = saved(tmp_path, vector)
    assert rank(again, "w") == 3
    assert leaf_of(again).parts["thin"].kind == "dense"  # floor(0.125 · 7) is 0
    assert leaf_of(again).error()["thin"] < 1e-7


@pytest.mark.parametrize("tasks", range(2, 65))
def test_a_density_of_one_in_t_is_the_integer_quotient(tasks: int) -> None:
    shapes = [Shape(TensorSpec((r, 8 * r), DTYPES["F32"]), None, DTYPES["F32"], 32 * r * r) for r in range(1, 500, 7)]
    assert all(rank_at(s, 1 / tasks) in (s.rank // tasks, 0) for s in shapes)
    assert rank_at(Shape(TensorSpec((49, 900), DTYPES["F32"]), None, DTYPES["F32"], 4 * 49 * 900), 1 / 49) == 1


def test_a_fused_matrix_is_split_where_the_layout_says_so(tmp_path: Path) -> None:
    tensors = deltas()
    name = "attn.qkv.weight"
    (tmp_path / "split.yml").write_text(f"splits:\n  '{name}': rows 3\n  'wide': columns 2\n")
    again = saved(tmp_path, vector_of(tensors), density=0.25, layout=tmp_path / "split.yml")
    for each, split, dim in ((name, "rows 3", 0), ("wide", "columns 2", 1)):
        parts = tensors[each].chunk(int(split[-1]), dim)
        k = math.floor(0.25 * min(parts[0].shape))
        assert leaf_of(again).parts[each].extra["split"] == split
        assert rank(again, each) == k * len(parts)
        dropped = math.sqrt(sum(float(torch.linalg.svdvals(p)[k:].square().sum()) for p in parts))
        assert lost(vector_of(tensors), again, each) == pytest.approx(dropped, rel=1e-6)
        found = again.factors(each)
        assert found is not None
        assert np.allclose((found.left @ found.right).reshape(-1), values(again, each), rtol=0, atol=1e-12)
    preset = saved(tmp_path, vector_of(tensors), "preset", density=0.25, splits="fused-qkv")
    assert np.array_equal(values(preset, name), values(again, name))
    assert rank(preset, "wide") == 7


def test_parts_of_a_split_matrix_share_the_triplets_by_their_energy(tmp_path: Path) -> None:
    w = torch.cat([decaying(32, 32, power=1.0, seed=1), 0.01 * normal(32, 32, seed=2), torch.zeros(32, 32)])
    again = saved(tmp_path, vector_of({"a.qkv.weight": w}), energy=0.99, splits="fused-qkv")
    part = leaf_of(again).parts["a.qkv.weight"]
    ranks = part.bits("ranks", 0, 3).view(np.int32)
    assert ranks[0] > 0
    assert ranks[2] == 0
    s = torch.cat([torch.linalg.svdvals(p) for p in w.chunk(3)]).sort(descending=True).values.square()
    assert int(ranks.sum()) == int((s.cumsum(0) < 0.99 * s.sum()).sum()) + 1


def test_the_layout_decides_what_is_a_matrix(tmp_path: Path) -> None:
    (tmp_path / "layout.yml").write_text("roles:\n  square: other\n  wide: skip\n")
    again = saved(tmp_path, vector_of(deltas()), layout=tmp_path / "layout.yml")
    kinds = {n: p.kind for n, p in leaf_of(again).parts.items()}
    assert kinds == {"tall": "tsv", "wide": "dense", "square": "dense", "attn.qkv.weight": "tsv", "bias": "dense"}
    text = json.dumps(leaf_of(again).codec)
    assert str(tmp_path) not in text
    assert len(leaf_of(again).codec["layout"]) == 32  # a hash: a path means nothing elsewhere
    copied = saved(tmp_path, again, "copy", layout=tmp_path / "layout.yml")
    assert all(np.array_equal(values(copied, n), values(again, n)) for n in again.names())


def test_kernels_are_decomposed_only_when_asked_for(tmp_path: Path) -> None:
    kernel = decaying(32, 16 * 9, power=1.0, seed=1).reshape(32, 16, 3, 3)
    vector = vector_of({"conv": kernel, "depthwise": normal(32, 1, 3, 3, seed=2)})
    assert leaf_of(saved(tmp_path, vector)).parts["conv"].kind == "dense"
    again = saved(tmp_path, vector, convolutions="matrix")
    assert rank(again, "conv") == 4
    dropped = math.sqrt(float(torch.linalg.svdvals(kernel.reshape(32, -1))[4:].square().sum()))
    assert lost(vector, again, "conv") == pytest.approx(dropped, rel=1e-6)
    assert nbytes(again, "conv") / (4 * kernel.numel()) == pytest.approx(0.154, abs=1e-3)
    assert rank(again, "depthwise") == 1  # 9 columns: worth nothing, as the docstring says


# --- energy ---


def test_energy_keeps_the_fewest_triplets_that_reach_the_share(tmp_path: Path) -> None:
    tensors = deltas()
    for energy in (0.3, 0.7, 0.9):
        again = saved(tmp_path, vector_of(tensors), energy=energy)
        for name in ("tall", "wide"):
            if (k := rank(again, name)) < 0:
                continue
            sums = torch.linalg.svdvals(tensors[name]).square().cumsum(0)
            assert float(sums[k - 1]) >= energy * float(sums[-1]) > (float(sums[k - 2]) if k > 1 else 0.0)
            assert leaf_of(again).error()[name] <= math.sqrt(1.0 - energy) * (1 + 1e-6)


def test_more_energy_and_more_budget_never_lose_more(tmp_path: Path) -> None:
    vector = vector_of(deltas())
    shares = [0.05, 0.1, 0.2, 0.35, 0.5, 0.8, 1.0]
    for key, given in (("energy", shares), ("budget", [f"{100 * s:g}%" for s in shares]), ("density", shares)):
        found = [(total(v), nbytes(v)) for v in (saved(tmp_path, vector, **{key: g}) for g in given)]
        assert all(a[0] >= b[0] and a[1] <= b[1] for a, b in itertools.pairwise(found)), key
        assert found[-1][0] < 1e-6


# --- budgets ---


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize("density", [0.05, 0.125, 0.25])
def test_a_budget_beats_the_same_density_everywhere_at_equal_bytes(tmp_path: Path, density: float, dtype: str) -> None:
    vector = vector_of(deltas())
    uniform = saved(tmp_path, vector, density=density, dtype=dtype)
    filled = saved(tmp_path, vector, budget=nbytes(uniform), dtype=dtype)
    assert nbytes(filled) <= nbytes(uniform)
    assert total(filled) < 0.99 * total(uniform)


def test_a_budget_is_kept_and_nearly_used_up(tmp_path: Path) -> None:
    vector = vector_of(deltas())
    largest = max(4 * (sum(vector.specs[n].shape) + 1) for n in ("tall", "wide", "square"))
    for budget in (2_000, 5_000, 20_000, "5%", "20KB"):
        again = saved(tmp_path, vector, budget=budget)
        tuned = sum(s.nbytes for s in vector.specs.values())
        most = {"5%": tuned // 20, "20KB": 20_000}.get(str(budget), budget)
        assert int(most) - largest < nbytes(again) <= int(most)


def test_a_matrix_that_gets_nothing_is_zero_and_says_so(tmp_path: Path) -> None:
    vector = vector_of({"large": decaying(50, 50, power=1.0, seed=1), "small": 1e-6 * normal(50, 50, seed=2)})
    again = saved(tmp_path, vector, budget=4 * 101 * 5)
    part = leaf_of(again).parts["small"]
    assert (part.kind, part.error, part.norm) == ("zero", 1.0, pytest.approx(np.linalg.norm(values(vector, "small"))))
    assert rank(again, "large") == 5


def brute(items: list[Item], budget: int) -> float:
    """The least energy lost by any choice of ranks (or wholes) within the budget."""
    best = math.inf
    for choice in itertools.product(*(range(len(item.energies) + 2) for item in items)):
        wholes = [k > len(item.energies) for k, item in zip(choice, items, strict=True)]
        sizes = [i.whole if w else i.size(k) for k, w, i in zip(choice, wholes, items, strict=True)]
        if sum(sizes) <= budget:
            lost_ = [0.0 if w else i.energies[k:].sum() for k, w, i in zip(choice, wholes, items, strict=True)]
            best = min(best, float(sum(lost_)))
    return best


@pytest.mark.parametrize("seed", range(20))
def test_water_filling_is_within_one_step_of_the_best_choice(seed: int) -> None:
    rng = np.random.default_rng(seed)
    items = []
    for _ in range(3):
        energies, each = np.sort(rng.random(4) ** 3)[::-1], int(rng.integers(1, 6))
        items.append(Item(energies, lambda k, each=each: k * each, int(rng.integers(4 * each - 3, 6 * each))))
    for budget in range(0, sum(i.whole for i in items) + 1, 3):
        counts = water_filling(items, budget)
        used = sum(i.whole if k is None else i.size(k) for k, i in zip(counts, items, strict=True))
        left = sum(0.0 if k is None else i.energies[k:].sum() for k, i in zip(counts, items, strict=True))
        assert used <= budget
        assert brute(items, budget) <= left + 1e-12
        # The greedy choice is optimal for what it spends plus the step that did not fit.
        assert left <= brute(items, max(0, budget - max(i.whole for i in items))) + 1e-12
    assert water_filling(items, sum(i.whole for i in items)) == [None] * 3 or left == pytest.approx(0.0)


def test_kept_counts_from_the_largest() -> None:
    energies = np.array([4.0, 3.0, 2.0, 1.0])
    assert [kept(energies, share) for share in (0.1, 0.4, 0.41, 0.7, 0.9, 0.91, 1.0)] == [1, 1, 2, 2, 3, 4, 4]
    assert kept(np.array([4.0, 0.0]), 1.0) == 1
    assert kept(np.zeros(3), 0.5) == kept(np.zeros(0), 0.5) == 0


@pytest.mark.parametrize("shape", [(40, 30), (30, 40), (5000, 7), (3, 3)])
def test_spectra_from_gram_matrices_are_those_of_the_svd(shape: tuple[int, int]) -> None:
    x = normal(*shape, seed=3).float()
    torch.testing.assert_close(spectrum(x), torch.linalg.svdvals(x.double()), rtol=1e-12, atol=0)
    one = torch.outer(normal(20, seed=1), normal(30, seed=2)).float()
    assert int((spectrum(one) > 0).sum()) <= 1 + 20 // 4  # float32 rounding of the product has some rank
    assert not spectrum(torch.zeros(4, 6)).any()


# --- arithmetic on factors ---


def test_products_are_recompressed_without_their_matrix() -> None:
    left, right = normal(200, 12, seed=1), normal(12, 150, seed=2)
    whole = torch.linalg.svdvals(left @ right)
    for k in (0, 1, 5, 12, 40, None):
        found = products.recompressed(left, right, k)
        assert found.rank == min(12, 12 if k is None else k)
        torch.testing.assert_close(found.s, whole[: found.rank], rtol=1e-12, atol=1e-12)
        rest = torch.linalg.matrix_norm(left @ right - found.matrix())
        torch.testing.assert_close(rest, whole[found.rank :].square().sum().sqrt(), rtol=1e-9, atol=1e-11)
    assert products.norm(left, right) == pytest.approx(float(whole.norm()), rel=1e-13)
    assert products.norm(torch.cat([left, -left], 1), torch.cat([right, right])) < 1e-11 * float(whole.norm())
    wide = products.recompressed(normal(5, 40, seed=3), normal(40, 6, seed=4))
    torch.testing.assert_close(wide.matrix(), normal(5, 40, seed=3) @ normal(40, 6, seed=4))
    with pytest.raises(errors.ParameterError, match="rank=151: a matrix 200 x 150 has 150 triplets"):
        products.recompressed(left, right, 151)


@pytest.mark.parametrize("dtype", ["fp32", "int8"])
@pytest.mark.parametrize("options", [{"density": 0.125}, {"energy": 0.9}, {"budget": "15%"}])
def test_a_sum_of_factored_vectors_is_recompressed_from_its_factors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], dtype: str
) -> None:
    """No dense matrix: neither is the product read, nor any SVD larger than the sum of the ranks taken."""
    shapes = {n: s for n, s in SHAPES.items() if len(s) == 2}
    a = saved(tmp_path, vector_of(deltas(shapes)), "a", density=0.1)
    b = saved(tmp_path, vector_of({n: t.flip(0) for n, t in deltas(shapes).items()}), "b", density=0.1)
    both = 0.75 * a - 2.0 * b + 0.5 * factored(shapes, rank=1)  # type: ignore[arg-type]
    expected = {n: values(both, n).reshape(shapes[n]) for n in shapes}

    largest, svd = [0], torch.linalg.svd

    def watched(x: torch.Tensor, **kwargs: Any) -> Any:
        largest[0] = max(largest[0], *x.shape)
        return svd(x, **kwargs)

    def refuse(*_: object) -> None:
        raise AssertionError("the product was formed")

    with monkeypatch.context() as patch:
        patch.setattr(torch.linalg, "svd", watched)
        patch.setattr(tv.TaskVector, "values", refuse)
        path = both.save(tmp_path / "sum.tv.safetensors", codec="tsv", dtype=dtype, **options)
    assert largest[0] <= 2 * 6 + 1
    again = tv.TaskVector.open(path)
    for name in shapes:
        s = np.linalg.svd(expected[name], compute_uv=False)
        off = lost(both, again, name)
        assert leaf_of(again).error()[name] * np.linalg.norm(s) == pytest.approx(off, rel=1e-5)
        if dtype == "fp32":
            assert off == pytest.approx(np.linalg.norm(s[max(0, rank(again, name)) :]), rel=1e-5, abs=1e-7)


def test_recompression_states_its_error(tmp_path: Path) -> None:
    vector = vector_of(deltas())
    first = saved(tmp_path, vector, "first", density=0.4)
    second = saved(tmp_path, first, "second", density=0.1)
    direct = saved(tmp_path, vector, "direct", density=0.1)
    for name in ("tall", "square"):
        assert rank(second, name) == rank(direct, name)
        assert np.allclose(values(second, name), values(direct, name), rtol=0, atol=1e-6)
        stated = leaf_of(second).error()[name] * np.linalg.norm(values(first, name))
        assert stated == pytest.approx(lost(first, second, name), rel=1e-5)


def test_factors_are_those_of_the_file_and_add_up(tmp_path: Path) -> None:
    again = saved(tmp_path, vector_of(deltas()), dtype="bf16")
    found = again.factors("tall")
    assert found is not None
    assert found.right.shape == (5, 40)
    assert again.factors("bias") is None
    three = (again + again + 0.5 * saved(tmp_path, vector_of(deltas()), "w", density=0.25)).factors("tall")
    assert three is not None
    assert three.right.shape == (15, 40)  # two of one leaf are one
    assert np.allclose((found.left @ found.right).reshape(-1), values(again, "tall"), rtol=1e-12, atol=1e-15)


def test_factors_do_not_stay_in_memory(tmp_path: Path) -> None:
    tensors = {f"w{i:02d}": decaying(20, 20, power=1.0, seed=i) for i in range(30)}
    again = saved(tmp_path, vector_of(tensors))
    for name in again.names():
        values(again, name)
    held = [d for d in leaf_of(again)._decoders.values() if getattr(d, "_factors", None) is not None]
    assert 0 < len(held) <= 8


# --- refusals, files, determinism ---


def test_a_value_beyond_float32_is_refused(tmp_path: Path) -> None:
    vector = vector_of({"w": 1e39 * normal(9, 9, seed=1)})
    with pytest.raises(errors.NonFiniteError, match=r"tensor 'w' .* has a value beyond 3e38, which cannot be factored"):
        saved(tmp_path, vector)
    with pytest.raises(errors.NonFiniteError, match="has a singular value beyond 3e38"):
        saved(tmp_path, vector_of({"w": torch.full((40, 40), 2e38, dtype=torch.float64)}))
    bad = factored({"q": (40, 30)}, scale=float("nan"))
    with pytest.raises(errors.NonFiniteError, match="tensor 'q' has NaN or Inf"):
        saved(tmp_path, bad)
    assert list(tmp_path.iterdir()) == []


def test_a_budget_looks_at_nothing_when_the_destination_exists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vector = vector_of(deltas())
    saved(tmp_path, vector)
    monkeypatch.setattr(tv.TaskVector, "values", lambda *_: pytest.fail("a tensor was read"))
    with pytest.raises(errors.DestinationError, match="exists already"):
        vector.save(tmp_path / "v.tv.safetensors", codec="tsv", budget="20%")


def test_an_interrupted_budget_goes_on_and_writes_the_same_bytes(tmp_path: Path) -> None:
    tensors = {n: t.float() for n, t in deltas().items()}
    base = {n: torch.zeros_like(t) for n, t in tensors.items()}
    save_file(base, tmp_path / "base.safetensors")
    save_file(tensors, tmp_path / "tuned.safetensors")
    vector = tv.Checkpoint.open(tmp_path / "tuned.safetensors") - tv.Checkpoint.open(tmp_path / "base.safetensors")
    whole = vector.save(tmp_path / "whole.tv.safetensors", codec="tsv", budget="20%", threads=1)

    def stop(_step: str, done: int, total: int) -> None:
        if done > total / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        vector.save(tmp_path / "cut.tv.safetensors", codec="tsv", budget="20%", threads=1, progress=stop)
    assert (tmp_path / ".cut.tv.safetensors.partial").exists()
    again = vector.save(tmp_path / "cut.tv.safetensors", codec="tsv", budget="20%", threads=2)
    assert again.read_bytes() == whole.read_bytes()


def test_the_header_is_no_larger_than_it_must_be_where_the_density_decides(tmp_path: Path) -> None:
    path = vector_of(deltas()).save(tmp_path / "v.tv.safetensors", codec="tsv")
    size = int.from_bytes(path.read_bytes()[:8], "little")
    text = path.read_bytes()[8 : 8 + size]
    assert size - len(text.rstrip()) < 64 * len(SHAPES)


def test_a_store_keeps_tsv_vectors_with_their_error(tmp_path: Path) -> None:
    base = tv.Checkpoint.from_tensors({n: torch.zeros(s) for n, s in SHAPES.items()})
    tuned = tv.Checkpoint.from_tensors({n: t.float() for n, t in deltas().items()})
    store = tv.Store.create(tmp_path / "store", base=base)
    store.add("math", tuned, codec="tsv", density=0.125)
    (row,) = store.size().vectors
    assert row.codec == "tsv"
    assert row.error == pytest.approx(max(leaf_of(store["math"]).error().values()))
    assert row.of_float32 < 0.5
    assert store.verify().ok
    assert torch.allclose((base + store["math"])["bias"], tuned["bias"])


# --- the routes of the decomposition, which begin beyond 64 rows and columns ---


@pytest.mark.parametrize("power", [0.6, 1.5])
@pytest.mark.parametrize("shape", [(160, 120), (100, 300)])
def test_a_density_keeps_a_certain_share_of_what_the_best_triplets_keep(
    tmp_path: Path, power: float, shape: tuple[int, int]
) -> None:
    vector = vector_of({"w": decaying(*shape, power=power, seed=5).float()})
    squares = torch.linalg.svdvals(vector["w"].double()).square()
    k = min(shape) // 8
    best, whole = float(squares[:k].sum()), float(squares.sum())
    found = {e: saved(tmp_path, vector, f"{e}", density=0.125, exact=e) for e in (False, True)}
    for exact, share in ((False, 0.999), (True, 1.0 - 1e-9)):
        kept_ = whole - lost(vector, found[exact], "w") ** 2
        assert best * (1.0 + 1e-6) >= kept_ >= share * best
        assert nbytes(found[exact], "w") == k * (sum(shape) + 1) * 4
        stated = leaf_of(found[exact]).error()["w"] * math.sqrt(whole)
        assert stated == pytest.approx(lost(vector, found[exact], "w"), rel=1e-5)


@pytest.mark.parametrize("scale", [1e-34, 1e-31, 1.0, 1e37])
def test_float32_deltas_of_any_magnitude_are_decomposed(tmp_path: Path, scale: float) -> None:
    tensors = {"w": (decaying(90, 80, power=1.0, seed=7) * scale).float()}
    again = saved(tmp_path, vector_of(tensors), density=0.25)
    exact = tensors["w"].double()
    dropped = math.sqrt(float(torch.linalg.svdvals(exact)[20:].square().sum()))
    norm = float(exact.norm())
    assert lost(vector_of(tensors), again, "w") == pytest.approx(dropped, rel=1e-4, abs=1e-6 * norm)
    assert leaf_of(again).error()["w"] == pytest.approx(lost(vector_of(tensors), again, "w") / norm, rel=1e-4)


def test_the_same_bytes_on_any_number_of_threads(tmp_path: Path) -> None:
    vector = vector_of({f"{i}": decaying(200, 130, power=p, seed=i).float() for i, p in enumerate((0.4, 1.0, 2.0))})
    one, three = (
        vector.save(tmp_path / f"{threads}.tv.safetensors", codec="tsv", threads=threads).read_bytes()
        for threads in (1, 3)
    )
    assert one == three
