"""The interface of a reader, and what all readers share.

A backend opens one file and reads rectangles of its levels. It knows no mpp, no tiles and no error
codes of slidemill: `choice` and `Slide` turn its faults into those.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from slidemill.memory import is_shortage

RGB = npt.NDArray[np.uint8]
"""Pixels, (height, width, 3), uint8."""
Size = tuple[int, int]
"""Width and height, pixels."""

ASPECT_TOLERANCE = 0.02
"""How far the aspect of a level may be off that of level 0; halving rounds small levels."""
MAX_EDGE_PX = 4_000_000
"""Longest plausible edge of level 0; 1 m of glass at 0.25 um."""


class ReaderError(Exception):
    """A fault of a file, as a reader sees it."""


class OpenError(ReaderError):
    """A reader cannot open a file; the text says why, in a few words."""


class UnsupportedError(OpenError):
    """The file is sound, but of a kind that the reader does not read."""


class SceneError(UnsupportedError):
    """The file has no such scene, or the reader cannot choose it."""


class DamagedError(OpenError):
    """Tables of the file contradict each other; no reader can be right about it."""


class TruncatedError(OpenError):
    """The file says that it is longer than it is."""


class ReadError(ReaderError):
    """A rectangle does not decode; other rectangles may."""


@contextmanager
def faults_of(library: str, kind: type[ReaderError]) -> Iterator[None]:
    """Turn whatever a library raises on a file into a fault of the file.

    Parsers and codecs raise errors of every type on damaged or hostile files, from `struct.error`
    to `RecursionError`; this is the one place that takes them all. Only too little memory is never
    taken for a fault of the file.
    """
    try:
        yield
    except ReaderError:
        raise
    except Exception as error:
        if is_shortage(error):
            raise
        raise kind(f"{library} says {type(error).__name__}: {error}") from None


@dataclass(frozen=True)
class Layout:
    """What a file says of its own structure.

    Attributes:
        stated: Level-0 pixels per pixel of every level as the file states them; None for a level of
            which it says nothing. Empty where it says nothing of any.
        scene: Name of the scene (image, core) that is read; None in a file of one.
        other_scenes: Names of the others.
        left_out: What looked like a level and is none, each in words with the reason.
        bounds: x, y, width and height of the scanned part of level 0, pixels; None where the file
            says nothing.
        is_exact: Whether the dimensions of the levels are known to be without padding, so that none
            is looked for.
    """

    stated: tuple[float | None, ...] = ()
    scene: str | None = None
    other_scenes: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    bounds: tuple[int, int, int, int] | None = None
    is_exact: bool = False


class Backend(Protocol):
    """What a reader offers.

    Attributes:
        name: Name of the reader, as in `cohort.reader`.
        version: Version of the library behind it.
        vendor: Vendor of the file, or None.
        level_dimensions: Width and height of every level, pixels, finest first.
        segments: Width and height of the pieces in which each level is stored; None where unknown.
        properties: Metadata by OpenSlide's names where it has one for them.
        layout: What the file says of its own structure.
    """

    name: str
    version: str
    vendor: str | None
    level_dimensions: tuple[Size, ...]
    segments: tuple[Size | None, ...]
    properties: dict[str, str]
    layout: Layout

    def read_into(self, level: int, x: int, y: int, out: RGB) -> None:
        """Read a rectangle of a level, in pixels of that level; white outside. Thread-safe.

        Args:
            level: The level.
            x: Left edge.
            y: Top edge.
            out: (H, W, 3) uint8 of the rectangle's size; any strides.

        Raises:
            ReadError: If a part of it does not decode; `out` is undefined then.
        """
        ...

    def close(self) -> None:
        """Release the file."""
        ...


class Opener(Protocol):
    """A function that opens a file with one reader."""

    def __call__(self, path: Path) -> Backend:
        """Open a file.

        Raises:
            OpenError: If the reader cannot.
        """
        ...


@dataclass(frozen=True)
class LevelScale:
    """How large a pixel of a level is.

    Attributes:
        downsample: Level-0 pixels per pixel of the level; never rounded.
        source: `stated` by the file; `whole`, a whole factor which the dimensions fit; `sizes`, the
            quotient of the dimensions.
    """

    downsample: float
    source: Literal["stated", "whole", "sizes"]


def level_scales(
    dimensions: tuple[Size, ...],
    segments: tuple[Size | None, ...] = (),
    stated: tuple[float | None, ...] = (),
) -> tuple[LevelScale, ...]:
    """How large a pixel of every level is.

    What the file states counts first; else a whole number where the dimensions are those of a level
    that was reduced by it and rounded to pixels (4443 halved is 2221, and the downsample is 2, not
    2.0005), or padded to whole tiles (1990 halved is 995, and 1024 in tiles of 256); else the mean
    over both axes, never rounded: 1.9948 is 1.9948.

    Args:
        dimensions: Width and height of every level, pixels, finest first.
        segments: Width and height of the pieces of each level, None where unknown or where the
            dimensions are known to have no padding.
        stated: What the file states of each level, None where it states nothing.
    """
    full = dimensions[0]
    found: list[LevelScale] = []
    for level, size in enumerate(dimensions):
        said = stated[level] if level < len(stated) else None
        tile = segments[level] if level < len(segments) else None
        mean = (full[0] / size[0] + full[1] / size[1]) / 2
        whole = max(1, round(mean))
        padded = _padded_scale(full, size, tile) if level else None
        if said is not None:
            found.append(LevelScale(said, "stated"))
        elif is_rounded(full, size, whole):
            found.append(LevelScale(float(whole), "whole"))
        elif padded is not None:
            found.append(LevelScale(padded, "whole"))
        else:
            found.append(LevelScale(mean, "sizes"))
    return tuple(found)


def is_rounded(full: Size, size: Size, scale: float) -> bool:
    """Whether a level has the size of level 0 over a scale, rounded to pixels either way."""
    return all(abs(edge / scale - own) < 1 for edge, own in zip(full, size, strict=True))


def is_padded(full: Size, size: Size, tile: Size, scale: float) -> bool:
    """Whether a level has the size of level 0 over a scale, padded to whole tiles.

    One axis may be exact, since a true edge can be a whole number of tiles by itself.
    """
    edges = list(zip(full, size, tile, strict=True))
    return all(_in_last_tile(edge / scale, own, piece) for edge, own, piece in edges) and any(
        abs(edge / scale - own) >= 1 for edge, own, _ in edges
    )


def true_size(full: Size, size: Size, tile: Size | None, scale: float) -> Size:
    """Width and height of a level without the padding to whole tiles, pixels."""
    if tile is None or not is_padded(full, size, tile, scale):
        return size
    found = [max(1, math.floor(edge / scale + 1e-6)) for edge in full]
    return min(found[0], size[0]), min(found[1], size[1])


def is_like(full: Size, size: Size) -> bool:
    """Whether a smaller image has the shape of level 0, but for the rounding of a small one."""
    # A pixel of rounding in the small level is as much as the tolerance allows on top.
    slack = ASPECT_TOLERANCE + 1 / size[0] + 1 / size[1]
    return abs((full[0] / size[0]) / (full[1] / size[1]) - 1) <= slack


def _padded_scale(full: Size, size: Size, tile: Size | None) -> float | None:
    """The least whole scale at which padding to whole tiles explains a level's size."""
    # Strips are as wide as the level, and say nothing.
    if tile is None or (tile[0] >= size[0] and tile[0] != tile[1]):
        return None
    least = math.ceil(max(full[0] / size[0], full[1] / size[1]) - 1e-9)
    return float(least) if is_padded(full, size, tile, least) else None


