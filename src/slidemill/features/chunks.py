"""What readers are asked and what they answer, and reading itself.

Reads pixels, knows no artifacts. Tiles of a chunk are neighbours, so what they share is decoded
once; a tile that does not decode is marked and costs no other.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from slidemill.errors import SlideCode, SlideError
from slidemill.slides.reader import RGB, Slide
from slidemill.slides.regions import Region, read_region
from slidemill.tiles.grid import Coords, TileGeometry

OPEN_SLIDES = 2
"""Slides that a reader keeps open: the one it reads and the one that comes next."""


@dataclass(frozen=True)
class Source:
    """Where tiles are from.

    Attributes:
        path: The slide.
        reader: Its reader, as the cohort says it.
        geometry: Size of its tiles.
    """

    path: Path
    reader: str
    geometry: TileGeometry


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
class Answer:
    """What became of a chunk.

    Attributes:
        number: Number of the chunk.
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
        self._slides: OrderedDict[Path, Slide] = OrderedDict()
        self._users: dict[Path, int] = {}
        self._lock = threading.Lock()

    @contextmanager
    def use(self, source: Source) -> Iterator[Slide]:
        """An open slide, which is not closed meanwhile.

        Raises:
            SlideError: If it cannot be opened.
        """
        with self._lock:
            slide = self._slides.get(source.path)
            if slide is None:
                slide = self._slides[source.path] = Slide(source.path, source.reader)
                self._users[source.path] = 0
            self._slides.move_to_end(source.path)
            self._users[source.path] += 1
            self._close_idle()
        try:
            yield slide
        finally:
            with self._lock:
                self._users[source.path] -= 1

    def _close_idle(self) -> None:
        idle = [path for path in self._slides if not self._users[path]]
        for path in idle[: max(0, len(self._slides) - OPEN_SLIDES)]:
            self._slides.pop(path).close()
            del self._users[path]


def answer(chunk: Chunk, slides: OpenSlides, out: RGB) -> Answer:
    """Read a chunk; a fault of its slide is part of the answer."""
    try:
        with slides.use(chunk.source) as slide:
            return Answer(chunk.number, read_chunk(slide, chunk, out))
    except SlideError as error:
        return Answer(chunk.number, np.ones(len(chunk.rows), np.bool_), error)
