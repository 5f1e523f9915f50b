"""What readers are asked and what they answer, and reading itself.

Reads pixels, knows no artifacts. Tiles of a chunk are neighbours, so what they share is decoded
once; a tile that does not decode is marked and costs no other. A slide is compared with what the
cohort stage saw when a reader opens it, and once more when all of it was read.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from slidemill.errors import SlideCode, SlideError
from slidemill.slides.identity import check_same
from slidemill.slides.reader import RGB, Slide
from slidemill.slides.regions import Region, read_region
from slidemill.slides.staging import named
from slidemill.tiles.grid import Coords, TileGeometry

OPEN_SLIDES = 2
"""Slides that a reader keeps open: the one it reads and the one that comes next."""


SlideKey = tuple[Path, str | None]
"""A file and its scene."""


@dataclass(frozen=True)
class Source:
    """Where tiles are from.

    Attributes:
        path: The slide.
        reader: Its reader, as the cohort says it.
        geometry: Size of its tiles.
        fingerprint: What the cohort stage saw; None where there is nothing to compare with.
        copy: A copy of the slide, compared already, that is read instead.
        scene: Scene of the file that is read; None in a file of one.
    """

    path: Path
    reader: str
    geometry: TileGeometry
    fingerprint: str | None = None
    copy: Path | None = None
    scene: str | None = None

    @property
    def file(self) -> Path:
        """The file that is read."""
        return self.copy or self.path

    @property
    def key(self) -> SlideKey:
        """What tells open slides apart."""
        return self.file, self.scene

    @property
    def is_compared(self) -> bool:
        """Whether readers compare it with what the cohort stage saw."""
        return self.fingerprint is not None and self.copy is None

    def in_place(self) -> "Source":
        """The same without a copy."""
        return replace(self, copy=None)

    def check(self) -> None:
        """See `slidemill.slides.identity.check_same`; a copy has been compared already."""
        if self.is_compared:
            assert self.fingerprint is not None
            check_same(self.path, self.fingerprint)


@dataclass(frozen=True, eq=False)
class Chunk:
    """Tiles that are read together.

    Attributes:
        number: Number of the chunk in the job.
        slide: Number of the slide in the job.
        source: The slide.
        rows: (n,) int64 rows of the tiles in the slide's features.
        coords: (n, 2) int64 top-left corners, level-0 pixels.
        slot: Where in the ring the pixels go.
    """

    number: int
    slide: int
    source: Source
    rows: npt.NDArray[np.int64]
    coords: Coords
    slot: int


@dataclass(frozen=True)
class Check:
    """Asks whether a slide, all of which was read, is still what the cohort stage saw.

    Attributes:
        number: A number that no chunk has: below 0.
        slide: Number of the slide in the job.
        source: The slide.
    """

    number: int
    slide: int
    source: Source


@dataclass(frozen=True)
class Answer:
    """What became of a chunk, or of a check.

    Attributes:
        number: Its number.
        unreadable: (n,) bool, which tiles do not decode; their pixels are black.
        error: What is wrong with the whole slide; then nothing was read.
    """

    number: int
    unreadable: npt.NDArray[np.bool_]
    error: SlideError | None = None


def read_chunk(slide: Slide, chunk: Chunk, out: RGB) -> npt.NDArray[np.bool_]:
    """Read the tiles of a chunk.

    Args:
        slide: The slide, open.
        chunk: The tiles.
        out: (n, tile_px, tile_px, 3) uint8, filled.

    Returns:
        (n,) bool, which tiles do not decode; they are black in `out`.

    Raises:
        SlideError: If the slide is too coarse.
    """
    geometry = chunk.source.geometry
    unreadable = np.zeros(len(chunk.coords), np.bool_)
    for i, (x, y) in enumerate(chunk.coords.tolist()):
        region = Region(x, y, geometry.width, geometry.height)
        try:
            read_region(slide, region, geometry.tile_px, geometry.tile_px, out[i])
        except SlideError as error:
            if error.code is not SlideCode.READ_ERROR:
                raise
            unreadable[i] = True
            out[i] = 0
    return unreadable


class OpenSlides:
    """Slides that stay open between chunks, for several threads."""

    def __init__(self) -> None:
        self._slides: OrderedDict[SlideKey, Slide] = OrderedDict()
        self._unwanted: set[SlideKey] = set()
        self._users: dict[SlideKey, int] = {}
        self._lock = threading.Lock()

    @contextmanager
    def use(self, source: Source) -> Iterator[Slide]:
        """An open slide, which is not closed meanwhile.

        Raises:
            SlideError: If it cannot be opened, or is not what the cohort stage saw.
        """
        key = source.key
        with self._lock:
            slide = self._slides.get(key)
            if slide is None:
                source.check()
                slide = self._slides[key] = Slide(source.file, source.reader, source.scene)
                self._users[key] = 0
            self._unwanted.discard(key)
            self._slides.move_to_end(key)
            self._users[key] += 1
            self._close_idle()
        try:
            yield slide
        finally:
            with self._lock:
                self._users[key] -= 1
                self._close_idle()

    def forget(self, key: SlideKey) -> None:
        """Close a slide, as soon as nobody uses it."""
        with self._lock:
            if key in self._slides:
                self._unwanted.add(key)
                self._close_idle()

    def _close_idle(self) -> None:
        idle = [key for key in self._slides if not self._users[key]]
        surplus = idle[: max(0, len(self._slides) - OPEN_SLIDES)]
        for key in {*surplus, *self._unwanted.intersection(idle)}:
            self._slides.pop(key).close()
            self._unwanted.discard(key)
            del self._users[key]


def answer(chunk: Chunk, slides: OpenSlides, out: RGB) -> Answer:
    """Read a chunk; a fault of its slide is part of the answer."""
    try:
        with slides.use(chunk.source) as slide:
            unreadable = read_chunk(slide, chunk, out)
        if unreadable.any():
            # What does not decode may be of another file.
            chunk.source.check()
        return Answer(chunk.number, unreadable)
    except SlideError as error:
        return Answer(chunk.number, np.ones(len(chunk.rows), np.bool_), _blame(chunk.source, error))


def check(asked: Check) -> Answer:
    """Compare a slide with what the cohort stage saw; a difference is part of the answer."""
    try:
        asked.source.check()
    except SlideError as error:
        return Answer(asked.number, np.zeros(0, np.bool_), error)
    return Answer(asked.number, np.zeros(0, np.bool_))


def _blame(source: Source, error: SlideError) -> SlideError:
    """What to put a fault down to: that the file was replaced, if it was."""
    try:
        source.check()
    except SlideError as changed:
        return changed
    return error if source.copy is None else named(error, source.copy, source.path)
