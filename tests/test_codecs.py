from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch

import taskvec as tv
from taskvec import errors
from taskvec.codecs._codec import make
from taskvec.codecs._file import FileDelta
from taskvec.ops.hashing import hash_of
from vector_cases import DELTAS, FLOATS, checkpoints, dtype, factored, normal, pair, partials, same_bits

LOSSY: dict[str, dict[str, Any]] = {
    "int8": {},
    "int8/16": {"codec": "int8", "group": 16},
    "int4": {},
    "int4/1024": {"codec": "int4", "group": 1024},
    "sparse": {},
    "sparse/all": {"codec": "sparse", "density": 1.0},
    "sparse/bf16": {"codec": "sparse", "density": 0.3, "dtype": "bfloat16"},
    "sparse/threshold": {"codec": "sparse", "threshold": 0.05},
    "dense/bf16": {"codec": "dense", "dtype": "bf16"},
    "dense/f64": {"codec": "dense", "dtype": "float64"},
    "tsv": {"density": 0.4},
    "tsv/bf16": {"codec": "tsv", "density": 0.4, "dtype": "bf16"},
    "tsv/int8": {"codec": "tsv", "density": 0.4, "dtype": "int8", "other": "int8"},
    "tsv/energy": {"codec": "tsv", "energy": 0.8, "dtype": "float16"},
    "tsv/budget": {"codec": "tsv", "budget": "60%", "dtype": "int8", "other": "int8"},
    "tsv/convolutions": {"codec": "tsv", "energy": 0.5, "convolutions": "matrix"},
}
CASES = {"dense": {}, **LOSSY}


def options(case: str) -> dict[str, Any]:
    return {"codec": case, **CASES[case]}


def saved(tmp_path: Path, vector: tv.TaskVector, name: str = "v", **kwargs: Any) -> tv.TaskVector:
    return tv.TaskVector.open(vector.save(tmp_path / f"{name}.tv.safetensors", force=True, **kwargs))


def leaf_of(vector: tv.TaskVector) -> FileDelta:
    leaf = vector.single()
    assert isinstance(leaf, FileDelta)
    return leaf


def values(vector: tv.TaskVector, name: str) -> np.ndarray[Any, Any]:
    return vector.values(name, 0, vector.specs[name].numel)


def test_every_registered_codec_is_held_to_this_suite() -> None:
    assert {options(c)["codec"] for c in CASES} | {"lora"} == set(tv.codecs.names())


# --- exactness ---


@pytest.mark.parametrize("tuned_code", FLOATS)
@pytest.mark.parametrize("base_code", FLOATS)
def test_dense_restores_every_bit_between_any_two_dtypes(tmp_path: Path, base_code: str, tuned_code: str) -> None:
    deltas = {n: d for n, d in DELTAS.items() if n not in ("dominant", "blocks")}
    base_tensors, _ = pair(deltas, base_code)
    tuned_tensors = {
        n: t if n == "steps" else (t.double() + deltas[n]()).to(dtype(tuned_code)) for n, t in base_tensors.items()
    }
    base, tuned = tv.Checkpoint.from_tensors(base_tensors), tv.Checkpoint.from_tensors(tuned_tensors)
    again = base + saved(tmp_path, tuned - base)
    assert all(same_bits(again[n], t) for n, t in tuned_tensors.items())


HARD = {
    "BF16": [(0.0, -0.0), (-0.0, 0.0), (1.0, 2.0**-50), (3e38, -3e38), (-3e38, 3e38), (1e-39, -3e-39), (1.0, 1e-40)],
    "F32": [(0.0, -0.0), (1.0, 2.0**-50), (3e38, -3e38), (1e-45, -1e-45), (1.0, 1e-42), (-0.0, -0.0), (2.0**-50, 1.0)],
    "F16": [(0.0, -0.0), (65504, -65504), (6e-8, -6e-8), (1024.0, 6e-8), (-0.0, 0.0)],
    "F64": [(0.0, -0.0), (1.7e308, -1.7e308), (5e-324, -5e-324), (1.0, 2.0**-600), (1e300, 1e-300)],
}  # fmt: skip


@pytest.mark.parametrize("code", HARD)
def test_dense_restores_the_values_that_no_float_difference_restores(tmp_path: Path, code: str) -> None:
    rows = torch.tensor(HARD[code], dtype=torch.float64)
    base = {"w": rows[:, 0].to(dtype(code)), "pad": normal(64, 64, seed=1).to(dtype(code))}
    tuned = {"w": rows[:, 1].to(dtype(code)), "pad": base["pad"] * 1.01}
    point = tv.Checkpoint.from_tensors(base)
    again = point + saved(tmp_path, tv.Checkpoint.from_tensors(tuned) - point)
    assert all(same_bits(again[n], tuned[n]) for n in tuned)


def test_every_bit_pattern_of_bf16_is_restored(tmp_path: Path) -> None:
    patterns = np.arange(1 << 16, dtype=np.uint16)
    finite = patterns[(patterns & 0x7F80) != 0x7F80]
    shuffled = np.random.default_rng(0).permutation(finite)
    base, tuned = (torch.from_numpy(p.copy()).view(torch.bfloat16) for p in (finite, shuffled))
    point = tv.Checkpoint.from_tensors({"w": base})
    vector = saved(tmp_path, tv.Checkpoint.from_tensors({"w": tuned}) - point)
    assert same_bits((point + vector)["w"], tuned)
    assert leaf_of(vector).parts["w"].roles() == {"delta", "positions", "values"}


def test_only_exact_dense_files_claim_exactness(tmp_path: Path) -> None:
    base, tuned = checkpoints()
    for case in CASES:
        written = leaf_of(saved(tmp_path, tuned - base, **options(case)))
        assert written.exact == (case == "dense") == make(**spread(case)).exact
    assert not leaf_of(saved(tmp_path, 2.0 * (tuned - base))).exact


