"""TSV-Merge through the public door: its identities, what stays factored, what is never formed, what is refused."""

import itertools
import tracemalloc

import numpy as np
import pytest
import torch

import taskvec as tv
from cli_cases import call, called_json, refused
from oracles import tsv_m as oracle
from taskvec.checkpoint.layout import Layout
from taskvec.codecs._file import FileDelta
from taskvec.delta import TensorDelta
from taskvec.engine.merge import notes_of
from taskvec.errors import ConvergenceError, NonFiniteError, ParameterError
from taskvec.methods._spectral import spectral_method
from taskvec.methods._triplets import Wanted
from taskvec.ops.factored import recompressed
from taskvec.ops.spectral import leading_for
from taskvec.ops.whitening import decorrelated, orthogonalized
from vector_cases import factored, normal

TASKS, SHAPE = 4, (96, 128)


def deltas(tasks=TASKS, shape=SHAPE, seed=0):
    """Deltas whose singular values fall, as those of fine-tuned models do; float32."""
    found = []
    for t in range(tasks):
        u, v = (torch.linalg.qr(normal(n, min(shape), seed=2 * t + i + seed)).Q for i, n in enumerate(shape))
        found.append(((u * torch.arange(1, min(shape) + 1).double() ** -0.6) @ v.T).float())
    return found


def vectors(matrices, **others):
    names = "abcdefghijklmnop"
    return {names[t]: tv.TaskVector.from_tensors({"w": x, **others}) for t, x in enumerate(matrices)}


def merged(matrices, **options):
    return tv.merge("tsv_m", vectors(matrices), **options)["w"].double()


def close(a, b, tolerance=1e-5):
    return float((a.double() - b.double()).norm()) <= tolerance * max(float(b.double().norm()), 1e-30)


def sti(u, s, v):
    """Singular Task Interference: the sum of the magnitudes of (UᵀU − I) diag(s) (VᵀV − I)."""
    eye = torch.eye(len(s), dtype=torch.float64)
    return float((((u.T @ u - eye) * s) @ (v.T @ v - eye)).abs().sum())


def reference(matrices, **options):
    stack = np.stack([x.double().numpy() for x in matrices])
    full = {"density": None, "coefficients": (1.0,) * len(stack), "orthogonalizer": "polar", "tolerance": 1e-6}
    return torch.from_numpy(oracle.merged(stack, **{**full, **options}))


@pytest.mark.parametrize("shape", [(96, 128), (128, 96), (96, 96), (300, 70)])
@pytest.mark.parametrize("tasks", [2, 3, 8])
def test_it_is_the_float64_reference(tasks, shape):
    given = deltas(tasks, shape)
    assert close(merged(given), reference(given), 2e-4)
    assert close(merged(given, exact=True), reference(given), 1e-6)


def test_one_task_at_full_rank_is_itself():
    (given,) = deltas(1)
    assert close(merged([given]), given, 1e-6)


def test_it_is_homogeneous_and_the_order_and_signs_of_vectors_make_no_difference():
    given = deltas()
    once = merged(given)
    for factor in (-1.0, 3.0, 2.0**-70):
        assert close(merged([factor * x for x in given]), factor * once, 1e-4)
    for order in itertools.islice(itertools.permutations(range(TASKS)), 1, 6):
        assert close(merged([given[t] for t in order]), once, 1e-4)
    assert close(merged([-given[0], *given[1:]], coefficients={"a": -1.0, "b": 1.0, "c": 1.0, "d": 1.0}), once, 1e-4)


