"""Hub ids: `org/name` or `org/name@revision`, downloaded once and then read from the hub's own cache."""

from __future__ import annotations

import re
from pathlib import Path

from taskvec.errors import FormatError

_ID = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(@(?P<revision>\w[\w./-]*))?", re.ASCII)
_FOREIGN = ["*.h5", "*.msgpack", "*.ot", "*.onnx", "*.onnx_data", "*.tflite", "*.gguf", "*.mlmodel", "*.npz", "*.pb"]
_PICKLES = ["*.bin", "*.pt", "*.pth", "*.ckpt"]


def is_hub_id(text: str) -> bool:
    """Whether `text` has the form of a hub id; says nothing of whether there is such a repository."""
    return _ID.fullmatch(text) is not None and ".." not in text


def hub_folder(text: str) -> Path:
    """The local snapshot of a hub id, downloaded if need be: safetensors, or torch files where there are none.

    A hub that cannot be reached is no error when the cache holds the snapshot.

    Raises:
        FormatError: no such repository or revision, or neither the hub nor a cached snapshot at hand.
    """
    found = _ID.fullmatch(text)
    if found is None:
        raise FormatError(f"'{text}' is not a hub id.", "write org/name or org/name@revision.")
    repo, revision = found["repo"], found["revision"]
    folder = _snapshot(text, repo, revision, [*_FOREIGN, *_PICKLES])
    if folder is not None and any(folder.rglob("*.safetensors")):
        return folder
    folder = _snapshot(text, repo, revision, _FOREIGN)
    if folder is None:
        raise FormatError(
            f"'{text}' does not exist here as a path, and as a hub id it is not complete in the local cache while "
            "the hub cannot be reached.",
            "check the path, or connect once to download it.",
        )
    return folder


def _snapshot(text: str, repo: str, revision: str | None, ignore: list[str]) -> Path | None:
    """The snapshot's folder without the files to ignore; None: not cached (completely) and not reachable."""
    from huggingface_hub import errors, snapshot_download

    try:
        return Path(snapshot_download(repo, revision=revision, ignore_patterns=ignore))
    except errors.LocalEntryNotFoundError:
        return None
    except errors.RevisionNotFoundError as error:
        raise FormatError(f"the hub has no revision '{revision}' of '{repo}'.", "check the revision.") from error
    except errors.RepositoryNotFoundError as error:
        raise FormatError(
            f"'{text}' does not exist here as a path, and the hub has no '{repo}' that you may read.",
            "check the name; for a gated or private one, log in with `hf auth login`.",
        ) from error
    except (OSError, ValueError, errors.HFValidationError) as error:
        reason = " ".join(str(error).split())[:200]
        raise FormatError(
            f"'{text}' cannot be fetched from the hub: {reason}.", "try again, or name a path."
        ) from error
