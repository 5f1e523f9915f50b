"""Spatial crops of a slide: the views that self-distillation compares.

All geometry is in whole cells of the slide's tile grid. A crop is the tiles inside one rectangle of
cells; its window always holds tissue, because it is placed around a tile. A window with too few
tiles grows, one with too many shrinks: tiles are never thinned out, so that neighbours in tissue
are neighbours in every crop. A slide of one tile, or of fewer than a crop needs, is its own crop.
Nothing is read here: crops are rows of a bag, with the positions that the encoder shall see.
"""

from dataclasses import dataclass

import numpy as np

from slidemill.config.pretrain import CropsConfig
from slidemill.pretrain.bags import Int64Array

MAX_SHIFT = 64
"""Crops begin at a cell below this one in each axis, as the encoder sees them."""


@dataclass(frozen=True)
class Crop:
    """One view of a slide.

    Attributes:
        rows: int64 (M,), rows of the bag, ascending.
        positions: int64 (M, 2), column and row of each tile, turned or mirrored; from 0, until the
            loader shifts them.
    """

    rows: Int64Array
    positions: Int64Array


@dataclass(frozen=True)
class Views:
    """All views of one slide.

    Attributes:
        global_crops: The large crops, which the teacher sees too.
        local_crops: The small crops, for the student alone.
    """

    global_crops: tuple[Crop, ...]
    local_crops: tuple[Crop, ...]


def spatial_crop(
    grid: Int64Array,
    size: tuple[float, float],
    min_tiles: int,
    max_tiles: int,
    rng: np.random.Generator,
    *,
    step_um: tuple[float, float] | None = None,
) -> Int64Array:
    """Draw a rectangle of the slide and take the tiles in it.

    The rectangle's edge is drawn uniformly in `size` and rounded to cells, at least one and at most
    the slide's extent: as a share of the extent in each axis, or in micrometres. A tile is drawn
    uniformly, and the rectangle's place uniformly among those inside the slide's extent that hold
    this tile. If it has too few tiles, it grows by one cell on every side until it has enough or
    holds the whole slide. If it has too many, it shrinks towards the drawn tile in its own
    proportions; of the tiles that leave it next together, those nearest to the drawn tile stay,
    then those of lower row, so that exactly `max_tiles` are left.

    Args:
        grid: int64 (N, 2), column and row of each tile, N at least 1, no cell twice.
        size: Smallest and largest edge: shares of the slide's extent, or micrometres.
        min_tiles: Tiles that a crop has to hold, where the slide has as many.
        max_tiles: Tiles that a crop holds at most; goes before `min_tiles`.
        rng: Source of the draws.
        step_um: Distance of neighbouring tiles in x and y, micrometres; None if `size` is a share.

    Returns:
        int64 (M,), rows of the tiles of the crop, ascending,
        min(min_tiles, max_tiles, N) <= M <= max_tiles.
    """
    first, last = grid.min(axis=0), grid.max(axis=0)
    extent = last - first + 1
    cells = extent if step_um is None else 1.0 / np.asarray(step_um, dtype=np.float64)
    edge = np.rint(rng.uniform(*size) * cells).astype(np.int64).clip(1, extent)
    tile = grid[rng.integers(len(grid))]
    lowest = np.maximum(tile - edge + 1, first)
    highest = np.minimum(tile, last - edge + 1)
    start = rng.integers(lowest, highest, endpoint=True)
    stop = start + edge - 1
    # A tile is inside once the window has grown by its Chebyshev distance to it: no loop needed.
    distance = np.maximum(start - grid, grid - stop).max(axis=1).clip(min=0)
    needed = min(min_tiles, len(grid)) - 1
    grown = np.partition(distance, needed)[needed]
    rows = np.flatnonzero(distance <= grown).astype(np.int64)
    if len(rows) <= max_tiles:
        return rows
    room = (np.minimum(tile - start + grown, tile - first), np.minimum(stop + grown, last) - tile)
    return rows[_shrink(grid[rows] - tile, room, max_tiles)]


