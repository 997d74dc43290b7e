from __future__ import annotations

import json
import multiprocessing
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

import taskvec as tv
from taskvec import errors
from taskvec.ops.hashing import hash_of
from taskvec.store.files import INCOMING, Incoming
from taskvec.store.manifest import encoded, read_manifest
from vector_cases import checkpoints, factored, normal, pair, same_bits

LIBRARY = "library"


def small(seed: int = 0, scale: float = 0.01) -> tuple[tv.Checkpoint, tv.Checkpoint]:
    base = {"a.weight": normal(6, 5, seed=1).float(), "b": normal(3, seed=2).bfloat16(), "steps": torch.arange(4)}
    tuned = {
        n: t if n == "steps" else (t + normal(*t.shape, seed=10 + seed, scale=scale)).to(t.dtype)
        for n, t in base.items()
    }
    return tv.Checkpoint.from_tensors(base), tv.Checkpoint.from_tensors(tuned)


@pytest.fixture
def store(tmp_path: Path) -> tv.Store:
    return tv.Store.create(tmp_path / LIBRARY, base=small()[0])


def vector(seed: int) -> tv.TaskVector:
    base, tuned = small(seed)
    return tuned - base


def files(store: tv.Store) -> list[str]:
    return sorted(p.relative_to(store.path).as_posix() for p in store.path.rglob("*") if p.is_file())


# --- what a store is ---


def test_a_new_store_is_empty_and_knows_its_base(store: tv.Store) -> None:
    assert store.names() == []
    assert len(store) == 0
    assert store.base_fingerprint == small()[0].fingerprint()
    assert store.verify().ok


def test_a_tuned_checkpoint_comes_back_bit_for_bit(store: tv.Store) -> None:
    base, tuned = small(3)
    store.add("math", tuned)
    again = base + tv.Store.open(store.path)["math"]
    assert all(same_bits(again[n], tuned[n]) for n in tuned.names())


def test_a_store_is_a_mapping_in_the_order_of_addition(store: tv.Store) -> None:
    for name in ("zeta", "alpha", "mid"):
        store.add(name, vector(len(name)))
    assert store.names() == list(store) == ["zeta", "alpha", "mid"]
    assert "alpha" in store
    assert "beta" not in store
    assert dict(store.items())["mid"] is store["mid"]
    assert tv.Store.open(store.path).names() == ["zeta", "alpha", "mid"]


def test_equal_names_give_one_leaf_so_that_sums_cancel(store: tv.Store) -> None:
    store.add("a", vector(1))
    store.add("b", vector(2))
    assert ((store["a"] + store["b"]) - store["b"]).single() is store["a"].single()


def test_a_replaced_vector_keeps_its_place_and_the_old_file_goes(store: tv.Store) -> None:
    store.add("a", vector(1))
    store.add("b", vector(2))
    store.add("a", vector(3), force=True)
    assert store.names() == ["a", "b"]
    assert torch.equal(store["a"]["a.weight"], vector(3)["a.weight"])
    assert len(files(store)) == 4  # manifest, lock and two vectors
    assert store.verify().leftovers == ()


def test_an_open_vector_stays_readable_when_it_is_replaced(store: tv.Store) -> None:
    store.add("a", vector(1))
    opened = tv.Store.open(store.path)["a"]
    store.add("a", vector(2), force=True)
    store.remove("a")
    assert torch.equal(opened["a.weight"], vector(1)["a.weight"])


def test_other_processes_changes_are_seen(store: tv.Store) -> None:
    other = tv.Store.open(store.path)
    store.add("a", vector(1))
    assert other.names() == ["a"]
    other.remove("a")
    assert store.names() == []
    with pytest.raises(errors.UnknownName, match="no vector named 'a'"):
        store["a"]


def test_a_removed_vector_leaves_no_file(store: tv.Store) -> None:
    store.add("a", vector(1))
    store.remove("a")
    assert files(store) == [".lock", "manifest.json"]


@pytest.mark.parametrize("codec", tv.codecs.names())
def test_every_codec_can_be_stored(store: tv.Store, codec: str) -> None:
    wanted = factored({"a.weight": (6, 5)}) if codec == "lora" else vector(1)
    store.add(codec, wanted, codec=codec)
    assert store.verify().ok
    assert store[codec].names() == wanted.names()
    assert torch.allclose(store[codec]["a.weight"], wanted["a.weight"], rtol=0, atol=0.02 if codec != "sparse" else 1)


