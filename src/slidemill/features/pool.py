"""The readers: long-lived processes of a few threads each, which may die.

Libraries that read slides are C code fed with whatever lies on a disk, and the process that encodes
holds a network, perhaps on a GPU: so slides are read in processes of their own. Threads within one
share its open slides and the pieces that were decoded; pixels go straight into shared memory. A
reader that dies or is late is replaced. Whose fault it was is found out: chunks that were under way
in a dead reader are read again, one at a time, and what kills its reader alone is lost. For a slide
whose reader was killed by the system there is a quiet pool: one reader, one chunk at a time.
"""

import os
import threading
import time
import traceback
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from slidemill.artifacts.workers import (
    Lost,
    RemoteTraceback,
    death_of,
    die_with_parent,
    end_opencvs_threads,
    portable,
    shortage_of,
)
from slidemill.features.chunks import (
    OPEN_SLIDES,
    Answer,
    Check,
    Chunk,
    OpenSlides,
    SlideKey,
    answer,
    check,
)
from slidemill.features.ring import Ring
from slidemill.memory import is_shortage

QUEUED = 1
"""Chunks that wait in a reader beside those that its threads read."""


@dataclass(frozen=True)
class Crew:
    """How many readers there are.

    Attributes:
        processes: Processes.
        threads: Threads of each.
        seconds: Wall time after which a chunk is lost.
        nice: How far readers step back for the process that encodes, where both want the same CPUs.
    """

    processes: int
    threads: int
    seconds: float = 1800.0
    nice: int = 0


@dataclass
class _Reader:
    """A reader process, seen from here."""

    process: BaseProcess
    pipe: Connection
    under_way: dict[int, tuple[Chunk | Check, float]] = field(default_factory=dict)
    alone: bool = False
    open_slides: deque[SlideKey] = field(default_factory=lambda: deque(maxlen=OPEN_SLIDES))


