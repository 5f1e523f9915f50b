"""Whether two images of a TIFF show the same: the pixels of a level agree with the level above it.

Places are compared where there is something to see. Compressed tiles of many bytes are the textured
ones, so they are found without decoding; bare glass looks the same on every slide and says nothing.
"""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from slidemill.slides.readers.base import RGB, ReadError
from slidemill.slides.readers.cache import PieceCache
from slidemill.slides.readers.mosaic import Mosaic
from slidemill.slides.readers.tiff_levels import TiffLevel
from slidemill.slides.readers.tiff_pieces import LevelPieces

WINDOW_PX = 48
"""Edge of a place, pixels of the smaller image."""
REACH_PX = 384
"""A place spans at most about so many pixels of the larger image, so that few tiles are decoded."""
MIN_WINDOW_PX = 12
TEXTURED = 5.0
"""Standard deviation of the grey of a place that shows something, grey levels of 255."""
MAX_COLOUR_OFF = 20.0
"""How far the mean colour of a place may be off, grey levels: far more than JPEG takes away."""
MIN_CORRELATION = 0.8
"""Of a place that agrees. On the project's real slides, true levels (mean, bilinear, Lanczos and
every second pixel; JPEG quality 10 to 80) agree at all places but one of 15 at quality 10, and
other pieces of the same or another slide at 18 % of the places at most."""
MIN_SHARE = 0.75
"""Share of the places that tell anything and agree; one damaged or retouched place may fail."""
SHIFT_PX = 2
"""Pixels by which writers' ways of rounding and of placing samples may shift a level."""
_TOP_TILES = 5
_GRID = 3
_CACHE_BYTES = 16 * 2**20

Grey = npt.NDArray[np.float32]


class TiffImage:
    """Pixels of one image of a TIFF, read to be compared."""

    def __init__(self, descriptor: int, level: TiffLevel) -> None:
        """Prepare an image; nothing is read.

        Args:
            descriptor: The open file.
            level: The image.
        """
        self.level = level
        decode = LevelPieces(descriptor, level).decode
        cache = PieceCache(_CACHE_BYTES)
        self._mosaic = Mosaic(0, level.size, level.segment, decode, cache)

    def read(self, x: int, y: int, width: int, height: int) -> RGB:
        """A rectangle; see `Backend.read_into`."""
        out = np.empty((height, width, 3), np.uint8)
        self._mosaic.read_into(x, y, out)
        return out

    def centres(self) -> list[tuple[float, float]]:
        """Centres of the pieces with the most bytes, far from each other, pixels."""
        page, shift = self.level.planes[0]
        wide, high = self.level.segment
        down = -(-self.level.size[1] // high)
        counts = np.asarray(page.databytecounts[shift : shift + self.level.across * down], float)
        if self.level.raw_offset is not None or counts.size < 2 or np.ptp(counts) == 0:
            return []
        found: list[tuple[int, int]] = []
        apart = max(1, min(self.level.across, down) // 4)
        for index in np.argsort(-counts, kind="stable")[: 50 * _TOP_TILES]:
            row, column = divmod(int(index), self.level.across)
            if all(max(abs(row - r), abs(column - c)) >= apart for r, c in found):
                found.append((row, column))
            if len(found) == _TOP_TILES:
                break
        return [((column + 0.5) * wide, (row + 0.5) * high) for row, column in found]


@dataclass(frozen=True)
class Agreement:
    """What a comparison found.

    Attributes:
        places: Places that could be read in both images.
        telling: Of these, those that show something, or differ.
        agreeing: Of these, those that show the same.
        correlation: Mean correlation of those that tell; 0 where none does.
    """

    places: int
    telling: int
    agreeing: int
    correlation: float

    @property
    def is_refuted(self) -> bool:
        """Whether the images show different things."""
        return self.agreeing < MIN_SHARE * self.telling

    @property
    def is_confirmed(self) -> bool:
        """Whether they show the same; all glass in both is the same."""
        return self.places > 0 and not self.is_refuted


def compare(above: TiffImage, below: TiffImage, ratio: float) -> Agreement:
    """Compare a level with the one above it.

    Args:
        above: The larger image.
        below: The smaller image; what may be padding is not looked at.
        ratio: Pixels of the larger per pixel of the smaller.
    """
    found = [_compare_at(above, below, ratio, box) for box in _boxes(above, below, ratio)]
    read = [one for one in found if one is not None]
    telling = [one for one in read if not np.isnan(one)]
    return Agreement(
        len(read),
        len(telling),
        sum(one >= MIN_CORRELATION for one in telling),
        float(np.mean(telling)) if telling else 0.0,
    )


def _boxes(above: TiffImage, below: TiffImage, ratio: float) -> list[tuple[int, int, int, int]]:
    """Places to compare: x, y, width and height in pixels of the smaller image."""
    extent = [
        max(1, min(small, int(large / ratio)))
        for small, large in zip(below.level.size, above.level.size, strict=True)
    ]
    edge = max(MIN_WINDOW_PX, min(WINDOW_PX, int(REACH_PX / ratio)))
    width, height = (min(edge, length) for length in extent)
    centres = below.centres() + [(x / ratio, y / ratio) for x, y in above.centres()]
    steps = [(i + 0.5) / _GRID for i in range(_GRID)]
    centres += [(extent[0] * u, extent[1] * v) for v in steps for u in steps]
    corners = (
        (
            min(max(0, round(x - width / 2)), extent[0] - width),
            min(max(0, round(y - height / 2)), extent[1] - height),
        )
        for x, y in centres
    )
    return [(x, y, width, height) for x, y in dict.fromkeys(corners)]


def _compare_at(
    above: TiffImage, below: TiffImage, ratio: float, box: tuple[int, int, int, int]
) -> float | None:
    """Correlation at a place; -1 where colours differ, NaN of glass, None of what is not read."""
    x, y, width, height = box
    left, top = round(x * ratio), round(y * ratio)
    wide, high = max(1, round(width * ratio)), max(1, round(height * ratio))
    try:
        small = below.read(x, y, width, height)
        large = above.read(left, top, wide, high)
    except ReadError:
        return None
    mean = cv2.resize(large, (width, height), interpolation=cv2.INTER_AREA)
    if np.abs(small.mean((0, 1)) - mean.mean((0, 1))).max() > MAX_COLOUR_OFF:
        return -1.0
    greys = [_grey(small), _grey(mean)]
    if max(float(grey.std()) for grey in greys) < TEXTURED:
        return float("nan")
    smooth = [np.asarray(cv2.GaussianBlur(grey, (0, 0), 1.0), np.float32) for grey in greys]
    # Some writers take every second pixel instead of the mean of four.
    taken = cv2.resize(large, (width, height), interpolation=cv2.INTER_NEAREST)
    return max(_correlation(smooth[0], smooth[1]), _correlation(greys[0], _grey(taken)))


def _grey(pixels: npt.NDArray[Any]) -> Grey:
    return cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY).astype(np.float32)


def _correlation(one: Grey, other: Grey) -> float:
    """The best correlation of two places of one size over small shifts."""
    margin = min(SHIFT_PX, (min(one.shape) - 1) // 4)
    height, width = one.shape
    inner = np.ascontiguousarray(one[margin : height - margin, margin : width - margin])
    if inner.std() < 1e-3 or other.std() < 1e-3:
        return 0.0
    found = cv2.matchTemplate(other, inner, cv2.TM_CCOEFF_NORMED)
    return float(np.nan_to_num(found, nan=0.0, posinf=0.0, neginf=0.0).max())
