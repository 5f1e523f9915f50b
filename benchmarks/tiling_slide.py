"""A 40,000 x 30,000 px slide out of real tissue, for the benchmarks.

Stamps flipped and turned copies of a scanned section onto glass and writes them as a tiled JPEG
pyramid at 0.25 um per pixel, whose levels are 1, 4 and 16 times smaller, as Aperio's are. The same
input gives the same file.
"""

from pathlib import Path

import numpy as np

from slidemill.slides.pyramid import write_pyramid
from slidemill.slides.reader import Slide

WIDTH, HEIGHT = 40_000, 30_000
MPP = 0.25
GLASS = (242, 241, 243)
SECTIONS = 24
"""Copies of the section; they cover about a third of the slide."""
TISSUE_BELOW = 225
"""Green darker than this is tissue; the rest of a copy stays glass."""


def build(path: Path, section: Path, width: int = WIDTH, height: int = HEIGHT) -> None:
    """Write the slide, unless it is there.

    Args:
        path: Where to.
        section: A slide of one section of tissue, a few thousand pixels wide.
        width: Level-0 width, pixels.
        height: Level-0 height, pixels.
    """
    if path.exists():
        return
    with Slide(section) as slide:
        piece = slide.read(0, 0, 0, *slide.dimensions)
    pixels = np.empty((height, width, 3), np.uint8)
    pixels[:] = GLASS
    rng = np.random.default_rng(0)
    for number in range(SECTIONS * width * height // (WIDTH * HEIGHT) or 1):
        copy = np.rot90(piece, number % 4)[:, :: -1 if number % 8 > 3 else 1]
        x = int(rng.integers(0, max(1, width - copy.shape[1])))
        y = int(rng.integers(0, max(1, height - copy.shape[0])))
        place = pixels[y : y + copy.shape[0], x : x + copy.shape[1]]
        copy = copy[: place.shape[0], : place.shape[1]]
        stained = copy[..., 1:2] < TISSUE_BELOW
        np.copyto(place, copy, where=stained)
    write_pyramid(path, pixels, mpp_x=MPP, mpp_y=MPP, levels=3, factor=4)