def spread(case: str) -> dict[str, Any]:
    given = options(case)
    return {"name": given.pop("codec"), "parameters": given}


def test_sums_are_stored_without_loss(tmp_path: Path) -> None:
    base, tuned = checkpoints("BF16")
    vector = 0.3 * (tuned - base)
    again = saved(tmp_path, vector)
    assert all(np.array_equal(values(again, n), values(vector, n)) for n in vector.names())
    parts = leaf_of(saved(tmp_path, -(tuned - base))).parts
    assert parts["tiny"].part_spec("delta").dtype.code == "BF16"  # over a base of 0
    assert parts["row"].part_spec("delta").dtype.code == "F32"


def test_nonfinite_values_are_kept_only_when_asked_for(tmp_path: Path) -> None:
    base = torch.ones(4, 4)
    tuned = base + 1
    tuned[1, 2], tuned[3, 3] = float("nan"), float("-inf")
    point = tv.Checkpoint.from_tensors({"w": base})
    vector = saved(tmp_path, tv.Checkpoint.from_tensors({"w": tuned}) - point, allow_nonfinite=True)
    (point + vector).save(tmp_path / "out.safetensors", allow_nonfinite=True)
    assert same_bits(tv.Checkpoint.open(tmp_path / "out.safetensors")["w"], tuned)


# --- the lossy ones ---


@pytest.mark.parametrize("case", LOSSY)
@pytest.mark.parametrize("code", ["F64", "F32", "BF16", "F16"])
def test_the_stated_error_is_the_measured_one(tmp_path: Path, case: str, code: str) -> None:
    base, tuned = checkpoints(code)
    if code == "F16":  # 1e6 is Inf there
        base_tensors, tuned_tensors = pair({n: d for n, d in DELTAS.items() if n != "dominant"}, code)
        base, tuned = tv.Checkpoint.from_tensors(base_tensors), tv.Checkpoint.from_tensors(tuned_tensors)
    vector = tuned - base
    again = saved(tmp_path, vector, **options(case))
    for name, stated in leaf_of(again).error().items():
        delta, decoded = values(vector, name), values(again, name)
        scale = np.max(np.abs(delta), initial=0.0) or 1.0
        lost, norm = (float(np.linalg.norm(x / scale)) for x in (decoded - delta, delta))
        assert stated == pytest.approx(lost / norm if norm else 0.0, rel=1e-5, abs=1e-12), name


@pytest.mark.parametrize("case", CASES)
def test_deltas_of_zero_come_back_as_zero(tmp_path: Path, case: str) -> None:
    base, tuned = checkpoints()
    again = saved(tmp_path, tuned - base, **options(case))
    assert not values(again, "zero").any()
    assert again["empty"].shape == (0, 4)
    assert again["scalar"].shape == ()


@pytest.mark.parametrize(("case", "limit", "group"), [("int8", 127, 128), ("int4", 7, 32), ("int8/16", 127, 16)])
def test_a_quantised_entry_is_off_by_half_a_step_of_its_group(
    tmp_path: Path, case: str, limit: int, group: int
) -> None:
    base, tuned = checkpoints()
    vector = tuned - base
    again = saved(tmp_path, vector, **options(case))
    for name in vector.names():
        delta, decoded = values(vector, name), values(again, name)
        for start in range(0, delta.size, group):
            one = slice(start, start + group)
            step = np.max(np.abs(delta[one])) / limit * (1 + 2.0**-7)  # the scale is rounded up to bf16
            assert np.max(np.abs(delta[one] - decoded[one])) <= 0.5 * step * (1 + 1e-12), name


def test_sparse_keeps_the_largest_entries_as_they_are(tmp_path: Path) -> None:
    base, tuned = checkpoints("BF16")
    vector = tuned - base
    again = saved(tmp_path, vector, codec="sparse", density=0.2)
    for name in ("conv", "row", "blocks", "dominant"):
        delta, decoded = values(vector, name), values(again, name)
        largest = np.argsort(-np.abs(delta), kind="stable")[: math.ceil(0.2 * delta.size)]
        expected = np.zeros(delta.size)
        expected[largest] = delta[largest]
        assert np.array_equal(decoded, expected), name


def test_among_equals_sparse_keeps_those_that_come_first(tmp_path: Path) -> None:
    vector = tv.TaskVector.from_tensors({"w": torch.cat([torch.full((70_000,), -0.5), torch.ones(3)])})
    again = values(saved(tmp_path, vector, codec="sparse", density=0.95), "w")
    kept = math.ceil(0.95 * 70_003)
    assert np.array_equal(np.flatnonzero(again), [*range(kept - 3), 70_000, 70_001, 70_002])


def test_a_threshold_keeps_what_is_above_it(tmp_path: Path) -> None:
    base, tuned = checkpoints("BF16")
    vector = tuned - base
    again = saved(tmp_path, vector, codec="sparse", threshold=0.125)
    for name in vector.names():
        delta = values(vector, name)
        assert np.array_equal(values(again, name), np.where(np.abs(delta) > 0.125, delta, 0.0)), name
    everything = saved(tmp_path, vector, codec="sparse", threshold=0)
    assert all(np.allclose(values(everything, n), values(vector, n), rtol=2**-24, atol=0) for n in vector.names())
    nothing = saved(tmp_path, vector, codec="sparse", threshold=3e38)
    assert all(p.kind == "zero" for p in leaf_of(nothing).parts.values())


