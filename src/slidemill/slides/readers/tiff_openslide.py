"""Which of the levels that OpenSlide finds in a TIFF are levels.

OpenSlide takes every reduced image for a level, and sizes as stored for sizes without padding. It
is held to what `tiff_pyramid` finds, so that no reader shows another slide than the others do.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from slidemill.slides.readers.base import Layout, Size, UnsupportedError
from slidemill.slides.readers.tiff import TiffBackend
from slidemill.slides.readers.tiff_pyramid import Pyramid


@dataclass(frozen=True)
class OwnView:
    """What slidemill's own reader sees in a TIFF.

    Attributes:
        pyramid: Its levels.
        has_spare_channel: Whether a fourth channel is not the transparency which others take it
            for.
    """

    pyramid: Pyramid
    has_spare_channel: bool


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


def own_view(path: Path, scene: str | None) -> OwnView:
    """Open a TIFF with slidemill's own reader, for another one to be held to.

    Raises:
        OpenError: If it is refused, or pieces are lost of which others make glass.
    """
    own = TiffBackend(path, scene)
    try:
        own.check_for_others()
    finally:
        own.close()
    return OwnView(own.pyramid, own.has_spare_channel)


def confirmed_levels(pyramid: Pyramid, sizes: tuple[Size, ...]) -> Confirmed:
    """Of OpenSlide's levels of a TIFF, those that are levels.

    Args:
        pyramid: The levels that are there.
        sizes: Width and height of every level that OpenSlide finds, pixels.

    Raises:
        UnsupportedError: If OpenSlide shows another image than the one that is asked for.
    """
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
