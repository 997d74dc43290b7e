"""Hub ids, offline: the cache's folders are built here, as the hub client would have left them."""

import shutil

import huggingface_hub.constants as hub
import pytest
import torch
from safetensors.torch import save_file

from taskvec.checkpoint.checkpoint import Checkpoint
from taskvec.checkpoint.hub import is_hub_id
from taskvec.errors import FormatError

REVISION = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty hub cache, and no hub."""
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def cached(cache, repo, files, *, revision=REVISION, ref="main"):
    """models--org--name/{refs,snapshots,blobs}: the snapshot's files are links to blobs."""
    root = cache / f"models--{repo.replace('/', '--')}"
    snapshot = root / "snapshots" / revision
    for folder in (snapshot, root / "blobs", root / "refs"):
        folder.mkdir(parents=True, exist_ok=True)
    (root / "refs" / ref).write_text(revision)
    for name, path in files.items():
        blob = root / "blobs" / f"{revision}-{name.replace('/', '-')}"
        shutil.move(path, blob)
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / name).symlink_to(blob)
    return snapshot


def weights(tmp_path, value=1.0, suffix=".safetensors"):
    path = tmp_path / f"new{suffix}"
    content = {"w": torch.full((2,), value)}
    if suffix == ".safetensors":
        save_file(content, path)
    else:
        torch.save(content, path)
    return path


def test_a_cached_snapshot_is_opened_without_the_hub(cache, tmp_path):
    snapshot = cached(cache, "org/name", {"model.safetensors": weights(tmp_path)})
    opened = Checkpoint.open("org/name")
    assert torch.equal(opened["w"], torch.ones(2))
    assert opened.source.home.path == snapshot
    assert opened.source.home.title == "org/name"


def test_a_revision_is_a_branch_or_a_commit(cache, tmp_path):
    cached(cache, "org/name", {"model.safetensors": weights(tmp_path)})
    cached(cache, "org/name", {"model.safetensors": weights(tmp_path, 2.0)}, revision="f" * 40, ref="v2")
    assert Checkpoint.open("org/name")["w"][0] == 1
    assert Checkpoint.open("org/name@v2")["w"][0] == 2
    assert Checkpoint.open(f"org/name@{REVISION}")["w"][0] == 1


def test_a_snapshot_that_has_torch_files_only_is_opened(cache, tmp_path):
    cached(cache, "org/old", {"pytorch_model.bin": weights(tmp_path, suffix=".bin")})
    assert torch.equal(Checkpoint.open("org/old")["w"], torch.ones(2))


def test_subfolders_of_a_snapshot_may_link_to_its_blobs(cache, tmp_path):
    cached(cache, "org/pipe", {"unet/diffusion_pytorch_model.safetensors": weights(tmp_path)})
    assert Checkpoint.open("org/pipe").names() == ["unet/w"]


@pytest.mark.parametrize("path", ["org/unknown", "org/name@other"])
def test_what_is_not_cached_is_refused_while_the_hub_is_not_reachable(path, cache, tmp_path):
    cached(cache, "org/name", {"model.safetensors": weights(tmp_path)})
    with pytest.raises(FormatError, match=rf"'{path}' does not exist here as a path, .* the hub cannot be reached"):
        Checkpoint.open(path)


def test_an_unreachable_hub_is_no_error_when_the_snapshot_is_cached(cache, tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "ENDPOINT", "http://127.0.0.1:9")
    cached(cache, "org/name", {"model.safetensors": weights(tmp_path)})
    assert Checkpoint.open("org/name")["w"][0] == 1
    with pytest.raises(FormatError, match="the hub cannot be reached"):
        Checkpoint.open("org/unknown")


def test_an_existing_path_of_the_same_form_wins(cache, tmp_path, monkeypatch):
    cached(cache, "org/name", {"model.safetensors": weights(tmp_path)})
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org" / "name").mkdir(parents=True)
    shutil.move(weights(tmp_path, 5.0), tmp_path / "org" / "name" / "model.safetensors")
    assert Checkpoint.open("org/name")["w"][0] == 5


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("org/name", True),
        ("org-1/na_me.v2", True),
        ("org/name@main", True),
        ("org/name@refs/pr/1", True),
        ("name", False),
        ("a/b/c", False),
        ("../name", False),
        ("org/..", False),
        ("org/name@../x", False),
        ("/org/name", False),
        ("org/name@", False),
        ("org/name\n", False),
        ("org/naïve", False),
    ],
)
def test_the_form_of_a_hub_id(text, expected):
    assert is_hub_id(text) is expected