def test_lora_keeps_products_as_factors_exactly(tmp_path: Path) -> None:
    vector = factored({"q": (40, 30), "v": (6, 50)})
    again = saved(tmp_path, vector, codec="lora")
    total = saved(tmp_path, vector + 0.5 * factored({"q": (40, 30), "v": (6, 50)}, seed=33), "sum", codec="lora")
    for name in vector.names():
        assert np.array_equal(values(again, name), values(vector, name))
        assert leaf_of(again).parts[name].roles() == leaf_of(total).parts[name].roles() == {"a", "b"}
    assert leaf_of(again).base is None
    base, tuned = checkpoints()
    with pytest.raises(errors.ParameterError, match="is not made of factors"):
        (tuned - base).save(tmp_path / "x.tv.safetensors", codec="lora")


def test_nan_in_a_factor_is_refused(tmp_path: Path) -> None:
    vector = 1e308 * factored({"q": (4, 3)}, scale=1e308)
    with pytest.raises(errors.NonFiniteError, match="tensor 'q' has NaN or Inf"), np.errstate(all="ignore"):
        vector.save(tmp_path / "x.tv.safetensors", codec="lora")
    assert list(tmp_path.iterdir()) == []


def part_bytes(vector: tv.TaskVector, name: str) -> int:
    part = leaf_of(vector).parts[name]
    return sum(part.part_spec(role).nbytes for role in part.roles())


def test_sizes_are_as_promised(tmp_path: Path) -> None:
    base, tuned = checkpoints("BF16")
    vector, n = tuned - base, 70_001
    sizes = {case: part_bytes(saved(tmp_path, vector, **options(case)), "blocks") for case in CASES}
    assert sizes["int8"] == n + 2 * math.ceil(n / 128)
    assert sizes["int8/16"] == n + 2 * math.ceil(n / 16)
    assert sizes["int4"] == math.ceil(n / 2) + 2 * math.ceil(n / 32)
    assert sizes["dense/bf16"] == 2 * n
    assert sizes["dense/f64"] == 8 * n
    kept = np.count_nonzero(values(saved(tmp_path, vector, codec="sparse"), "blocks"))
    assert sizes["sparse"] == 8 * kept
    assert kept == math.ceil(0.1 * n)
    assert sizes["dense"] < 2.2 * n  # bf16, and a few patches


def test_exact_dense_takes_the_cheapest_dtype(tmp_path: Path) -> None:
    same = torch.full((100,), 1.0).bfloat16()
    base = tv.Checkpoint.from_tensors({"w": same, "z": same.clone()})
    tuned = tv.Checkpoint.from_tensors({"w": same * 1.5, "z": same.clone()})
    parts = leaf_of(saved(tmp_path, tuned - base)).parts
    assert parts["z"].kind == "zero"
    assert parts["z"].roles() == set()
    assert (parts["w"].part_spec("delta").dtype.code, parts["w"].roles()) == ("BF16", {"delta"})
    far = tv.Checkpoint.from_tensors({"w": -same * 3e38, "z": same})
    high = tv.Checkpoint.from_tensors({"w": same * 3e38, "z": same})
    assert leaf_of(saved(tmp_path, high - far)).parts["w"].part_spec("delta").dtype.code == "F64"


# --- refusals ---


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("where", ["tuned", "base"])
def test_nan_and_inf_are_refused_naming_the_tensor(tmp_path: Path, case: str, bad: float, where: str) -> None:
    tensors = {"base": pair()[0], "tuned": pair()[1]}
    tensors[where]["conv"][1, 2, 0, 1] = bad
    vector = tv.Checkpoint.from_tensors(tensors["tuned"]) - tv.Checkpoint.from_tensors(tensors["base"])
    with pytest.raises(errors.NonFiniteError, match="tensor 'conv'"):
        vector.save(tmp_path / "v.tv.safetensors", **options(case))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("codec", "parameters", "message"),
    [
        ("sparse", {"density": 0}, r"density=0 is outside \(0, 1\]"),
        ("sparse", {"density": 1.5}, r"density=1.5 is outside \(0, 1\]"),
        ("sparse", {"density": True}, r"density=True is outside"),
        ("sparse", {"density": float("nan")}, r"density=nan is outside"),
        ("sparse", {"density": "half"}, r"density='half' is outside"),
        ("sparse", {"density": 0.1, "threshold": 1.0}, "density and threshold exclude each other"),
        ("sparse", {"threshold": -1.0}, "threshold=-1.0 is not a number"),
        ("sparse", {"threshold": "1"}, "threshold='1' is not a number"),
        ("sparse", {"threshold": float("inf")}, "threshold=inf is not a number"),
        ("sparse", {"threshold": 1e39}, "is not a number from 0 to 3e38"),
        ("sparse", {"dtype": "float64"}, "dtype=float64 is not float32, bfloat16 or float16"),
        ("sparse", {"densty": 0.1}, r"codec 'sparse' has no parameter 'densty'\.\nFix: did you mean 'density'\?"),
        ("int8", {"group": 33}, "group=33 is not a power of two from 16 to 65536"),
        ("int8", {"group": 8}, "group=8 is not"),
        ("int4", {"group": 131072}, "group=131072 is not"),
        ("int4", {"group": 32.0}, "group=32.0 is not"),
        ("int4", {"density": 0.5}, "codec 'int4' has no parameter 'density'"),
        ("dense", {"dtype": "int8"}, "is not a floating-point type"),
        ("dense", {"dtype": "float23"}, "unknown dtype 'float23'"),
        ("lora", {"rank": 3}, "codec 'lora' has no parameter 'rank'"),
        ("tsv", {"density": 0}, r"density=0 is outside \(0, 1\]"),
        ("tsv", {"density": 1.01}, r"density=1.01 is outside \(0, 1\]"),
        ("tsv", {"energy": float("nan")}, r"energy=nan is outside \(0, 1\]"),
        ("tsv", {"energy": -0.5}, r"energy=-0.5 is outside \(0, 1\]"),
        ("tsv", {"density": 0.1, "energy": 0.9}, r"density and energy exclude each other\.\nFix: give one"),
        ("tsv", {"density": 0.1, "budget": 10**6}, "density and budget exclude each other"),
        ("tsv", {"energy": 0.1, "budget": "10%"}, "energy and budget exclude each other"),
        ("tsv", {"budget": 0}, "'0' is not a size in bytes"),
        ("tsv", {"budget": float("inf")}, "'inf' is not a size in bytes"),
        ("tsv", {"budget": float("nan")}, "'nan' is not a size in bytes"),
        ("tsv", {"budget": "lots"}, "'lots' is not a size in bytes"),
        ("tsv", {"budget": "0%"}, r"budget='0%' is not a share in \(0%, 100%\]"),
        ("tsv", {"budget": "101%"}, r"budget='101%' is not a share in"),
        ("tsv", {"budget": "x%"}, r"budget='x%' is not a share in"),
        ("tsv", {"budget": True}, "budget=True is not a number of bytes"),
        (
            "tsv",
            {"budget": 100},
            r"budget of 100 bytes does not hold the [0-9,]+ bytes of what is not decomposed\.\nFix:",
        ),
        ("tsv", {"dtype": "float64"}, "dtype='float64' is not one of float32, "),
        ("tsv", {"other": "int4"}, "other='int4' is not one of float32, "),
        ("tsv", {"convolutions": "yes"}, "convolutions='yes' is not one of matrix, other"),
        ("tsv", {"splits": "thirds"}, "no splits named 'thirds'"),
        ("tsv", {"layout": "nowhere.yml"}, "the layout 'nowhere.yml' cannot be read"),
        ("tsv", {"rank": 3}, "codec 'tsv' has no parameter 'rank'"),
    ],
)
def test_bad_parameters_are_refused(tmp_path: Path, codec: str, parameters: dict[str, Any], message: str) -> None:
    base, tuned = checkpoints()
    with pytest.raises(errors.ParameterError, match=message):
        (tuned - base).save(tmp_path / "v.tv.safetensors", codec=codec, **parameters)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_codec_suggests_the_nearest(tmp_path: Path) -> None:
    base, tuned = checkpoints()
    with pytest.raises(errors.UnknownName, match=r"no codec named 'sparce'\.\nFix: did you mean 'sparse'\?"):
        (tuned - base).save(tmp_path / "v.tv.safetensors", codec="sparce")


