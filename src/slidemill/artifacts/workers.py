"""Working on slides side by side, in processes that may die.

Libraries that read slides are C code fed with whatever lies on a disk: a crash, a hang or a runaway
allocation in one of them must cost one slide and nothing else. Every item is worked on in a child
process under a time limit; a child that dies or is late is replaced, and its item is reported as
lost. What a function raises is raised again in the parent, which ends the job. Results come as they
are ready; the caller orders them.

When memory is short, the kernel kills the largest process of a job, which may be an innocent one.
So an item whose child was killed, or did not get memory, is worked on once more, alone, when all
others are done and their children gone; only then is it lost.
"""

import ctypes
import gc
import logging
import multiprocessing
import os
import pickle
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Generic, TypeVar

from slidemill.errors import UserError
from slidemill.memory import is_shortage, oom_kills

log = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")


THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""What OpenMP (torch among others), OpenBLAS and MKL read."""


@dataclass(frozen=True)
class Lost:
    """An item whose worker did not live to finish it.

    Attributes:
        reason: What happened, in words.
        timed_out: Whether it was stopped for being late.
        starved: Whether it was killed as the system kills when memory is short, or did not get
            memory: that may be no fault of the item.
        out_of_memory: Whether that is known: it did not get memory, or the kernel says that it
            killed for it during this job.
    """

    reason: str
    timed_out: bool
    starved: bool = False
    out_of_memory: bool = False


class RemoteTraceback(Exception):  # noqa: N818 - shown as the cause of the real error
    """Traceback of an error in a worker, as text."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


def available_cpus() -> int:
    """CPUs that this process was given: Slurm's allocation or the affinity, the smaller one."""
    affinity = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    allocated = os.environ.get("SLURM_CPUS_PER_TASK", "")
    return max(1, min(affinity, int(allocated))) if allocated.isdecimal() else affinity


def limit_threads() -> None:
    """Have numerical libraries start no more threads than this process was given CPUs.

    They look when they are imported, and at the whole node, of which a Slurm job may have a few
    CPUs only. What the user has set stays.
    """
    for name in THREAD_VARIABLES:
        os.environ.setdefault(name, str(available_cpus()))


def work_apart(
    function: Callable[[Item], Result], items: Sequence[Item], processes: int, seconds: float
) -> Iterator[tuple[int, Result | Lost]]:
    """Apply a function to items in child processes.

    Args:
        function: What to do; children inherit it and need not pickle it. It may be called twice
            with an item.
        items: What to do it to; plain data.
        processes: Children that work at once.
        seconds: Wall time after which a child is stopped and its item lost.

    Yields:
        Number of the item and its result, in the order in which they are ready.

    Raises:
        Exception: What the function raised, with the child's traceback as its cause.
    """
    end_opencvs_threads()
    # What is there already stays shared: a child's garbage collector would copy every page of it.
    gc.freeze()
    kills = oom_kills()
    starved: list[int] = []
    for number, result in _side_by_side(function, items, range(len(items)), processes, seconds):
        if isinstance(result, Lost) and result.starved:
            log.warning("%s; it is worked on again when all others are done", result.reason)
            starved.append(number)
        else:
            yield number, result
    # The children of the others are gone, and so is what they held.
    for number in starved:
        for _, result in _side_by_side(function, items, [number], 1, seconds):
            yield number, starved_twice(result, kills) if isinstance(result, Lost) else result


def starved_twice(lost: Lost, kills: int) -> Lost:
    """What is to be said of an item that was lost when it was alone, too.

    Args:
        lost: The second loss.
        kills: `oom_kills` when the job began.
    """
    if not lost.starved:
        return lost
    known = lost.out_of_memory or oom_kills() > kills
    return replace(lost, reason=f"{lost.reason}, twice, the second time alone", out_of_memory=known)


def _side_by_side(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    numbers: Iterable[int],
    processes: int,
    seconds: float,
) -> Iterator[tuple[int, Result | Lost]]:
    """Work on some of the items once; see `work_apart`."""
    pending = iter(numbers)
    crew: list[_Child[Item, Result]] = []
    try:
        for number in pending:
            crew.append(_Child(function, crew))
            crew[-1].give(number, items[number], seconds)
            if len(crew) == max(1, processes):
                break
        while busy := [child for child in crew if child.number is not None]:
            for child in _ready(busy):
                done = child.number
                assert done is not None
                result = child.take()
                yield done, result
                if isinstance(result, Lost):
                    crew.remove(child)
                    child.stop()
                    child = _Child(function, crew)
                    crew.append(child)
                following = next(pending, None)
                if following is not None:
                    child.give(following, items[following], seconds)
    finally:
        for child in crew:
            child.stop()


