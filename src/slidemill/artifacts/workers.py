"""Working on slides side by side, in processes that may die.

Libraries that read slides are C code fed with whatever lies on a disk: a crash, a hang or a runaway
allocation in one of them must cost one slide and nothing else. Every item is worked on in a child
process under a time limit; a child that dies or is late is replaced, and its item is reported as
lost. What a function raises is raised again in the parent, which ends the job. Results come as they
are ready; the caller orders them.
"""

import ctypes
import gc
import multiprocessing
import os
import pickle
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Generic, TypeVar

from slidemill.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Lost:
    """An item whose worker did not live to finish it.

    Attributes:
        reason: What happened, in words.
        timed_out: Whether it was stopped for being late.
    """

    reason: str
    timed_out: bool


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


def work_apart(
    function: Callable[[Item], Result], items: Sequence[Item], processes: int, seconds: float
) -> Iterator[tuple[int, Result | Lost]]:
    """Apply a function to items in child processes.

    Args:
        function: What to do; children inherit it and need not pickle it.
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
    pending = iter(range(len(items)))
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
            return Lost(death_of(self.process.exitcode), timed_out=False)
        if error is not None:
            raise error from RemoteTraceback(trace)
        answer: Result = result
        return answer

    def stop(self) -> None:
        self.pipe.close()
        if self.process.is_alive():
            self.process.kill()
        self.process.join()


def death_of(exitcode: int | None) -> str:
    """How a process ended, in words."""
    if exitcode is not None and exitcode < 0:
        name = signal.Signals(-exitcode).name
        also = ", as the system does when memory is short" if name == "SIGKILL" else ""
        return f"the process that read it was killed by {name}{also}"
    return f"the process that read it ended with code {exitcode}"


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
        answer: tuple[Result | None, Exception | None, str]
        try:
            answer = (function(item), None, "")
        except Exception as error:  # noqa: BLE001 - raised again in the parent
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
