"""Writing task-vector files: every tensor through its encoder, streamed; the header when all is known."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from taskvec.checkpoint.fingerprint import BLANK
from taskvec.checkpoint.output import OutputFile, Part, Poll, Unit, header_bytes, never, worker_count, written
from taskvec.checkpoint.progress import Progress, unseen
from taskvec.checkpoint.save import parse_size
from taskvec.checkpoint.source import TensorSpec, units
from taskvec.checkpoint.staging import Staging
from taskvec.checkpoint.written import Written
from taskvec.codecs._codec import AbstractCodec, AbstractEncoder, Write, make
from taskvec.codecs._file import FORMAT, FileDelta, FilePart
from taskvec.delta import Difference
from taskvec.ops.hashing import HEX
from taskvec.vector import TaskVector, check_same_base

if TYPE_CHECKING:
    import numpy as np

_COPY = 1 << 20
MAIN = ("delta", "codes")  # the roles whose part bears the name of its tensor


@final
class EncodedUnit(Unit):
    """One tensor of a vector on its way through an encoder."""

    def __init__(
        self, name: str, encoder: AbstractEncoder, keys: Mapping[str, str], prepare: Callable[[str], None], nbytes: int
    ) -> None:
        self.name, self.nbytes = name, nbytes
        self._encoder, self._keys, self._prepare = encoder, keys, prepare

    def prepare(self) -> None:
        """See the base class."""
        self._prepare(self.name)

    def parts(self, poll: Poll = never) -> Sequence[Part]:
        """See the base class."""
        self.prepare()
        return [Part(self._keys[role], spec) for role, spec in self._encoder.measure(poll).items()]

    def emit(self, write: Callable[[str, np.ndarray[Any, Any]], None]) -> None:
        """See the base class."""
        self._encoder.emit(lambda role, array: write(self._keys[role], array))

    def note(self) -> dict[str, Any]:
        """What the journal must remember of this unit besides its bytes, to write the table after a resumption."""
        return {
            "codec": self._encoder.kind,
            "exact": self._encoder.exact,
            "roles": {key: role for role, key in self._keys.items()},
            "fields": dict(self._encoder.fields()),
        }


def keys_of(roles: Mapping[str, Iterable[str]]) -> dict[str, dict[str, str]]:
    """For each tensor, the key of each role: its own name for the main part, else name#role, with # while taken."""
    taken, keys = set(roles), {}
    for name, wanted in roles.items():
        keys[name] = {role: name if role in MAIN else f"{name}#{role}" for role in wanted}
        for role in wanted:
            while role not in MAIN and keys[name][role] in taken:
                keys[name][role] += "#"
        taken |= set(keys[name].values())
    return keys


@final
class _Copy(AbstractEncoder):
    """The parts of a file that already has the wanted codec, byte for byte."""

    def __init__(self, part: FilePart) -> None:
        self._part, self.kind, self.exact = part, part.kind, part.exact

    def measure(self, poll: Poll) -> Mapping[str, TensorSpec]:
        """See the base class."""
        return {role: self._part.part_spec(role) for role in self._part.parts}

    def emit(self, write: Write) -> None:
        """See the base class."""
        for role in self._part.parts:
            total = units(self._part.part_spec(role))
            for at in range(0, total, _COPY):
                write(role, self._part.bits(role, at, min(at + _COPY, total)))

    def fields(self) -> Mapping[str, Any]:
        """See the base class."""
        return self._part.extra


def save_vector(
    vector: TaskVector,
    path: Path,
    *,
    codec: str = "dense",
    force: bool = False,
    threads: int | None = None,
    shard_size: int | str | None = None,
    allow_nonfinite: bool = False,
    progress: Progress = unseen,
    **parameters: Any,
) -> Path:
    """Write `vector` to `path` as one file, or with `shard_size` as a folder of files.

    Args:
        vector: what to write.
        path: the destination, by convention `NAME.tv.safetensors`.
        codec: how each delta is stored, with its own `parameters`.
        force: replace what is there, atomically.
        threads: workers; default: one a processor.
        shard_size: largest bytes of dense data a file ("5GB" or a number).
        allow_nonfinite: keep NaN and Inf of a tuned checkpoint (dense, exact) instead of refusing them.
        progress: called with (name of the step, bytes done, bytes in all), from any thread.
        **parameters: those of the codec, e.g. `density` or `dtype`.

    Raises:
        UnknownName: no such codec. ParameterError: a parameter of the codec out of its range.
        DestinationError: `path` exists (and not force), is being written, or the disk is full.
        SchemaError: vectors of two bases. NonFiniteError: NaN or Inf in an input.
    """
    wanted, workers = make(codec, parameters), worker_count(threads)
    wanted.check(vector)
    destination = Path(os.path.abspath(path))
    Staging(destination, plan=None, force=force).check()  # before a budget is spread over the matrices
    encoder = _encoders(vector, wanted, allow_nonfinite=allow_nonfinite, threads=workers)
    groups = list(_groups(vector, destination, shard_size))
    files = [
        _VectorFile(vector, wanted, name, names, number=f"{i} of {len(groups)}", encoder=encoder)
        for i, (name, names) in enumerate(groups, 1)
    ]
    inputs = [leaf.inputs() for _, leaf in vector.terms]
    terms = (inputs, [c for c, _ in vector.terms])
    known = None if any(i is None for i in inputs) else (terms, wanted.describe(), allow_nonfinite)
    options: Any = {"force": force, "threads": workers, "progress": progress}
    outputs = [f.output for f in files]
    with written(destination, outputs, check=vector.check, inputs=known, **options) as (staging, _):
        staging.publish(staging.folder if shard_size is not None else staging.folder / files[0].output.name)
    return destination