def test_size_counts_every_byte_and_compares_with_dense_storage(store: tv.Store) -> None:
    store.add("exact", vector(1))
    store.add("small", vector(2), codec="int8")
    size = store.size()
    assert size.total == sum(os.path.getsize(store.path / f) for f in files(store) if f != ".lock")
    assert (size.dense_float32, size.dense_bfloat16) == (4 * 33, 2 * 33)
    assert [(v.name, v.codec) for v in size.vectors] == [("exact", "dense"), ("small", "int8")]
    assert size.vectors[0].error == 0.0 < size.vectors[1].error < 0.01
    assert size.vectors[0].of_float32 == size.vectors[0].bytes / 132


def test_reports_are_json_and_can_be_saved(store: tv.Store, tmp_path: Path) -> None:
    store.add("a", vector(1))
    for report in (store.size(), store.verify()):
        text = report.save(tmp_path / "report.json").read_text()
        assert json.loads(text) == json.loads(report.to_json())
    assert json.loads(store.verify().to_json()) == {"ok": True, "problems": [], "intact": ["a"], "leftovers": []}
    assert json.loads(store.size().to_json())["vectors"][0]["name"] == "a"


def test_equal_stores_have_equal_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        made = tv.Store.create(tmp_path / name, base=small()[0])
        made.add("b", vector(2), codec="int4")
        made.add("a", vector(1), threads=1 if name == "one" else 3)
    one, two = ({p.name: p.read_bytes() for p in (tmp_path / n).rglob("*") if p.is_file()} for n in ("one", "two"))
    assert one == two


def test_importing_the_store_loads_neither_torch_nor_numpy() -> None:
    code = "import sys, taskvec.store; print([m for m in ('torch', 'numpy', 'numba') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- names ---

NAMES = ["Math", "math", "MATH", "é", "e\u0301", "数学 α", "../../etc/passwd", "a/b", ".", "..", ".hidden", "con", " ",
         "a%2fb", "x" * 400, "x" * 401, "0" * 32, '"hash":"', "a~b", "c\\d", "vectors", "*?|<>:"]  # fmt: skip


def test_any_printable_name_is_legal_and_has_a_file_of_its_own(store: tv.Store) -> None:
    same = vector(1)
    for name in NAMES:
        store.add(name, same)
    again = tv.Store.open(store.path)
    assert again.names() == NAMES
    assert again.verify().ok
    lowered = [p.name.lower() for p in (store.path / "vectors").iterdir()]
    assert len(set(lowered)) == len(NAMES)
    assert all(len(n) < 255 and n.isascii() and n == n.lower() and not n.startswith(".") for n in lowered)
    assert {p.name for p in store.path.parent.iterdir()} == {LIBRARY}
    store.remove("Math")
    assert torch.equal(store["math"]["b"], same["b"])


def test_encoded_names_differ() -> None:
    assert len({encoded(n) for n in NAMES}) == len(NAMES)


@pytest.mark.parametrize("name", ["", "a\nb", "\0", "tab\t", "\ud800", None, 3, "\u200b"])
def test_a_name_that_cannot_be_printed_is_refused(store: tv.Store, name: object) -> None:
    with pytest.raises(errors.ParameterError, match="cannot name a vector"):
        store.add(name, vector(1))  # type: ignore[arg-type]
    assert files(store) == [".lock", "manifest.json"]


def test_an_unknown_name_suggests_the_nearest(store: tv.Store) -> None:
    store.add("mathematics", vector(1))
    for act in (lambda: store["mathematic"], lambda: store.remove("mathematic")):
        with pytest.raises(
            errors.UnknownName, match=r"no vector named 'mathematic'\.\nFix: did you mean 'mathematics'"
        ):
            act()


def test_a_taken_name_is_refused_without_force(store: tv.Store) -> None:
    store.add("a", vector(1))
    with pytest.raises(errors.DestinationError, match="has a vector named 'a' already"):
        store.add("a", vector(2))
    assert torch.equal(store["a"]["b"], vector(1)["b"])


# --- another base ---


