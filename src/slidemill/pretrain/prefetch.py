"""Prefetching: results of numbered jobs in order, worked on by threads before they are asked for.

Knows nothing of slides. One thread goes through the jobs; what a job does in parallel, it gives to
a pool of readers. The number of results that wait is bounded. An error of a job is raised in the
consumer, in the place of its result. No thread outlives the iterator.
"""

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from queue import Empty, Full, Queue
from typing import TypeVar

AHEAD = 1
"""Results that wait for the consumer, beside the one that is being made; bounds the memory."""

_POLL_SECONDS = 0.1

_Job = TypeVar("_Job")
_Result = TypeVar("_Result")


class _End:
    """What follows the last result; with the error that ended the work, if one did."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error


def each(
    pool: Executor | None, work: Callable[[_Job], _Result], jobs: Iterable[_Job]
) -> list[_Result]:
    """Do all jobs, by the threads of a pool, or in this one if there is none."""
    return list(map(work, jobs) if pool is None else pool.map(work, jobs))


def ahead(
    work: Callable[[_Job, Executor], _Result], jobs: Iterable[_Job], readers: int
) -> Iterator[_Result]:
    """Do jobs one after the other, ahead of the consumer.

    Args:
        work: Does a job, with a pool of threads for its parts.
        jobs: The jobs.
        readers: Threads of the pool.

    Yields:
        The results, in the order of the jobs.

    Raises:
        BaseException: What `work` raised, after the results of the jobs before it.
    """
    ready: Queue[_Result | _End] = Queue(AHEAD)
    stopped = threading.Event()
    pool = ThreadPoolExecutor(readers, thread_name_prefix="crop-reader")
    args = (work, jobs, pool, ready, stopped)
    thread = threading.Thread(target=_serve, args=args, name="crop-loader", daemon=True)
    thread.start()
    try:
        while not isinstance(one := ready.get(), _End):
            yield one
        if one.error is not None:
            raise one.error
    finally:
        stopped.set()
        pool.shutdown(wait=False, cancel_futures=True)
        # Room for the result that the thread may be waiting to hand over.
        with suppress(Empty):
            ready.get_nowait()
        thread.join()
        pool.shutdown()


def _serve(
    work: Callable[[_Job, Executor], _Result],
    jobs: Iterable[_Job],
    pool: Executor,
    ready: "Queue[_Result | _End]",
    stopped: threading.Event,
) -> None:
    """Do the jobs, until the last, an error, or the consumer's end."""

    def put(one: _Result | _End) -> None:
        while not stopped.is_set():
            with suppress(Full):
                ready.put(one, timeout=_POLL_SECONDS)
                return

    try:
        for job in jobs:
            put(work(job, pool))
            if stopped.is_set():
                return
        put(_End())
    except BaseException as error:  # noqa: BLE001 - raised again in the consumer
        put(_End(error))
