"""Files from strangers: each broken or hostile one is refused, by a message that names the file and what is wrong."""

import json
import os
import pickle

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from raw_files import entry, good, hostile_legacy, hostile_zip, indexed, raw
from taskvec.checkpoint.checkpoint import Checkpoint
from taskvec.errors import FormatError, SpaceError

# --- one safetensors file ------------------------------------------------------------------------------------------

HEADERS = {
    "overlapping": (
        {"a": entry(0, 8), "b": entry(4, 12)},
        12,
        "tensor 'b' in '.*' overlaps .* begin at byte 8 .* at 4",
    ),
    "twice the same bytes": (
        {"a": entry(0, 8), "b": entry(0, 8)},
        8,
        "tensor 'b' in '.*' overlaps the tensor before it",
    ),
    "holed": ({"a": entry(0, 8), "b": entry(12, 20)}, 20, "tensor 'b' in '.*' leaves a hole .* byte 8 .* at 12"),
    "hole at the start": ({"a": entry(4, 12)}, 12, "tensor 'a' in '.*' leaves a hole before it"),
    "truncated data": ({"a": entry(0, 8)}, 7, "has 7 bytes of data where its header describes 8; it is truncated"),
    "left-over bytes": ({"a": entry(0, 8)}, 9, "has 9 bytes of data where its header describes 8; bytes are left over"),
    "no data at all": ({"a": entry(0, 8)}, 0, "has 0 bytes of data where its header describes 8; it is truncated"),
    "unknown dtype": ({"a": entry(0, 8, dtype="F31")}, 8, "tensor 'a' in '.*' has the unknown dtype 'F31'"),
    "dtype not text": ({"a": entry(0, 8, dtype=7)}, 8, "tensor 'a' in '.*' has the unknown dtype 7"),
    "negative dimension": (
        {"a": entry(0, 8, [-2])},
        8,
        r"tensor 'a' in '.*' has no valid dtype, shape and data_offsets",
    ),
    "fractional dimension": ({"a": entry(0, 8, [2.0])}, 8, "tensor 'a' in '.*' has no valid dtype, shape"),
    "true as dimension": ({"a": entry(0, 4, [True])}, 4, "tensor 'a' in '.*' has no valid dtype, shape"),
    "dimension beyond 63 bits": ({"a": entry(0, 8, [2**63])}, 8, "tensor 'a' in '.*' has no valid dtype, shape"),
    "overflowing shape": (
        {"a": entry(0, 8, [2**62, 2**62])},
        8,
        r"'a' in '.*' is F32\[\d+, \d+\], which needs 8.5\d+e\+37",
    ),
    "wrap-around shape": ({"a": entry(0, 0, [2**32, 2**32])}, 0, "tensor 'a' in '.*' is .* and its offsets give it 0"),
    "too many dimensions": ({"a": entry(0, 8, [2**62] * 100_000)}, 8, "tensor 'a' in '.*' has no valid dtype, shape"),
    "shape not a list": ({"a": entry(0, 8, "2")}, 8, "tensor 'a' in '.*' has no valid dtype, shape"),
    "too few bytes": ({"a": entry(0, 8, [3])}, 8, r"'a' in '.*' is F32\[3\], which needs 12 bytes, .* give it 8"),
    "half a byte": ({"a": entry(0, 1, [1], "F4")}, 1, r"'a' in '.*' is F4\[1\], which needs 0.5 bytes"),
    "offsets reversed": ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}}, 8, "'a' in '.*' has no valid"),
    "one offset": ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [8]}}, 8, "'a' in '.*' has no valid"),
    "negative offset": ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]}}, 8, "'a' in '.*' has no valid"),
    "no dtype": ({"a": {"shape": [2], "data_offsets": [0, 8]}}, 8, "'a' in '.*' has no valid"),
    "entry not a table": ({"a": [1, 2]}, 8, "tensor 'a' in '.*' has no valid"),
    "metadata not a table": ({"__metadata__": ["x"]}, 0, "has a __metadata__ that is not a table of strings"),
    "metadata with a number": ({"__metadata__": {"x": 1}}, 0, "has a __metadata__ that is not a table of strings"),
    "not JSON": (b"{'a': 1}", 0, "the header of '.*' is not valid"),
    "a JSON list": (b"[]", 0, "the header of '.*' is not valid: it does not start with '{'"),
    "space before the table": (b" {}", 0, "the header of '.*' is not valid: it does not start with '{'"),
    "not Unicode": (b'{"\xff": 1}', 0, "the header of '.*' is not valid"),
    "half a character": (b'{"\\ud800": {}}', 0, "the header of '.*' is not valid"),
    "NaN": (b'{"a": NaN}', 0, "the header of '.*' is not valid: NaN is not a number"),
    "deep nesting": (b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}", 0, "not valid: it is nested too deeply"),
    "a number of a million digits": (b'{"a":' + b"9" * 1_000_000 + b"}", 0, "the header of '.*' is not valid"),
    "duplicate names": (
        b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
        1,
        "the header of '.*' is not valid: it names 'a' twice",
    ),
    "duplicate fields": (
        b'{"a":{"dtype":"U8","shape":[1],"shape":[2],"data_offsets":[0,1]}}',
        1,
        "the header of '.*' is not valid: it names 'shape' twice",
    ),
}


