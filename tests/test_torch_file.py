"""Torch files: read through the restricted loader, mapped, tied names kept tied, any strides."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from raw_files import indexed
from taskvec.checkpoint.checkpoint import Checkpoint
from taskvec.checkpoint.files import open_file
from taskvec.checkpoint.source import MemorySource


def state():
    torch.manual_seed(0)
    x = torch.randn(5, 7, 3)
    return {
        "x": x,
        "permuted": x.permute(2, 0, 1),
        "sliced": torch.randn(9, 8)[1::2, 3:],
        "expanded": torch.randn(3, 1).expand(3, 50),
        "bf16": torch.randn(4, 6).bfloat16().t(),
        "scalar": torch.tensor(3.0),
        "empty": torch.empty(0, 3),
        "bool": torch.tensor([True, False]),
        "int": torch.arange(3),
        "parameter": torch.nn.Parameter(torch.randn(2)),
    }


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s, "epoch": 3}, lambda s: {"model": s}])
def test_every_tensor_reads_back_from_both_formats_wrapped_or_not(legacy, wrap, tmp_path):
    torch.save(wrap(state()), tmp_path / "m.pt", _use_new_zipfile_serialization=not legacy)
    opened = Checkpoint.open(tmp_path / "m.pt")
    assert opened.names() == list(state())
    for name, tensor in state().items():
        assert opened[name].dtype == tensor.dtype
        assert torch.equal(opened[name], tensor)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.uint16, torch.uint64, torch.complex64])
def test_rare_dtypes_with_any_strides_read_back(dtype, tmp_path):
    tensor = torch.arange(24).reshape(4, 6).to(dtype).t()
    torch.save({"w": tensor}, tmp_path / "m.pt")
    read = Checkpoint.open(tmp_path / "m.pt")["w"]
    assert torch.equal(read.contiguous().view(torch.uint8), tensor.contiguous().view(torch.uint8))


def test_the_optimiser_beside_a_state_dict_is_not_read(tmp_path):
    model = torch.nn.Linear(3, 2)
    optimiser = torch.optim.Adam(model.parameters())
    model(torch.ones(3)).sum().backward()
    optimiser.step()
    torch.save({"state_dict": model.state_dict(), "optimizer": optimiser.state_dict(), "epoch": 1}, tmp_path / "m.ckpt")
    assert Checkpoint.open(tmp_path / "m.ckpt").names() == ["weight", "bias"]


@pytest.mark.parametrize("legacy", [False, True])
def test_names_that_share_storage_are_ties_and_read_through(legacy, tmp_path):
    shared = torch.randn(4, 2)
    saved = {"a": shared, "b": shared, "part": shared[:2], "turned": shared.t(), "copy": shared.clone()}
    torch.save(saved, tmp_path / "m.pt", _use_new_zipfile_serialization=not legacy)
    opened = Checkpoint.open(tmp_path / "m.pt")
    assert opened.source.ties == {"b": "a"}
    assert opened.names() == ["a", "part", "turned", "copy"]
    assert "b" in opened
    assert torch.equal(opened["b"], shared)
    assert np.array_equal(opened.source.bits("b", 1, 5), opened.source.bits("a", 1, 5))
    assert opened.source.identity("b") == opened.source.identity("a") != opened.source.identity("copy")
    assert opened.fingerprints.tensor("b") == opened.fingerprints.tensor("a")


def test_identities_follow_the_file(tmp_path):
    path = tmp_path / "m.pt"
    torch.save({"w": torch.ones(2)}, path)
    first, again = open_file(path), open_file(path)
    assert first.identity("w") == again.identity("w")
    torch.save({"w": torch.ones(3)}, path)
    assert open_file(path).identity("w") != first.identity("w")


def test_shards_with_an_index_of_torch_files(tmp_path):
    torch.save({"a": torch.ones(2)}, tmp_path / "pytorch_model-00001-of-00002.bin")
    torch.save({"b": torch.zeros(2)}, tmp_path / "pytorch_model-00002-of-00002.bin")
    places = {n: f"pytorch_model-0000{i}-of-00002.bin" for i, n in ((1, "a"), (2, "b"))}
    indexed(tmp_path, places, name="pytorch_model.bin.index.json")
    opened = Checkpoint.open(tmp_path)
    assert opened.names() == ["a", "b"]
    assert torch.equal(opened["b"], torch.zeros(2))


def test_a_zip_file_is_mapped_and_not_read(tmp_path):
    torch.save({"w": torch.zeros(64 << 20, dtype=torch.uint8)}, tmp_path / "m.pt")

    def resident():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4096

    torch.save({"w": torch.zeros(1)}, tmp_path / "first.pt")
    Checkpoint.open(tmp_path / "first.pt")  # whatever the loader imports is imported now
    before = resident()
    opened = Checkpoint.open(tmp_path / "m.pt")
    assert opened.specs["w"].nbytes == 64 << 20
    assert resident() - before < 16 << 20


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_range_of_any_strides_is_the_range_of_the_flattened_tensor(data):
    shape = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    tensor = torch.arange(int(np.prod([2 * n for n in shape])), dtype=torch.int32).reshape([2 * n for n in shape])
    tensor = tensor[tuple(slice(None, None, data.draw(st.sampled_from([1, 2]))) for _ in shape)]
    tensor = tensor.permute(data.draw(st.permutations(range(len(shape)))))
    start, stop = sorted((data.draw(st.integers(0, tensor.numel())), data.draw(st.integers(0, tensor.numel()))))
    bits = MemorySource({"w": tensor}).bits("w", start, stop)
    assert bits.tolist() == tensor.flatten()[start:stop].tolist()