@pytest.mark.parametrize("threads", [0, -1, 1.5, True, "2"])
def test_a_number_of_threads_is_positive(tmp_path: Path, threads: object) -> None:
    base, tuned = checkpoints()
    with pytest.raises(errors.ParameterError, match="threads="):
        (tuned - base).save(tmp_path / "v.tv.safetensors", threads=threads)
    with pytest.raises(errors.ParameterError, match="threads="):
        tuned.save(tmp_path / "v.safetensors", threads=threads)


def test_a_value_beyond_the_range_of_a_narrow_dtype_is_refused(tmp_path: Path) -> None:
    base, tuned = checkpoints()
    for case in ({"codec": "dense", "dtype": "float16"}, {"codec": "sparse", "dtype": "float16"}):
        with pytest.raises(errors.NonFiniteError, match=r"tensor 'dominant' .*range of F16"):
            (tuned - base).save(tmp_path / "v.tv.safetensors", **case)  # type: ignore[arg-type]


# --- arithmetic and ranges ---


def test_arithmetic_on_any_mix_of_codecs_is_that_of_the_decoded_values(tmp_path: Path) -> None:
    base, tuned = checkpoints()
    shapes = {n: tuple(s.shape) for n, s in (tuned - base).specs.items() if len(s.shape) == 2 and s.numel}
    parts = {c: saved(tmp_path, tuned - base, str(i), **options(c)) for i, c in enumerate(CASES)}
    parts["lora"] = saved(tmp_path, factored(shapes), "lora", codec="lora")  # type: ignore[arg-type]
    coefficients = {c: (-1) ** i * (0.25 + i) for i, c in enumerate(parts)}
    total = sum((coefficients[c] * v for c, v in parts.items()), start=0)
    assert isinstance(total, tv.TaskVector)
    for name in total.names():
        expected = np.zeros(total.specs[name].numel)
        for c, v in parts.items():
            if name in v.specs:
                expected += coefficients[c] * values(v, name)
        assert np.allclose(values(total, name), expected, rtol=1e-14, atol=0), name
        edited = base[name].double().numpy().reshape(-1) + values(total, name)
        assert np.array_equal((base + total)[name].numpy().reshape(-1), edited.astype(np.float32)), name


RANGES = [(0, 1), (1, 2), (1, 18), (15, 17), (31, 33), (127, 129), (33, 3000), (65_535, 65_537), (65_519, 70_001)]


@pytest.mark.parametrize("case", CASES)
def test_any_range_reads_as_the_whole_does(tmp_path: Path, case: str) -> None:
    base, tuned = checkpoints()
    again = saved(tmp_path, tuned - base, **options(case))
    fresh = tv.TaskVector.open(tmp_path / "v.tv.safetensors")
    for name in ("blocks", "conv", "row"):
        whole = values(again, name)
        for start, stop in RANGES:
            if stop <= whole.size:
                assert np.array_equal(fresh.values(name, start, stop), whole[start:stop]), (name, start, stop)


def test_ranges_of_factored_deltas_read_as_the_whole_does(tmp_path: Path) -> None:
    again = saved(tmp_path, factored({"q": (41, 37)}), codec="lora")
    whole = values(again, "q")
    for start, stop in ((0, 1), (5, 6), (36, 38), (37, 74), (11, 1500)):
        assert np.array_equal(again.values("q", start, stop), whole[start:stop])