@pytest.mark.parametrize("case", HEADERS)
def test_a_header_that_breaks_the_format_is_refused(case, tmp_path):
    header, size, message = HEADERS[case]
    path = raw(tmp_path / "x.safetensors", header, bytes(size))
    with pytest.raises(FormatError, match=message) as refused:
        Checkpoint.open(path)
    assert str(path) in str(refused.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.safetensors"]


@pytest.mark.parametrize(
    ("length", "message"),
    [
        (10**9, "has 46 bytes and its header claims 1000000000"),
        (2**63, "its header claims 9223372036854775808"),
        (2**64 - 1, "its header claims 18446744073709551615"),
        (39, "its header claims 39"),
    ],
)
def test_a_header_length_beyond_the_file_is_refused(length, message, tmp_path):
    path = raw(tmp_path / "x.safetensors", b"{" + b" " * 36 + b"}", length=length)
    with pytest.raises(FormatError, match=f"is not a complete safetensors file: it .*{message.split('and ')[-1]}"):
        Checkpoint.open(path)


def test_a_huge_header_is_refused_without_being_read(tmp_path):
    path = raw(tmp_path / "x.safetensors", b"{}", length=100_000_001)
    os.truncate(path, 200_000_000)  # sparse
    with pytest.raises(FormatError, match="its header claims 100000001"):
        Checkpoint.open(path)


@pytest.mark.parametrize("size", [0, 1, 7])
def test_a_file_shorter_than_its_length_field_is_refused(size, tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(bytes(size))
    with pytest.raises(FormatError, match=f"'.*x.safetensors' is not a complete safetensors file: it has {size} bytes"):
        Checkpoint.open(path)


@pytest.mark.parametrize("cut", [1, 5, 20, 60, 100])
def test_a_truncated_download_is_refused_wherever_it_ends(cut, tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"a": np.arange(6.0), "b": np.ones((2, 2), np.int8)}, path)
    os.truncate(path, path.stat().st_size - cut)
    with pytest.raises(FormatError, match=r"x\.safetensors"):
        Checkpoint.open(path)


def test_a_file_that_changes_after_it_was_opened_is_refused_at_the_first_read(tmp_path):
    path = good(tmp_path / "x.safetensors", "a")
    opened = Checkpoint.open(path)
    good(path, "a", "b")
    with pytest.raises(FormatError, match=r"x.safetensors' changed on the disk after it was opened"):
        opened["a"]


# --- kinds of things that are not checkpoints ----------------------------------------------------------------------


def test_a_folder_named_like_a_file_holds_no_weights(tmp_path):
    (tmp_path / "x.safetensors").mkdir()
    with pytest.raises(FormatError, match=r"x\.safetensors' holds no weights"):
        Checkpoint.open(tmp_path / "x.safetensors")
    with pytest.raises(FormatError, match="holds no weights"):
        Checkpoint.open(tmp_path)


def test_a_link_to_a_folder_or_to_nothing_is_refused(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "m").mkdir()
    link = tmp_path / "m" / "model.safetensors"
    link.symlink_to("gone")
    with pytest.raises(FormatError, match=r"model\.safetensors' cannot be read: No such file"):
        Checkpoint.open(tmp_path / "m")
    link.unlink()
    (tmp_path / "m" / "inner").mkdir()
    link.symlink_to("inner")
    with pytest.raises(FormatError, match=r"model\.safetensors' cannot be read: Is a directory"):
        Checkpoint.open(tmp_path / "m")


def test_a_pipe_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "model.safetensors")
    with pytest.raises(FormatError, match="is neither a file nor a folder"):
        Checkpoint.open(tmp_path / "model.safetensors")


@pytest.mark.parametrize("name", ["model.gguf", "model.h5", "notes.txt", "model"])
def test_another_kind_of_file_is_refused(name, tmp_path):
    (tmp_path / name).write_bytes(b"GGUF")
    with pytest.raises(FormatError, match=f"{name}' is neither a safetensors file nor a torch file"):
        Checkpoint.open(tmp_path / name)