def _shrink(offset: Int64Array, room: tuple[Int64Array, Int64Array], most: int) -> Int64Array:
    """Which tiles are left when a window shrinks towards one of them.

    Args:
        offset: int64 (M, 2), from the tile that the window shrinks to, more than `most` rows.
        room: int64 (2,) each, cells of the window on the near and on the far side of that tile.
        most: Tiles to be left.

    Returns:
        int64 (most,), ascending.
    """
    # A tile leaves when the window has shrunk to this share of itself.
    share = (np.abs(offset) / np.maximum(np.where(offset < 0, *room), 1)).max(axis=1)
    limit = np.partition(share, most - 1)[most - 1]
    inside, edge = np.flatnonzero(share < limit), np.flatnonzero(share == limit)
    nearest = np.argsort((offset[edge] ** 2).sum(axis=1), kind="stable")
    return np.sort(np.concatenate([inside, edge[nearest[: most - len(inside)]]])).astype(np.int64)


def augment_grid(grid: Int64Array, rng: np.random.Generator) -> Int64Array:
    """Turn and mirror grid positions: one of the 8 symmetries of the square, uniformly.

    Tissue has no up or left, so a slide's meaning does not change. The result starts at 0 in each
    axis, which hides from the encoder where in the slide a crop was.

    Args:
        grid: int64 (N, 2), column and row of each tile, N at least 1.
        rng: Source of the draw.

    Returns:
        int64 (N, 2), in the order of `grid`.
    """
    swap, flip_x, flip_y = rng.integers(2, size=3)
    turned = (grid[:, ::-1] if swap else grid) * np.array([1 - 2 * flip_x, 1 - 2 * flip_y])
    return rebase(turned)


def shift_grid(grid: Int64Array, rng: np.random.Generator) -> Int64Array:
    """Shift grid positions, as one, by 0 to `MAX_SHIFT` - 1 cells in each axis, uniformly.

    An encoder then learns where tiles lie to each other, not where they lie in a crop.

    Args:
        grid: int64 (N, 2), column and row of each tile.
        rng: Source of the draw.

    Returns:
        int64 (N, 2), in the order of `grid`.
    """
    return grid + rng.integers(MAX_SHIFT, size=2)


def rebase(grid: Int64Array) -> Int64Array:
    """Shift grid positions, int64 (N, 2) with N at least 1, so that each axis starts at 0."""
    return np.ascontiguousarray(grid - grid.min(axis=0))


def draw_views(
    grid: Int64Array,
    crops: CropsConfig,
    max_tiles: int,
    rng: np.random.Generator,
    *,
    step_um: tuple[float, float] | None = None,
) -> Views:
    """Draw all views of one slide.

    Each crop is cut from the whole slide by `spatial_crop` and turned by `augment_grid`,
    independently of the others.

    Args:
        grid: int64 (N, 2), column and row of each tile, N at least 1, no cell twice.
        crops: How many crops, and how large.
        max_tiles: Tiles of a crop at most.
        rng: Source of all draws.
        step_um: Distance of neighbouring tiles in x and y, micrometres; needed for `unit: um`.

    Returns:
        The views; rows are those of `grid`.

    Raises:
        ValueError: If sizes are in micrometres and `step_um` is not given.
    """
    if crops.unit == "um" and step_um is None:
        raise ValueError("crops in micrometres need step_um, the distance of neighbouring tiles")
    step = step_um if crops.unit == "um" else None

    def draw(size: tuple[float, float]) -> Crop:
        rows = spatial_crop(grid, size, crops.min_tiles, max_tiles, rng, step_um=step)
        return Crop(rows, augment_grid(grid[rows], rng))

    return Views(
        tuple(draw(crops.global_size) for _ in range(crops.global_crops)),
        tuple(draw(crops.local_size) for _ in range(crops.local_crops)),
    )
