"""TRIDENT's grid: magnifications by its table, whole level-0 pixels, tiles that touch the tissue.

Pure numerics: reads and writes no file. Given the same polygons it gives TRIDENT's coordinates in
TRIDENT's order, and it says what TRIDENT does not: the true um per pixel of its tiles. Rules and
numbers are those of TRIDENT 0.2.5 and later, whose grid is row-major from (0, 0).
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import shapely
from shapely.geometry.base import BaseGeometry

from slidemill.tiles.grid import Coords, TileGeometry

MAGNIFICATIONS = ((0.16, 80), (0.2, 60), (0.3, 40), (0.6, 20), (1.2, 10), (2.4, 5))
"""Upper limits of mpp (left out), um per pixel, and the magnification below each."""

_WHOLE = 1e-6
"""10 / mpp that is this near to a whole number is meant to be one."""


def level0_magnification(mpp: float) -> int:
    """Magnification that TRIDENT takes a slide for.

    Args:
        mpp: um per level-0 pixel in x.

    Raises:
        ValueError: If the table does not reach that far.
    """
    for limit, magnification in MAGNIFICATIONS:
        if 0.0 < mpp < limit:
            return magnification
    raise ValueError(
        f"TRIDENT knows no magnification for {mpp:g} um per pixel, only for less than "
        f"{MAGNIFICATIONS[-1][0]}: use tiles.grid exact, which needs none, or correct the mpp"
    )


def nominal_magnification(mpp: float) -> int | float:
    """Magnification that a resolution stands for: 10 / mpp, an int where it is a whole number."""
    magnification = 10.0 / mpp
    nearest = round(magnification)
    return nearest if nearest and abs(magnification - nearest) < _WHOLE else magnification


def trident_geometry(
    tile_px: int, target_magnification: float, overlap_px: int, mpp_x: float
) -> TileGeometry:
    """Size of TRIDENT's tiles on a slide.

    Args:
        tile_px: Edge of a tile at the target magnification, pixels.
        target_magnification: Magnification that is asked for, such as 20.
        overlap_px: Tile pixels that neighbouring tiles share.
        mpp_x: um per level-0 pixel in x; y is taken to be the same.

    Returns:
        Whole level-0 pixels, square. `mpp` is the true um per tile pixel, which is
        10 / target_magnification only where the slide's mpp is the middle of its bucket.

    Raises:
        ValueError: If the table does not know the slide's magnification, or if nothing is left of
            the step between tiles.
    """
    downsample = level0_magnification(mpp_x) / target_magnification
    size = round(tile_px * downsample)
    step = size - round(overlap_px * downsample)
    if step < 1:
        raise ValueError(
            f"tiles of {tile_px} px that share {overlap_px} px have no step left in the slide's "
            "own pixels: lower tiles.overlap_px"
        )
    return TileGeometry(
        tile_px=tile_px,
        mpp=size * mpp_x / tile_px,
        width=float(size),
        height=float(size),
        step_x=float(step),
        step_y=float(step),
    )


def trident_grid(geometry: TileGeometry, width: int, height: int) -> Coords:
    """Top-left corners of TRIDENT's tiles, tissue or not.

    Args:
        geometry: Size of the tiles, as `trident_geometry` gives it.
        width: Level-0 width, pixels.
        height: Level-0 height, pixels.

    Returns:
        (N, 2) int64 level-0 pixels (x, y), row-major from (0, 0). The last tile of a row or a
        column may reach beyond the slide.
    """
    step_x, step_y = round(geometry.step_x), round(geometry.step_y)
    x = np.arange(math.ceil(width / step_x), dtype=np.int64) * step_x
    y = np.arange(math.ceil(height / step_y), dtype=np.int64) * step_y
    return np.stack([np.tile(x, y.size), np.repeat(y, x.size)], axis=1)


def touching(
    coords: Coords,
    geometry: TileGeometry,
    polygons: Sequence[BaseGeometry],
    min_tissue: float,
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float32]]:
    """Which tiles TRIDENT keeps, and how much of each is tissue.

    Args:
        coords: (N, 2) int64 top-left corners, level-0 pixels.
        geometry: Size of the tiles.
        polygons: Tissue, level-0 pixels. Each is simplified by a quarter of `tile_px` (in level-0
            pixels whatever the magnification is, as TRIDENT does) before it counts.
        min_tissue: 0 keeps a tile that meets the tissue, be it with an edge only; more keeps one
            of whose area at least that share is tissue.

    Returns:
        (N,) bool whether a tile is kept, and (N,) float32 the share of its area, 0 to 1.
    """
    tissue = _union(polygons, geometry.tile_px / 4)
    x, y = coords[:, 0], coords[:, 1]
    boxes = np.asarray(shapely.box(x, y, x + geometry.width, y + geometry.height))
    meets = np.asarray(shapely.intersects(tissue, boxes), dtype=np.bool_)
    fraction = _covered(tissue, boxes, meets, y) / (geometry.width * geometry.height)
    share = np.clip(fraction, 0.0, 1.0).astype(np.float32)
    return (meets if min_tissue <= 0 else share >= np.float32(min_tissue)), share


def _union(polygons: Sequence[BaseGeometry], tolerance: float) -> BaseGeometry:
    """The simplified polygons as one geometry, prepared for many questions."""
    given = np.asarray(polygons, dtype=object)
    # Outlines that cross themselves, as edited ones may, have no area that could be summed.
    valid = np.where(shapely.is_valid(given), given, shapely.make_valid(given))
    simple = shapely.simplify(valid, tolerance, preserve_topology=True)
    tissue: BaseGeometry = shapely.union_all(simple)
    shapely.prepare(tissue)
    return tissue


def _covered(
    tissue: BaseGeometry,
    boxes: npt.NDArray[np.object_],
    meets: npt.NDArray[np.bool_],
    y: npt.NDArray[np.int64],
) -> npt.NDArray[np.float64]:
    """Area of tissue in each box, (N,) square level-0 pixels.

    Only tiles on an outline are cut, and each from the strip of tissue of its own row: cutting all
    of them from the whole slide's outline costs tiles times vertices.
    """
    area = np.zeros(len(boxes))
    inside = meets.copy()
    inside[meets] = shapely.contains_properly(tissue, boxes[meets])
    area[inside] = shapely.area(boxes[inside])
    edge = np.flatnonzero(meets & ~inside)
    for row in np.unique(y[edge]):
        tiles = edge[y[edge] == row]
        left, low, right, high = shapely.total_bounds(boxes[tiles])
        strip = shapely.intersection(tissue, shapely.box(left, low, right, high))
        area[tiles] = shapely.area(shapely.intersection(strip, boxes[tiles]))
    return area