def end_opencvs_threads() -> None:
    """End OpenCV's threads, where there are some, before a fork.

    They do not live on in a child, and whatever touches them there waits for ever. With slides side
    by side one thread each is wanted anyway; children inherit the setting.
    """
    opencv = sys.modules.get("cv2")
    if opencv is not None:
        opencv.setNumThreads(1)


def _ready(busy: "Sequence[_Child[Item, Result]]") -> "list[_Child[Item, Result]]":
    """Children that have answered, died or run out of time; waits for the first."""
    left = min(child.deadline for child in busy) - time.monotonic()
    answered = wait([child.pipe for child in busy], timeout=max(0.0, left))
    now = time.monotonic()
    return [child for child in busy if child.pipe in answered or now >= child.deadline]


class _Child(Generic[Item, Result]):
    """A worker process and the parent's end of its pipe."""

    def __init__(
        self, function: Callable[[Item], Result], others: "Sequence[_Child[Item, Result]]"
    ) -> None:
        # A fork starts in no time and inherits what is imported; it is safe since the parent runs
        # no threads of its own here. Elsewhere than on Linux the platform's own way is taken.
        kind = "fork" if os.uname().sysname == "Linux" else None
        context = multiprocessing.get_context(kind)
        self.pipe, theirs = context.Pipe()
        inherited = [self.pipe, *(child.pipe for child in others)]
        self.process: BaseProcess = context.Process(  # type: ignore[attr-defined]
            target=_serve, args=(function, theirs, inherited), daemon=True
        )
        self.process.start()
        theirs.close()
        self.number: int | None = None
        self.deadline = float("inf")
        self._seconds = 0.0

    def give(self, number: int, item: Item, seconds: float) -> None:
        self.number, self._seconds = number, seconds
        self.deadline = time.monotonic() + seconds
        # A child that died while it was idle shows when its answer is awaited.
        with suppress(OSError):
            self.pipe.send(item)

    def take(self) -> Result | Lost:
        """The child's answer, or that there is none."""
        self.number, deadline, self.deadline = None, self.deadline, float("inf")
        if not self.pipe.poll():
            assert time.monotonic() >= deadline
            self.process.kill()
            return Lost(f"it was stopped after {self._seconds:g} s", timed_out=True)
        try:
            result, error, trace = self.pipe.recv()
        except EOFError:
            self.process.join()
            return death_of(self.process.exitcode)
        if error is not None:
            raise error from RemoteTraceback(trace)
        answer: Result | Lost = result
        return answer

    def stop(self) -> None:
        self.pipe.close()
        if self.process.is_alive():
            self.process.kill()
        self.process.join()


def death_of(exitcode: int | None) -> Lost:
    """What is lost with a process that ended by itself, or was killed by others than us."""
    if exitcode is None or exitcode >= 0:
        return Lost(f"the process that read it ended with code {exitcode}", timed_out=False)
    name = signal.Signals(-exitcode).name
    starved = name == "SIGKILL"
    also = ", as the system does when memory is short" if starved else ""
    reason = f"the process that read it was killed by {name}{also}"
    return Lost(reason, timed_out=False, starved=starved)


def shortage_of(error: BaseException) -> Lost:
    """What is lost with a process, or a thread, that did not get memory."""
    reason = f"memory ran out ({type(error).__name__}: {error})"
    return Lost(reason, timed_out=False, starved=True, out_of_memory=True)


def _serve(
    function: Callable[[Item], Result], pipe: Connection, inherited: Sequence[Connection]
) -> None:
    """Life of a child: take items, answer, until the parent is gone."""
    die_with_parent()
    # Ends that belong to the parent: while a child held one, another would never see it close.
    for connection in inherited:
        connection.close()
    while True:
        try:
            item: Item = pipe.recv()
        except (EOFError, OSError):
            return
        answer: tuple[Result | Lost | None, Exception | None, str]
        try:
            answer = (function(item), None, "")
        except Exception as error:  # noqa: BLE001 - raised again in the parent
            if is_shortage(error):
                answer = (shortage_of(error), None, "")
            else:
                answer = (None, portable(error), traceback.format_exc())
        try:
            pipe.send(answer)
        except BrokenPipeError:
            return


def die_with_parent() -> None:
    """Leave interrupts from the keyboard to the parent, and end with it, however that dies.

    The latter is asked of the kernel, on Linux only.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if os.uname().sysname == "Linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


_PR_SET_PDEATHSIG = 1
"""From Linux's prctl.h."""


def portable(error: Exception) -> Exception:
    """An error that survives the pipe: itself where it can be rebuilt, otherwise its words."""
    if isinstance(error, UserError):
        return UserError(str(error))
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes, a moment old
    except Exception:  # noqa: BLE001 - whatever its class does when it is rebuilt
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