def other_base(store: tv.Store, *, shape: tuple[int, ...] = (6, 5), extra: bool = False) -> tv.Checkpoint:
    tensors = {"a.weight": normal(*shape, seed=77).float(), "b": normal(3, seed=2).bfloat16(), "steps": torch.arange(4)}
    return tv.Checkpoint.from_tensors(tensors | ({"extra": torch.ones(1)} if extra else {}))


@pytest.mark.parametrize(
    ("change", "detail"),
    [
        ({}, "tensor 'a.weight': other values"),
        ({"shape": (5, 6)}, r"tensor 'a.weight': F32\[6, 5\] in the store's, F32\[5, 6\] here"),
        ({"extra": True}, "tensor 'extra': not there in the store's"),
    ],
)
def test_opening_with_another_base_shows_both_fingerprints(
    store: tv.Store, change: dict[str, object], detail: str
) -> None:
    base = other_base(store, **change)  # type: ignore[arg-type]
    with pytest.raises(errors.SchemaError, match=detail) as caught:
        tv.Store.open(store.path, base=base)
    assert base.fingerprint() in str(caught.value)
    assert store.base_fingerprint in str(caught.value)


def test_opening_with_its_own_base_works_however_that_is_stored(store: tv.Store, tmp_path: Path) -> None:
    small()[0].save(tmp_path / "base", shard_size=100)
    opened = tv.Store.open(store.path, base=tv.Checkpoint.open(tmp_path / "base"))
    opened.add("a", small(1)[1])
    assert opened.verify().ok


def test_adding_a_vector_of_another_base_shows_both_fingerprints(store: tv.Store) -> None:
    base = other_base(store)
    stranger = small(1)[1] - base
    for wrong in (stranger, vector(1) + 0.5 * stranger):
        with pytest.raises(errors.SchemaError) as caught:
            store.add("x", wrong)
        assert base.fingerprint() in str(caught.value)
        assert store.base_fingerprint in str(caught.value)
    assert files(store) == [".lock", "manifest.json"]


def test_a_vector_without_a_recorded_base_is_stored_where_it_fits(store: tv.Store) -> None:
    store.add("loose", tv.TaskVector.from_tensors({"b": torch.ones(3)}))
    assert store["loose"].base is None
    with pytest.raises(errors.SchemaError, match=r"'c', which the base of the store does not have"):
        store.add("c", tv.TaskVector.from_tensors({"c": torch.ones(3)}))
    with pytest.raises(errors.SchemaError, match=r"moves 'b' as F32\[4\]; in the base of the store it is BF16\[3\]"):
        store.add("d", tv.TaskVector.from_tensors({"b": torch.ones(4)}))
    with pytest.raises(errors.SchemaError, match=r"moves 'steps' as F32\[4\]; in the base of the store it is I64"):
        store.add("e", tv.TaskVector.from_tensors({"steps": torch.ones(4)}))
    assert store.names() == ["loose"]


def test_a_checkpoint_needs_the_base_at_hand(store: tv.Store) -> None:
    with pytest.raises(errors.ParameterError, match="opened without its base"):
        tv.Store.open(store.path).add("a", small(1)[1])
    with pytest.raises(errors.ParameterError, match="is a dict, neither a TaskVector nor a Checkpoint"):
        store.add("a", {})  # type: ignore[arg-type]


def test_the_base_is_a_checkpoint(store: tv.Store, tmp_path: Path) -> None:
    for make in (tv.Store.create, tv.Store.open):
        with pytest.raises(errors.ParameterError, match="base is a str"):
            make(store.path, base="base")  # type: ignore[arg-type]


# --- refusals leave nothing ---


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"codec": "dnse"}, errors.UnknownName, "did you mean 'dense'"),
        ({"codec": "int8", "group": 33}, errors.ParameterError, "group=33 is not a power of two"),
        ({"shard_size": "1GB"}, errors.ParameterError, "keeps each vector in one file"),
        ({"threads": 0}, errors.ParameterError, "threads=0"),
    ],
)
def test_a_bad_option_leaves_nothing(store: tv.Store, options: dict[str, object], kind: type, message: str) -> None:
    with pytest.raises(kind, match=message):
        store.add("a", vector(1), **options)  # type: ignore[arg-type]
    assert files(store) == [".lock", "manifest.json"]


