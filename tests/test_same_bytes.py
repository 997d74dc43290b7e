"""The same bytes for 1, 2 and 4 threads, three sizes of chunks, after a kill and a resumption, under any hash seed.

The other process also lets torch use four threads, which must make no difference to linear algebra.
"""

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

import same_bytes
from taskvec.checkpoint import save
from taskvec.delta import BLOCK
from taskvec.engine import folding
from taskvec.ops.threads import one_thread

THREADS = (1, 2, 4)
BLOCKS_A_CHUNK = (1, 3, 16)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    same_bytes.write_models(root)
    return root


@pytest.fixture(scope="module")
def plain(models, tmp_path_factory):
    """What each job writes in the ordinary way, by label; computed when it is first asked for."""
    folder, known = tmp_path_factory.mktemp("plain"), {}

    def digest(label):
        if label not in known:
            known[label] = same_bytes.write(label, models, folder, 1)
        return known[label]

    return digest


@pytest.mark.parametrize("label", same_bytes.JOBS)
def test_neither_threads_nor_the_size_of_chunks_change_a_byte(label, models, plain, tmp_path, monkeypatch):
    for blocks in BLOCKS_A_CHUNK:
        monkeypatch.setattr(save, "CHUNK", blocks * BLOCK)
        monkeypatch.setattr(folding, "_RUN", blocks)
        for threads in THREADS:
            folder = tmp_path / f"{blocks}-{threads}"
            folder.mkdir()
            assert same_bytes.write(label, models, folder, threads) == plain(label), (blocks, threads)
            shutil.rmtree(folder)


@pytest.fixture(scope="module")
def elsewhere(models, tmp_path_factory):
    """Two folders that another process wrote under a hash seed of its own: to the end, and killed half-way."""
    out = tmp_path_factory.mktemp("elsewhere")
    here = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    command = [sys.executable, str(Path(same_bytes.__file__)), str(models), str(out), "2"]
    environment = os.environ | {"PYTHONHASHSEED": "random", "PYTHONPATH": here, "OMP_NUM_THREADS": "4"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.parametrize("label", same_bytes.JOBS)
def test_another_process_with_a_random_hash_seed_writes_the_same_bytes(label, elsewhere, plain):
    assert same_bytes.digest(elsewhere / "whole" / label) == plain(label)


@pytest.mark.parametrize("label", same_bytes.JOBS)
def test_a_killed_merge_goes_on_to_the_same_bytes(label, elsewhere, models, plain):
    partial = elsewhere / "killed" / f".{label}.partial"
    kept = (partial / "journal.jsonl").read_bytes().count(b"\n")
    assert kept > 0
    assert not (elsewhere / "killed" / label).exists()
    assert same_bytes.write(label, models, elsewhere / "killed", 2) == plain(label)
    assert not partial.exists()


def test_singular_triplets_are_the_same_bytes_in_the_other_process(elsewhere, models, tmp_path):
    assert same_bytes.digest(elsewhere / "v.tv.safetensors") == same_bytes.compress(models, tmp_path)


def test_one_thread_is_for_all_who_are_inside_and_ends_with_the_last():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with one_thread():
            with one_thread(), ThreadPoolExecutor(1) as pool:
                assert pool.submit(one_thread()(torch.get_num_threads)).result() == 1
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 3
        with pytest.raises(ZeroDivisionError), one_thread():
            1 / 0  # noqa: B018
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
