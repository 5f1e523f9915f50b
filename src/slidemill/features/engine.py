"""The engine: readers feed one encoder across slides, a writer takes its features.

Reads pixels through the pool, knows no artifacts. Chunks are read side by side and encoded in their
order, so the same slides give the same batches. A tile that does not decode is left out and costs
no other; a slide that fails costs no other; anything else ends the job.

A slide ends when all its tiles are encoded and its file, read to the end, has been found to be the
one that the cohort stage saw. A slide whose reader was killed by the system, or did not get memory,
is encoded once more, alone, when all others are done.
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from slidemill.artifacts.workers import Lost, starved_twice
from slidemill.errors import SlideCode, SlideError
from slidemill.features.chunks import Answer, Check, Chunk, Source
from slidemill.features.pool import ReaderPool
from slidemill.features.ring import Ring
from slidemill.features.runners import Encoded, Piece, Runner
from slidemill.memory import oom_kills
from slidemill.tiles.grid import Coords
from slidemill.tiles.order import reading_order

log = logging.getLogger(__name__)

BLOCK = (8, 4)
"""Tiles across and down that are read together."""
POLL_SECONDS = 0.02
"""How often a slide that is not ready is asked for where there is nothing else to do."""


def _nothing() -> None:
    """What is to be done when a slide that has no copy is no longer read."""


@dataclass(frozen=True)
class Work:
    """A slide to encode.

    Attributes:
        slide: Its number in the job.
        source: The slide.
        coords: (N, 2) int64 top-left corners of its tiles, level-0 pixels; N > 0.
        release: Called once, when the slide is no longer read.
    """

    slide: int
    source: Source
    coords: Coords
    release: Callable[[], None] = _nothing


@dataclass(frozen=True)
class Done:
    """A slide whose tiles have all been encoded.

    Attributes:
        slide: Its number.
        sound: (n,) int64 rows that were encoded, ascending.
        seconds: Wall time from its first tile to its last.
        waited: Share of it in which the encoder had nothing to work on, 0 to 1.
    """

    slide: int
    sound: npt.NDArray[np.int64]
    seconds: float
    waited: float


@dataclass(frozen=True)
class Failed:
    """A slide that has failed; what was written of it does not count.

    Attributes:
        slide: Its number.
        error: Why.
        seconds: Wall time that was spent on it.
    """

    slide: int
    error: SlideError | Lost
    seconds: float


class Sink(Protocol):
    """Takes features while they come."""

    def begin(self, slide: int, tiles: int, dim: int) -> None:
        """A slide begins."""
        ...

    def write(self, encoded: Encoded) -> None:
        """Rows of a slide, in any order."""
        ...

    def put_aside(self, slide: int) -> None:
        """What was written of a slide does not count; it begins anew, later."""
        ...

    def end(self, outcome: Done | Failed) -> None:
        """A slide ends; it may not have begun."""
        ...


@dataclass
class _Slide:
    """A slide under way."""

    work: Work
    unreadable: npt.NDArray[np.bool_]
    unread_tiles: int
    open_tiles: int
    is_sound: bool
    is_read: bool = False
    began: float | None = None
    idle_s: float = 0.0


@dataclass
class Engine:
    """Encodes slides.

    Attributes:
        ring: Where pixels pass.
        pool: Who reads.
        runner: What encodes.
        sink: Who takes the features.
        max_unreadable: A slide of which more than this share of tiles does not decode has failed.
        idle_s: Seconds in which the encoder had nothing to work on, so far.
    """

    ring: Ring
    pool: ReaderPool
    runner: Runner
    sink: Sink
    max_unreadable: float = 0.1
    idle_s: float = field(default=0.0, init=False)
    _slides: dict[int, _Slide] = field(default_factory=dict, init=False)
    _asked: dict[int, Chunk] = field(default_factory=dict, init=False)
    _said: dict[int, Answer | Lost] = field(default_factory=dict, init=False)
    _waited_s: float = field(default=0.0, init=False)
    _checks: int = field(default=0, init=False)
    _aside: list[tuple[Work, Lost]] = field(default_factory=list, init=False)

    def run(self, works: Iterable[Work | None]) -> None:
        """Encode slides, in their order; those whose reader was killed by the system come last.

        Args:
            works: Slides; the next is asked for shortly before the readers need it. None where it
                is not ready yet, and to be asked for again.

        Raises:
            Exception: Whatever is no fault of a slide.
        """
        kills = oom_kills()
        self._encode(works)
        aside, self._aside = self._aside, []
        if not aside:
            return
        with self.pool.quiet():
            for work, _ in aside:
                again = replace(work, source=work.source.in_place(), release=_nothing)
                self._encode([again])
        for work, lost in self._aside:
            self.sink.end(Failed(work.slide, starved_twice(lost, kills), 0.0))
        self._aside = []

    def _encode(self, works: Iterable[Work | None]) -> None:
        """Encode slides once."""
        chunks = self._chunks(works)
        following, there_are_more = 0, True
        while there_are_more or self._asked or self._checks:
            there_are_more = there_are_more and self._ask_ahead(chunks)
            if following in self._said:
                self._take(self._asked.pop(following), self._said.pop(following))
                following += 1
            elif self._asked or self._checks:
                self._listen()
            elif there_are_more:
                time.sleep(POLL_SECONDS)
        for encoded in self.runner.flush():
            self._deliver(encoded)

    def _ask_ahead(self, chunks: Iterator[Chunk | None]) -> bool:
        """Ask for as many chunks as there is room for; whether there are more."""
        while self.ring.has_free:
            try:
                chunk = next(chunks)
            except StopIteration:
                return False
            if chunk is None:
                return True
            self._ask(chunk)
        return True

    def _listen(self) -> None:
        """Wait for answers."""
        started = time.perf_counter()
        for number, said in self.pool.answers():
            if number < 0:
                self._end_check(number, said)
            else:
                self._said[number] = said
        self._waited_s += time.perf_counter() - started

    def _chunks(self, works: Iterable[Work | None]) -> Iterator[Chunk | None]:
        """All chunks of the job; their slots are still to be taken. None: not ready yet."""
        number = 0
        for work in works:
            if work is None:
                yield None
                continue
            count = len(work.coords)
            self._slides[work.slide] = _Slide(
                work, np.zeros(count, np.bool_), count, count, is_sound=not work.source.is_compared
            )
            order, _ = reading_order(work.coords, work.source.geometry, *BLOCK)
            for start in range(0, count, self.ring.tiles):
                rows = order[start : start + self.ring.tiles]
                yield Chunk(number, work.slide, work.source, rows, work.coords[rows], slot=-1)
                number += 1

    def _ask(self, chunk: Chunk) -> None:
        slot = self.ring.take()
        asked = Chunk(chunk.number, chunk.slide, chunk.source, chunk.rows, chunk.coords, slot)
        self._asked[chunk.number] = asked
        if chunk.slide in self._slides:
            self.pool.ask(asked)
        else:
            # Its slide has failed already.
            self._said[chunk.number] = Answer(chunk.number, np.ones(len(chunk.rows), np.bool_))

    def _take(self, chunk: Chunk, said: Answer | Lost) -> None:
        slide = self._slides.get(chunk.slide)
        if slide is None:
            self.ring.release(chunk.slot)
            return
        if slide.began is None:
            slide.began = time.perf_counter()
            self.sink.begin(chunk.slide, len(slide.unreadable), self.runner.dim)
        slide.unread_tiles -= len(chunk.rows)
        error = said if isinstance(said, Lost) else said.error
        if error is None:
            assert isinstance(said, Answer)
            slide.unreadable[chunk.rows] = said.unreadable
            error = _too_much_lost(slide, self.max_unreadable)
        if error is not None:
            self.ring.release(chunk.slot)
            self._fail(chunk.slide, error)
            return
        if slide.unread_tiles == 0:
            self._end_reading(slide)
        pixels = self.ring.view(chunk.slot, len(chunk.rows))
        piece = Piece(chunk.slide, chunk.rows, pixels, lambda: self.ring.release(chunk.slot))
        waited, self._waited_s = self._waited_s, 0.0
        for encoded in self.runner.feed(piece, waited):
            self._deliver(encoded)

    def _end_reading(self, slide: _Slide) -> None:
        """Have a slide closed, and compared with what it was when its job began."""
        work = slide.work
        slide.is_read = True
        self.pool.forget(work.source.key)
        work.release()
        if not slide.is_sound and work.slide in self._slides:
            self._checks += 1
            self.pool.check(Check(-1 - work.slide, work.slide, work.source))

    def _end_check(self, number: int, said: Answer | Lost) -> None:
        self._checks -= 1
        slide = self._slides.get(-1 - number)
        if slide is None:
            return
        error = said if isinstance(said, Lost) else said.error
        if error is not None:
            self._fail(slide.work.slide, error)
            return
        slide.is_sound = True
        self._end(slide)

    def _deliver(self, encoded: Encoded) -> None:
        self.idle_s += encoded.idle_s
        slide = self._slides.get(encoded.slide)
        if slide is None:
            return
        odd = encoded.rows[~encoded.finite & ~slide.unreadable[encoded.rows]]
        if len(odd):
            self._fail(encoded.slide, _not_finite(slide.work, int(odd[0])))
            return
        self.sink.write(encoded)
        slide.idle_s += encoded.idle_s
        slide.open_tiles -= len(encoded.rows)
        self._end(slide)

    def _end(self, slide: _Slide) -> None:
        """End a slide of which all is encoded and that was not replaced meanwhile."""
        if slide.open_tiles > 0 or not slide.is_sound:
            return
        assert slide.began is not None
        seconds = time.perf_counter() - slide.began
        del self._slides[slide.work.slide]
        sound = np.flatnonzero(~slide.unreadable).astype(np.int64)
        waited = min(1.0, slide.idle_s / seconds) if seconds else 0.0
        self.sink.end(Done(slide.work.slide, sound, seconds, waited))

    def _fail(self, number: int, error: SlideError | Lost) -> None:
        slide = self._slides.pop(number)
        if not slide.is_read:
            self._end_reading(slide)
        if isinstance(error, Lost) and error.starved:
            log.warning(
                "%s: %s; it is encoded again when all others are done",
                slide.work.source.path, error.reason,
            )  # fmt: skip
            self._aside.append((slide.work, error))
            self.sink.put_aside(number)
            return
        seconds = time.perf_counter() - slide.began if slide.began is not None else 0.0
        self.sink.end(Failed(number, error, seconds))


def _too_much_lost(slide: _Slide, max_unreadable: float) -> SlideError | None:
    """The fault of a slide of which too many tiles do not decode, or all."""
    lost, count = int(slide.unreadable.sum()), len(slide.unreadable)
    if lost == 0 or (lost <= max_unreadable * count and lost < count):
        return None
    share = (
        f"none of its {count} tiles decodes"
        if lost == count
        else f"{lost} or more of its {count} tiles do not decode, more than "
        f"features.max_unreadable = {max_unreadable:g} allows"
    )
    path = slide.work.source.path
    message = f"{path}: {share}; the file is damaged: copy or scan it again"
    return SlideError(SlideCode.READ_ERROR, message)


def _not_finite(work: Work, row: int) -> SlideError:
    """The fault of a slide of which a tile has a feature that is no number."""
    x, y = work.coords[row].tolist()
    return SlideError(
        SlideCode.NOT_FINITE,
        f"{work.source.path}: the feature of the tile at (x, y) = ({x}, {y}) is not finite; the "
        "encoder overflows on it: choose another features.precision (bf16 or fp32) or "
        "features.dtype float32",
    )