def test_nan_in_an_input_leaves_nothing(store: tv.Store) -> None:
    _, tuned = small(1)
    bad = {n: tuned[n] for n in tuned.names()}
    bad["a.weight"][2, 2] = float("nan")
    with pytest.raises(errors.NonFiniteError, match=r"tensor 'a\.weight' has NaN or Inf"):
        store.add("a", tv.Checkpoint.from_tensors(bad))
    assert files(store) == [".lock", "manifest.json"]
    assert not any((store.path / INCOMING).iterdir())


def test_a_store_is_not_made_over_anything(store: tv.Store, tmp_path: Path) -> None:
    with pytest.raises(errors.DestinationError, match="is a store already"):
        tv.Store.create(store.path, base=small()[0])
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "precious").touch()
    (tmp_path / "file").touch()
    for path in ("folder", "file"):
        with pytest.raises(errors.DestinationError, match="is not an empty folder"):
            tv.Store.create(tmp_path / path, base=small()[0])
    (tmp_path / "empty" / "vectors").mkdir(parents=True)
    assert tv.Store.create(tmp_path / "empty", base=small()[0]).names() == []


def test_what_is_no_store_is_not_opened(tmp_path: Path) -> None:
    with pytest.raises(errors.StoreError, match="is not a store"):
        tv.Store.open(tmp_path)
    with pytest.raises(errors.StoreError, match="is not a store"):
        tv.Store.open(tmp_path / "nowhere")


# --- damage ---


