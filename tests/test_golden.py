from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

import taskvec as tv
from vector_cases import same_bits, tree

GOLDEN = Path(__file__).parent / "golden"
sys.path.insert(0, str(GOLDEN))

import make_golden  # noqa: E402


def test_the_committed_files_are_written_byte_for_byte(tmp_path: Path) -> None:
    make_golden.write(tmp_path / "v1")
    committed, fresh = tree(GOLDEN / "v1"), tree(tmp_path / "v1")
    assert sorted(fresh) == sorted(committed)
    assert [name for name in fresh if fresh[name] != committed[name]] == []


@pytest.mark.parametrize("name", [*make_golden.CODECS, "sharded"])
def test_the_committed_vectors_are_read(name: str) -> None:
    base, tuned = (tv.Checkpoint.from_tensors(t) for t in make_golden.tensors())
    path = GOLDEN / "v1" / (name if name == "sharded" else f"{name}.tv.safetensors")
    vector = tv.TaskVector.open(path)
    expected = make_golden.adapter() if name == "lora" else tuned - base
    leaf = vector.single()
    assert leaf is not None
    leaf.verify()  # type: ignore[attr-defined]
    for tensor in expected.names():
        delta, found = (v.values(tensor, 0, v.specs[tensor].numel) for v in (expected, vector))
        lost, norm = np.linalg.norm(found - delta), np.linalg.norm(delta)
        # An exact delta is rounded to the tuned dtype, and restores the tuned values all the same.
        stated = 2.0**-8 if leaf.exact else leaf.error()[tensor]  # type: ignore[attr-defined]
        assert lost <= stated * norm * 1.000001
    if name in ("dense", "sharded"):
        assert all(same_bits((base + vector)[n], tuned[n]) for n in tuned.names())


def test_the_committed_vectors_are_read_by_the_official_library() -> None:
    for path in (GOLDEN / "v1").rglob("*.safetensors"):
        safetensors.torch.load_file(path)


def test_the_committed_store_is_read(tmp_path: Path) -> None:
    base, tuned = (tv.Checkpoint.from_tensors(t) for t in make_golden.tensors())
    shutil.copytree(GOLDEN / "v1" / "store", tmp_path / "store")
    store = tv.Store.open(tmp_path / "store", base=base)
    assert store.names() == ["Größe", "small", "adapter"]
    assert store.verify().ok
    assert all(same_bits((base + store["Größe"])[n], tuned[n]) for n in tuned.names())
    assert torch.allclose(store["small"]["matrix"], (tuned - base)["matrix"], rtol=0, atol=1e-2)
    store.add("more", 2.0 * store["small"])
    store.remove("Größe")
    assert store.names() == ["small", "adapter", "more"]


def test_the_committed_files_are_few_and_small() -> None:
    assert sum(len(data) for data in tree(GOLDEN / "v1").values()) < 40_000
