"""How to keep T task vectors in a given number of bytes: fewer vectors, fewer bits, lower rank, or several of these."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float64
from torch import Tensor

from taskvec.basis.algebra import relative
from taskvec.basis.basis import Basis
from taskvec.basis.tables import Table, finite
from taskvec.checkpoint.output import never, worker_count
from taskvec.checkpoint.progress import Meter, Progress, unseen
from taskvec.checkpoint.save import parse_size
from taskvec.codecs._codec import AbstractCodec, make
from taskvec.errors import ParameterError, UnknownName
from taskvec.gramian import Gram, Vectors, named_vectors
from taskvec.vector import TaskVector

_ROOM = 1.02  # int8 has a scale for 128 entries: 25.4 % of float32, which counts as a quarter
PRECISIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "float32": ("dense", {"dtype": "F32"}),
    "bfloat16": ("dense", {"dtype": "BF16"}),
    "int8": ("int8", {}),
    "int4": ("int4", {}),
    "tsv": ("tsv", {}),
}


@final
@dataclass(frozen=True, slots=True)
class Choice(Table):
    """The ways to keep the tasks, the best first.

    Rows of `options`: `size` vectors (T: no basis), `codec`, its `parameters`, `bytes` of data, `share` of all tasks in
    float32, whether it `fits`, and the certified relative errors of the tasks: `worst`, `rms` and by task `errors`.
    """

    budget: int
    dense: int
    tasks: tuple[str, ...]
    options: tuple[dict[str, Any], ...]
    recommendation: str
    use_basis: bool
    notes: tuple[str, ...]


@final
@dataclass(frozen=True, slots=True)
class _Coded:
    """Some vectors through a codec: their bytes, and the distance from each to what comes back."""

    nbytes: int
    lost: Float64[Tensor, " size"]


def choose(
    vectors: Vectors,
    budget: int | str,
    *,
    method: str = "addition_exact",
    precisions: Sequence[str] = tuple(PRECISIONS),
    gram: Gram | None = None,
    threads: int | None = None,
    progress: Progress = unseen,
    **options: Any,
) -> Choice:
    """Compare (M, precision) and (T, precision) at equal bytes, by what each task is certain to lose no more than.

    A basis of as many vectors as fit is tried in every precision, and so are all vectors without a basis, and half as
    many in low rank. Every vector is encoded as it would be written, and its error measured; a task's error is what its
    basis loses plus Σ_m |coefficient_m| times what the codec loses of vector m. Options are compared by the worst task.

    Args:
        vectors: a mapping name → vector, or a sequence.
        budget: bytes, "2GB", or "25%" of all vectors in float32.
        method: of the basis, with its `options`; see `Basis.fit`.
        precisions: of "float32", "bfloat16", "int8", "int4", "tsv" (singular triplets out of the budget).
        gram: `Gram.of(vectors, per_tensor=True)`, where it is known already.
        threads: workers; default: one a processor.
        progress: called with (name of the step, bytes done, bytes in all).
        **options: those of `Basis.fit` and of the method.

    Raises:
        ParameterError: a budget that is none. UnknownName: an unknown precision. Others: see `Basis.fit`.
    """
    named = named_vectors(vectors)
    for each in precisions:
        if each not in PRECISIONS:
            raise UnknownName.among(f"no precision named '{each}'.", each, PRECISIONS)
    specs = {n: s for v in named.values() for n, s in v.specs.items()}
    dense = 4 * len(named) * sum(s.numel for s in specs.values())
    limit = _bytes(budget, dense)
    known = (
        gram
        if gram is not None and gram.per_tensor is not None
        else Gram.of(named, per_tensor=True, threads=threads, progress=progress)
    )
    work: dict[str, Any] = {"threads": worker_count(threads), "progress": progress}
    search = _Search(named, known, dense=dense, limit=limit, **work)
    rows = [row for each in precisions for row in search.options(each, method, options)]
    rows.sort(key=lambda row: (not row["fits"], row["worst"], row["rms"], row["bytes"]))
    text, basis = _recommended(rows, len(named))
    return Choice(limit, dense, tuple(named), tuple(rows), text, basis, tuple(search.notes))


def _recommended(rows: Sequence[Mapping[str, Any]], tasks: int) -> tuple[str, bool]:
    if not rows or not rows[0]["fits"]:
        return "nothing that was tried fits; allow more bytes.", False
    best = rows[0]
    how = f"{best['codec']} ({best['share']:.1%} of float32, worst task {best['worst']:.2%})"
    if best["size"] < tasks:
        return f"a basis of {best['size']} vectors in {how}.", True
    fitting = next((r for r in rows if r["fits"] and r["size"] < tasks), None)
    beside = f"; the best basis loses {fitting['worst']:.2%} of its worst task" if fitting else ""
    return f"do not use a basis: keep all {tasks} vectors in {how}{beside}.", False


def _bytes(budget: int | str, dense: int) -> int:
    """The budget in bytes.

    Raises:
        ParameterError: it is not above 0.
    """
    if isinstance(budget, str) and budget.strip().endswith("%"):
        try:
            share = float(budget.strip()[:-1]) / 100.0
        except ValueError:
            share = math.nan
        if not 0.0 < share < math.inf:
            raise ParameterError(f"budget='{budget}' is no part of the whole.", 'write, e.g., "25%".')
        return int(share * dense)
    return parse_size(budget)


@final
class _Search:
    """What the options have in common."""

    def __init__(
        self, vectors: Mapping[str, TaskVector], gram: Gram, *, dense: int, limit: int, threads: int, progress: Progress
    ) -> None:
        self._vectors, self._gram, self._dense, self._limit = dict(vectors), gram, dense, limit
        self._threads, self._progress = threads, progress
        self.notes: list[str] = []

    def options(self, precision: str, method: str, options: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """All vectors in a precision, and a basis of as many as fit."""
        tasks = len(self._vectors)
        codec, parameters = PRECISIONS[precision]
        for size in (tasks, tasks // 2) if precision == "tsv" else (tasks,):
            if size >= 1:
                own = {"budget": max(1, self._limit // size)} if precision == "tsv" else parameters
                yield from self._option(size, precision, make(codec, own), method, options)
        if precision == "tsv":
            return
        each = self._size_of(make(codec, parameters))
        most = int(_ROOM * self._limit / each) if each else 0
        if 1 <= most < tasks:
            yield from self._option(most, precision, make(codec, parameters), method, options)

    def _size_of(self, codec: AbstractCodec) -> int:
        """The bytes of one vector, over the tensors that some task moves."""
        shares = self._gram.per_tensor or {}
        specs = {n: s for v in self._vectors.values() for n, s in v.specs.items()}
        moved = [s for n, s in specs.items() if n in shares and bool(shares[n].any())]
        return sum(p.nbytes for s in moved for p in codec.bound(s).values())

    def _option(
        self, size: int, precision: str, codec: AbstractCodec, method: str, options: Mapping[str, Any]
    ) -> Iterator[dict[str, Any]]:
        tasks = len(self._vectors)
        basis = Basis.fit(self._vectors, size, method, gram=self._whole(), **options)
        try:
            coded = self._coded(basis, codec, f"{size} x {precision}")
        except ParameterError as error:
            self.notes.append(f"{size} vectors in {precision}: {error.fact}")
            return
        lost = basis.state.lost + basis.state.decoder.abs().T @ coded.lost
        errors = relative(lost, basis.state.norms)
        moved = errors[basis.state.norms > 0.0]
        yield {
            "size": size,
            "basis": size < tasks,
            "codec": precision,
            "parameters": {k: v for k, v in codec.describe().items() if k != "name" and v is not None},
            "bytes": coded.nbytes,
            "share": coded.nbytes / self._dense if self._dense else 0.0,
            "fits": coded.nbytes <= _ROOM * self._limit,
            "worst": float(moved.max()) if len(moved) else 0.0,
            "rms": float(moved.square().mean().sqrt()) if len(moved) else 0.0,
            "errors": {n: finite(e) for n, e in zip(basis.names, errors.tolist(), strict=True)},
        }

    def _whole(self) -> Gram:
        return Gram(self._gram.names, self._gram.matrix)

    def _coded(self, basis: Basis, codec: AbstractCodec, step: str) -> _Coded:
        """Every vector of a basis through the codec, as it would be written."""
        members = basis.vectors()
        meter = Meter(self._progress, f"measuring {step}", sum(s.nbytes for v in members for s in v.specs.values()))
        nbytes, lost = 0, []
        for m, vector in enumerate(members):
            norms = self._norms(basis, m, vector)
            encoder_of = codec.encoders(vector, allow_nonfinite=False, threads=self._threads)
            squares = 0.0
            for name in vector.names():
                encoder = encoder_of(name)
                nbytes += sum(part.nbytes for part in encoder.measure(never).values())
                encoder.emit(lambda *_: None)
                error = 0.0 if encoder.exact else float(encoder.fields().get("error", 0.0))
                squares += (error * norms(name)) ** 2
                meter.reach((m, name), vector.specs[name].nbytes)
            lost.append(math.sqrt(squares))
        return _Coded(nbytes, torch.tensor(lost, dtype=torch.float64))

    def _norms(self, basis: Basis, member: int, vector: TaskVector) -> Any:
        """The norm of each tensor of a basis vector: from the Gram matrices by tensor, or by reading it."""
        encoder, shares = basis.state.encoder, self._gram.per_tensor or {}
        if encoder is not None:
            column = encoder[:, member]
            return lambda name: math.sqrt(max(0.0, float(column @ shares[name] @ column))) if name in shares else 0.0
        own = Gram.of([vector], per_tensor=True, threads=self._threads).per_tensor or {}
        return lambda name: math.sqrt(float(own[name][0, 0])) if name in own else 0.0
