"""The cache of decompositions: the same bits with it and without, bounded, and safe in several hands."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import taskvec as tv
from taskvec.checkpoint import decompositions
from taskvec.checkpoint.decompositions import VARIABLE, Decompositions
from taskvec.errors import ParameterError
from taskvec.ops import spectral
from taskvec.ops.threads import one_thread
from vector_cases import normal


def matrix(seed, m=96, n=80):
    return normal(m, n, seed=seed).float()


def leading_for(*given, **options):
    """What the cache is held to: computed on one thread."""
    with one_thread():
        return spectral.leading_for(*given, **options)


def same(found, expected):
    pairs = zip(*((x.triplets.u, x.triplets.s, x.triplets.v) for x in (found, expected)), strict=True)
    return all(torch.equal(a, b) for a, b in pairs) and found.route == expected.route


def test_what_is_read_is_what_would_be_computed(tmp_path):
    cache = Decompositions(tmp_path / "cache")
    for exact in (False, True):
        for x in (matrix(0), matrix(1, 80, 96), torch.zeros(70, 80), matrix(2, 5, 4), matrix(3)[:, ::2]):
            for rank in (0, 3, min(x.shape) // 2 + 1):
                first, again = (cache.leading(x, rank, exact=exact) for _ in range(2))
                assert same(first, leading_for(x, rank, exact=exact))
                assert same(again, first)
    assert cache.hits > 0


def test_the_key_is_all_that_decides(tmp_path):
    cache = Decompositions(tmp_path)
    x = matrix(0)
    y = x.clone()
    y[5, 6] = torch.nextafter(y[5, 6], torch.tensor(9.0))
    for given, rank, exact in ((x, 10, False), (y, 10, False), (x, 40, False), (x, 10, True), (x.T, 10, False)):
        cache.leading(given, rank, exact=exact)
    assert (cache.hits, cache.misses) == (0, 5)
    cache.leading(x.clone(), 9)
    assert (cache.hits, cache.misses) == (1, 5)


def test_subsets_and_sweeps_decompose_once(tmp_path):
    cache = Decompositions(tmp_path)
    vectors = {t: tv.TaskVector.from_tensors({"w": matrix(i)}) for i, t in enumerate("abcde")}
    whole = tv.merge("tsv_m", vectors, cache=cache)["w"]
    assert (cache.hits, cache.misses) == (0, 5)
    for options in ({"coefficients": 0.5}, {"tolerance": 1e-3}, {"orthogonalizer": "none"}):
        tv.merge("tsv_m", vectors, cache=cache, **options)["w"]
    four = {t: vectors[t] for t in "abcd"}
    assert torch.equal(tv.merge("tsv_m", four, cache=cache)["w"], tv.merge("tsv_m", four)["w"])
    assert cache.misses == 5
    assert torch.equal(tv.merge("tsv_m", vectors, cache=cache)["w"], whole)


def test_it_holds_no_more_than_its_limit_and_keeps_what_was_used_last(tmp_path):
    size = _size_of_one(tmp_path / "one")
    cache = Decompositions(tmp_path / "cache", limit=round(3.5 * size))
    for seed in range(3):
        cache.leading(matrix(seed), 40)
    for age, path in enumerate(sorted(cache.folder.iterdir())):
        os.utime(path, ns=(age + 1, age + 1))
    cache.leading(matrix(0), 40)
    for seed in range(3, 7):
        cache.leading(matrix(seed), 40)
        cache.leading(matrix(0), 40)
        assert sum(p.stat().st_size for p in cache.folder.iterdir()) <= cache.limit
    misses = cache.misses
    cache.leading(matrix(0), 40)
    assert cache.misses == misses
    cache.leading(matrix(1), 40)
    assert cache.misses == misses + 1


def _size_of_one(folder):
    Decompositions(folder).leading(matrix(0), 40)
    (path,) = folder.iterdir()
    return path.stat().st_size


@pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "other"])
def test_a_damaged_file_counts_as_absent(damage, tmp_path):
    cache = Decompositions(tmp_path)
    expected = cache.leading(matrix(0), 20)
    (path,) = tmp_path.iterdir()
    data = bytearray(path.read_bytes())
    if damage == "flipped":
        data[-5] ^= 1
    path.write_bytes({"empty": b"", "cut": data[: len(data) // 2], "flipped": data, "other": b"x" * 100}[damage])
    assert same(cache.leading(matrix(0), 20), expected)
    assert (cache.hits, cache.misses) == (0, 2)
    assert same(cache.leading(matrix(0), 20), expected)
    assert cache.hits == 1


def test_many_threads_and_two_processes_write_at_once(tmp_path):
    code = (
        "import sys, torch; from taskvec.checkpoint.decompositions import Decompositions\n"
        "from test_decompositions import matrix\n"
        f"cache = Decompositions({str(tmp_path)!r}, limit=300_000)\n"
        "for _ in range(3):\n  [cache.leading(matrix(s), 20) for s in range(8)]"
    )
    path = os.pathsep.join([os.path.dirname(__file__), *sys.path])
    others = [subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}) for _ in range(2)]
    cache, expected = Decompositions(tmp_path, limit=300_000), [leading_for(matrix(s), 20) for s in range(8)]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            found = list(pool.map(lambda s: cache.leading(matrix(s), 20), range(8)))
            assert all(same(a, b) for a, b in zip(found, expected, strict=True))
    assert [p.wait() for p in others] == [0, 0]
    assert not list(tmp_path.glob("*.partial"))
    assert sum(p.stat().st_size for p in tmp_path.iterdir()) <= 2 * 300_000


def test_a_folder_that_cannot_be_written_only_costs_time(tmp_path):
    (tmp_path / "file").write_text("")
    cache = Decompositions(tmp_path / "file" / "cache")
    assert same(cache.leading(matrix(0), 5), leading_for(matrix(0), 5))


def test_it_is_off_unless_asked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("TASKVEC_CACHE", str(tmp_path))
    monkeypatch.delenv(VARIABLE, raising=False)
    vectors = [tv.TaskVector.from_tensors({"w": matrix(i)}) for i in range(2)]
    tv.merge("tsv_m", vectors)["w"]
    assert not list(tmp_path.iterdir())
    monkeypatch.setenv(VARIABLE, "50MB")
    tv.merge("tsv_m", vectors)["w"]
    assert len(list((tmp_path / "decompositions").iterdir())) == 2
    tv.analyze(vectors, only=["sti"])
    assert decompositions.default().hits == 2
    monkeypatch.setenv(VARIABLE, "much")
    with pytest.raises(ParameterError, match="'much' is not a size"):
        tv.merge("tsv_m", vectors)["w"]
