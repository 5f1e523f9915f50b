"""The engine: readers feed one encoder across slides, a writer takes its features.

Reads pixels through the pool, knows no artifacts. Chunks are read side by side and encoded in their
order, so the same slides give the same batches. A tile that does not decode is left out and costs
no other; a slide that fails costs no other; anything else ends the job.
"""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from slidemill.artifacts.workers import Lost
from slidemill.errors import SlideCode, SlideError
from slidemill.features.chunks import Answer, Chunk, Source
from slidemill.features.pool import ReaderPool
from slidemill.features.ring import Ring
from slidemill.features.runners import Encoded, Piece, Runner
from slidemill.tiles.grid import Coords
from slidemill.tiles.order import reading_order

BLOCK = (8, 4)
"""Tiles across and down that are read together."""


@dataclass(frozen=True)
class Work:
    """A slide to encode.

    Attributes:
        slide: Its number in the job.
        source: The slide.
        coords: (N, 2) int64 top-left corners of its tiles, level-0 pixels; N > 0.
    """

    slide: int
    source: Source
    coords: Coords


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

    def end(self, outcome: Done | Failed) -> None:
        """A slide ends; it may not have begun."""
        ...


@dataclass
class _Slide:
    """A slide under way."""

    work: Work
    unreadable: npt.NDArray[np.bool_]
    open_tiles: int
    began: float | None = None
    idle_s: float = 0.0
    over: bool = False


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

    def run(self, works: Iterable[Work]) -> None:
        """Encode slides, in their order.

        Args:
            works: Slides; the next is asked for shortly before the readers need it.

        Raises:
            Exception: Whatever is no fault of a slide.
        """
        chunks = self._chunks(works)
        upcoming = next(chunks, None)
        following = 0
        while upcoming is not None or self._asked:
            while upcoming is not None and self.ring.has_free:
                self._ask(upcoming)
                upcoming = next(chunks, None)
            if following not in self._said:
                started = time.perf_counter()
                self._said |= dict(self.pool.answers())
                self._waited_s += time.perf_counter() - started
                continue
            self._take(self._asked.pop(following), self._said.pop(following))
            following += 1
        for encoded in self.runner.flush():
            self._deliver(encoded)

    def _chunks(self, works: Iterable[Work]) -> Iterator[Chunk]:
        """All chunks of the job; their slots are still to be taken."""
        number = 0
        for work in works:
            count = len(work.coords)
            self._slides[work.slide] = _Slide(work, np.zeros(count, np.bool_), count)
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
        error = said if isinstance(said, Lost) else said.error
        if error is None:
            assert isinstance(said, Answer)
            slide.unreadable[chunk.rows] = said.unreadable
            error = _too_much_lost(slide, self.max_unreadable)
        if error is not None:
            self.ring.release(chunk.slot)
            self._fail(chunk.slide, error)
            return
        pixels = self.ring.view(chunk.slot, len(chunk.rows))
        piece = Piece(chunk.slide, chunk.rows, pixels, lambda: self.ring.release(chunk.slot))
        waited, self._waited_s = self._waited_s, 0.0
        for encoded in self.runner.feed(piece, waited):
            self._deliver(encoded)

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
        if slide.open_tiles == 0:
            assert slide.began is not None
            seconds = time.perf_counter() - slide.began
            del self._slides[encoded.slide]
            sound = np.flatnonzero(~slide.unreadable).astype(np.int64)
            waited = min(1.0, slide.idle_s / seconds) if seconds else 0.0
            self.sink.end(Done(encoded.slide, sound, seconds, waited))

    def _fail(self, number: int, error: SlideError | Lost) -> None:
        slide = self._slides.pop(number)
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
