"""Streaming, atomic, resumable writing of safetensors files: what every writer in taskvec goes through.

An output is one or more files made of units; a unit is one or more tensors that are produced together. Several
threads produce units and write them in place; only one chunk a thread is in memory. Everything goes into a hidden
sibling of the destination, which is renamed when all of it is on the disk, so the destination is absent or complete.
A killed run leaves the sibling with a journal of finished units; the next run with the same plan checks their
hashes and goes on. A refusal removes the sibling.

Offsets are given out in the order of the units as soon as a unit knows its sizes, hence the bytes of the output
depend on the inputs alone: not on threads, timing or resumption.
"""

from __future__ import annotations

import abc
import contextlib
import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from taskvec.checkpoint.durable import preallocate, start_writing
from taskvec.checkpoint.progress import WRITING, Meter, Progress
from taskvec.checkpoint.source import TensorSpec
from taskvec.checkpoint.staging import Staging
from taskvec.checkpoint.written import Written
from taskvec.errors import ParameterError, TaskVecError
from taskvec.ops.hashing import Hasher, hash_of

if TYPE_CHECKING:
    import numpy as np

_GATHER = 1 << 20  # bytes below which writes to one part are gathered
Poll = Callable[[], None]  # called now and then by what scans for long; raises when the run has been stopped


def never() -> None:
    """The `Poll` of a scan that nothing stops."""


@final
@dataclass(frozen=True, slots=True)
class Part:
    """One tensor of an output file: its key and its spec."""

    key: str
    spec: TensorSpec


class Unit(abc.ABC):
    """What is produced together, e.g. one tensor, or the parts into which a codec turned one tensor.

    `nbytes` is its share of the progress: the bytes of the tensor it comes from.
    """

    name: str
    nbytes: int

    def prepare(self) -> None:
        """What can be done at any time before `parts`, from any thread, and costs nothing when it is done again."""

    @abc.abstractmethod
    def parts(self, poll: Poll = never) -> Sequence[Part]:
        """The parts and their sizes; may have to scan the input, is called once, before `emit`."""

    @abc.abstractmethod
    def emit(self, write: Callable[[str, np.ndarray[Any, Any]], None]) -> None:
        """Produce the data: `write(key, array)` appends to a part, in any chunks, in order within a part."""

    def note(self) -> Any:
        """Plain data about what `emit` wrote, for the file's metadata; the journal keeps it for a resumption."""
        return None


@final
@dataclass(frozen=True, slots=True)
class OutputFile:
    """One file to write: a relative name, its units in the order of their data, and its string table.

    `metadata` is called when everything is written, with what each unit became and its note. `reserve` bounds the
    bytes of the header, which is padded to it with spaces, so that data can be written before the header is known.
    `expected` bytes of data are asked for at once.
    """

    name: str
    units: Sequence[Unit]
    metadata: Callable[[Mapping[str, Sequence[Written]], Mapping[str, Any]], Mapping[str, str]]
    reserve: int
    expected: int = 0


def header_bytes(parts: Iterable[Written], metadata: Mapping[str, str], reserve: int = 0) -> bytes:
    """The length prefix and JSON header for `parts`, padded with spaces to `reserve` or the next multiple of 8."""
    table: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    for p in sorted(parts, key=lambda p: (p.begin, p.end)):
        table[p.key] = {"dtype": p.spec.dtype.code, "shape": list(p.spec.shape), "data_offsets": [p.begin, p.end]}
    text = json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode()
    size = max(reserve, 8 + len(text) + -len(text) % 8)
    if reserve and size > reserve:
        raise AssertionError(f"a header of {size} bytes does not fit into the {reserve} reserved for it")
    return (size - 8).to_bytes(8, "little") + text.ljust(size - 8)


@dataclass(slots=True)
class _FileState:
    """The file being written: how far its data reach, which units are done, whose turn it is to get offsets."""

    plan: OutputFile
    handle: int
    end: int = 0
    turn: int = 0
    done: dict[str, list[Written]] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    writing: threading.Lock = field(default_factory=threading.Lock)


WrittenFiles = Mapping[str, Mapping[str, Sequence[Written]]]  # what each unit of each file became


