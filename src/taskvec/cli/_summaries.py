"""What `info` says of a thing on disk, as plain data with stable keys; headers only."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taskvec.checkpoint.kinds import what_is
from taskvec.errors import TaskVecError

if TYPE_CHECKING:
    from taskvec.checkpoint.checkpoint import Checkpoint
    from taskvec.checkpoint.source import AbstractSource, TensorSpec
    from taskvec.store import Store

_SHOWN = 5  # largest tensors


def summary_of(text: str) -> dict[str, Any]:
    """The summary of a checkpoint, a task vector, a store or an adapter; `kind` says which.

    Raises:
        FormatError: nothing there, nothing that taskvec knows, or a damaged file.
    """
    kind, path = what_is(text)
    summaries = {"adapter": adapter_summary, "vector": vector_summary, "store": store_summary}
    return summaries[kind](path) if kind in summaries else checkpoint_summary(text)


def checkpoint_summary(text: str) -> dict[str, Any]:
    """Files, tensors, parameters, bytes, dtypes, ties, roles, largest tensors and, if cached, the fingerprint."""
    from taskvec.checkpoint.checkpoint import Checkpoint

    checkpoint = Checkpoint.open(text)
    layout = checkpoint.layout()
    roles = {role: [checkpoint.specs[n] for n in layout.names(role)] for role in ("matrix", "other", "skip")}
    return {
        "kind": "checkpoint",
        "path": text,
        "files": _files(checkpoint.source),
        **_totals(checkpoint.specs),
        "ties": dict(checkpoint.source.ties),
        "roles": {role: _counts(specs) for role, specs in roles.items() if specs},
        "largest": _largest(checkpoint.specs),
        "fingerprint": checkpoint.fingerprints.known(),
        "recipe": _recipe(checkpoint),
    }


def _files(source: AbstractSource) -> list[dict[str, Any]]:
    home = source.home
    if home is None:
        return []
    root = home.path.parent if home.single else home.path
    return [
        {"name": file, "tensors": len(names), "bytes": (root / file).stat().st_size}
        for file, names in home.shards.items()
    ]


def _recipe(checkpoint: Checkpoint) -> Any:
    """The recipe that taskvec wrote into a model it made, or None."""
    home = checkpoint.source.home
    texts = {m["taskvec_recipe"] for m in home.metadata.values() if "taskvec_recipe" in m} if home else set()
    try:
        return json.loads(texts.pop()) if len(texts) == 1 else None
    except (ValueError, RecursionError):
        return None


def _counts(specs: Iterable[TensorSpec]) -> dict[str, int]:
    listed = list(specs)
    return {
        "tensors": len(listed),
        "parameters": sum(s.numel for s in listed),
        "bytes": sum(s.nbytes for s in listed),
    }


def _totals(specs: Mapping[str, TensorSpec]) -> dict[str, Any]:
    dtypes: dict[str, list[TensorSpec]] = {}
    for spec in specs.values():
        dtypes.setdefault(str(spec.dtype), []).append(spec)
    ordered = sorted(dtypes.items(), key=lambda item: -sum(s.nbytes for s in item[1]))
    return {**_counts(specs.values()), "dtypes": {code: _counts(group) for code, group in ordered}}


def _largest(specs: Mapping[str, TensorSpec]) -> list[dict[str, Any]]:
    largest = sorted(specs.items(), key=lambda item: -item[1].nbytes)[:_SHOWN]
    return [
        {"name": n, "shape": list(s.shape), "dtype": str(s.dtype), "parameters": s.numel, "bytes": s.nbytes}
        for n, s in largest
    ]


def vector_summary(path: Path) -> dict[str, Any]:
    """Codec, base, tensors, bytes beside dense float32 and bfloat16, and the error that the file states."""
    from taskvec.codecs._file import FileDelta

    leaf = FileDelta(path)
    codecs: dict[str, int] = {}
    for part in leaf.parts.values():
        codecs[part.kind] = codecs.get(part.kind, 0) + 1
    totals = _totals(leaf.specs)
    files = {part.file.path for part in leaf.parts.values()} or {path}
    return {
        "kind": "vector",
        "path": str(path),
        "codec": leaf.codec,
        "exact": leaf.exact,
        "error": _error(leaf.error(), leaf.total_error()),
        "base": leaf.base and {"fingerprint": leaf.base.whole(), "tensors": len(leaf.base.names())},
        "tensors": totals["tensors"],
        "parameters": totals["parameters"],
        "dtypes": totals["dtypes"],
        "stored": dict(sorted(codecs.items())),
        "bytes": sum(file.stat().st_size for file in files),
        "dense_bytes": dense_bytes(totals["parameters"]),
        "largest": _largest(leaf.specs),
        "recipe": leaf.recipe_of_origin,
        "taskvec_version": leaf.version,
    }


def dense_bytes(parameters: int) -> dict[str, int]:
    """What as many numbers take without compression."""
    return {"fp32": 4 * parameters, "bf16": 2 * parameters}


def _error(errors: Mapping[str, float], total: float | None) -> dict[str, Any] | None:
    """The largest recorded relative error, its tensor, and the error of all together; None when nothing was lost."""
    worst = max(errors, key=lambda name: errors[name], default=None)
    if worst is None or errors[worst] == 0.0:
        return None
    ordered = sorted(errors.values())
    return {"largest": errors[worst], "tensor": worst, "median": ordered[len(ordered) // 2], "total": total}


def adapter_summary(path: Path) -> dict[str, Any]:
    """Rank, scale, what it moves, its base by name, and its bytes."""
    from taskvec.adapters.config import AdapterConfig
    from taskvec.adapters.reader import open_adapter
    from taskvec.checkpoint.open import ADAPTER_CONFIG

    config = AdapterConfig.read(path)
    files = sorted(p for p in path.glob("adapter_model.*") if p.is_file())
    table = {
        "kind": "adapter",
        "path": str(path),
        "base_name": config.base_name or None,
        "rank": config.rank,
        "alpha": config.alpha,
        "rslora": config.rslora,
        "ranks": dict(config.ranks),
        "bytes": sum(f.stat().st_size for f in files),
        "config": ADAPTER_CONFIG,
    }
    try:
        specs = open_adapter(path).specs
    except TaskVecError as error:  # e.g. whole tensors, which need the base
        return {**table, "tensors": None, "parameters": None, "dense_bytes": None, "note": error.fact}
    parameters = sum(s.numel for s in specs.values())
    dense = dense_bytes(parameters)
    return {**table, "tensors": len(specs), "parameters": parameters, "dense_bytes": dense, "note": None}


def store_summary(path: Path) -> dict[str, Any]:
    """The base, and bytes a vector and shared, beside dense float32 and bfloat16."""
    from taskvec.store import Store
    from taskvec.store.manifest import NAME, read_manifest

    size = Store.open(path).size()
    base = read_manifest(path, (path / NAME).read_bytes()).base
    return {
        "kind": "store",
        "path": str(path),
        "base": {"name": base.name, "fingerprint": base.fingerprint, "tensors": len(base.specs)},
        **json.loads(size.to_json()),
    }


def stored_summary(library: Path, name: str) -> dict[str, Any]:
    """The summary of one vector of a store.

    Raises:
        UnknownName: no such vector.
    """
    from taskvec.codecs._file import FileDelta
    from taskvec.store import Store

    store = Store.open(library)
    if name in store and store.is_recovered(name):
        return _recovered_summary(store, name)
    leaf = store[name].single()
    if not isinstance(leaf, FileDelta):
        raise AssertionError(f"vector '{name}' of a store is not a file")
    return {**vector_summary(leaf.path), "name": name}


def _recovered_summary(store: Store, name: str) -> dict[str, Any]:
    """The summary of a task that comes from the basis of a store: as of a file, but it has no bytes of its own."""
    basis, vector = store.basis(), store[name]
    totals = _totals(vector.specs)
    error = store.error(name) if math.isfinite(store.error(name)) else None
    return {
        "kind": "vector",
        "path": str(store.path),
        "name": name,
        "codec": {"name": "basis", "method": basis.asked.method, "size": basis.size},
        "exact": False,
        "error": {"largest": error, "tensor": "", "median": error, "total": error},
        "base": vector.base and {"fingerprint": vector.base.whole(), "tensors": len(vector.base.names())},
        "tensors": totals["tensors"],
        "parameters": totals["parameters"],
        "dtypes": totals["dtypes"],
        "stored": {"basis": totals["tensors"]},
        "bytes": 0,
        "dense_bytes": dense_bytes(totals["parameters"]),
        "largest": _largest(vector.specs),
        "recipe": {"coefficients": basis.coefficients(name).tolist()},
        "taskvec_version": "",
    }