# --- the file ---


@pytest.mark.parametrize("case", CASES)
def test_the_official_library_reads_every_file(tmp_path: Path, case: str) -> None:
    base, tuned = checkpoints()
    again = saved(tmp_path, tuned - base, **options(case))
    tensors = safetensors.torch.load_file(tmp_path / "v.tv.safetensors")
    with safetensors.safe_open(tmp_path / "v.tv.safetensors", "pt") as file:  # type: ignore[no-untyped-call]
        metadata = file.metadata()
        assert set(file.keys()) == set(tensors)
    assert metadata["taskvec_format"] == "1"
    assert json.loads(metadata["taskvec_codec"]) == make(**spread(case)).describe()
    table = json.loads(metadata["taskvec_tensors"])
    for name, entry in table.items():
        assert entry["shape"] == list(again.specs[name].shape)
        for key, digest in entry["parts"].values():
            raw = tensors[key].contiguous().reshape(-1).view(torch.uint8).numpy()
            assert hash_of(raw) == digest
        if "delta" in entry["parts"]:
            assert np.array_equal(tensors[entry["parts"]["delta"][0]].double().numpy().reshape(-1), values(again, name))
    assert {key for e in table.values() for key, _ in e["parts"].values()} == set(tensors)


def test_the_header_says_where_the_vector_comes_from_and_nothing_of_the_machine(tmp_path: Path) -> None:
    base, tuned = pair()
    safetensors.torch.save_file(base, tmp_path / "base.safetensors")
    safetensors.torch.save_file(tuned, tmp_path / "tuned.safetensors")
    vector = tv.Checkpoint.open(tmp_path / "tuned.safetensors") - tv.Checkpoint.open(tmp_path / "base.safetensors")
    leaf = leaf_of(saved(tmp_path, vector))
    fingerprint = tv.Checkpoint.from_tensors(tuned).fingerprint()
    assert leaf.recipe_of_origin == {
        "terms": [{"coefficient": 1.0, "fingerprint": fingerprint, "tuned": "tuned.safetensors"}]
    }
    assert leaf.base is not None
    assert leaf.base.known() == tv.Checkpoint.from_tensors(base).fingerprint()
    assert set(leaf.base.tensors()) == set(base)
    assert str(tmp_path).encode() not in (tmp_path / "v.tv.safetensors").read_bytes()


@pytest.mark.parametrize("case", CASES)
def test_the_bytes_do_not_depend_on_threads(tmp_path: Path, case: str) -> None:
    base, tuned = checkpoints()
    for threads in (1, 2, 4):
        (tmp_path / f"{threads}").mkdir()
        (tuned - base).save(tmp_path / f"{threads}" / "v", threads=threads, **options(case))
    assert len({p.read_bytes() for p in tmp_path.rglob("v")}) == 1


@pytest.mark.parametrize("case", [*CASES, "lora"])
def test_saving_again_with_the_same_codec_copies_the_parts(tmp_path: Path, case: str) -> None:
    base, tuned = checkpoints()
    vector = factored({"q": (5, 7)}) if case == "lora" else tuned - base
    chosen = {"codec": "lora"} if case == "lora" else options(case)
    first = vector.save(tmp_path / "one.tv.safetensors", **chosen)
    second = tv.TaskVector.open(first).save(tmp_path / "two.tv.safetensors", **chosen)
    a, b = (leaf_of(tv.TaskVector.open(p)) for p in (first, second))
    assert {n: (p.kind, p.exact, p.parts, p.extra) for n, p in a.parts.items()} == {
        n: (p.kind, p.exact, p.parts, p.extra) for n, p in b.parts.items()
    }
    assert a.recipe_of_origin == b.recipe_of_origin
    assert a.base == b.base
    third = tv.TaskVector.open(second).save(tmp_path / "three.tv.safetensors", **chosen)
    assert third.read_bytes() == second.read_bytes()


def test_a_lossy_file_is_stored_densely_without_further_loss(tmp_path: Path) -> None:
    base, tuned = checkpoints()
    lossy = saved(tmp_path, tuned - base, "lossy", codec="int4")
    again = saved(tmp_path, lossy, "dense")
    assert all(np.array_equal(values(again, n), values(lossy, n)) for n in lossy.names())
    assert not leaf_of(again).exact


def test_keys_never_collide(tmp_path: Path) -> None:
    names = ["w", "w#scales", "w#positions", "w#values", "w##scales", "w#scales#scales", "w#a", "w#b"]
    base = {n: normal(8, 8, seed=i).float() for i, n in enumerate(names)}
    tuned = {n: t + 0.01 * normal(8, 8, seed=50 + i).float() for i, (n, t) in enumerate(base.items())}
    tuned["w"][0, 0] = -0.0
    base["w"][0, 0] = 0.0
    point = tv.Checkpoint.from_tensors(base)
    vector = tv.Checkpoint.from_tensors(tuned) - point
    for case in CASES:
        again = saved(tmp_path, vector, **options(case))
        leaf_of(again).verify()
        for n in names:
            lost = np.linalg.norm(values(again, n) - values(vector, n)) / np.linalg.norm(values(vector, n))
            assert lost == pytest.approx(leaf_of(again).error()[n], rel=1e-5, abs=1e-7)
    exact = saved(tmp_path, vector)
    assert all(same_bits((point + exact)[n], tuned[n]) for n in names)