class ReaderPool:
    """Readers and what they were asked; a context manager."""

    def __init__(self, ring: Ring, crew: Crew) -> None:
        """Fork the readers; best before there are threads or a GPU in this process."""
        self._ring, self._crew = ring, crew
        self._pending: deque[Chunk | Check] = deque()
        self._suspects: deque[Chunk | Check] = deque()
        self._readers: list[_Reader] = []
        self._in_hand = crew.threads + QUEUED
        end_opencvs_threads()
        self._hire(crew.processes)

    def __enter__(self) -> "ReaderPool":
        return self

    def __exit__(self, *_: object) -> None:
        for reader in self._readers:
            _stop(reader)

    def ask(self, chunk: Chunk) -> None:
        """Have a chunk read; its slot has been taken."""
        self._pending.append(chunk)
        self._deal()

    def check(self, asked: Check) -> None:
        """Have a slide compared with what the cohort stage saw, before anything else is read."""
        self._pending.appendleft(asked)
        self._deal()

    def forget(self, key: SlideKey) -> None:
        """Have a slide closed that is no longer needed: an open file takes its place on a disk."""
        for reader in self._readers:
            if key in reader.open_slides:
                reader.open_slides.remove(key)
            with suppress(OSError):
                reader.pipe.send(key)

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Read one chunk at a time, in a single reader; nothing may be under way before or after.

        The other readers end, and with them what they held in memory.
        """
        self._hire(1)
        self._in_hand = 1
        yield
        self._in_hand = self._crew.threads + QUEUED
        self._hire(self._crew.processes)

    def _hire(self, count: int) -> None:
        """End all readers, and fork new ones."""
        while self._readers:
            _stop(self._readers.pop())
        for _ in range(count):
            self._readers.append(self._fork())

    def answers(self) -> list[tuple[int, Answer | Lost]]:
        """Numbers and answers of chunks that are ready; waits for the first.

        Raises:
            Exception: What a reader raised that is no fault of a slide.
        """
        self._deal()
        busy = [reader for reader in self._readers if reader.under_way]
        due = min(when for reader in busy for _, when in reader.under_way.values())
        ready = wait([reader.pipe for reader in busy], max(0.0, due - time.monotonic()))
        found: list[tuple[int, Answer | Lost]] = []
        for reader in busy:
            if reader.pipe in ready:
                found += self._take(reader)
            elif late := [
                n for n, (_, when) in reader.under_way.items() if when <= time.monotonic()
            ]:
                found += self._end_late(reader, late)
        self._deal()
        return found

    def _deal(self) -> None:
        """Give chunks to readers that have room; a suspect gets a reader of its own."""
        for reader in self._readers:
            if self._suspects and not reader.under_way:
                reader.alone = True
                self._give(reader, self._suspects.popleft())
        # While a suspect waits for a reader to be idle, none is given more.
        free = [reader for reader in self._readers if not reader.alone]
        while self._pending and free and not self._suspects:
            reader = min(free, key=lambda one: len(one.under_way))
            if len(reader.under_way) >= self._in_hand:
                break
            chunk = self._next_for(reader)
            self._pending.remove(chunk)
            self._give(reader, chunk)

    def _next_for(self, reader: _Reader) -> Chunk | Check:
        """The first chunk of a slide that this reader has open, or none has; else the first.

        A small slide is then opened once, and what its chunks share decoded once, while the other
        readers go ahead to the next.
        """
        others = {key for one in self._readers if one is not reader for key in one.open_slides}
        for chunk in self._pending:
            key = chunk.source.key
            if isinstance(chunk, Check) or key in reader.open_slides or key not in others:
                return chunk
        return self._pending[0]

    def _give(self, reader: _Reader, chunk: Chunk | Check) -> None:
        if isinstance(chunk, Chunk) and chunk.source.key not in reader.open_slides:
            reader.open_slides.append(chunk.source.key)
        reader.under_way[chunk.number] = (chunk, time.monotonic() + self._crew.seconds)
        # A reader that has died meanwhile shows when its answer is awaited.
        with suppress(OSError):
            reader.pipe.send(chunk)

    def _take(self, reader: _Reader) -> list[tuple[int, Answer | Lost]]:
        found: list[tuple[int, Answer | Lost]] = []
        try:
            while reader.pipe.poll():
                number, said, error, trace = reader.pipe.recv()
                if error is not None:
                    raise error from RemoteTraceback(trace)
                del reader.under_way[number]
                reader.alone = False
                found.append((number, said))
        except (EOFError, ConnectionResetError):
            reader.process.join()
            chunks = [chunk for chunk, _ in reader.under_way.values()]
            self._replace(reader)
            if len(chunks) == 1:
                return [*found, (chunks[0].number, death_of(reader.process.exitcode))]
            self._suspects.extend(chunks)
        return found

    def _end_late(self, reader: _Reader, late: Sequence[int]) -> list[tuple[int, Answer | Lost]]:
        others = [chunk for n, (chunk, _) in reader.under_way.items() if n not in late]
        self._replace(reader)
        self._pending.extendleft(reversed(others))
        reason = f"it was stopped after {self._crew.seconds:g} s"
        return [(number, Lost(reason, timed_out=True)) for number in late]

    def _replace(self, reader: _Reader) -> None:
        _stop(reader)
        self._readers[self._readers.index(reader)] = self._fork()

    def _fork(self) -> _Reader:
        # A fork inherits the ring and what is imported. A reader never touches what may be locked
        # by this process's threads or belongs to its GPU.
        context = get_context("fork")
        ours, theirs = context.Pipe()
        inherited = [ours, *(reader.pipe for reader in self._readers)]
        process = context.Process(
            target=_serve, args=(theirs, inherited, self._ring, self._crew), daemon=True
        )
        process.start()
        theirs.close()
        return _Reader(process, ours)


def _stop(reader: _Reader) -> None:
    reader.pipe.close()
    if reader.process.is_alive():
        reader.process.kill()
    reader.process.join()


def _serve(pipe: Connection, inherited: Sequence[Connection], ring: Ring, crew: Crew) -> None:
    """Life of a reader: take chunks and checks, answer, until the parent is gone."""
    die_with_parent()
    for connection in inherited:
        connection.close()
    if crew.nice:
        os.nice(crew.nice)
    slides, lock = OpenSlides(), threading.Lock()

    def work(asked: Chunk | Check) -> None:
        said: tuple[int, Answer | Lost | None, Exception | None, str]
        try:
            if isinstance(asked, Check):
                found = check(asked)
            else:
                found = answer(asked, slides, ring.view(asked.slot, len(asked.rows)))
            said = (asked.number, found, None, "")
        except Exception as error:  # noqa: BLE001 - raised again in the parent
            if is_shortage(error):
                said = (asked.number, shortage_of(error), None, "")
            else:
                said = (asked.number, None, portable(error), traceback.format_exc())
        with lock, suppress(BrokenPipeError):
            pipe.send(said)

    with ThreadPoolExecutor(max_workers=crew.threads) as threads:
        while True:
            try:
                asked: Chunk | Check | SlideKey = pipe.recv()
            except (EOFError, OSError):
                # The parent is gone, and nobody waits for what is still being read.
                os._exit(0)
            if isinstance(asked, tuple):
                slides.forget(asked)
            else:
                threads.submit(work, asked)