def _in_last_tile(true: float, stored: int, tile: int) -> bool:
    """Whether a true edge ends in the last of the tiles that are stored."""
    return stored % tile == 0 and stored - tile < math.ceil(true) <= stored


def check_size(size: Size) -> None:
    """Refuse dimensions that no slide has.

    Raises:
        OpenError: If an edge is not positive or longer than `MAX_EDGE_PX`.
    """
    if not all(0 < edge <= MAX_EDGE_PX for edge in size):
        raise OpenError(f"it claims to be {size[0]} x {size[1]} pixels")


def on_white(rgba: npt.NDArray[np.uint8], out: RGB | None = None) -> RGB:
    """Composite straight-alpha RGBA pixels on white.

    Args:
        rgba: (H, W, 4) uint8.
        out: (H, W, 3) uint8 to write to; None for a new array.
    """
    if out is None:
        out = np.empty((*rgba.shape[:2], 3), np.uint8)
    # OpenCV takes channels apart forty times faster than strided copies do; it knows no empty ones.
    if rgba.size and cv2.extractChannel(rgba, 3).min() == 255:
        found = cv2.cvtColor(rgba, cv2.COLOR_RGBA2RGB, dst=out if out.flags.c_contiguous else None)
        if found is not out:
            out[...] = found
        return out
    alpha = rgba[..., 3:]
    colour = rgba[..., :3].astype(np.uint16)
    weight = alpha.astype(np.uint16)
    out[...] = (colour * weight + 255 * (255 - weight) + 127) // 255
    return out


def on_canvas(
    size: Size, x: int, y: int, out: RGB, read: Callable[[int, int, int, int, RGB], None]
) -> None:
    """Fill a rectangle of a level, white where it lies outside.

    Args:
        size: Width and height of the level.
        x: Left edge.
        y: Top edge.
        out: The rectangle, (H, W, 3).
        read: Writes the rectangle (left, top, right, bottom), which is within the level, to an
            array of its size.
    """
    height, width = out.shape[:2]
    left, top = max(x, 0), max(y, 0)
    right, bottom = min(x + width, size[0]), min(y + height, size[1])
    if (left, top, right, bottom) != (x, y, x + width, y + height):
        out[...] = 255
    if left < right and top < bottom:
        read(left, top, right, bottom, out[top - y : bottom - y, left - x : right - x])
