"""What a store refuses before it does anything: another base, a name that is not there."""

from __future__ import annotations

from pathlib import Path

from taskvec.checkpoint.checkpoint import Checkpoint
from taskvec.errors import ParameterError, SchemaError, UnknownName
from taskvec.store.manifest import BaseRecord, Manifest


def unknown(path: Path, name: object, manifest: Manifest) -> UnknownName:
    """The error for a name that the store does not have."""
    return UnknownName.among(f"the store '{path}' has no vector named '{name}'.", str(name), manifest.names())


def check_base_type(base: object) -> None:
    """Refuse what is no checkpoint.

    Raises:
        ParameterError: it is not.
    """
    if not isinstance(base, Checkpoint):
        raise ParameterError(f"base is a {type(base).__name__}.", "give a Checkpoint, e.g. Checkpoint.open(path).")


def check_base(path: Path, record: BaseRecord, base: Checkpoint) -> None:
    """Refuse another base; its fingerprint comes from a cache once its tensors were read.

    Raises:
        SchemaError: showing both fingerprints.
    """
    differing = [n for n in record.specs if base.specs.get(n) != record.specs[n]] + [
        n for n in base.specs if n not in record.specs
    ]
    found = base.fingerprint()
    if not differing and found == record.fingerprint:
        return
    first = (
        differing[0]
        if differing
        else next((n for n in record.specs if base.fingerprints.tensor(n) != record.hashes[n]), "")
    )
    here, there = base.specs.get(first), record.specs.get(first)
    detail = f"{there or 'not there'} in the store's, {here or 'not there'} here" if here != there else "other values"
    raise SchemaError(
        f"{base.source.describe()} has the fingerprint {found}; the base of the store '{path}' ('{record.name}') has "
        f"{record.fingerprint} (tensor '{first}': {detail}).",
        "give the store its own base.",
    )