def _copied(vector: TaskVector, codec: AbstractCodec) -> FileDelta | None:
    """The file that already holds this vector in the wanted codec."""
    leaf = vector.single()
    return leaf if isinstance(leaf, FileDelta) and leaf.codec == codec.describe() else None


def _encoders(
    vector: TaskVector, codec: AbstractCodec, *, allow_nonfinite: bool, threads: int
) -> Callable[[str], AbstractEncoder]:
    copied = _copied(vector, codec)
    if copied is not None:
        return lambda name: _Copy(copied.parts[name])
    return codec.encoders(vector, allow_nonfinite=allow_nonfinite, threads=threads)


def _groups(vector: TaskVector, destination: Path, shard_size: int | str | None) -> Iterator[tuple[str, list[str]]]:
    if shard_size is None:
        yield destination.name, vector.names()
        return
    limit, groups, size = parse_size(shard_size), [[]], 0  # type: ignore[var-annotated]
    for name, spec in vector.specs.items():
        if groups[-1] and size + spec.nbytes > limit:
            groups.append([])
            size = 0
        groups[-1].append(name)
        size += spec.nbytes
    for i, names in enumerate(groups, 1):
        yield f"vector-{i:05d}-of-{len(groups):05d}.tv.safetensors", names


class _VectorFile:
    """One output file with its encoders and its header."""

    def __init__(
        self,
        vector: TaskVector,
        codec: AbstractCodec,
        file: str,
        names: Sequence[str],
        *,
        number: str,
        encoder: Callable[[str], AbstractEncoder],
    ) -> None:
        self._vector, self._codec, self._number = vector, codec, number
        self._copied = _copied(vector, codec)
        self._bounds = {n: self._bound(n) for n in names}
        self._keys = keys_of(self._bounds)
        self._units = {
            n: EncodedUnit(n, encoder(n), self._keys[n], self._prepare, vector.specs[n].nbytes) for n in names
        }
        exact = isinstance(vector.single(), Difference) and codec.describe().get("dtype") == "exact"
        expected = sum(vector.specs[n].nbytes for n in names) if exact else 0
        encoded = list(self._units.values())
        self.output = OutputFile(file, encoded, self._metadata, self._reserve(names), expected=expected)

    def _prepare(self, name: str) -> None:
        check_same_base([leaf for _, leaf in self._vector.terms], name)
        for _, leaf in self._vector.terms:
            leaf.hash_inputs(name)

    def _reserve(self, names: Sequence[str]) -> int:
        """Bytes of the largest header that can come out."""
        end = sum(s.nbytes for parts in self._bounds.values() for s in parts.values())
        places = [
            Written(self._keys[n][role], spec, end, end, "0" * HEX)
            for n, parts in self._bounds.items()
            for role, spec in parts.items()
        ]
        table = {
            n: self._entry(
                n, "x" * 8, False, {r: [key, "0" * HEX] for r, key in self._keys[n].items()}, self._widest(n)
            )
            for n in names
        }
        return len(header_bytes(places, self._strings(table, blank=True)))

    def _bound(self, name: str) -> Mapping[str, TensorSpec]:
        if self._copied is not None:
            return {role: self._copied.parts[name].part_spec(role) for role in self._copied.parts[name].parts}
        return self._codec.bound(self._vector.specs[name])

    def _widest(self, name: str) -> Mapping[str, Any]:
        return self._codec.widest if self._copied is None else self._copied.parts[name].extra

    def _entry(
        self, name: str, kind: str, exact: bool, parts: Mapping[str, Sequence[str]], fields: Mapping[str, Any]
    ) -> dict[str, Any]:
        spec = self._vector.specs[name]
        own = {"codec": kind, "shape": list(spec.shape), "dtype": spec.dtype.code, "exact": exact, "parts": dict(parts)}
        return {**own, **fields}

    def _metadata(self, written: Mapping[str, Sequence[Written]], notes: Mapping[str, Any]) -> dict[str, str]:
        table = {}
        for name, parts in written.items():
            note = notes[name]
            by_role = {note["roles"][w.key]: [w.key, w.hash] for w in parts}
            table[name] = self._entry(name, note["codec"], note["exact"], by_role, note["fields"])
        return self._strings(table, blank=False)

    def _strings(self, table: Mapping[str, Any], *, blank: bool) -> dict[str, str]:
        from taskvec import __version__

        values = {
            "taskvec_codec": self._codec.describe(),
            "taskvec_base": self._base(blank=blank),
            "taskvec_recipe": self._recipe(blank=blank),
            "taskvec_tensors": table,
            "taskvec_part": self._number,
        }
        texts = {key: json.dumps(value, sort_keys=True, ensure_ascii=False) for key, value in values.items()}
        return {"taskvec_format": FORMAT, "taskvec_version": __version__, **texts}

    def _base(self, *, blank: bool) -> dict[str, Any] | None:
        base = self._vector.base
        if base is None:
            return None
        if blank:
            return {"fingerprint": BLANK, "tensors": dict.fromkeys(base.names(), "0" * HEX)}
        return {"fingerprint": base.whole(), "tensors": base.tensors()}

    def _recipe(self, *, blank: bool) -> dict[str, Any]:
        leaf = self._vector.single()
        if isinstance(leaf, FileDelta):
            return leaf.recipe_of_origin
        return {"terms": [{"coefficient": c, **leaf.recipe(blank=blank)} for c, leaf in self._vector.terms]}
