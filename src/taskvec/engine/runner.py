"""Where jobs run: on threads of this machine, or wherever another `Runner` takes them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, TypeVar, final

from taskvec.checkpoint.output import worker_count

Job = TypeVar("Job")
Result = TypeVar("Result")


class Runner(Protocol):
    """Runs one function on many jobs."""

    def map(self, work: Callable[[Job], Result], jobs: Iterable[Job]) -> Iterator[Result]:
        """The results in the order of the jobs; jobs are taken as they are needed, a few ahead of the results.

        The first failure, or closing the iterator, ends it: jobs that have not begun are dropped.
        """


@final
class LocalRunner:
    """Threads of this machine; one a processor unless `threads` says how many.

    Raises:
        ParameterError: `threads` is not a positive number.
    """

    def __init__(self, threads: int | None = None) -> None:
        self.threads = worker_count(threads)

    def map(self, work: Callable[[Job], Result], jobs: Iterable[Job]) -> Iterator[Result]:
        """See `Runner`."""
        waiting: deque[Future[Result]] = deque()
        pool = ThreadPoolExecutor(self.threads)
        try:
            for job in jobs:
                waiting.append(pool.submit(work, job))
                if len(waiting) > 2 * self.threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)
