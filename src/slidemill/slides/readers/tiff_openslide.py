"""Which of the levels that OpenSlide finds in a TIFF are levels.

OpenSlide takes every reduced image for a level, and sizes as stored for sizes without padding. It
is held to what `tiff_pyramid` finds, so that no reader shows another slide than the others do.
"""

import os
from dataclasses import dataclass, replace
from pathlib import Path

import tifffile

from slidemill.slides.readers.base import Layout, OpenError, Size, UnsupportedError, faults_of
from slidemill.slides.readers.tiff_pyramid import Pyramid, find_pyramid

VENDORS = ("aperio", "generic-tiff")
"""TIFFs whose levels slidemill knows by itself, as OpenSlide calls them."""


@dataclass(frozen=True)
class Confirmed:
    """What OpenSlide shows rightly.

    Attributes:
        numbers: OpenSlide's numbers of the levels.
        dimensions: Their width and height without padding, pixels.
        layout: What the file says of its structure.
    """

    numbers: tuple[int, ...]
    dimensions: tuple[Size, ...]
    layout: Layout


def confirmed_levels(path: Path, sizes: tuple[Size, ...], scene: str | None) -> Confirmed:
    """Of OpenSlide's levels of a TIFF, those that are levels.

    Args:
        path: The file.
        sizes: Width and height of every level that OpenSlide finds, pixels.
        scene: Name of the scene that is asked for; None for the largest.

    Raises:
        UnsupportedError: If OpenSlide shows another image than the one that is asked for.
        OpenError: If the file is damaged.
    """
    with (
        faults_of("its directory is damaged: tifffile", OpenError),
        tifffile.TiffFile(path) as file,
    ):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            pyramid = find_pyramid(file, descriptor, path.stat().st_size, scene)
        finally:
            os.close(descriptor)
        first = [page for page, _ in pyramid.levels[0].planes]
        # OpenSlide's level 0 of these is the first directory, and no other.
        if first[0].index != 0 or any(page is not first[0] for page in first):
            raise UnsupportedError("OpenSlide does not show the image that is read of it")
        if sizes[0] != pyramid.stored[0]:
            raise UnsupportedError("OpenSlide takes another of its images for level 0")
    return _matched(pyramid, sizes)


def _matched(pyramid: Pyramid, sizes: tuple[Size, ...]) -> Confirmed:
    # Where sizes are repeated, which of OpenSlide's levels is which is not told.
    pairs = [
        (sizes.index(stored), number)
        for number, stored in enumerate(pyramid.stored)
        if sizes.count(stored) == 1 and pyramid.stored.count(stored) == 1
    ]
    stated = pyramid.layout.stated
    return Confirmed(
        tuple(theirs for theirs, _ in pairs),
        tuple(pyramid.levels[own].size for _, own in pairs),
        replace(pyramid.layout, stated=tuple(stated[own] for _, own in pairs)),
    )
