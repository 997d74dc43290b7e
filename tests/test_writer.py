from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors
import safetensors.torch
import torch
import yaml

import taskvec as tv
from taskvec import errors
from taskvec.checkpoint.durable import replace_durably, try_lock
from taskvec.checkpoint.save import parse_size
from taskvec.checkpoint.source import AbstractSource
from taskvec.checkpoint.staging import Staging
from vector_cases import checkpoints, dtype, normal, pair, partials, same_bits, tree

SHARDS = {"model-00001-of-00002.safetensors": ("conv", "row", "tiny"), "model-00002-of-00002.safetensors": ()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A base as the hub has them: two shards and an index, config, tokenizer, a card, other formats, a pickle."""
    root = tmp_path / "org-base"
    root.mkdir()
    tensors, _ = pair(code="BF16")
    names = {
        "model-00001-of-00002.safetensors": list(tensors)[:4],
        "model-00002-of-00002.safetensors": list(tensors)[4:],
    }
    for file, keys in names.items():
        safetensors.torch.save_file({k: tensors[k] for k in keys}, root / file, metadata={"format": "pt", "own": "x"})
    table = {"metadata": {"total_size": 1}, "weight_map": {k: f for f, keys in names.items() for k in keys}}
    (root / "model.safetensors.index.json").write_text(json.dumps(table))
    (root / "config.json").write_text(json.dumps({"model_type": "toy", "torch_dtype": "bfloat16"}))
    (root / "tokenizer.json").write_text("{}")
    (root / "vocab.txt").write_text("a\nb\n")
    (root / "README.md").write_text("---\nlicense: mit\nlanguage: [en]\nbase_model: other\n---\n# The base\n")
    for other in ("pytorch_model.bin", "tf_model.h5", "flax_model.msgpack", "model.onnx", "model.onnx_data", "x.gguf",
                  "x.pkl", "weights.npz", "training_args.bin", ".hidden"):  # fmt: skip
        (root / other).write_bytes(b"other")
    (root / "onnx").mkdir()
    (root / "onnx" / "config.json").write_text("{}")
    return root


def tuned_of(base: tv.Checkpoint, seed: int = 3) -> tv.Checkpoint:
    tensors = {n: base[n] for n in base.names()}
    moved = {n: t + normal(*t.shape, seed=seed, scale=0.01).to(t.dtype) for n, t in tensors.items() if n != "steps"}
    return tv.Checkpoint.from_tensors(tensors | moved)


def edited(folder: Path) -> tv.Checkpoint:
    base = tv.Checkpoint.open(folder)
    return base + 0.5 * (tuned_of(base) - base)


def load(path: Path) -> dict[str, torch.Tensor]:
    files = [path] if path.is_file() else sorted(path.glob("*.safetensors"))
    return {n: t for f in files for n, t in safetensors.torch.load_file(f).items()}


# --- layout ---


def test_a_folder_is_written_in_the_layout_of_its_base(folder: Path, tmp_path: Path) -> None:
    model = edited(folder)
    out = model.save(tmp_path / "out")
    assert out == tmp_path / "out"
    assert sorted(p.name for p in out.iterdir()) == [
        "README.md", "config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
        "model.safetensors.index.json", "tokenizer.json", "vocab.txt",
    ]  # fmt: skip
    for file in ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"):
        with safetensors.safe_open(folder / file, "pt") as old, safetensors.safe_open(out / file, "pt") as new:  # type: ignore[no-untyped-call]
            assert set(old.keys()) == set(new.keys())
            assert {"format": "pt", "own": "x"}.items() <= new.metadata().items()
    loaded = load(out)
    assert all(same_bits(loaded[n], model[n]) for n in model.names())
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert index["weight_map"] == json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in loaded.values())
    assert tv.Checkpoint.open(out).fingerprint() == model.fingerprint()
    assert partials(tmp_path) == []


def test_side_files_are_copied_as_they_are(folder: Path, tmp_path: Path) -> None:
    out = edited(folder).save(tmp_path / "out")
    for name in ("config.json", "tokenizer.json", "vocab.txt"):
        assert (out / name).read_bytes() == (folder / name).read_bytes()


def test_the_card_names_the_base_the_relation_the_recipe_and_the_license(folder: Path, tmp_path: Path) -> None:
    card = (edited(folder).save(tmp_path / "out") / "README.md").read_text()
    front, body = card.removeprefix("---\n").split("---\n", 1)
    assert yaml.safe_load(front) == {
        "base_model": ["org-base"], "base_model_relation": "merge", "tags": ["merge", "taskvec", "task-arithmetic"],
        "license": "mit", "language": ["en"],
    }  # fmt: skip
    recipe = yaml.safe_load(body.split("```yaml\n")[1].split("```")[0])
    assert recipe["base"]["fingerprint"] == tv.Checkpoint.open(folder).fingerprint()
    assert recipe["terms"][0]["coefficient"] == 0.5


def test_metadata_hold_the_recipe_and_nothing_of_the_machine_or_the_hour(folder: Path, tmp_path: Path) -> None:
    out = edited(folder).save(tmp_path / "out", recipe={"expression": "0.5 * tuned"})
    with safetensors.safe_open(out / "model-00001-of-00002.safetensors", "pt") as file:  # type: ignore[no-untyped-call]
        recipe = json.loads(file.metadata()["taskvec_recipe"])
    assert recipe["expression"] == "0.5 * tuned"
    assert recipe["base"]["name"] == "org-base"
    everything = b"".join(tree(out).values())
    assert str(tmp_path).encode() not in everything
    assert time.strftime("%Y-%m").encode() not in everything


def test_a_single_file_gives_a_single_file(tmp_path: Path) -> None:
    tensors, _ = pair()
    safetensors.torch.save_file(tensors, tmp_path / "base.safetensors")
    base = tv.Checkpoint.open(tmp_path / "base.safetensors")
    out = (base + (tuned_of(base) - base)).save(tmp_path / "out.safetensors")
    assert out.is_file()
    assert all(same_bits(load(out)[n], t) for n, t in ((n, tuned_of(base)[n]) for n in base.names()))
    with pytest.raises(errors.ParameterError, match="a single file cannot be sharded"):
        base.save(tmp_path / "two.safetensors", shard_size=100)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["base.safetensors", "out.safetensors"]


def test_a_folder_is_not_written_as_a_single_file(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(errors.ParameterError, match="names a single file, and the base is a folder"):
        edited(folder).save(tmp_path / "out.safetensors")


def test_a_model_in_memory_is_written_as_either(tmp_path: Path) -> None:
    base, _ = checkpoints()
    assert (base.save(tmp_path / "folder") / "model.safetensors").is_file()
    assert base.save(tmp_path / "one.safetensors").is_file()
    assert all(same_bits(load(tmp_path / p)[n], base[n]) for p in ("folder", "one.safetensors") for n in base.names())


@pytest.mark.parametrize("size", [1, 3000, "10KB", "1GB"])
def test_a_shard_size_cuts_the_output_and_indexes_it(folder: Path, tmp_path: Path, size: int | str) -> None:
    model = edited(folder)
    out = model.save(tmp_path / "out", shard_size=size)
    files = sorted(out.glob("*.safetensors"))
    loaded = load(out)
    assert all(same_bits(loaded[n], model[n]) for n in model.names())
    for file in files:
        tensors = safetensors.torch.load_file(file)
        assert len(tensors) == 1 or sum(t.nbytes for t in tensors.values()) <= parse_size(size)
    index = out / "model.safetensors.index.json"
    assert index.exists() == (len(files) > 1)
    if len(files) > 1:
        names = [f"model-{i:05d}-of-{len(files):05d}.safetensors" for i in range(1, len(files) + 1)]
        assert [f.name for f in files] == names
        assert {k: f.name for f in files for k in safetensors.torch.load_file(f)} == json.loads(index.read_text())[
            "weight_map"
        ]
    else:
        assert [f.name for f in files] == ["model.safetensors"]
    assert tv.Checkpoint.open(out).fingerprint() == model.fingerprint()


def test_subfolders_keep_their_names_and_files(tmp_path: Path) -> None:
    root = tmp_path / "pipe"
    for part in ("unet", "vae"):
        (root / part).mkdir(parents=True)
        safetensors.torch.save_file({"w": normal(3, 4, seed=len(part)).float()}, root / part / "model.safetensors")
        (root / part / "config.json").write_text("{}")
    (root / "model_index.json").write_text('{"unet": ["a", "b"], "vae": ["a", "b"]}')
    out = edited(root).save(tmp_path / "out")
    assert sorted(tree(out)) == [
        "README.md", "model_index.json", "unet/config.json", "unet/model.safetensors", "vae/config.json",
        "vae/model.safetensors",
    ]  # fmt: skip
    assert set(safetensors.torch.load_file(out / "unet" / "model.safetensors")) == {"w"}


def test_tied_names_stay_tied(tmp_path: Path) -> None:
    shared = normal(4, 4, seed=1).float()
    base = tv.Checkpoint.from_tensors({"embed": shared, "head": shared, "other": normal(2, seed=2).float()})
    out = base.save(tmp_path / "out.safetensors")
    with safetensors.safe_open(out, "pt") as file:  # type: ignore[no-untyped-call]
        assert set(file.keys()) == {"embed", "other"}
    assert torch.equal(tv.Checkpoint.open(out)["head"], shared)


@pytest.mark.parametrize(("code", "name"), [("F32", "float32"), ("F16", "fp16"), ("F64", "float64")])
def test_a_dtype_replaces_that_of_the_floats_and_the_config_says_so(
    folder: Path, tmp_path: Path, code: str, name: str
) -> None:
    base = tv.Checkpoint.open(folder)
    model = base + 0.5 * (tuned_of(base) - base)
    if code == "F16":
        model = base  # 1e6 is no float16; the base has none
    loaded = load(model.save(tmp_path / "out", dtype=name))
    assert {t.dtype for n, t in loaded.items() if n != "steps"} == {dtype(code)}
    assert loaded["steps"].dtype == torch.int64
    assert json.loads((tmp_path / "out" / "config.json").read_text())["torch_dtype"] == str(dtype(code)).removeprefix(
        "torch."
    )
    with pytest.raises(errors.ParameterError, match="dtype I8 is not a floating-point type"):
        model.save(tmp_path / "no", dtype="int8")


# --- destinations ---


def test_an_existing_destination_is_refused_and_force_swaps_it(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").touch()
    with pytest.raises(errors.DestinationError, match=r"out' exists already\.\nFix: .*--force"):
        edited(folder).save(tmp_path / "out")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["precious"]
    edited(folder).save(tmp_path / "out", force=True)
    assert not (tmp_path / "out" / "precious").exists()
    assert partials(tmp_path) == []


@pytest.mark.parametrize("kind", ["file", "folder", "link", "dead link"])
def test_force_replaces_whatever_is_there_and_follows_no_link(tmp_path: Path, kind: str) -> None:
    base, tuned = checkpoints()
    target, out = tmp_path / "target", tmp_path / "v.tv.safetensors"
    target.mkdir()
    (target / "keep").touch()
    {"file": out.touch, "folder": lambda: (out / "x").mkdir(parents=True), "link": lambda: out.symlink_to(target),
     "dead link": lambda: out.symlink_to(tmp_path / "nowhere")}[kind]()  # fmt: skip
    with pytest.raises(errors.DestinationError, match="exists already"):
        (tuned - base).save(out)
    (tuned - base).save(out, force=True)
    assert out.is_file()
    assert not out.is_symlink()
    assert [p.name for p in target.iterdir()] == ["keep"]
    assert partials(tmp_path) == []


def test_a_model_may_replace_its_own_base(folder: Path) -> None:
    model = edited(folder)
    expected = {n: model[n] for n in model.names()}
    model.save(folder, force=True)
    assert all(same_bits(load(folder)[n], t) for n, t in expected.items())


def test_a_missing_parent_and_a_busy_destination_are_refused(tmp_path: Path) -> None:
    base, _ = checkpoints()
    with pytest.raises(errors.DestinationError, match=r"the folder '.*nowhere' does not exist"):
        base.save(tmp_path / "nowhere" / "out")
    with (
        Staging(tmp_path / "out", plan=None, force=False),
        pytest.raises(errors.DestinationError, match="another process is writing"),
    ):
        in_thread(lambda: base.save(tmp_path / "out"))


def in_thread(work: Callable[[], object]) -> None:
    """Run elsewhere, since a lock is its thread's own."""
    caught: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            caught.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if caught:
        raise caught[0]


def test_a_lock_follows_the_file_that_is_there_now(tmp_path: Path) -> None:
    first = try_lock(tmp_path / "a" / "lock")
    assert first is not None
    in_thread(lambda: check_busy(tmp_path / "a" / "lock"))
    (tmp_path / "a" / "lock").unlink()
    first.release()
    second = try_lock(tmp_path / "a" / "lock")
    assert second is not None
    second.release()


def check_busy(path: Path) -> None:
    assert try_lock(path) is None


def test_a_text_is_replaced_in_one_step_and_through_no_link(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("old")
    (tmp_path / "victim").write_text("keep")
    (tmp_path / "x.new").symlink_to(tmp_path / "victim")
    replace_durably(tmp_path / "x", "new")
    assert (tmp_path / "x").read_text() == "new"
    assert (tmp_path / "victim").read_text() == "keep"


# --- refusals ---


@pytest.mark.parametrize("threads", [1, 4])
def test_a_refusal_leaves_neither_destination_nor_partial(folder: Path, tmp_path: Path, threads: int) -> None:
    base = tv.Checkpoint.open(folder)
    bad = {n: base[n] for n in base.names()}
    bad["blocks"][69_000] = float("inf")
    wrong = tv.Checkpoint.from_tensors(bad)
    with pytest.raises(errors.NonFiniteError, match="tensor 'blocks'"):
        (base + 0.5 * (wrong - base)).save(tmp_path / "out", threads=threads)
    with pytest.raises(errors.NonFiniteError, match="tensor 'blocks'"):
        (wrong - base).save(tmp_path / "v.tv.safetensors", threads=threads)
    other = tv.Checkpoint.from_tensors(
        {n: t + 1 if n == "conv" else t for n, t in ((n, base[n]) for n in base.names())}
    )
    vector = tv.TaskVector.open((tuned_of(base) - base).save(tmp_path / "good.tv.safetensors"))
    with pytest.raises(errors.SchemaError, match="was cut from another base: tensor 'conv'"):
        (other + vector).save(tmp_path / "out", threads=threads)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["good.tv.safetensors", "org-base"]


@pytest.mark.parametrize(
    ("size", "expected"), [(5, 5), ("5", 5), ("5kb", 5000), ("2 GiB", 2 << 30), ("1.5MB", 1_500_000)]
)
def test_sizes_are_read(size: int | str, expected: int) -> None:
    assert parse_size(size) == expected


@pytest.mark.parametrize("size", ["", "big", 0, -5, "0.1", "nan", "inf", "1e400", "5 parsecs"])
def test_what_is_no_size_is_refused(size: int | str) -> None:
    with pytest.raises(errors.ParameterError, match="is not a size in bytes"):
        parse_size(size)


def test_a_disk_that_is_too_small_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    base, _ = checkpoints()
    with pytest.raises(errors.DestinationError, match=r"needs [\d,]+ bytes and the disk has [\d,]+ free"):
        base.save(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    mount = tmp_path / "disk"
    mount.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(mount)], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip(f"cannot mount a small file system: {done.stderr.decode().strip()}")
    yield mount
    subprocess.run(["umount", str(mount)], check=True)


def test_a_full_disk_is_told_and_a_run_goes_on_when_there_is_space(tiny_disk: Path) -> None:
    base, tuned = checkpoints("F32")
    vector = tuned - base
    filler = tiny_disk / "filler"
    filler.write_bytes(b"x" * 100_000)
    with pytest.raises(
        errors.DestinationError,
        match=r"the disk is full: '.*v\.tv\.safetensors' could not be written\.\nFix: free some space",
    ):
        vector.save(tiny_disk / "v.tv.safetensors", dtype="float32")
    assert not (tiny_disk / "v.tv.safetensors").exists()
    with pytest.raises(errors.DestinationError, match=r"the disk is full|needs .* bytes and the disk has"):
        base.save(tiny_disk / "out.safetensors")
    assert not (tiny_disk / "out.safetensors").exists()
    filler.unlink()
    vector.save(tiny_disk / "v.tv.safetensors", codec="int8")
    assert sorted(p.name for p in tiny_disk.iterdir()) == ["v.tv.safetensors"]


def test_a_store_on_a_full_disk_stays_as_it_was(tiny_disk: Path) -> None:
    base, tuned = checkpoints("F32")
    store = tv.Store.create(tiny_disk / "library", base=base)
    store.add("a", tuned, codec="int4")
    for _ in range(3):
        with pytest.raises(errors.DestinationError, match="the disk is full"):
            store.add("b", tuned, dtype="float32")
    assert store.names() == ["a"]
    assert store.verify().ok
    store.add("b", tuned, codec="int4")
    assert tv.Store.open(store.path).names() == ["a", "b"]


@pytest.mark.parametrize("code", [errno.EACCES, errno.EPERM, errno.EROFS])
def test_a_folder_that_may_not_be_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "mkdir", refuse)  # root may write anywhere, so the system does not say it here
    with pytest.raises(errors.DestinationError, match=rf"out' cannot be written: {os.strerror(code)}"):
        checkpoints()[0].save(tmp_path / "out")
    with pytest.raises(errors.DestinationError, match=rf"library' cannot be written: {os.strerror(code)}"):
        tv.Store.create(tmp_path / "library", base=checkpoints()[0])


# --- the same bytes ---


def test_the_bytes_do_not_depend_on_threads_or_names(folder: Path, tmp_path: Path) -> None:
    model = edited(folder)
    trees = [tree(model.save(tmp_path / f"out{t}", threads=t)) for t in (1, 2, 4)]
    assert trees[0] == trees[1] == trees[2]


# --- resumption ---


class Watched(AbstractSource):
    """A source with an identity that counts what is read, and fails, hangs or counts down when it is told to."""

    def __init__(self, tensors: dict[str, torch.Tensor], *, stamp: object = 0) -> None:
        self._inner = tv.Checkpoint.from_tensors(tensors).source
        self.specs, self._stamp = self._inner.specs, stamp
        self.read: list[str] = []
        self.before: Callable[[str], None] = lambda name: None

    def bits(self, name: str, start: int, stop: int) -> Any:
        self.before(name)
        self.read.append(name)
        return self._inner.bits(name, start, stop)

    def identity(self, name: str) -> tuple[object, ...]:
        return ("watched", self._stamp, name)


class Killed(BaseException):
    """Stands for a kill: nothing in the code handles it."""


NAMES = [f"layer.{i}" for i in range(6)]


def watched(seed: int = 0, stamp: int = 0) -> Watched:
    return Watched({n: normal(300, 20, seed=seed + i).float() for i, n in enumerate(NAMES)}, stamp=(seed, stamp))


def save_vector(tuned: Watched, base: Watched, path: Path, **options: Any) -> Path:
    return (tv.Checkpoint(tuned) - tv.Checkpoint(base)).save(path, threads=1, **options)


def save_model(tuned: Watched, base: Watched, path: Path, **options: Any) -> Path:
    point = tv.Checkpoint(base)
    return (point + 0.5 * (tv.Checkpoint(tuned) - point)).save(path, threads=1, **options)


def dying(source: Watched, name: str, error: BaseException) -> Watched:
    def before(read: str) -> None:
        if read == name:
            raise error

    source.before = before
    return source


WRITERS = [
    pytest.param(save_model, "out", {}, id="model"),
    pytest.param(save_model, "out.safetensors", {}, id="single file"),
    pytest.param(save_vector, "v.tv.safetensors", {}, id="exact"),
    pytest.param(save_vector, "v.tv.safetensors", {"codec": "sparse"}, id="sparse"),
    pytest.param(save_vector, "folder", {"codec": "int8", "shard_size": 50_000}, id="shards"),
]


@pytest.fixture(autouse=True)
def no_cached_hashes(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setenv("TASKVEC_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.mark.parametrize(("save", "name", "options"), WRITERS)
def test_a_killed_run_is_resumed_with_the_same_bytes_and_without_reading_finished_tensors(
    tmp_path: Path, save: Callable[..., Path], name: str, options: dict[str, Any]
) -> None:
    (tmp_path / "expected").mkdir()
    expected = tree(save(watched(1), watched(9), tmp_path / "expected" / name, **options))
    with pytest.raises(Killed):
        save(dying(watched(1), "layer.4", Killed()), watched(9), tmp_path / name, **options)
    assert not (tmp_path / name).exists()
    assert partials(tmp_path) == [f".{name}.partial"]
    tuned, base = watched(1), watched(9)
    out = save(tuned, base, tmp_path / name, **options)
    assert tree(out) == expected
    assert partials(tmp_path) == []
    for source in (tuned, base):
        assert "layer.0" not in source.read
        assert "layer.5" in source.read


@pytest.mark.parametrize("damage", ["data", "journal", "journal cut", "data cut"])
@pytest.mark.parametrize(("save", "name", "options"), WRITERS[:3])
def test_a_damaged_partial_is_done_again(
    tmp_path: Path, save: Callable[..., Path], name: str, options: dict[str, Any], damage: str
) -> None:
    (tmp_path / "expected").mkdir()
    expected = tree(save(watched(1), watched(9), tmp_path / "expected" / name, **options))
    with pytest.raises(Killed):
        save(dying(watched(1), "layer.4", Killed()), watched(9), tmp_path / name, **options)
    root = tmp_path / f".{name}.partial"
    data, journal = next(p for p in (root / "out").rglob("*.safetensors")), root / "journal.jsonl"
    path = data if damage.startswith("data") else journal
    content = bytearray(path.read_bytes())
    if damage.endswith("cut"):
        del content[len(content) // 2 :]
    else:
        for at in range(len(content) // 3, len(content), 97):
            content[at] ^= 1
    path.write_bytes(content)
    assert tree(save(watched(1), watched(9), tmp_path / name, **options)) == expected


@pytest.mark.parametrize(("save", "name", "options"), WRITERS)
def test_a_changed_input_starts_over(
    tmp_path: Path, save: Callable[..., Path], name: str, options: dict[str, Any]
) -> None:
    with pytest.raises(Killed):
        save(dying(watched(1), "layer.4", Killed()), watched(9), tmp_path / name, **options)
    (tmp_path / "expected").mkdir()
    expected = tree(save(watched(2), watched(9), tmp_path / "expected" / name, **options))
    assert tree(save(watched(2, stamp=1), watched(9), tmp_path / name, **options)) == expected


def test_nothing_of_a_killed_run_gets_into_the_output(folder: Path, tmp_path: Path) -> None:
    out, root = tmp_path / "out", tmp_path / ".out.partial"
    base = tv.Checkpoint.open(folder)
    tuned = tv.Checkpoint.open(tuned_of(base).save(tmp_path / "tuned"))
    model = base + 0.5 * (tuned - base)
    expected = tree(model.save(tmp_path / "expected"))
    with pytest.raises(Killed):
        model.save(out, progress=lambda _, done, total: kill_if(done == total))
    (root / "out" / "stale_tokenizer.json").write_text("of an earlier run")
    (root / "out" / "sub").mkdir()
    (root / "out" / "sub" / "x").touch()
    (root / "out" / "link").symlink_to(folder)
    assert tree(model.save(out)) == expected
    assert (folder / "config.json").exists()


def kill_if(now: bool) -> None:
    if now:
        raise Killed


def test_a_replacement_killed_between_its_two_renames_is_undone(tmp_path: Path) -> None:
    base, tuned = checkpoints()
    out, root = tmp_path / "out", tmp_path / ".out.partial"
    base.save(out)
    before = tree(out)
    root.mkdir()
    out.rename(root / "replaced")  # what the second rename would have completed
    with pytest.raises(errors.DestinationError, match="exists already"):
        tuned.save(out)
    assert tree(out) == before
    tuned.save(out, force=True)
    assert same_bits(load(out)["conv"], tuned["conv"])


def test_a_bad_input_found_on_resumption_removes_the_partial(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        save_vector(dying(watched(1), "layer.4", Killed()), watched(9), tmp_path / "v")
    with pytest.raises(errors.NonFiniteError):
        save_vector(dying(watched(1), "layer.4", errors.NonFiniteError("NaN")), watched(9), tmp_path / "v")
    assert list(tmp_path.iterdir()) == []


# --- interruption ---


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("codec", ["dense", "sparse", "int8"])
def test_an_interrupt_stops_within_a_second_keeps_the_partial_and_says_so(
    tmp_path: Path, codec: str, threads: int
) -> None:
    big = {f"w{i}": torch.zeros(1 << 21) for i in range(4)}
    tuned, base = Watched({n: t + 1 for n, t in big.items()}, stamp="tuned"), Watched(big)
    started = threading.Event()

    def slowly(name: str) -> None:
        started.set()
        time.sleep(0.02)

    tuned.before = slowly
    pressed: list[float] = []

    def press() -> None:
        if started.wait(10):
            time.sleep(0.05)
            pressed.append(time.monotonic())
            os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press, daemon=True).start()
    with pytest.raises(KeyboardInterrupt) as caught:
        (tv.Checkpoint(tuned) - tv.Checkpoint(base)).save(tmp_path / "v", codec=codec, threads=threads)
    assert time.monotonic() - pressed[0] < 1.0
    assert partials(tmp_path) == [".v.partial"]
    assert "keeps what is finished" in caught.value.__notes__[0]
    assert not (tmp_path / "v").exists()


@pytest.mark.parametrize("codec", ["dense", "int8", "sparse"])
def test_progress_counts_the_bytes_of_every_tensor(tmp_path: Path, codec: str) -> None:
    base, tuned = checkpoints()
    parameters = {"density": 0.5} if codec == "sparse" else {}
    for name, work in (("v", tuned - base), ("model", base + 0.5 * (tuned - base))):
        seen: list[tuple[str, int, int]] = []
        whole = sum(s.nbytes for s in work.specs.values())
        options = {"codec": codec, **parameters} if name == "v" else {}
        work.save(tmp_path / name, threads=3, progress=lambda *step, seen=seen: seen.append(step), **options)
        assert {(step, total) for step, _, total in seen} == {("writing", whole)}
        assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)
        assert seen[-1][1] == whole


def test_progress_moves_within_a_tensor(tmp_path: Path) -> None:
    seen: list[int] = []
    model = tv.Checkpoint.from_tensors({"w": torch.zeros(3 << 20, dtype=torch.bfloat16)})
    model.save(tmp_path / "out", progress=lambda _step, done, _total: seen.append(done))
    assert sorted(set(seen)) == [2 << 20, 4 << 20, 6 << 20]


@pytest.mark.parametrize(("mask", "mode"), [(0o077, 0o600), (0o002, 0o664)])
def test_files_are_as_private_as_the_user_wants_them(tmp_path: Path, mask: int, mode: int) -> None:
    before = os.umask(mask)
    try:
        checkpoints()[0].save(tmp_path / "out")
    finally:
        os.umask(before)
    assert {p.stat().st_mode & 0o777 for p in (tmp_path / "out").iterdir()} == {mode}
