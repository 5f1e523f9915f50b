"""Reading every candidate tile once, to measure its quality.

Reads pixels, knows no artifacts. Tiles are read in blocks of neighbours, so that every stored piece
of the slide is decoded about once whatever the grid, and blocks go side by side on threads (the
codecs release the interpreter's lock). A tile that does not decode is marked and costs no other.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from slidemill.errors import SlideCode, SlideError
from slidemill.slides.reader import Slide
from slidemill.slides.regions import Region, read_region
from slidemill.tiles.grid import Coords, TileGeometry
from slidemill.tiles.order import reading_order
from slidemill.tiles.quality import measure

BLOCK = 4
"""Tiles along the edge of a block: what 16 tiles need stays in the reader's cache."""


@dataclass(frozen=True)
class Qualities:
    """Quality of tiles, in their order; see `slidemill.tiles.quality.Quality`.

    Attributes:
        white: (N,) float32.
        black: (N,) float32.
        focus: (N,) float32, NaN where a tile does not decode.
        read_error: (N,) bool, whether it does not.
    """

    white: npt.NDArray[np.float32]
    black: npt.NDArray[np.float32]
    focus: npt.NDArray[np.float32]
    read_error: npt.NDArray[np.bool_]

    def columns(self) -> dict[str, npt.NDArray[Any]]:
        """The qualities by the names that they have in artifacts."""
        return {
            "white_fraction": self.white,
            "black_fraction": self.black,
            "focus": self.focus,
            "read_error": self.read_error,
        }


def read_qualities(slide: Slide, coords: Coords, geometry: TileGeometry, threads: int) -> Qualities:
    """Read tiles as the features stage will, and measure them.

    Args:
        slide: The slide.
        coords: (N, 2) top-left corners, level-0 pixels.
        geometry: Size of the tiles.
        threads: Threads that read.

    Raises:
        SlideError: If the slide is too coarse.
    """
    count = len(coords)
    found = Qualities(
        np.zeros(count, np.float32),
        np.zeros(count, np.float32),
        np.full(count, np.nan, np.float32),
        np.zeros(count, np.bool_),
    )

    def work(block: npt.NDArray[np.int64]) -> None:
        for number in block:
            _measure_one(slide, coords, geometry, int(number), found)

    with ThreadPoolExecutor(max_workers=max(1, threads)) as pool:
        for _ in pool.map(work, _blocks(coords, geometry)):
            pass
    return found


def _measure_one(
    slide: Slide, coords: Coords, geometry: TileGeometry, number: int, found: Qualities
) -> None:
    region = Region(int(coords[number, 0]), int(coords[number, 1]), geometry.width, geometry.height)
    try:
        tile = read_region(slide, region, geometry.tile_px, geometry.tile_px)
    except SlideError as error:
        if error.code is not SlideCode.READ_ERROR:
            raise
        found.read_error[number] = True
        return
    quality = measure(tile)
    found.white[number] = quality.white
    found.black[number] = quality.black
    found.focus[number] = quality.focus


def _blocks(coords: Coords, geometry: TileGeometry) -> Iterator[npt.NDArray[np.int64]]:
    """Numbers of tiles, block by block."""
    order, starts = reading_order(coords, geometry, BLOCK, BLOCK)
    yield from np.split(order, starts[1:]) if len(order) else ()
