"""The laws of the algebra: bit for bit where they are exact, within 4 ulp of the largest operand elsewhere."""

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models import FLOATS, CountingSource, Tensors, finite_bits, model, names, points, raw, same, seeds, shapes, specs
from taskvec.checkpoint.checkpoint import Checkpoint
from taskvec.delta import BLOCK
from taskvec.vector import TaskVector

SCALARS = st.floats(min_value=-4, max_value=4) | st.sampled_from([0.0, 1.0, -1.0, 0.1])
# Every dtype with itself, and the mixed pairs that occur: float8 weights of a bf16 model, a bf16 base tuned in float32.
PAIRS = [(d, d) for d in FLOATS] + [
    (torch.bfloat16, torch.float32),
    (torch.float32, torch.bfloat16),
    (torch.float16, torch.float32),
    (torch.float64, torch.float32),
    (torch.float8_e4m3fn, torch.bfloat16),
    (torch.bfloat16, torch.float8_e4m3fnuz),
]
paired = st.dictionaries(names, st.tuples(shapes, st.sampled_from(PAIRS)), min_size=1, max_size=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def values(vector: TaskVector) -> dict[str, np.ndarray]:
    return {name: vector.values(name, 0, spec.numel) for name, spec in vector.specs.items()}


def equal(a: TaskVector, b: TaskVector) -> bool:
    """Equal names and equal float64 values in every bit."""
    mine, theirs = values(a), values(b)
    return mine.keys() == theirs.keys() and all(x.tobytes() == theirs[n].tobytes() for n, x in mine.items())


def close(a: TaskVector, b: TaskVector, *operands: TaskVector) -> bool:
    """Equal within 4 ulp of the largest operand, entry by entry."""
    mine, theirs, parts = values(a), values(b), [values(o) for o in operands]
    largest = {n: np.max([np.abs(p[n]) for p in parts], axis=0) for n in mine}
    return all((np.abs(mine[n] - theirs[n]) <= 4 * np.spacing(largest[n])).all() for n in mine)


def three_vectors(folder: Path, specs, seed: int, make=None) -> list[list[TaskVector]]:
    """Three task vectors of one base: cut in memory, and cut from files."""
    models = [model(specs, seed + i, *([make] if make else [])) for i in range(4)]
    return [[tuned - base for tuned in rest] for base, *rest in points(folder, *models)]


# --- the vector space ------------------------------------------------------------------------------------------------


@given(specs, seeds)
def test_a_sum_of_two_does_not_depend_on_their_order_in_any_bit(folder, specs, seed):
    for a, b, _ in three_vectors(folder, specs, seed, finite_bits):
        assert equal(a + b, b + a)
        assert equal(a - b, -b + a)


@given(specs, seeds)
def test_the_opposite_of_the_opposite_is_the_vector_itself(folder, specs, seed):
    for a, b, _ in three_vectors(folder, specs, seed, finite_bits):
        opposite = -a
        assert (-opposite).terms == a.terms
        opposite = -(a + b)
        assert equal(-opposite, a + b)
        assert equal(-a, -1 * a)


@given(specs, seeds)
def test_zero_times_a_vector_is_zero_and_moves_no_bit(folder, specs, seed):
    models = [model(specs, seed + i, finite_bits) for i in range(2)]
    for base, tuned in points(folder, *models):
        zero = 0 * (tuned - base)
        assert all(not x.any() for x in values(zero).values())
        assert all(same((base + zero)[n], models[0][n]) for n in specs)


@given(specs, seeds)
def test_what_is_added_and_taken_away_again_leaves_the_vector_exactly(folder, specs, seed):
    models = [model(specs, seed + i, finite_bits) for i in range(3)]
    for base, one, two in points(folder, *models):
        a, b = one - base, two - base
        for back in ((a + b) - b, (b + a) - b, 2 * a - a, a / 4 * 4, (a - b) + b):
            assert equal(back, a)
            assert all(same((base + back)[n], models[1][n]) for n in specs)


@given(specs, seeds)
def test_addition_is_associative_within_4_ulp(folder, specs, seed):
    for a, b, c in three_vectors(folder, specs, seed):
        assert equal((a + b) + c, a + (b + c))
        assert close((b + a) + c, c + (a + b), a, b, c)
        assert close(b + (c + a), a + b + c, a, b, c)


@given(specs, seeds, SCALARS, SCALARS)
def test_multiplication_distributes_within_4_ulp(folder, specs, seed, s, t):
    for a, b, _ in three_vectors(folder, specs, seed):
        assert close(s * (a + b), s * a + s * b, s * a, s * b)
        assert close((s + t) * a, s * a + t * a, s * a, t * a)
        assert close((s * t) * a, s * (t * a), s * (t * a))


@given(specs, seeds)
def test_one_is_neutral_and_division_undoes_multiplication_by_powers_of_two(folder, specs, seed):
    for a, b, _ in three_vectors(folder, specs, seed):
        assert (1 * a).terms == a.terms
        assert equal((a + b) * 8 / 8, a + b)
        assert equal(a / 2, 0.5 * a)


@given(specs, seeds)
def test_the_sum_of_a_list_is_the_sum_from_the_left(folder, specs, seed):
    for a, b, c in three_vectors(folder, specs, seed):
        assert sum([a, b, c]).terms == (a + b + c).terms


@pytest.mark.parametrize("scale", [2, 2.0, np.float32(2), np.int64(2), np.array(2.0), torch.tensor(2.0)], ids=repr)
def test_a_scale_may_be_any_real_number(scale):
    a = TaskVector.from_tensors({"w": torch.tensor([1.0, -3.0])})
    assert (scale * a).terms == (a * scale).terms == (2 * a).terms
    assert (a / scale).terms == (a / 2).terms


# --- points and displacements ----------------------------------------------------------------------------------------


@given(paired, seeds)
def test_base_plus_tuned_minus_base_is_tuned_bit_for_bit_in_its_own_dtypes(folder, paired, seed):
    base_specs = {n: (shape, before) for n, (shape, (before, _)) in paired.items()}
    tuned_specs = {n: (shape, after) for n, (shape, (_, after)) in paired.items()}
    models = [model(base_specs, seed, finite_bits), model(tuned_specs, seed + 1, finite_bits)]
    for base, tuned in points(folder, *models):
        again = base + (tuned - base)
        assert again.names() == base.names()
        assert all(same(again[n], models[1][n]) for n in paired)


SPECIAL = {
    "negative zeros": ([0.0, -0.0, 1.0, -0.0], [-0.0, 0.0, -0.0, -0.0]),
    "subnormals": ([1e-40, -1e-45, 1.0, 0.0], [1e-45, 1e-40, -1e-41, -1e-45]),
    "ratios of 2^50": ([2.0**50, 1.0, -(2.0**50), 3.0], [1.0, 2.0**50, 1.0 + 2.0**-7, 3 * 2.0**-50]),
    "opposed extremes": ([3e38, -3e38, 3.3e38, 0.0], [-3e38, 3e38, -3.3e38, 3e38]),
}


@pytest.mark.parametrize("pair", [(torch.float32, torch.float32), (torch.bfloat16, torch.bfloat16), PAIRS[8]], ids=str)
@pytest.mark.parametrize("case", SPECIAL)
def test_extreme_numbers_come_back_bit_for_bit(case, pair):
    before, after = (torch.tensor(x, dtype=d) for x, d in zip(SPECIAL[case], pair, strict=True))
    base, tuned = Checkpoint.from_tensors({"w": before}), Checkpoint.from_tensors({"w": after})
    assert same((base + (tuned - base))["w"], after)
    assert same((base + 0 * (tuned - base))["w"], before)


@given(paired, seeds)
def test_a_bit_of_arithmetic_gives_the_dtypes_of_the_base(folder, paired, seed):
    base_specs = {n: (shape, before) for n, (shape, (before, _)) in paired.items()}
    tuned_specs = {n: (shape, after) for n, (shape, (_, after)) in paired.items()}
    base, tuned = points(folder, model(base_specs, seed), model(tuned_specs, seed + 1))[0]
    half = base + 0.5 * (tuned - base)
    assert {n: s.dtype for n, s in half.specs.items()} == {n: s.dtype for n, s in base.specs.items()}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_an_edit_is_summed_in_float64_and_rounded_once(dtype):
    models = [model({"w": ((50,), dtype)}, i) for i in range(3)]
    base, one, two = (Checkpoint.from_tensors(m) for m in models)
    exact = [m["w"].double() for m in models]
    expected = exact[0] + (0.3 * (exact[1] - exact[0]) + -0.7 * (exact[2] - exact[0]))
    found = (base + 0.3 * (one - base) - 0.7 * (two - base))["w"]
    assert found.dtype == dtype
    assert torch.equal(found, _rounded(expected, dtype))


def _rounded(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Float64 to nearest-even in one step: numpy knows all but bfloat16, whose candidates are compared exactly."""
    if dtype != torch.bfloat16:
        kind = {torch.float64: np.float64, torch.float32: np.float32, torch.float16: np.float16}[dtype]
        return torch.from_numpy(x.numpy().astype(kind))
    near = x.to(dtype)
    step = torch.tensor([-1, 0, 1], dtype=torch.int16)
    around = (near.view(torch.int16)[:, None] + step).view(dtype)
    best = (around.double() - x[:, None]).abs().argmin(dim=1)
    return around[torch.arange(len(x)), best]


@given(specs, seeds)
def test_a_displaced_point_minus_the_point_is_the_displacement(folder, specs, seed):
    models = [model(specs, seed + i) for i in range(3)]
    for base, one, two in points(folder, *models):
        v = one - base - 0.3 * (two - base)
        assert ((base + v) - base).terms == v.terms
        assert ((base - v) - base).terms == (-v).terms


@given(paired, seeds)
def test_displacing_twice_is_displacing_by_the_sum(folder, paired, seed):
    base_specs = {n: (shape, before) for n, (shape, (before, _)) in paired.items()}
    tuned_specs = {n: (shape, after) for n, (shape, (_, after)) in paired.items()}
    base, one, two = points(folder, *(model(s, seed + i) for i, s in enumerate((base_specs, tuned_specs, base_specs))))[
        1
    ]
    a, b = one - base, two - base
    stepwise, at_once = base + a - 0.5 * b, base + (a - 0.5 * b)
    assert stepwise.specs == at_once.specs == base.specs
    assert all(_same_or_refused(stepwise, at_once, n) for n in base.names())


def _same_or_refused(a: Checkpoint, b: Checkpoint, name: str) -> bool:
    """Float8 formats may overflow: then both refuse."""
    found = []
    for point in (a, b):
        try:
            found.append(raw(point[name]))
        except ValueError as error:
            found.append(str(error).split(":")[0].encode())
    return found[0] == found[1]


@given(specs, seeds)
def test_what_is_cut_from_an_edited_point_leads_from_that_point(folder, specs, seed):
    models = [model(specs, seed + i, finite_bits) for i in range(3)]
    for base, one, two in points(folder, *models):
        edited = base + (one - base)
        again = edited + (two - edited)
        assert all(same(again[n], models[2][n]) for n in specs)


def test_a_vector_saved_from_an_edited_point_applies_to_that_point(tmp_path):
    base, one, two = (Checkpoint.from_tensors(model({"w": ((9,), torch.float32)}, i)) for i in range(3))
    edited = base + (one - base)
    (two - edited).save(tmp_path / "v.tv.safetensors")
    again = edited + TaskVector.open(tmp_path / "v.tv.safetensors")
    assert same(again["w"], two["w"])


def test_an_analogy_with_equal_ends_returns_the_third_vector_exactly():
    base, one, two = (Checkpoint.from_tensors(model({"w": ((9,), torch.float32)}, i)) for i in range(3))
    a, c = one - base, two - base
    assert same((base + (c + (a - a)))["w"], two["w"])
    assert same((base + (a + (c - a)))["w"], two["w"])


def test_integers_stay_and_a_vector_may_move_some_tensors_only():
    tensors = {"w": torch.tensor([1.0, -0.0]), "n": torch.arange(3), "u": torch.ones(2, dtype=torch.bfloat16)}
    base = Checkpoint.from_tensors(tensors)
    moved = base + TaskVector.from_tensors({"w": torch.tensor([0.5, 0.0])}, base=base)
    assert moved["w"].tolist() == [1.5, 0.0]
    assert math.copysign(1, moved["w"][1]) == -1
    assert same(moved["n"], tensors["n"])
    assert same(moved["u"], tensors["u"])


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_another_output_dtype_rounds_the_tuned_model_and_keeps_the_signs_of_zeros(dtype, tmp_path):
    before = torch.tensor([-0.0, 1.0, 2.0**50, -0.0], dtype=torch.bfloat16)
    after = torch.tensor([-0.0, -0.0, 1.0, 1e-40], dtype=torch.bfloat16)
    base, tuned = (Checkpoint.from_tensors({"w": x}) for x in (before, after))
    (base + (tuned - base)).save(tmp_path / "tuned.safetensors", dtype=dtype)
    (base + 0 * (tuned - base)).save(tmp_path / "base.safetensors", dtype=dtype)
    target = getattr(torch, dtype)
    assert same(Checkpoint.open(tmp_path / "tuned.safetensors")["w"], after.to(target))
    assert same(Checkpoint.open(tmp_path / "base.safetensors")["w"], before.to(target))


# --- inner products --------------------------------------------------------------------------------------------------


def flat(tensors: Tensors, base: Tensors) -> np.ndarray:
    return np.concatenate([(tensors[n].double() - base[n].double()).flatten().numpy() for n in base])


@given(specs, seeds)
def test_inner_products_and_norms_are_those_of_float64(folder, specs, seed):
    models = [model(specs, seed + i) for i in range(3)]
    x, y = (flat(m, models[0]) for m in models[1:])
    for base, one, two in points(folder, *models):
        a, b = one - base, two - base
        bound = 1e-13 * np.linalg.norm(x) * np.linalg.norm(y)
        assert abs(a.dot(b) - float(x @ y)) <= bound
        assert a.dot(b) == b.dot(a)
        assert a.norm() == pytest.approx(float(np.linalg.norm(x)), rel=1e-13)
        assert (a - a).norm() == 0.0
        assert (-2 * a).norm() == 2 * a.norm()


def test_inner_products_do_not_depend_on_the_order_or_the_files_of_the_tensors(tmp_path):
    sizes = {"a": 3 * BLOCK + 17, "b": BLOCK, "c": 5, "d": 2 * BLOCK + 1}
    one, two = (model({n: ((s,), torch.float32) for n, s in sizes.items()}, i) for i in range(2))
    a, b = TaskVector.from_tensors(one), TaskVector.from_tensors(two)
    for order in ("dcba", "bdac"):
        shuffled = [TaskVector.from_tensors({n: t[n] for n in order}) for t in (one, two)]
        assert shuffled[0].dot(shuffled[1]) == a.dot(b)
        assert shuffled[0].norm() == a.norm()
    zeros = {n: torch.zeros_like(t) for n, t in one.items()}
    for i, tensors in enumerate((zeros, one, two)):
        Checkpoint.from_tensors(tensors).save(tmp_path / str(i), shard_size=4 * BLOCK)
    base, *tuned = (Checkpoint.open(tmp_path / str(i)) for i in range(3))
    assert (tuned[0] - base).dot(tuned[1] - base) == a.dot(b)


def test_deltas_of_1e_minus_30_have_a_norm_and_opposed_extremes_too():
    tiny = TaskVector.from_tensors({"w": torch.full((4,), 1e-30)})
    assert tiny.norm() == pytest.approx(2e-30, rel=1e-6)
    base, tuned = (Checkpoint.from_tensors({"w": torch.tensor([x])}) for x in (-3e38, 3e38))
    assert (tuned - base).norm() == pytest.approx(6e38, rel=1e-6)


@given(seeds, st.integers(1, 5000), st.integers(1, 3000))
def test_values_do_not_depend_on_the_ranges_they_are_read_in(seed, n, step):
    base, one, two = (Checkpoint.from_tensors(model({"w": ((n,), torch.float32)}, seed + i)) for i in range(3))
    v = 0.3 * (one - base) - (two - base)
    parts = [v.values("w", i, min(i + step, n)) for i in range(0, n, step)]
    assert np.concatenate(parts).tobytes() == v.values("w", 0, n).tobytes()
    cut = [(base + v).source.bits("w", i, min(i + step, n)) for i in range(0, n, step)]
    assert np.concatenate(cut).tobytes() == (base + v).source.bits("w", 0, n).tobytes()


# --- laziness --------------------------------------------------------------------------------------------------------


def counting(n: int = 3) -> tuple[list[CountingSource], list[Checkpoint]]:
    layout = {"a": ((70_000,), torch.float32), "b": ((4, 5), torch.bfloat16)}
    sources = [CountingSource(model(layout, i) | {"n": torch.arange(4)}) for i in range(n)]
    return sources, [Checkpoint(s) for s in sources]


def test_arithmetic_reads_nothing():
    sources, (base, one, two) = counting()
    v = 0.3 * (one - base) - (two - base) / 2
    edited = base + v - (one - base)
    repr(v), repr(edited), v.names(), edited.specs, v.describe(), copy.copy(v.terms), (edited - base).terms
    assert [dict(s.read) for s in sources] == [{}, {}, {}]


def test_a_tensor_of_an_edited_point_reads_that_tensor_only():
    sources, (base, one, two) = counting()
    edited = base + 0.3 * (one - base) - 0.1 * (two - base)
    edited["b"]
    assert [set(s.read) for s in sources] == [{"b"}, {"b"}, {"b"}]


def test_a_range_of_an_edited_tensor_reads_that_range_only():
    sources, (base, one, _) = counting()
    (base + 0.3 * (one - base)).source.bits("a", 100, 110)
    assert sources[0].read["a"] <= 20
    assert sources[1].read["a"] == 10


def test_a_leaf_that_cancelled_or_is_scaled_by_zero_is_not_read():
    sources, (base, one, two) = counting()
    a, b = one - base, two - base
    (base + (a + b - b))["a"]
    (base + (a + 0 * b))["a"]
    (0 * b).dot(a)
    assert set(sources[1].read) == {"a"}
    assert not sources[2].read


def test_an_inner_product_reads_every_moving_entry_once_and_no_integer():
    sources, (base, one, two) = counting()
    (one - base).dot(two - base)
    assert sources[1].read == sources[2].read == {"a": 70_000, "b": 20}
    assert sources[0].read == {"a": 140_000, "b": 40}