def test_a_task_vector_is_not_a_checkpoint(tmp_path):
    path = good(tmp_path / "math.tv.safetensors", "a")
    with pytest.raises(SpaceError, match=r"is a task vector, not a checkpoint.\nFix: open it with TaskVector.open"):
        Checkpoint.open(path)


# --- indexes -------------------------------------------------------------------------------------------------------

ESCAPES = ["../x.safetensors", "a/../../x.safetensors", "/etc/passwd", "..", "a\\..\\x.safetensors", "x\0.safetensors"]


@pytest.mark.parametrize("name", ESCAPES)
def test_an_index_that_points_outside_its_folder_is_refused(name, tmp_path):
    good(tmp_path / "x.safetensors", "a")
    folder = indexed(tmp_path / "model", {"a": name})
    with pytest.raises(FormatError, match=r"index\.json' points outside its folder"):
        Checkpoint.open(folder)


@pytest.mark.parametrize("name", ["config.json", "sub/x.safetensors", "", "."])
def test_an_index_that_names_something_else_than_a_weight_file_beside_it_is_refused(name, tmp_path):
    good(tmp_path / "sub" / "x.safetensors", "a")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(FormatError, match="which is not a weight file of its folder"):
        Checkpoint.open(indexed(tmp_path, {"a": name}))


def test_a_missing_shard_is_named(tmp_path):
    good(tmp_path / "m-1.safetensors", "a")
    indexed(tmp_path, {"a": "m-1.safetensors", "b": "m-2.safetensors"})
    with pytest.raises(FormatError, match=r"index\.json' names the shard 'm-2\.safetensors', which is not there"):
        Checkpoint.open(tmp_path)


def test_a_tensor_that_its_shard_lacks_is_named(tmp_path):
    good(tmp_path / "m-1.safetensors", "a")
    indexed(tmp_path, {"a": "m-1.safetensors", "b": "m-1.safetensors"})
    with pytest.raises(FormatError, match=r"says that tensor 'b' is in 'm-1\.safetensors', and it is not"):
        Checkpoint.open(tmp_path)


def test_a_tensor_in_two_shards_is_refused(tmp_path):
    good(tmp_path / "m-1.safetensors", "a")
    good(tmp_path / "m-2.safetensors", "a", "b")
    indexed(tmp_path, {"a": "m-1.safetensors", "b": "m-2.safetensors"})
    with pytest.raises(FormatError, match=r"tensor 'a' is in both 'm-1\.safetensors' and 'm-2\.safetensors'"):
        Checkpoint.open(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "is not valid JSON"),
        (b"[]", "has no weight_map"),
        (b"{}", "has no weight_map"),
        (b'{"weight_map": []}', "has no weight_map"),
        (b'{"weight_map": {"a": 1}}', "has no weight_map"),
        (b'{"weight_map": {"a": "x.safetensors", "a": "y.safetensors"}}', "is not valid JSON: it names 'a' twice"),
        (b'{"weight_map": ' + b"[" * 100_000, "is not valid JSON"),
        (b"\xff\xfe{}", "is not valid JSON"),
    ],
)
def test_an_index_that_is_no_index_is_refused(text, message, tmp_path):
    with pytest.raises(FormatError, match=rf"model\.safetensors\.index\.json' {message}"):
        Checkpoint.open(indexed(tmp_path, text))


def test_an_empty_index_holds_no_weights(tmp_path):
    with pytest.raises(FormatError, match="holds no weights"):
        Checkpoint.open(indexed(tmp_path, {}))


def test_two_indexes_are_refused(tmp_path):
    for name in ("a.safetensors.index.json", "b.safetensors.index.json"):
        indexed(tmp_path, {}, name=name)
    with pytest.raises(FormatError, match=r"has 2 indexes: a\.safetensors\.index\.json, b"):
        Checkpoint.open(tmp_path)


@pytest.mark.parametrize("file", ["modules.json", "model_index.json"])
def test_a_list_of_subfolders_that_leaves_the_folder_is_refused(file, tmp_path):
    good(tmp_path / "secret" / "model.safetensors", "a")
    (tmp_path / "m").mkdir()
    table = [{"path": "../secret"}] if file == "modules.json" else {"../secret": ["x", "Y"]}
    (tmp_path / "m" / file).write_text(json.dumps(table))
    with pytest.raises(FormatError, match=rf"{file}' points outside its folder: '\.\./secret'"):
        Checkpoint.open(tmp_path / "m")


# --- links ---------------------------------------------------------------------------------------------------------