def corrupt(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0x41
    path.write_bytes(data)


@pytest.mark.parametrize("codec", tv.codecs.names())
def test_a_flipped_byte_anywhere_is_found_and_never_returned_as_numbers(tmp_path: Path, codec: str) -> None:
    store = tv.Store.create(tmp_path / LIBRARY, base=small()[0])
    store.add("a", factored({"a.weight": (6, 5)}) if codec == "lora" else vector(1), codec=codec)
    (path,) = (store.path / "vectors").iterdir()
    whole = path.read_bytes()
    for at in [*range(0, 64), *random.Random(codec).sample(range(64, len(whole)), 80), len(whole) - 1]:
        corrupt(path, at)
        check = store.verify()
        assert not check.ok, at
        assert (check.problems[0].name, check.problems[0].file) == ("a", f"vectors/{path.name}")
        # A part is checked before its first number: the damaged one refuses, whoever opened it and when.
        damaged = check.problems[0].tensor
        for opened in (store, tv.Store.open(store.path)):
            with pytest.raises(errors.TaskVecError):
                opened["a"][damaged or "a.weight"]
        path.write_bytes(whole)
    assert store.verify().ok
    store["a"]["a.weight"]


def test_verify_names_the_tensor_and_the_part(store: tv.Store) -> None:
    store.add("good", vector(2))
    store.add("a", vector(1), codec="int8")
    path = store.path / next(f for f in files(store) if "/a-" in f)
    header = int.from_bytes(path.read_bytes()[:8], "little") + 8
    corrupt(path, header)
    corrupt(path, path.stat().st_size - 1)
    check = store.verify()
    assert [(p.name, p.tensor, p.part) for p in check.problems] == [("a", "a.weight", "codes"), ("a", "b", "scales")]
    assert "is corrupt: its hash is" in check.problems[0].message
    assert check.intact == ("good",)


def test_a_missing_a_truncated_and_a_swapped_file_are_store_errors(store: tv.Store) -> None:
    store.add("a", vector(1))
    store.add("b", vector(2))
    a, b = (store.path / next(f for f in files(store) if f"/{n}-" in f) for n in "ab")
    mine, theirs = a.read_bytes(), b.read_bytes()
    assert len(mine) == len(theirs)
    a.write_bytes(theirs)
    with pytest.raises(errors.StoreError, match=r"vector 'a': .* is damaged or another file"):
        store["a"]
    a.write_bytes(mine[:-1])
    with pytest.raises(errors.StoreError, match=rf"has {len(mine) - 1:,} bytes and should have {len(mine):,}"):
        store["a"]
    a.unlink()
    with pytest.raises(errors.StoreError, match=r"vector 'a': the file '.*' is missing"):
        store["a"]
    assert [p.name for p in store.verify().problems] == ["a"]
    a.mkdir()
    with pytest.raises(errors.StoreError, match="not a file"):
        store["a"]
    a.rmdir()
    store.add("a", vector(1), force=True)
    assert store.verify().ok


def test_adding_again_repairs_a_damaged_file(store: tv.Store) -> None:
    store.add("a", vector(1))
    path = store.path / next(f for f in files(store) if "/a-" in f)
    corrupt(path, path.stat().st_size - 1)
    store.add("a", vector(1), force=True)
    assert store.verify().ok


def test_two_files_whose_hashes_begin_alike_do_not_meet(store: tv.Store) -> None:
    store.add("a", vector(1))
    manifest = read_manifest(store.path, (store.path / "manifest.json").read_bytes())
    entry = manifest.vectors["a"]
    from dataclasses import replace

    twin = replace(entry, hash=entry.hash[:12] + "0" * 20)
    assert manifest.adding("a", twin).vectors["a"].file == f"vectors/a-{twin.hash[:16]}.tv.safetensors"
    assert manifest.adding("a", entry).vectors["a"].file == entry.file


@pytest.mark.parametrize("name", ["manifest.json", ".lock", "vectors", INCOMING])
def test_a_link_in_place_of_a_part_of_a_store_is_refused(store: tv.Store, tmp_path: Path, name: str) -> None:
    store.add("a", vector(1))
    part = store.path / name
    part.rename(tmp_path / "elsewhere") if part.exists() else (tmp_path / "elsewhere").touch()
    part.symlink_to(tmp_path / "elsewhere")
    before = (tmp_path / "elsewhere").stat()
    with pytest.raises(errors.StoreError, match=r"symbolic link|not a file of its own"):
        tv.Store.open(store.path).add("b", vector(2))
    assert (tmp_path / "elsewhere").stat().st_size == before.st_size


def test_a_vector_that_is_a_link_is_refused(store: tv.Store, tmp_path: Path) -> None:
    store.add("a", vector(1))
    path = store.path / next(f for f in files(store) if "/a-" in f)
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(errors.StoreError, match="is a link or a folder"):
        store["a"]


# --- manifests from strangers ---


def rewrite(store: tv.Store, table: object) -> None:
    """Write a manifest with a valid hash, as a stranger would."""
    blank = json.dumps({**table, "hash": "0" * 32} if isinstance(table, dict) else table).encode()
    (store.path / "manifest.json").write_bytes(blank.replace(b"0" * 32, hash_of(blank).encode(), 1))


def table_of(store: tv.Store) -> dict[str, object]:
    table = json.loads((store.path / "manifest.json").read_bytes())
    return {"hash": "", **{k: v for k, v in table.items() if k != "hash"}}  # first, for `rewrite`


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["taskvec_store"], 2, "store of version 2; this taskvec reads 1"),
        (["taskvec_store"], None, "does not say its version"),
        (["vectors", "a", "file"], "../../../etc/passwd", "cannot be its own"),
        (["vectors", "a", "file"], "/etc/passwd", "cannot be its own"),
        (["vectors", "a", "file"], "vectors/b-00000000.tv.safetensors", "cannot be its own"),
        (["vectors", "a", "bytes"], -1, "no valid size"),
        (["vectors", "a", "bytes"], True, "no valid size"),
        (["vectors", "a", "order"], 1.5, "no valid size and order"),
        (["vectors", "a", "hash"], "x", "is not a hash"),
        (["vectors", "a", "header"], 3, "is not a hash"),
        (["vectors", "a", "codec"], "dense", "has no codec"),
        (["vectors", "a", "error"], "0", "no valid error"),
        (["vectors", "a", "error"], -1, "no valid error"),
        (["vectors", "b", "order"], 1, "two vectors have the same order"),
        (["vectors"], [], "damaged"),
        (["base"], None, "damaged"),
        (["base", "name"], 7, "is not a text"),
        (["base", "fingerprint"], "tv1:" + "1" * 32, "fingerprint of the base is not that of its tensors"),
        (["base", "tensors", "b"], ["BF16", [-3], "0" * 32], "no valid dtype and shape"),
        (["base", "tensors", "b"], ["X", [3], "1" * 32], "no valid dtype and shape"),
        (["base", "tensors", "b"], 1, "damaged"),
    ],
)
def test_a_manifest_that_lies_is_refused(store: tv.Store, path: list[str], value: object, message: str) -> None:
    store.add("a", vector(1))
    store.add("b", vector(2))
    table = at = table_of(store)
    for key in path[:-1]:
        at = at[key]  # type: ignore[assignment]
    at[path[-1]] = value
    rewrite(store, table)
    with pytest.raises(errors.StoreError, match=message):
        tv.Store.open(store.path)


