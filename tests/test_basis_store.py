"""A basis in a store: what comes back, what it costs, what is refused, and what the files say."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import taskvec as tv
from basis_cases import base_tensors, flat, stacked, tuned_vectors
from taskvec import errors
from taskvec.ops.hashing import hash_of
from taskvec.store.members import write_combinations
from vector_cases import normal, same_bits, tree

TASKS = 6


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of six exact vectors."""
    base = tv.Checkpoint.from_tensors(base_tensors())
    store = tv.Store.create(tmp_path_factory.mktemp("store") / "library", base=base)
    for name, vector in tuned_vectors(TASKS, base=base).items():
        store.add(name, vector)
    return store.path


@pytest.fixture
def store(filled: Path, tmp_path: Path) -> tv.Store:
    shutil.copytree(filled, tmp_path / "library")
    return tv.Store.open(tmp_path / "library")


def originals(store: tv.Store) -> dict[str, torch.Tensor]:
    return {n: flat(store[n]) for n in store.names()}


def shared(store: tv.Store) -> list[Path]:
    return sorted((store.path / "shared").glob("*"))


# --- one pass -------------------------------------------------------------------------------------------------------


def test_combinations_are_written_in_one_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = tuned_vectors(4)
    mix = normal(4, 3, seed=1).numpy()
    read: dict[str, int] = {}
    plain = tv.TaskVector.values

    def values(self, name, start, stop, out=None):
        read[name] = read.get(name, 0) + stop - start
        return plain(self, name, start, stop, out)

    monkeypatch.setattr(tv.TaskVector, "values", values)
    found = write_combinations(vectors, mix, tmp_path / "c.safetensors", about={})
    assert read == {n: 4 * s.numel for n, s in vectors["task0"].specs.items()}
    monkeypatch.undo()
    expected = stacked(vectors).float().double() @ torch.from_numpy(mix)
    for m, vector in enumerate(found):
        assert torch.allclose(flat(vector), expected[:, m], rtol=1e-5, atol=1e-9)


def test_combinations_do_not_depend_on_threads(tmp_path: Path) -> None:
    vectors, mix = tuned_vectors(3), normal(3, 2, seed=1).numpy()
    for threads in (1, 3):
        write_combinations(vectors, mix, tmp_path / f"{threads}.safetensors", about={}, threads=threads)
    assert (tmp_path / "1.safetensors").read_bytes() == (tmp_path / "3.safetensors").read_bytes()


def test_combinations_that_are_not_finite_or_of_two_bases_leave_nothing(tmp_path: Path) -> None:
    broken = base_tensors()
    broken["w"][2, 2] = math.nan
    base = tv.Checkpoint.from_tensors(base_tensors())
    vectors = {"a": tuned_vectors(1)["task0"], "b": tv.Checkpoint.from_tensors(broken) - base}
    with pytest.raises(errors.NonFiniteError, match="tensor 'w' of a basis vector is not finite"):
        write_combinations(vectors, np.ones((2, 1)), tmp_path / "c.safetensors", about={})
    assert list(tmp_path.iterdir()) == []