def test_a_link_out_of_the_folder_is_refused(tmp_path):
    secret = good(tmp_path / "secret.safetensors", "a")
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "model.safetensors").symlink_to(secret)
    with pytest.raises(FormatError, match=r"m' points outside its folder: 'model\.safetensors'"):
        Checkpoint.open(tmp_path / "m")


def test_a_linked_subfolder_out_of_the_folder_is_refused(tmp_path):
    good(tmp_path / "secret" / "model.safetensors", "a")
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "unet").symlink_to(tmp_path / "secret")
    with pytest.raises(FormatError, match=r"points outside its folder: 'unet/model\.safetensors'"):
        Checkpoint.open(tmp_path / "m")


def test_a_snapshot_may_link_to_the_blobs_of_its_own_repository_only(tmp_path):
    good(tmp_path / "models--o--m" / "blobs" / "1234", "a")
    good(tmp_path / "models--o--other" / "blobs" / "1234", "a")
    snapshot = tmp_path / "models--o--m" / "snapshots" / "r1"
    snapshot.mkdir(parents=True)
    link = snapshot / "model.safetensors"
    link.symlink_to("../../blobs/1234")
    assert Checkpoint.open(snapshot).names() == ["a"]
    link.unlink()
    link.symlink_to("../../../models--o--other/blobs/1234")
    with pytest.raises(FormatError, match="points outside its folder"):
        Checkpoint.open(snapshot)


def test_a_link_within_the_folder_is_lawful(tmp_path):
    good(tmp_path / "files" / "one", "a")
    (tmp_path / "model.safetensors").symlink_to("files/one")
    assert Checkpoint.open(tmp_path).names() == ["a"]


# --- torch files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [hostile_zip, hostile_legacy])
@pytest.mark.parametrize("suffix", [".bin", ".pt", ".pth", ".ckpt"])
def test_a_malicious_pickle_is_refused_and_runs_nothing(make, suffix, tmp_path):
    mark = tmp_path / "code-was-run"
    path = make(tmp_path / f"pytorch_model{suffix}", mark)
    with pytest.raises(FormatError, match=r"pytorch_model\S+' cannot be loaded without running code .*no code was run"):
        Checkpoint.open(path)
    with pytest.raises(FormatError, match=r"safetensors\.torch\.save_file"):
        Checkpoint.open(tmp_path)
    assert not mark.exists()


def test_the_malicious_pickle_of_these_tests_would_run_if_it_were_unpickled(tmp_path):
    mark = tmp_path / "code-was-run"
    pickle.loads(hostile_legacy(tmp_path / "x.pt", mark).read_bytes())
    assert mark.exists()


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("keep", [0.0, 0.3, 0.9])
def test_a_truncated_torch_file_is_refused(legacy, keep, tmp_path):
    path = tmp_path / "m.pt"
    torch.save({"w": torch.ones(3000)}, path, _use_new_zipfile_serialization=not legacy)
    os.truncate(path, int(path.stat().st_size * keep))
    with pytest.raises(FormatError, match=r"m\.pt' cannot be loaded without running code from it, or is damaged"):
        Checkpoint.open(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.ones(2)], "holds a list, not a table of tensors"),
        (torch.ones(2), "holds a Tensor, not a table of tensors"),
        ({}, "holds no tensors"),
        ({"epoch": 3}, "holds no tensors"),
        ({"model": {"w": torch.ones(2)}, "ema": {"w": torch.ones(2)}}, "several tables of tensors: 'model', 'ema'"),
        ({"w": torch.ones(2), "epoch": 3}, "holds 'epoch', a int, among its tensors"),
        ({"w": torch.ones(2), "more": {"v": torch.ones(2)}}, "holds 'more', a dict, among its tensors"),
        ({1: torch.ones(2)}, "holds 1, a Tensor, among its tensors"),
        ({"w": torch.ones(2).to_sparse()}, "in '.*m.pt', tensor 'w' is sparse_coo, not a dense array"),
        ({"w": torch.ones(2, device="meta")}, "in '.*m.pt', tensor 'w' is meta, not a dense array"),
        (
            {"w": torch.ones(2, dtype=torch.complex128)},
            "in '.*m.pt', tensor 'w' is complex128, which has no counterpart",
        ),
    ],
)
def test_a_torch_file_without_one_table_of_dense_tensors_is_refused(content, message, tmp_path):
    torch.save(content, tmp_path / "m.pt")
    with pytest.raises(FormatError, match=message):
        Checkpoint.open(tmp_path / "m.pt")


def test_several_torch_files_are_refused(tmp_path):
    for name in ("a.pt", "b.pt"):
        torch.save({"w": torch.ones(2)}, tmp_path / name)
    with pytest.raises(FormatError, match=r"has several torch files: a\.pt, b\.pt"):
        Checkpoint.open(tmp_path)