@contextlib.contextmanager
def written(
    destination: Path,
    files: Sequence[OutputFile],
    *,
    check: Callable[[Progress], None],
    inputs: object | None,
    force: bool,
    threads: int,
    progress: Progress,
    needs: int = 0,
) -> Iterator[tuple[Staging, WrittenFiles]]:
    """The staging folder with `files` in it, complete; what the caller publishes appears at the destination.

    `check` refuses what the headers do not show; it may take long, so that the destination is looked at before, and
    nothing is written until it is done. `inputs` identifies all that is read (None: the run cannot be resumed),
    `needs` says how many bytes must be free.

    Raises:
        DestinationError: it exists (and not `force`), is being written, or does not fit on the disk.
    """
    Staging(destination, plan=None, force=force).check()
    check(progress)
    plan = _plan_hash(files, inputs) if inputs is not None else None
    with Staging(destination, plan=plan, force=force) as staging:
        staging.require(needs)
        yield staging, _Writer(staging, files, threads=threads, progress=progress).run()


@final
class _Writer:
    """Writes the files of one output into a staging folder; see the module's docstring."""

    def __init__(self, staging: Staging, files: Sequence[OutputFile], *, threads: int, progress: Progress) -> None:
        self._staging, self._files, self._threads = staging, files, threads
        self._meter = Meter(progress, WRITING, sum(u.nbytes for f in files for u in f.units))
        self._turns = threading.Condition()
        self._flusher = ThreadPoolExecutor(1)
        self._failed = threading.Event()
        self._error: BaseException | None = None

    def run(self) -> dict[str, dict[str, list[Written]]]:
        """Write everything; returns, for each file, what each unit became."""
        self._staging.keep_only([f.name for f in self._files])
        states: list[_FileState] = []
        try:
            states.extend(self._start(f) for f in self._files)
            jobs = [(state, index) for state in states for index in range(len(state.plan.units))]
            with self._flusher, ThreadPoolExecutor(self._threads) as pool:
                futures = [pool.submit(self._unit, state, index) for state, index in jobs]
                try:
                    self._prepare_ahead(jobs, futures)
                    for future in futures:
                        future.result()
                except BaseException as error:
                    self._stop(error)
                    pool.shutdown(cancel_futures=True)
                    raise self._error or error from None
            for state in states:
                self._finish(state)
        finally:
            for state in states:
                os.close(state.handle)
        return {s.plan.name: s.done for s in states}

    def _prepare_ahead(self, jobs: Sequence[tuple[_FileState, int]], futures: Sequence[Future[None]]) -> None:
        """Prepare units on this idle thread until the first is written: the workers wait for the compiled loops."""
        for state, index in jobs[self._threads :]:
            if futures[0].done():
                return
            state.plan.units[index].prepare()

    def _start(self, plan: OutputFile) -> _FileState:
        path = self._staging.folder / plan.name
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        preallocate(handle, plan.reserve + plan.expected)
        return _FileState(plan, handle)

    def _stop(self, error: BaseException) -> None:
        with self._turns:
            self._error = self._error or error
            self._failed.set()
            self._turns.notify_all()

    def _poll(self) -> None:
        if self._failed.is_set():
            raise _Cancelled

    def _unit(self, state: _FileState, index: int) -> None:
        try:
            unit = state.plan.units[index]
            kept, note = self._finished(state, unit)
            parts = list(unit.parts(self._poll)) if kept is None else [Part(w.key, w.spec) for w in kept]
            places = self._allocate(state, index, parts)
            if kept is None or [(w.begin, w.end) for w in kept] != [(p.begin, p.end) for p in places]:
                if kept is not None and list(unit.parts(self._poll)) != parts:
                    raise AssertionError(f"unit '{unit.name}' changed its sizes between two runs")
                kept = self._emit(state, unit, places)
                note = unit.note()
                self._staging.record(state.plan.name, unit.name, kept, note)
            state.done[unit.name], state.notes[unit.name] = kept, note
            self._meter.reach((state.plan.name, unit.name), unit.nbytes)
        except BaseException as error:
            self._stop(error)
            raise

    def _allocate(self, state: _FileState, index: int, parts: Sequence[Part]) -> list[Written]:
        """Give out offsets in unit order: wait for one's turn (the pool starts units in order, so it comes)."""
        with self._turns:
            self._turns.wait_for(lambda: state.turn == index or self._failed.is_set())
            self._poll()
            places = []
            for part in parts:
                places.append(Written(part.key, part.spec, state.end, state.end + part.spec.nbytes, ""))
                state.end += part.spec.nbytes
            state.turn += 1
            self._turns.notify_all()
        return places

    def _emit(self, state: _FileState, unit: Unit, places: Sequence[Written]) -> list[Written]:
        sinks = {p.key: _PartSink(state, state.plan.reserve + p.begin) for p in places}
        size, at = sum(p.end - p.begin for p in places), 0

        def write(key: str, array: np.ndarray[Any, Any]) -> None:
            nonlocal at
            self._poll()
            sinks[key].write(memoryview(array.reshape(-1).view("u1").data))
            at += array.nbytes
            self._meter.reach((state.plan.name, unit.name), unit.nbytes * at // max(size, 1))

        unit.emit(write)
        for place in places:
            sinks[place.key].flush()
            if sinks[place.key].at != state.plan.reserve + place.end:
                raise AssertionError(f"unit '{unit.name}' did not fill its part '{place.key}'")
            # On a thread of its own: where the disk is busy, even the request to begin waits.
            begin, end = state.plan.reserve + place.begin, state.plan.reserve + place.end
            self._flusher.submit(start_writing, state.handle, begin, end)
        return [Written(p.key, p.spec, p.begin, p.end, sinks[p.key].hasher.hexdigest()) for p in places]

    def _finished(self, state: _FileState, unit: Unit) -> tuple[list[Written] | None, Any]:
        """What an earlier run made of a unit, and its note, if its bytes are on the disk as recorded."""
        kept, note = self._staging.finished(state.plan.name, unit.name)
        return (kept, note) if kept is not None and self._is_intact(state, kept) else (None, None)

    def _is_intact(self, state: _FileState, kept: Sequence[Written]) -> bool:
        for part in kept:
            hasher, at, end = Hasher(), state.plan.reserve + part.begin, state.plan.reserve + part.end
            while at < end:
                self._poll()
                data = os.pread(state.handle, min(end - at, 1 << 22), at)
                if not data:
                    return False
                hasher.update(data)
                at += len(data)
            if hasher.hexdigest() != part.hash:
                return False
        return True

    def _finish(self, state: _FileState) -> None:
        ordered = {u.name: state.done[u.name] for u in state.plan.units}
        metadata = state.plan.metadata(ordered, state.notes)
        head = header_bytes((w for parts in ordered.values() for w in parts), metadata, state.plan.reserve)
        _write_all(state.handle, memoryview(head), 0)
        os.ftruncate(state.handle, state.plan.reserve + state.end)
        os.fsync(state.handle)


class _PartSink:
    """Appends to one part of a file; small pieces are gathered.

    The system lets one thread at a time write to a file and has the others spin; a lock of ours lets them sleep.
    """

    __slots__ = ("_pending", "_state", "at", "hasher")

    def __init__(self, state: _FileState, at: int) -> None:
        self._state, self.at, self.hasher = state, at, Hasher()
        self._pending = bytearray()

    def write(self, data: memoryview) -> None:
        self.hasher.update(data)
        if self._pending or len(data) < _GATHER:
            self._pending += data
            if len(self._pending) >= _GATHER:
                self.flush()
            return
        self._put(data)

    def flush(self) -> None:
        self._put(memoryview(self._pending))
        self._pending = bytearray()

    def _put(self, data: memoryview) -> None:
        with self._state.writing:
            _write_all(self._state.handle, data, self.at)
        self.at += len(data)


class _Cancelled(TaskVecError):
    """Another unit failed first; never seen by the caller, who gets that unit's error."""

    def __init__(self) -> None:
        super().__init__("cancelled because another tensor failed.")


def _write_all(handle: int, data: memoryview, at: int) -> None:
    while data:
        done = os.pwrite(handle, data, at)
        data, at = data[done:], at + done


def _plan_hash(files: Sequence[OutputFile], inputs: object) -> str:
    """What identifies a run for resumption: the files, their units, and the identities of all inputs."""
    plan = [[f.name, f.reserve, [u.name for u in f.units]] for f in files]
    return hash_of(json.dumps([plan, repr(inputs)], sort_keys=True).encode())


def worker_count(threads: int | None) -> int:
    """The number of workers: one a processor unless the caller says how many.

    Raises:
        ParameterError: not a positive number.
    """
    if threads is None:
        return os.cpu_count() or 1
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        raise ParameterError(f"threads={threads!r} is not a positive number.", "leave it out for one a processor.")
    return threads