# --- fitting --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("addition_exact", {}),
        ("pca", {}),
        ("cluster", {"inner": "ties"}),
        ("select", {}),
        ("random", {"kind": "gaussian"}),
    ],
)
def test_tasks_come_back_with_the_error_that_is_stated(store: tv.Store, method: str, options: dict) -> None:
    before = originals(store)
    basis = store.fit_basis(3, method, drop=True, **options)
    assert store.names() == list(before) == list(basis.names)
    assert store.verify().ok
    assert len(shared(store)) == basis.size == 3
    for name, own in before.items():
        back = flat(store[name])
        lost = float((back - own).norm() / own.norm())
        assert lost <= store.error(name) * (1 + 1e-9) + 1e-12
        assert lost == pytest.approx(store.error(name), rel=1e-4, abs=1e-6)
        assert torch.allclose(back, flat(basis.recover(name)), atol=1e-12)
    again = tv.Store.open(store.path).basis()
    assert again.plain()["tasks"] == basis.plain()["tasks"]
    assert torch.allclose(again.state.members, tv.gram(again.vectors()), rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize(
    ("codec", "parameters"), [("int8", {}), ("dense", {"dtype": "bfloat16"}), ("tsv", {"density": 0.3}), ("int4", {})]
)
def test_what_the_inner_codec_loses_is_in_the_error(store: tv.Store, codec: str, parameters: dict) -> None:
    before = originals(store)
    exact = store.fit_basis(3)
    store.fit_basis(3, codec=codec, parameters=parameters, drop=True, force=True)
    for name, own in before.items():
        lost = float((flat(store[name]) - own).norm() / own.norm())
        assert lost <= store.error(name)
        assert lost == pytest.approx(store.error(name), rel=1e-5), "measured on the files, not bounded"
        assert store.error(name) > exact.error(name) * (1 - 1e-3)
    assert store.basis().named()["basis0"].single().codec["name"] == codec


def test_own_files_stay_and_come_first_unless_dropped(store: tv.Store) -> None:
    before = originals(store)
    store.fit_basis(2)
    assert not store.is_recovered("task0")
    assert all(torch.equal(flat(store[n]), v) for n, v in before.items())
    assert store.size().shared > sum(p.stat().st_size for p in shared(store))
    with pytest.raises(errors.DestinationError, match="has a basis"):
        store.fit_basis(2)
    store.fit_basis(2, drop=True, force=True)
    assert store.is_recovered("task0")
    assert list((store.path / "vectors").iterdir()) == []
    rows = store.size()
    assert [(v.name, v.codec, v.bytes) for v in rows.vectors] == [(n, "basis", 0) for n in before]
    assert rows.total == sum(len(data) for data in tree(store.path).values())
    with pytest.raises(errors.StoreError, match="'task0' is kept by the present basis"):
        store.fit_basis(2, force=True)


def test_as_many_vectors_as_tasks_restore_every_bit(store: tv.Store) -> None:
    base = tv.Checkpoint.from_tensors(base_tensors())
    tuned = {n: base + store[n] for n in store.names()}
    kept = {n: {t: model[t] for t in model.names()} for n, model in tuned.items()}
    store.fit_basis(TASKS, drop=True)
    assert all(store.error(n) == 0.0 for n in store.names())
    for name, tensors in kept.items():
        assert all(same_bits((base + store[name])[t], x) for t, x in tensors.items())


def test_one_task_opens_only_the_vectors_it_has_a_part_of(store: tv.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from taskvec.store import disk

    basis = store.fit_basis(4, "select", drop=True)
    kept = basis.report["members"]
    fresh, opened = tv.Store.open(store.path), []
    plain = disk.open_vector
    monkeypatch.setattr(disk, "open_vector", lambda root, name, *rest: opened.append(name) or plain(root, name, *rest))
    fresh[f"task{kept[0]}"]
    assert len(opened) == 1


def test_recovered_tasks_are_combinations_of_the_same_leaves(store: tv.Store) -> None:
    store.fit_basis(2, drop=True)
    both = store["task0"] - store["task3"]
    assert len(both.terms) == 2
    assert torch.allclose(flat(both), flat(store["task0"]) - flat(store["task3"]), atol=1e-12)


def test_equal_stores_have_equal_bytes(filled: Path, tmp_path: Path) -> None:
    trees = []
    for threads in (1, 3):
        shutil.copytree(filled, tmp_path / str(threads))
        tv.Store.open(tmp_path / str(threads)).fit_basis(3, threads=threads, drop=True)
        trees.append({n: d for n, d in tree(tmp_path / str(threads)).items() if n != ".lock"})
    assert trees[0] == trees[1]


# --- tasks come and go ----------------------------------------------------------------------------------------------


def test_a_task_joins_without_the_old_vectors(store: tv.Store) -> None:
    extra = tuned_vectors(8, base=tv.Checkpoint.from_tensors(base_tensors()))
    before = {**originals(store), "task6": flat(extra["task6"]), "task7": flat(extra["task7"])}
    store.fit_basis(3, codec="dense", parameters={"dtype": "bfloat16"}, drop=True)
    for name in ("task6", "task7"):
        store.add(name, extra[name], codec="basis")
    assert store.names() == list(before)
    assert len(shared(store)) == 3
    assert store.verify().ok
    for name, own in before.items():
        assert float((flat(store[name]) - own).norm() / own.norm()) <= store.error(name)
    assert store.basis().named()["basis0"].single().codec == {"name": "dense", "dtype": "BF16"}
    assert [t["name"] for t in store.basis().plain()["tasks"] if t["added"]] == ["task6", "task7"]


def test_a_cluster_takes_a_task_in_after_it_was_read_back(store: tv.Store) -> None:
    basis = store.fit_basis(2, "cluster", drop=True)
    labels, before = basis.state.labels, [flat(v) for v in basis.vectors()]
    new = tuned_vectors(7, base=tv.Checkpoint.from_tensors(base_tensors()))["task6"]
    store.add("task6", new, codec="basis")
    after = store.basis()
    home = after.state.labels[-1]
    n = labels.count(home)
    assert torch.allclose(flat(after.vectors()[home]), (n * before[home] + flat(new)) / (n + 1), atol=1e-8)


def test_a_new_vector_of_a_name_takes_the_task_out_of_the_basis(store: tv.Store) -> None:
    store.fit_basis(3, drop=True)
    new = tuned_vectors(9, base=tv.Checkpoint.from_tensors(base_tensors()))["task8"]
    with pytest.raises(errors.DestinationError, match="named 'task2' already"):
        store.add("task2", new)
    store.add("task2", new, force=True)
    assert not store.is_recovered("task2")
    assert torch.allclose(flat(store["task2"]), flat(new), atol=1e-8)
    assert store.names() == [f"task{i}" for i in range(TASKS)]
    assert "task2" not in store.basis().names
    with pytest.raises(errors.StoreError, match="'task0' is kept by the present basis"):
        store.fit_basis(2, force=True)


def test_tasks_are_removed_and_the_last_takes_the_shared_files_along(store: tv.Store) -> None:
    store.fit_basis(2, drop=True)
    kept = flat(store["task4"])
    for name in store.names()[:4]:
        store.remove(name)
        assert name not in store
    assert torch.equal(flat(store["task4"]), kept)
    assert len(shared(store)) == 2
    store.basis().add("more", store["task5"])
    store.remove("task4")
    store.remove("task5")
    assert shared(store) == []
    with pytest.raises(errors.StoreError, match="has no basis"):
        store.basis()
    with pytest.raises(errors.UnknownName, match="no vector named 'task4'"):
        store.error("task4")


def test_joining_what_cannot_be_joined(store: tv.Store) -> None:
    new = tuned_vectors(7, base=tv.Checkpoint.from_tensors(base_tensors()))["task6"]
    with pytest.raises(errors.StoreError, match="has no basis"):
        store.add("task6", new, codec="basis")
    store.fit_basis(2, drop=True)
    with pytest.raises(errors.DestinationError, match="'task1' already"):
        store.add("task1", new, codec="basis", force=True)
    with pytest.raises(errors.ParameterError, match="no parameter 'density'"):
        store.add("task6", new, codec="basis", density=0.5)
    other = base_tensors()
    other["b"][0] += 1.0
    with pytest.raises(errors.SchemaError, match="the base of the store"):
        store.add("task6", tuned_vectors(1, base=tv.Checkpoint.from_tensors(other))["task0"], codec="basis")
    assert store.names() == [f"task{i}" for i in range(TASKS)]


# --- damage ---------------------------------------------------------------------------------------------------------


def test_a_missing_shared_file_is_named(store: tv.Store) -> None:
    store.fit_basis(2, drop=True)
    shared(store)[0].unlink()
    fresh = tv.Store.open(store.path)
    with pytest.raises(errors.StoreError, match=r"shared/[0-9a-f]{32}.tv.safetensors' is missing") as caught:
        fresh["task1"]
    assert "fit the basis again" in str(caught.value)
    with pytest.raises(errors.StoreError, match="is missing"):
        fresh.basis()
    assert [p.message for p in fresh.verify().problems] == [caught.value.fact]
    assert fresh.names() == [f"task{i}" for i in range(TASKS)]


def test_no_flipped_byte_of_a_shared_file_becomes_a_number(store: tv.Store) -> None:
    store.fit_basis(2, drop=True)
    path = shared(store)[0]
    data = path.read_bytes()
    for at in np.linspace(0, len(data) - 1, 25).astype(int):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        fresh = tv.Store.open(store.path)
        with pytest.raises((errors.StoreError, errors.FormatError)):
            flat(fresh["task1"])
        assert not fresh.verify().ok
    path.write_bytes(data[:-1])
    with pytest.raises(errors.StoreError, match=r"has .* bytes and should have"):
        tv.Store.open(store.path)["task1"]
    path.write_bytes(data)
    assert tv.Store.open(store.path).verify().ok


def test_swapped_and_linked_shared_files_are_refused(store: tv.Store, tmp_path: Path) -> None:
    store.fit_basis(2, drop=True)
    first, second = shared(store)
    kept = first.read_bytes()
    first.write_bytes(second.read_bytes())
    with pytest.raises(errors.StoreError, match="damaged or another file"):
        tv.Store.open(store.path)["task1"]
    (tmp_path / "elsewhere").write_bytes(kept)
    first.unlink()
    first.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(errors.StoreError, match="is a link"):
        tv.Store.open(store.path)["task1"]
    first.unlink()
    first.write_bytes(kept)
    (store.path / "shared").rename(tmp_path / "shared")
    (store.path / "shared").symlink_to(tmp_path / "shared")
    with pytest.raises(errors.StoreError, match="symbolic link"):
        tv.Store.open(store.path)["task1"]


def rewritten(store: tv.Store, change) -> None:
    path = store.path / "manifest.json"
    table = json.loads(path.read_text())
    change(table)
    table["hash"] = "0" * 32
    blank = json.dumps(table, sort_keys=True, ensure_ascii=False, separators=(",", ":")) + "\n"
    place = '"hash":"{}","taskvec_store"'
    path.write_text(blank.replace(place.format("0" * 32), place.format(hash_of(blank.encode()))))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["vectors"], [], "no vectors"),
        (["vectors", 0, "hash"], "../../etc/passwd", "not a hash"),
        (["vectors", 0, "bytes"], -1, "size"),
        (["vectors", 0, "codec"], {}, "codec"),
        (["tasks"], {}, "no tasks"),
        (["tasks", "task1", "coefficients"], [1.0], "wrong size"),
        (["tasks", "task1", "coefficients", 0], "1", "number"),
        (["tasks", "task1", "lost"], -1.0, "norm and error"),
        (["tasks", "task1", "order"], 1, "same order"),
        (["tasks", "task1", "cluster"], 7, "cluster"),
        (["tasks", "task1", "origin"], "x", "not a hash"),
        (["gram"], [[1.0]], "wrong size"),
        (["members", 1], [1.0], "wrong size"),
        (["members", 1, 0], True, "number"),
        (["encoder"], [[1.0, 1.0]], "wrong size"),
        (["tied"], 1, "tied"),
        (["method"], None, "method"),
        (["size"], True, "size"),
        (["report"], [], "report"),
    ],
)
def test_a_manifest_that_lies_is_refused(store: tv.Store, path: list, value: object, message: str) -> None:
    store.fit_basis(2, drop=True)

    def change(table):
        at = table["basis"]
        for key in path[:-1]:
            at = at[key]
        at[path[-1]] = value

    rewritten(store, lambda table: None)
    assert tv.Store.open(store.path).verify().ok
    rewritten(store, change)
    with pytest.raises(errors.StoreError, match=message):
        tv.Store.open(store.path)


def test_leftovers_in_the_shared_folder_go_with_the_next_writer(store: tv.Store) -> None:
    store.fit_basis(2)
    stray = store.path / "shared" / ("0" * 32 + ".tv.safetensors")
    stray.write_bytes(b"x")
    assert store.verify().leftovers == (f"shared/{stray.name}",)
    store.remove("task0")
    assert store.verify().leftovers == ()
