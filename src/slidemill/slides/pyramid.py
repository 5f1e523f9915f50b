"""Writing pyramidal tiled TIFF slides that OpenSlide reads as `generic-tiff`.

Level 0 is the first directory; every further level is a directory of its own that is marked as a
reduced image, half the last in each direction (or a quarter, as Aperio's) and averaged by area.
Tiles are JPEG. The resolution is in the tags as pixels per centimetre, which is what OpenSlide
turns into um per pixel. The same pixels give the same bytes: the file has no date and no name of a
software.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tifffile
from PIL import Image

from slidemill.artifacts.atomic import atomic_path

UM_PER_CM = 10_000.0
_REDUCED_IMAGE = 1
"""Value of the tag NewSubfileType for a smaller version of another image (TIFF 6.0)."""


def write_pyramid(
    path: Path,
    pixels: npt.NDArray[np.uint8],
    *,
    mpp_x: float,
    mpp_y: float,
    tile_px: int = 256,
    quality: int = 85,
    levels: int | None = None,
    factor: int = 2,
) -> None:
    """Write a slide, atomically.

    Args:
        path: Where to; its folder is made.
        pixels: RGB of level 0, (H, W, 3), uint8.
        mpp_x: um per level-0 pixel in x.
        mpp_y: um per level-0 pixel in y.
        tile_px: Edge of a tile in pixels, a multiple of 16.
        quality: JPEG quality, 1 to 100.
        levels: Number of levels; without it, as many as it takes until a level fits in one tile.
        factor: How many times smaller each level is than the one before.

    Raises:
        ValueError: If the pixels are no RGB image, an mpp or `quality` is out of its range,
            `tile_px` is no multiple of 16, or the slide is too small for so many levels.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise ValueError(
            f"RGB pixels (H, W, 3) uint8 are needed, not {pixels.shape} {pixels.dtype}"
        )
    if not (mpp_x > 0 and mpp_y > 0):
        raise ValueError(f"mpp has to be positive, not {mpp_x} x {mpp_y}")
    if tile_px <= 0 or tile_px % 16:
        raise ValueError(f"tile_px has to be a multiple of 16, not {tile_px}")
    if not 1 <= quality <= 100:
        raise ValueError(f"quality has to be 1 to 100, not {quality}")
    height, width = pixels.shape[:2]
    if factor < 2:
        raise ValueError(f"factor has to be 2 or more, not {factor}")
    whole = _levels_to_one_tile(max(height, width), tile_px, factor)
    count = whole if levels is None else levels
    if count < 1 or min(height, width) < factor ** (count - 1):
        raise ValueError(f"a slide of {width} x {height} pixels cannot have {count} levels")
    with (
        atomic_path(path) as temporary,
        tifffile.TiffWriter(temporary, bigtiff=pixels.nbytes >= 2**32, byteorder="<") as writer,
    ):
        for number, level in enumerate(_levels(pixels, count, factor)):
            _write_level(
                writer,
                level,
                per_cm=(
                    UM_PER_CM / mpp_x * level.shape[1] / width,
                    UM_PER_CM / mpp_y * level.shape[0] / height,
                ),
                tile_px=tile_px,
                quality=quality,
                subfiletype=_REDUCED_IMAGE if number else 0,
            )


def _levels_to_one_tile(size: int, tile_px: int, factor: int) -> int:
    """Number of levels until the longer side is no longer than a tile."""
    count = 1
    while size > tile_px:
        size //= factor
        count += 1
    return count


def _levels(
    pixels: npt.NDArray[np.uint8], count: int, factor: int
) -> Iterator[npt.NDArray[np.uint8]]:
    """The levels, each the area average of the last; odd sizes are rounded down."""
    yield pixels
    image = Image.fromarray(pixels)
    for _ in range(count - 1):
        size = (image.width // factor, image.height // factor)
        image = image.resize(size, Image.Resampling.BOX)
        yield np.asarray(image)


def _write_level(
    writer: tifffile.TiffWriter,
    level: npt.NDArray[np.uint8],
    *,
    per_cm: tuple[float, float],
    tile_px: int,
    quality: int,
    subfiletype: int,
) -> None:
    """Append one level as a directory of its own."""
    writer.write(
        _tiles(level, tile_px),
        shape=level.shape,
        dtype=level.dtype,
        photometric="rgb",
        tile=(tile_px, tile_px),
        compression="jpeg",
        compressionargs={"level": quality},
        subfiletype=subfiletype,
        resolution=per_cm,
        resolutionunit="CENTIMETER",
        software=False,
        metadata=None,
        maxworkers=1,
    )


def _tiles(level: npt.NDArray[np.uint8], tile_px: int) -> Iterator[npt.NDArray[np.uint8]]:
    """Tiles of a level in row-major order.

    What lies beyond the level repeats its border: black there would ring into the last blocks.
    """
    below, beyond = (-size % tile_px for size in level.shape[:2])
    padded = np.pad(level, ((0, below), (0, beyond), (0, 0)), mode="edge")
    for y in range(0, padded.shape[0], tile_px):
        for x in range(0, padded.shape[1], tile_px):
            yield np.ascontiguousarray(padded[y : y + tile_px, x : x + tile_px])
