"""The grid of tiles of a slide.

One grid a slide, from the corner of its scanned part, row-major, with its pitch in floats: tile
(column, row) begins at round(column * step_x), round(row * step_y) from there, so that rounding
never adds up and neighbouring pieces of tissue share one grid. x and y have resolutions of their
own.
"""

import math
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

Coords = npt.NDArray[np.int64]


@dataclass(frozen=True)
class TileGeometry:
    """Size of the tiles of one slide.

    Attributes:
        tile_px: Edge of a tile in pixels at `mpp`.
        mpp: um per tile pixel.
        width: Width of a tile in level-0 pixels, a float.
        height: Height of a tile in level-0 pixels, a float.
        step_x: Distance of neighbouring tiles in x, level-0 pixels, a float.
        step_y: The same in y.
    """

    tile_px: int
    mpp: float
    width: float
    height: float
    step_x: float
    step_y: float

    def as_dict(self) -> dict[str, float]:
        """The geometry as plain values."""
        return asdict(self)


def tile_geometry(
    tile_px: int, mpp: float, overlap_px: int, mpp_x: float, mpp_y: float
) -> TileGeometry:
    """Size of tiles on a slide of a given resolution.

    Args:
        tile_px: Edge of a tile, pixels.
        mpp: um per tile pixel.
        overlap_px: Tile pixels that neighbouring tiles share.
        mpp_x: um per level-0 pixel in x.
        mpp_y: um per level-0 pixel in y.
    """
    downsample_x, downsample_y = mpp / mpp_x, mpp / mpp_y
    step_px = tile_px - overlap_px
    return TileGeometry(
        tile_px=tile_px,
        mpp=mpp,
        width=tile_px * downsample_x,
        height=tile_px * downsample_y,
        step_x=step_px * downsample_x,
        step_y=step_px * downsample_y,
    )


def exact_grid(geometry: TileGeometry, width: int, height: int) -> Coords:
    """Top-left corners of every tile that begins inside the slide.

    Args:
        geometry: Size of the tiles.
        width: Level-0 width, pixels.
        height: Level-0 height, pixels.

    Returns:
        (N, 2) int64 level-0 pixels (x, y), row-major. Tiles may reach beyond the slide.
    """
    x = _corners(geometry.step_x, width)
    y = _corners(geometry.step_y, height)
    return np.stack([np.tile(x, y.size), np.repeat(y, x.size)], axis=1)


def _corners(step: float, extent: int) -> npt.NDArray[np.int64]:
    corners: npt.NDArray[np.int64] = np.rint(np.arange(math.ceil(extent / step) + 1) * step).astype(
        np.int64
    )
    inside: npt.NDArray[np.int64] = corners[corners < extent]
    return inside


def padded_fraction(
    coords: Coords,
    geometry: TileGeometry,
    width: int,
    height: int,
    corner: tuple[int, int] = (0, 0),
) -> npt.NDArray[np.float32]:
    """Share of each tile's area that was not scanned.

    Args:
        coords: (N, 2) top-left corners, level-0 pixels.
        geometry: Size of the tiles.
        width: Width of the scanned part, level-0 pixels.
        height: Its height.
        corner: Its top-left corner, level-0 pixels.

    Returns:
        (N,) float32, 0 to 1.
    """
    inside_x = _inside(coords[:, 0] - corner[0], geometry.width, width)
    inside_y = _inside(coords[:, 1] - corner[1], geometry.height, height)
    return (1.0 - inside_x * inside_y).astype(np.float32)


def _inside(start: npt.NDArray[np.int64], length: float, extent: int) -> npt.NDArray[np.float64]:
    """Share of each stretch that lies between 0 and `extent`."""
    before = np.clip(-start, 0, length)
    inside: npt.NDArray[np.float64] = (np.clip(extent - start, 0, length) - before) / length
    return inside