def test_the_singular_values_kept_are_those_of_the_result():
    given = deltas()
    kept = torch.cat([torch.linalg.svdvals(x.double())[: 96 // TASKS] for x in given])
    found = torch.linalg.svdvals(merged(given))
    assert torch.allclose(found, kept.sort(descending=True).values, rtol=1e-5)
    assert float(merged(given).norm() ** 2) == pytest.approx(float(kept.square().sum()), rel=1e-5)


def test_nothing_interferes_after_whitening_and_the_parts_are_orthogonal():
    given = deltas()
    spectra = [leading_for(x, 96 // TASKS).triplets for x in given]
    found = orthogonalized(spectra)
    before = sti(*(torch.cat(side, -1).double() for side in zip(*((x.u, x.s, x.v) for x in spectra), strict=True)))
    assert before > 1.0
    assert sti(found.left.factor, found.s, found.right.factor) < 1e-8 * before
    parts = decorrelated(torch.stack(given), 96 // TASKS).parts()
    for a, b in itertools.combinations(parts, 2):
        assert abs(float((a * b).sum())) < 1e-10 * float(a.norm() * b.norm())
    assert close(parts.sum(0), merged(given), 1e-6)


def test_square_matrices_at_full_rank_are_averaged():
    given = deltas(shape=(96, 96))
    found = merged(given, density=1.0, overcomplete=True, exact=True)
    assert close(found, torch.stack(given).double().mean(0), 1e-5)
    assert not close(merged(deltas(), density=1.0, overcomplete=True), torch.stack(deltas()).mean(0), 1e-2)


def test_low_rank_deltas_with_nothing_in_common_add_up():
    u, v = (torch.linalg.qr(normal(n, 12, seed=i)).Q.float() for i, n in enumerate(SHAPE))
    given = [u[:, 3 * t : 3 * t + 3] @ v[:, 3 * t : 3 * t + 3].T for t in range(4)]
    assert close(merged(given), torch.stack(given).sum(0))


def test_equal_tasks_give_the_truncated_delta_and_say_so():
    (x, y), k = deltas(2), 96 // 3
    u, s, vh = torch.linalg.svd(x.double(), full_matrices=False)
    vector = tv.merge("tsv_m", vectors([x, x, x]))
    assert close(vector["w"], (u[:, :k] * s[:k]) @ vh[:k])
    assert notes_of(vector)["w"] == {"dropped": 2 * k, "condition": pytest.approx(1.0, abs=1e-3), "alike": 3}
    assert close(merged([x, x, y]), merged([y, x, x]), 1e-4)
    assert not merged([x, -x]).norm() > 1e-5 * x.norm()


def test_nearly_equal_tasks_are_reported_and_not_merged_away():
    (x, y) = deltas(2)
    near = x + 1e-3 * x.norm() / y.norm() * y
    vector = tv.merge("tsv_m", vectors([x, near]))
    expected = 2**0.5 * torch.linalg.svdvals(x.double())[:48].norm()
    assert float(vector["w"].norm()) == pytest.approx(float(expected), rel=0.02)
    assert notes_of(vector)["w"]["alike"] == 1
    assert notes_of(vector)["w"]["dropped"] == 0
    assert float(merged([x, near], tolerance=0.3).norm()) < 0.8 * float(expected)


def test_a_zero_task_keeps_its_share_of_the_rank_and_adds_nothing():
    x, y = deltas(2)
    assert close(merged([x, 0 * x, y]), reference([x, 0 * x, y]), 1e-4)
    assert not merged([0 * x, 0 * x]).any()
    assert close(merged([x, y], coefficients=[1.0, 0.0], density=0.25), reference([x], density=0.25), 1e-4)


def test_what_is_no_matrix_and_what_is_too_small_is_averaged():
    others = {"b": torch.arange(5.0), "type": normal(2, 9, seed=1).float(), "conv": normal(3, 2, 2, 2, seed=2).float()}
    given = [vectors([x], **{n: (t + 1) * y for n, y in others.items()})["a"] for t, x in enumerate(deltas(3))]
    found = tv.merge("tsv_m", given)
    for name, y in others.items():
        assert torch.allclose(found[name], 2.0 * y)


def test_the_ablation_runs():
    given = deltas(3)
    assert close(merged(given, orthogonalizer="none", density=1.0), torch.stack(given).sum(0))
    low = [recompressed(x.double(), torch.eye(128).double(), 32).matrix() for x in given]
    assert close(merged(given, orthogonalizer="none"), torch.stack(low).sum(0), 1e-4)
    alone = merged(given, density=1.0, overcomplete=True)
    assert close(alone, reference(given, density=1.0), 1e-3)


# --- what stays factored, and what is never formed ---


@pytest.fixture
def stored(tmp_path):
    """Four vectors, compressed at 1/16 and opened again."""
    found = {}
    for name, vector in vectors(deltas(), b=torch.ones(3)).items():
        found[name] = tv.TaskVector.open(vector.save(tmp_path / f"{name}.tv.safetensors", codec="tsv", density=1 / 16))
    return found


def test_a_merge_of_compressed_vectors_reads_no_delta(stored, monkeypatch):
    dense = {n: v["w"] for n, v in stored.items()}

    def refuse(_self, _out, name, *_):
        assert name != "w", "the delta of a compressed matrix was formed"

    monkeypatch.setattr(FileDelta, "read32", refuse)
    monkeypatch.setattr(FileDelta, "add_to", refuse)
    found = tv.merge("tsv_m", stored)
    factors = found.factors("w")
    assert factors is not None
    assert factors.right.shape == (TASKS * 6, 128)
    assert close(torch.from_numpy(factors.left @ factors.right), reference(dense.values()), 1e-5)


def test_a_merge_of_adapters_is_the_merge_of_their_deltas():
    adapters = [factored({"w": SHAPE}, rank=3, seed=t) for t in (1, 5, 9)]
    found = tv.merge("tsv_m", adapters)
    assert close(found["w"], reference([v["w"] for v in adapters]), 1e-5)
    assert found.factors("w").left.shape == (96, 9)


def test_a_merge_is_saved_as_factors(stored, tmp_path):
    found = tv.merge("tsv_m", stored)
    for codec in ("lora", "tsv"):
        options = {"density": 0.25} if codec == "tsv" else {}
        given = tv.merge("tsv_m", stored)
        if codec == "lora":
            given = tv.merge("tsv_m", [factored({"w": SHAPE}, rank=3, seed=t) for t in (1, 5, 9)])
        again = tv.TaskVector.open(given.save(tmp_path / f"{codec}.tv.safetensors", codec=codec, **options))
        assert again.factors("w") is not None
        assert close(again["w"], given["w"], 1e-2 if codec == "lora" else 1e-5)
    again = tv.TaskVector.open((0.5 * found).save(tmp_path / "half.tv.safetensors"))
    assert close(again["w"], 0.5 * found["w"])


def test_memory_is_that_of_one_delta_and_all_triplets(tmp_path):
    """NumPy's part of it: reading 8 deltas of 2.4 MB holds one at a time."""
    given = {}
    for t in range(8):
        path = vectors([normal(512, 1200, seed=t).float()])["a"].save(tmp_path / f"{t}.tv.safetensors")
        given[str(t)] = tv.TaskVector.open(path)
    vector = tv.merge("tsv_m", given, density=1 / 64)
    tracemalloc.start()
    vector.factors("w")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * 512 * 1200 * 4 + 8 * (512 + 1200) * 8 * 8 * 4


def test_every_range_is_the_same_whatever_is_read(stored):
    given = vectors(deltas())
    whole = tv.merge("tsv_m", given).values("w", 0, 96 * 128)
    ranges = tv.merge("tsv_m", given)
    for start, stop in ((5000, 9000), (0, 100), (12_000, 12_288), (130, 131)):
        assert np.array_equal(ranges.values("w", start, stop), whole[start:stop])
    thin = tv.merge("tsv_m", stored, density=1 / 32)
    assert np.array_equal(thin.values("w", 300, 700), thin.values("w", 0, 96 * 128)[300:700])


@pytest.mark.parametrize("threads", [1, 3])
def test_any_number_of_threads_writes_the_same_bytes(threads, tmp_path):
    given = [vectors([x], v=2.0 * x, z=x[:50])["a"] for x in deltas(3)]
    base = tv.Checkpoint.from_tensors({n: torch.zeros(s.shape) for n, s in given[0].specs.items()})
    one = (base + tv.merge("tsv_m", given, threads=1)).save(tmp_path / "one", threads=1)
    other = (base + tv.merge("tsv_m", given, threads=threads)).save(tmp_path / "other", threads=threads)
    assert one.read_bytes() == other.read_bytes() if one.is_file() else _bytes(one) == _bytes(other)


def _bytes(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir()}


# --- layouts ---


def test_a_fused_matrix_is_merged_as_its_parts_where_the_layout_says_so():
    given = [torch.cat(deltas(3, (32, 32), seed=10 * t)) for t in range(2)]
    named = {t: tv.TaskVector.from_tensors({"in_proj_weight": x}) for t, x in zip("ab", given, strict=True)}
    layout = Layout.of(named["a"].specs, splits="fused-qkv")
    found = tv.merge("tsv_m", named, layout=layout)
    expected = torch.cat([merged([x[i : i + 32] for x in given]) for i in (0, 32, 64)])
    assert close(found["in_proj_weight"], expected)
    assert not close(tv.merge("tsv_m", named)["in_proj_weight"], expected, 1e-2)
    recipe = found.single().recipe(blank=True)
    assert recipe["splits"] == {"in_proj_weight": "rows 3"}
    assert "splits" not in tv.merge("tsv_m", named).single().recipe(blank=True)
    assert found.single().merging.identity() != tv.merge("tsv_m", named).single().merging.identity()


def test_parts_of_compressed_fused_matrices_stay_factored(tmp_path):
    given = {}
    for t in "ab":
        x = torch.cat(deltas(3, (32, 32), seed=ord(t)))
        vector = tv.TaskVector.from_tensors({"in_proj_weight": x})
        path = vector.save(tmp_path / f"{t}.tv.safetensors", codec="tsv", density=1 / 8, splits="fused-qkv")
        given[t] = tv.TaskVector.open(path)
    layout = Layout.of(given["a"].specs, splits="fused-qkv")
    found = tv.merge("tsv_m", given, layout=layout)
    assert found.factors("in_proj_weight").left.shape == (96, 2 * 4 * 3)
    parts = [merged([v["in_proj_weight"][i : i + 32] for v in given.values()]) for i in (0, 32, 64)]
    assert close(found["in_proj_weight"], torch.cat(parts), 1e-4)


# --- refusals ---


@pytest.mark.parametrize("density", [0.0, -0.1, 1.5, float("nan"), "half"])
def test_densities_outside_0_to_1_are_refused(density):
    with pytest.raises(ParameterError, match="density="):
        merged(deltas(2), density=density)


def test_more_triplets_than_there_is_room_for_are_refused_before_anything_is_read():
    given = vectors(deltas(3))
    with pytest.raises(ParameterError, match=r"keeps 38 triplets a task of a matrix 96 x 128, where 3 .* room for 32"):
        tv.merge("tsv_m", given, density=0.4)
    with pytest.raises(ParameterError, match=r"the largest density for it is 0\.333333"):
        tv.merge("tsv_m", given, density=0.4)
    tv.merge("tsv_m", given, density=1 / 3)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_none_are_refused_by_name(value):
    x = deltas(2)
    x[1][3, 4] = value
    with pytest.raises(NonFiniteError, match="tensor 'w' has NaN or Inf in 'b'"):
        merged(x)


def test_factors_that_are_no_numbers_are_refused(stored, monkeypatch):
    read = FileDelta.factors

    def broken(self, name):
        found = read(self, name)
        if found is not None:
            found = found._replace(right=np.full_like(found.right, np.nan))
        return found

    monkeypatch.setattr(FileDelta, "factors", broken)
    with pytest.raises(NonFiniteError, match="tensor 'w' has NaN or Inf in 'a'"):
        tv.merge("tsv_m", stored).factors("w")


def test_what_does_not_converge_is_refused_by_name(monkeypatch):
    def fails(*_, **__):
        raise torch.linalg.LinAlgError("the algorithm failed to converge")

    monkeypatch.setattr(torch.linalg, "svd", fails)
    monkeypatch.setattr(torch.linalg, "eigh", fails)
    with pytest.raises(ConvergenceError, match=r"tensor 'w' of 'a': the singular value .* 96 x 128 does not converge"):
        merged(deltas(2))


# --- the mechanism, with a method from outside ---


def test_a_spectral_method_is_a_function_of_triplets(monkeypatch):
    from taskvec.methods import _method

    monkeypatch.setattr(_method, "_methods", dict(_method._methods))

    @spectral_method(source="this test", wanted=lambda shape, tasks, **_: Wanted(min(shape) // 4))
    def strongest(spectra):
        """The strongest task alone."""
        return max(spectra, key=lambda x: float(x.s[:1].sum())), {"rank": max(x.rank for x in spectra)}

    x, y = deltas(2)
    given = {"a": tv.TaskVector.from_tensors({"w": x}), "b": tv.TaskVector.from_tensors({"w": 3.0 * y})}
    found = tv.merge(strongest, given)
    u, s, vh = torch.linalg.svd(3.0 * y.double(), full_matrices=False)
    assert close(found["w"], (u[:, :24] * s[:24]) @ vh[:24], 1e-4)
    assert notes_of(found) == {"w": {"rank": 24}}
    assert isinstance(given["a"].single(), TensorDelta)


# --- recipes and the command line ---


def test_the_command_merges_and_reports(tmp_path):
    base = tv.Checkpoint.from_tensors({"w": torch.zeros(SHAPE), "b": torch.zeros(3)})
    base.save(tmp_path / "base.safetensors")
    x, y = deltas(2)
    for name, delta in {"a": x, "b": x, "c": y}.items():
        tv.Checkpoint.from_tensors({"w": delta, "b": torch.ones(3)}).save(tmp_path / f"{name}.safetensors")
    inputs = [str(tmp_path / f"{n}.safetensors") for n in "abc"]
    arguments = ["merge", "--method", "tsv_m", "--base", str(tmp_path / "base.safetensors"), *inputs]
    said = called_json(*arguments, "-o", str(tmp_path / "out.safetensors"))
    assert said["notes"]["w"]["dropped"] == 32
    assert said["notes"]["w"]["alike"] == 1
    written = tv.Checkpoint.open(tmp_path / "out.safetensors")
    assert close(written["w"], reference([x, x, y]), 1e-4)
    text = call(*arguments, "-o", str(tmp_path / "again.safetensors")).output
    assert "dropped 32 (in 1 of 1)" in text
    assert "keeps 48 triplets a task" in refused(*arguments, "--set", "density=0.5", "-o", tmp_path / "no.safetensors")
    assert not (tmp_path / "no.safetensors").exists()