@pytest.mark.parametrize("case", CASES)
def test_a_vector_in_shards_is_the_same_vector(tmp_path: Path, case: str) -> None:
    base, tuned = checkpoints()
    one = saved(tmp_path, tuned - base, **options(case))
    folder = (tuned - base).save(tmp_path / "folder", shard_size=2000, **options(case))
    names = sorted(p.name for p in folder.iterdir())
    assert len(names) > 2
    assert names == [f"vector-{i:05d}-of-{len(names):05d}.tv.safetensors" for i in range(1, len(names) + 1)]
    many = tv.TaskVector.open(folder)
    assert sorted(many.names()) == sorted(one.names())
    assert all(np.array_equal(values(many, n), values(one, n)) for n in one.names())
    assert leaf_of(many).exact == leaf_of(one).exact
    for path in folder.iterdir():
        safetensors.torch.load_file(path)


def test_a_folder_with_a_file_missing_is_refused(tmp_path: Path) -> None:
    base, tuned = checkpoints()
    folder = (tuned - base).save(tmp_path / "folder", shard_size=2000)
    files = sorted(folder.iterdir())
    with pytest.raises(
        errors.FormatError, match=rf"is not all {len(files)} files of its vector.*\nFix: open the whole folder"
    ):
        tv.TaskVector.open(files[1])
    files[1].unlink()
    with pytest.raises(errors.FormatError, match=f"is not all {len(files)} files"):
        tv.TaskVector.open(folder)
    (2.0 * (tuned - base)).save(files[1], codec="int8")
    with pytest.raises(errors.FormatError, match="differ in codec, recipe or base"):
        tv.TaskVector.open(folder)


def test_the_same_tensor_in_two_files_of_a_folder_is_refused(tmp_path: Path) -> None:
    base, tuned = checkpoints()
    folder = (tuned - base).save(tmp_path / "folder", shard_size=2000)
    first, second = sorted(folder.iterdir())[:2]
    table = meta(second)
    table["taskvec_tensors"] = meta(first)["taskvec_tensors"]
    rewrite(first, second, table)
    with pytest.raises(errors.FormatError, match="is in two files of"):
        tv.TaskVector.open(folder)


# --- files that lie ---


def meta(path: Path) -> dict[str, str]:
    with safetensors.safe_open(path, "pt") as file:  # type: ignore[no-untyped-call]
        return dict(file.metadata())


def rewrite(
    source: Path, target: Path, metadata: dict[str, str], tensors: dict[str, torch.Tensor] | None = None
) -> None:
    kept = safetensors.torch.load_file(source) if tensors is None else tensors
    safetensors.torch.save_file({n: t.clone() for n, t in kept.items()}, target, metadata=metadata)


def lying(tmp_path: Path, change: Callable[[dict[str, Any], dict[str, torch.Tensor]], None], **kwargs: Any) -> Path:
    """A vector of one tensor 'w' whose table and tensors went through `change`; hashes of parts are made to fit."""
    base = {"w": normal(10, 10, seed=1).float()}
    tuned = {"w": base["w"] + normal(10, 10, seed=2, scale=0.01).float()}
    tuned["w"][0, 0], base["w"][0, 0] = -0.0, 0.0
    point = tv.Checkpoint.from_tensors(base)
    if kwargs.get("layout") == SPLIT:
        kwargs["layout"] = tmp_path / "layout.yml"
        kwargs["layout"].write_text("splits:\n  w: rows 2\n")
    path = (tv.Checkpoint.from_tensors(tuned) - point).save(tmp_path / "v.tv.safetensors", **kwargs)
    metadata, tensors = meta(path), safetensors.torch.load_file(path)
    table = json.loads(metadata["taskvec_tensors"])
    change(table, tensors)
    for entry in table.values() if isinstance(table, dict) else ():
        for place in (
            entry.get("parts", {}).values() if isinstance(entry, dict) and isinstance(entry.get("parts"), dict) else ()
        ):
            if isinstance(place, list) and place[0] in tensors and place[1] != "kept":
                place[1] = hash_of(tensors[place[0]].contiguous().reshape(-1).view(torch.uint8).numpy())
    rewrite(path, path, {**metadata, "taskvec_tensors": json.dumps(table)}, tensors)
    return path


def set_entry(**fields: Any) -> Callable[[dict[str, Any], dict[str, torch.Tensor]], None]:
    return lambda table, tensors: table["w"].update(fields)