def test_the_rewritten_manifest_of_those_tests_is_otherwise_valid(store: tv.Store) -> None:
    store.add("a", vector(1))
    rewrite(store, table_of(store))
    assert tv.Store.open(store.path).verify().ok


def test_an_unprintable_name_or_another_base_is_refused_when_read(store: tv.Store, tmp_path: Path) -> None:
    base = other_base(store)
    other = tv.Store.create(tmp_path / "other", base=base)
    other.add("a", small(1)[1] - base)
    table, theirs = table_of(store), table_of(other)
    table["vectors"] = theirs["vectors"]
    (other.path / "vectors").rename(tmp_path / "moved")
    (store.path / "vectors").rmdir()
    (tmp_path / "moved").rename(store.path / "vectors")
    rewrite(store, table)
    opened = tv.Store.open(store.path)
    with pytest.raises(errors.StoreError, match="was cut from the base"):
        opened["a"]
    assert not opened.verify().ok
    table["vectors"] = {"a\nb": theirs["vectors"]["a"]}  # type: ignore[index]
    rewrite(store, table)
    with pytest.raises(errors.StoreError, match="cannot name a vector"):
        tv.Store.open(store.path)


def mutations(text: bytes, seed: int, count: int) -> Iterator[bytes]:
    """Seeded damage: bytes flipped, removed, repeated, swapped for tokens that parsers trip over."""
    rng = random.Random(seed)
    tokens = [
        b"null",
        b"-1",
        b"1e999",
        b"NaN",
        b"[]",
        b"{}",
        b'""',
        b"9" * 5000,
        b"[" * 3000,
        b"\\ud800",
        b"\xff",
        b"../",
    ]
    for _ in range(count):
        data = bytearray(text)
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(len(data))
            end = min(len(data), at + rng.randint(1, 40))
            kind = rng.randrange(5)
            if kind == 0:
                data[at] = rng.randrange(256)
            elif kind == 1:
                del data[at:end]
            elif kind == 2:
                data[at:at] = data[at:end]
            elif kind == 3:
                data[at:end] = rng.choice(tokens)
            else:
                del data[at:]
            if not data:
                data += b"x"
        yield bytes(data)


def resealed(text: bytes, digest: bytes) -> bytes:
    """The text with the hash of itself, which a stranger can compute as well as we can."""
    blank = text.replace(digest, b"0" * 32)
    place = b'"hash":"%s","taskvec_store"'
    return blank.replace(place % (b"0" * 32), place % hash_of(blank).encode())


@pytest.mark.parametrize("sealed", [False, True])
def test_no_damage_to_a_manifest_does_more_than_raise_our_own_error(store: tv.Store, sealed: bool) -> None:
    store.add("a", vector(1))
    store.add("b", vector(2), codec="int4")
    whole = (store.path / "manifest.json").read_bytes()
    digest = json.loads(whole)["hash"].encode()
    accepted = 0
    for data in mutations(whole, 7, 6000):
        try:
            manifest = read_manifest(store.path, resealed(data, digest) if sealed else data)
        except errors.StoreError:
            continue
        accepted += 1
        assert sealed or data == whole
        assert all(e.file.startswith("vectors/") and e.file.count("/") == 1 for e in manifest.vectors.values())
        manifest.text()
    assert accepted > 0 or not sealed


def test_an_unsealed_flip_of_any_byte_of_the_manifest_is_found(store: tv.Store) -> None:
    store.add("a", vector(1))
    whole = (store.path / "manifest.json").read_bytes()
    for at in range(len(whole)):
        with pytest.raises(errors.StoreError):
            read_manifest(store.path, whole[:at] + bytes([whole[at] ^ 0x41]) + whole[at + 1 :])


# --- leftovers ---