def set_part(
    role: str, make_it: Callable[[torch.Tensor], torch.Tensor]
) -> Callable[[dict[str, Any], dict[str, torch.Tensor]], None]:
    def change(table: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        key = table["w"]["parts"][role][0]
        tensors[key] = make_it(tensors[key])

    return change


def drop_part(role: str, *, bytes_too: bool) -> Callable[[dict[str, Any], dict[str, torch.Tensor]], None]:
    def change(table: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        key, _ = table["w"]["parts"].pop(role)
        if bytes_too:
            del tensors[key]

    return change


def swapped(x: torch.Tensor) -> torch.Tensor:
    return x.flip(0)


def negative(x: torch.Tensor) -> torch.Tensor:
    return torch.cat([torch.tensor([-5], dtype=x.dtype), x[1:]])


def outside(x: torch.Tensor) -> torch.Tensor:
    return torch.cat([x[:-1], torch.tensor([100], dtype=x.dtype)])


def more_triplets(table: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    for role in "usv":
        key = table["w"]["parts"][role][0]
        tensors[key] = torch.cat([tensors[key]] * 20)


def negative_ranks(x: torch.Tensor) -> torch.Tensor:
    return torch.tensor([-1, int(x.sum()) + 1], dtype=x.dtype)


SPLIT = "two parts"  # stands for a layout that splits 'w' by rows
TSV = {"codec": "tsv", "density": 0.25}
TSV_INT8, TSV_SPLIT = TSV | {"dtype": "int8"}, TSV | {"layout": SPLIT}

LIES: dict[str, tuple[dict[str, Any], Callable[[dict[str, Any], dict[str, torch.Tensor]], None], str]] = {
    "unknown codec": ({}, set_entry(codec="zstd"), "tensor 'w' .* needs an unknown codec: no codec named 'zstd'"),
    "no codec": ({}, lambda t, x: t["w"].pop("codec"), "entry of tensor 'w' in .* is not valid"),
    "no such dtype": ({}, set_entry(dtype="F33"), "entry of tensor 'w' in .* is not valid"),
    "a dtype that does not move": ({}, set_entry(dtype="I32"), "entry of tensor 'w' in .* is not valid"),
    "negative shape": ({}, set_entry(shape=[-10, -10]), "entry of tensor 'w' in .* is not valid"),
    "huge shape": ({}, set_entry(shape=[1 << 40, 1 << 40]), "entry of tensor 'w' in .* is not valid"),
    "shape of text": ({}, set_entry(shape="10"), "entry of tensor 'w' in .* is not valid"),
    "shape of bools": ({}, set_entry(shape=[True]), "entry of tensor 'w' in .* is not valid"),
    "an entry that is a list": ({}, lambda t, x: t.update(w=[]), "entry of tensor 'w' in .* is not valid"),
    "parts that are a list": ({}, set_entry(parts=[]), "entry of tensor 'w' in .* is not valid"),
    "an error that is text": ({"codec": "int8"}, set_entry(error="low"), "entry of tensor 'w' in .* is not valid"),
    "an error that is infinite": ({"codec": "int8"}, set_entry(error="inf"), "entry of tensor 'w' in .* is not valid"),
    "false exactness": ({"codec": "int8"}, set_entry(exact=True), "claims to be exact as 'int8'"),
    "another shape": ({}, set_entry(shape=[10, 11]), "do not fit a tensor"),
    "delta of another shape": ({}, set_part("delta", lambda x: x[:5]), "do not fit a tensor"),
    "delta of integers": ({}, set_part("delta", lambda x: x.int()), "do not fit a tensor"),
    "patches of another dtype": ({}, set_part("values", lambda x: x.double()), "do not fit a tensor"),
    "fewer patches than positions": ({}, set_part("values", lambda x: x[:0]), "do not fit a tensor"),
    "positions of another dtype": ({}, set_part("positions", lambda x: x.long()), "do not fit a tensor"),
    "patch outside": ({}, set_part("positions", outside), "do not ascend within its 100 entries"),
    "no delta": ({}, drop_part("delta", bytes_too=True), "has no part 'delta'"),
    "no values": ({}, drop_part("values", bytes_too=True), "has no part 'values'"),
    "values without positions": ({}, drop_part("positions", bytes_too=True), "do not fit a tensor"),
    "a tensor of no part": ({}, drop_part("values", bytes_too=False), "are not exactly the parts of its table"),
    "a part that is not there": ({}, lambda t, x: x.pop("w"), r"part 'delta' of tensor 'w' \('w'\) is not in"),
    "a part used twice": ({}, lambda t, x: t.update(u=t["w"]), "are not exactly the parts of its table"),
    "a wrong hash": ({}, lambda t, x: t["w"]["parts"]["delta"].__setitem__(1, "kept"), "part 'delta' .* is corrupt"),
    "codes of another shape": ({"codec": "int8"}, set_part("codes", lambda x: x[:9]), "do not fit a tensor"),
    "codes of another dtype": ({"codec": "int8"}, set_part("codes", lambda x: x.short()), "do not fit a tensor"),
    "too few scales": ({"codec": "int8", "group": 16}, set_part("scales", lambda x: x[1:]), "do not fit a tensor"),
    "scales of another dtype": ({"codec": "int8"}, set_part("scales", lambda x: x.half()), "do not fit a tensor"),
    "no group": ({"codec": "int8"}, lambda t, x: t["w"].pop("group"), "group=None is not a power of two"),
    "a group of zero": ({"codec": "int4"}, set_entry(group=0), "group=0 is not a power of two"),
    "another group": ({"codec": "int4"}, set_entry(group=16), "do not fit a tensor"),
    "too few nibbles": ({"codec": "int4"}, set_part("codes", lambda x: x[1:]), "do not fit a tensor"),
    "positions that descend": ({"codec": "sparse"}, set_part("positions", swapped), "do not ascend within"),
    "positions that repeat": ({"codec": "sparse"}, set_part("positions", lambda x: x * 0), "do not ascend within"),
    "positions below zero": ({"codec": "sparse"}, set_part("positions", negative), "do not ascend within"),
    "positions outside": ({"codec": "sparse"}, set_part("positions", outside), "do not ascend within"),
    "fewer values": ({"codec": "sparse"}, set_part("values", lambda x: x[1:]), "do not fit a tensor"),
    "values of integers": ({"codec": "sparse"}, set_part("values", lambda x: x.int()), "do not fit a tensor"),
    "values of float64": ({"codec": "sparse"}, set_part("values", lambda x: x.double()), "do not fit a tensor"),
    "a factor of another shape": (TSV, set_part("v", lambda x: x[:, 1:].contiguous()), "do not fit a tensor"),
    "factors of two ranks": (TSV, set_part("u", lambda x: torch.cat([x, x])), "do not fit a tensor"),
    "factors of two dtypes": (TSV, set_part("v", lambda x: x.bfloat16()), "do not fit a tensor"),
    "factors of float64": (TSV, set_part("u", lambda x: x.double()), "do not fit a tensor"),
    "a factor that is no matrix": (TSV, set_part("u", lambda x: x[0]), "do not fit a tensor"),
    "scales of triplets in bf16": (TSV, set_part("s", lambda x: x.bfloat16()), "do not fit a tensor"),
    "too many scales of triplets": (TSV, set_part("s", lambda x: x.repeat(2)), "do not fit a tensor"),
    "no left factor": (TSV, drop_part("u", bytes_too=True), "has no part 'u'"),
    "no scales of triplets": (TSV, drop_part("s", bytes_too=True), "do not fit a tensor"),
    "scales of the codes missing": (TSV_INT8, drop_part("v_scales", bytes_too=True), "tsv delta do not fit"),
    "another group of codes": (TSV_INT8, set_entry(group=64), "a tsv delta has group=64, not 128"),
    "a split that is none": (TSV, set_entry(split="thirds"), "split='thirds', which is not like 'rows 3'"),
    "a split that does not divide": (TSV, set_entry(split="rows 3"), "cannot be split into rows 3"),
    "a split without ranks": (TSV, set_entry(split="rows 2"), "do not fit a tensor"),
    "more triplets than a matrix has": (TSV, more_triplets, "do not fit a tensor"),
    "ranks that do not add up": (TSV_SPLIT, set_part("ranks", lambda x: x + 1), "do not add up"),
    "ranks below zero": (TSV_SPLIT, set_part("ranks", negative_ranks), "do not add up"),
    "ranks of another dtype": (TSV_SPLIT, set_part("ranks", lambda x: x.long()), "do not fit a tensor"),
    "an exact tsv": (TSV, set_entry(exact=True), "claims to be exact as 'tsv'"),
    "a norm that is text": (TSV, set_entry(norm="long"), "entry of tensor 'w' in .* is not valid"),
    "a norm that is infinite": (TSV, set_entry(norm="inf"), "entry of tensor 'w' in .* is not valid"),
    "more positions than entries": (
        {"codec": "sparse", "density": 1.0}, set_entry(shape=[2, 2]), "do not ascend within its 4 entries"
    ),
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_a_table_that_lies_is_refused(tmp_path: Path, lie: str) -> None:
    kwargs, change, message = LIES[lie]
    path = lying(tmp_path, change, **dict(kwargs))
    with pytest.raises(errors.FormatError, match=message):
        read_all(path)


def read_all(path: Path) -> None:
    vector = tv.TaskVector.open(path)
    leaf_of(vector).verify()
    for name, spec in vector.specs.items():
        values(vector, name)
        if leaf_of(vector).exact:
            leaf_of(vector).restore(np.zeros(spec.numel, np.uint32), name, 0)


def test_the_changed_files_of_those_tests_are_otherwise_valid(tmp_path: Path) -> None:
    for kwargs in ({}, {"codec": "int8"}, {"codec": "int4"}, {"codec": "sparse"}, TSV, TSV_INT8, TSV_SPLIT):
        read_all(lying(tmp_path, lambda table, tensors: None, force=True, **kwargs))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("taskvec_format", "2", "has the task-vector format '2'; this taskvec reads 1"),
        ("taskvec_format", None, "is a safetensors file but not a task vector"),
        ("taskvec_codec", None, "are not those of a task vector"),
        ("taskvec_codec", "[]", "are not those of a task vector"),
        ("taskvec_codec", "{}", "are not those of a task vector"),
        ("taskvec_recipe", "null", "are not those of a task vector"),
        ("taskvec_tensors", "{", "are not those of a task vector"),
        ("taskvec_tensors", '{"w": {}, "w": {}}', "names 'w' twice"),
        ("taskvec_tensors", "[" * 100_000, "are not those of a task vector"),
        ("taskvec_base", "7", "the base recorded in .* is not valid"),
        ("taskvec_base", '{"fingerprint": "tv1:0"}', "the base recorded in .* is not valid"),
        ("taskvec_part", None, "are not those of a task vector"),
        ("taskvec_part", '"1"', "does not say which file of how many"),
        ("taskvec_part", '"1 of 2"', "is not all 2 files of its vector"),
        ("taskvec_part", '"0 of 1"', "is not all 1 files of its vector"),
    ],
)
def test_metadata_that_lie_are_refused(tmp_path: Path, key: str, value: str | None, message: str) -> None:
    path = lying(tmp_path, lambda table, tensors: None)
    metadata = {k: v for k, v in {**meta(path), key: value}.items() if v is not None}
    rewrite(path, path, metadata)
    with pytest.raises(errors.FormatError, match=message):
        tv.TaskVector.open(path)


def test_a_fields_of_a_stranger_survive_a_copy(tmp_path: Path) -> None:
    path = lying(tmp_path, set_entry(comment="x" * 100_000), codec="int8")
    again = tv.TaskVector.open(path).save(tmp_path / "again.tv.safetensors", codec="int8")
    assert leaf_of(tv.TaskVector.open(again)).parts["w"].extra["comment"] == "x" * 100_000


def test_what_is_no_vector_is_not_opened(tmp_path: Path) -> None:
    with pytest.raises(errors.FormatError, match="does not exist"):
        tv.TaskVector.open(tmp_path / "nowhere")
    with pytest.raises(errors.FormatError, match=r"holds no \*\.safetensors file"):
        tv.TaskVector.open(tmp_path)
    (tmp_path / "f.tv.safetensors").write_bytes(struct.pack("<Q", 1 << 60) + b"{}")
    with pytest.raises(errors.FormatError, match="not a complete safetensors file"):
        tv.TaskVector.open(tmp_path / "f.tv.safetensors")


def test_a_vector_of_no_tensors_can_be_saved(tmp_path: Path) -> None:
    point = tv.Checkpoint.from_tensors({"steps": torch.arange(3)})
    again = saved(tmp_path, tv.Checkpoint.from_tensors({"steps": torch.arange(3)}) - point)
    assert again.names() == []
    assert partials(tmp_path) == []