def test_leftovers_are_listed_ignored_and_removed_by_the_next_writer(store: tv.Store) -> None:
    store.add("a", vector(1))
    orphan = store.path / "vectors" / "gone-12345678.tv.safetensors"
    note = store.path / "vectors" / "NOTES.txt"
    old, young = (store.path / INCOMING / n for n in ("old", "young"))
    for path in (orphan, note, old / "x", young / "x"):
        path.parent.mkdir(exist_ok=True)
        path.touch()
    for path in (old / "x", old):
        os.utime(path, (1, 1))
    check = store.verify()
    assert check.ok
    assert set(check.leftovers) == {
        "vectors/gone-12345678.tv.safetensors", "vectors/NOTES.txt", f"{INCOMING}/old", f"{INCOMING}/young",
    }  # fmt: skip
    store.add("b", vector(2))
    assert not orphan.exists()
    assert note.exists()  # not ours: told, not touched
    assert not old.exists()
    assert young.exists()  # may still be resumed


# --- two writers ---


def add_many(path: Path, names: list[str], seed: int, barrier: object, outcome: object) -> None:
    base, _ = small()
    store = tv.Store.open(path, base=base)
    barrier.wait()  # type: ignore[attr-defined]
    for i, name in enumerate(names):
        try:
            store.add(name, small(seed + i)[1])
            outcome.put((name, seed + i, "added"))  # type: ignore[attr-defined]
        except (errors.DestinationError, errors.StoreError) as error:
            outcome.put((name, seed + i, error.fact))  # type: ignore[attr-defined]


def race(store: tv.Store, jobs: list[list[str]]) -> list[tuple[str, int, str]]:
    context = multiprocessing.get_context("fork")
    barrier, outcome = context.Barrier(len(jobs)), context.Queue()
    children = [
        context.Process(target=add_many, args=(store.path, names, 100 * i, barrier, outcome))
        for i, names in enumerate(jobs)
    ]
    for child in children:
        child.start()
    rows = [outcome.get(timeout=60) for names in jobs for _ in names]
    for child in children:
        child.join()
        assert child.exitcode == 0
    return rows


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_processes_that_add_different_names_lose_nothing(store: tv.Store) -> None:
    vector(0).norm()  # compiled before the fork
    jobs = [[f"{who}{i}" for i in range(12)] for who in "xyz"]
    rows = race(store, jobs)
    assert all(what == "added" for _, _, what in rows)
    assert sorted(store.names()) == sorted(name for names in jobs for name in names)
    assert [n for n in store.names() if n[0] == "x"] == jobs[0]
    assert store.verify().ok
    assert store.verify().leftovers == ()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_processes_that_add_the_same_names_agree_on_one_and_tell_the_others(store: tv.Store) -> None:
    vector(0).norm()
    names = [f"n{i}" for i in range(12)]
    rows = race(store, [names, names, names])
    added = {name: seed for name, seed, what in rows if what == "added"}
    assert all(what == "added" or "already" in what or "another process is adding" in what for _, _, what in rows)
    told_to_retry = [r for r in rows if "another process is adding" in r[2]]
    assert sorted(store.names()) == sorted(added)
    assert len([r for r in rows if r[2] == "added"]) == len(added)
    for name, seed in added.items():
        assert torch.equal(store[name]["a.weight"], vector(seed)["a.weight"])
    assert set(names) - set(added) <= {r[0] for r in told_to_retry}
    assert store.verify().ok


def test_a_name_that_another_is_adding_is_refused_with_a_word_to_retry(store: tv.Store) -> None:
    # A lock is held by a descriptor, so a thread with one of its own stands for another process.
    with Incoming(store.path, "a"), ThreadPoolExecutor(1) as other:
        with pytest.raises(errors.StoreError, match=r"another process is adding 'a' .*\nFix: wait for it to finish"):
            other.submit(store.add, "a", vector(1)).result()
        other.submit(store.add, "b", vector(2)).result()
    assert store.names() == ["b"]
    store.add("a", vector(1))


def test_every_awkward_delta_can_be_stored(tmp_path: Path) -> None:
    base, tuned = checkpoints("F32")
    store = tv.Store.create(tmp_path / LIBRARY, base=base)
    store.add("all", tuned)
    again = base + store["all"]
    assert all(same_bits(again[n], t) for n, t in pair()[1].items())
