"""Spatial crops of a slide: the views that self-distillation compares.

All geometry is in whole cells of the slide's tile grid. A crop is exactly the set of tiles inside
one rectangle of cells; its window always holds tissue, because it is placed around a tile. Nothing
is read here: crops are rows of a bag, with the positions that the encoder shall see.
"""

from dataclasses import dataclass

import numpy as np

from slidemill.config import CropsConfig
from slidemill.pretrain.bags import Int64Array, draw_rows


@dataclass(frozen=True)
class Crop:
    """One view of a slide.

    Attributes:
        rows: int64 (M,), rows of the bag, ascending.
        positions: int64 (M, 2), column and row of each tile, turned or mirrored, from 0.
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
    grid: Int64Array, scale: tuple[float, float], min_tiles: int, rng: np.random.Generator
) -> Int64Array:
    """Draw a rectangle of the slide and take the tiles in it.

    The rectangle's edges are one share, uniform in `scale`, of the slide's extent in each axis,
    rounded to cells. A tile is drawn uniformly, and the rectangle's place uniformly among those
    inside the slide's extent that hold this tile. If it then has too few tiles, it grows by one
    cell on every side until it has enough or holds the whole slide.

    Args:
        grid: int64 (N, 2), column and row of each tile, N at least 1.
        scale: Smallest and largest edge, as a share of the slide's extent.
        min_tiles: Tiles that a crop has to hold, where the slide has as many.
        rng: Source of the draws.

    Returns:
        int64 (M,), rows of the tiles in the rectangle, ascending, M >= min(min_tiles, N).
    """
    first, last = grid.min(axis=0), grid.max(axis=0)
    extent = last - first + 1
    edge = np.maximum(np.rint(rng.uniform(*scale) * extent).astype(np.int64), 1)
    tile = grid[rng.integers(len(grid))]
    lowest = np.maximum(tile - edge + 1, first)
    highest = np.minimum(tile, last - edge + 1)
    start = rng.integers(lowest, highest, endpoint=True)
    # A tile is inside once the window has grown by its Chebyshev distance to it: no loop needed.
    distance = np.maximum(start - grid, grid - (start + edge - 1)).max(axis=1).clip(min=0)
    needed = min(min_tiles, len(grid)) - 1
    grown = np.partition(distance, needed)[needed]
    return np.flatnonzero(distance <= grown).astype(np.int64)


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


def rebase(grid: Int64Array) -> Int64Array:
    """Shift grid positions, int64 (N, 2) with N at least 1, so that each axis starts at 0."""
    return np.ascontiguousarray(grid - grid.min(axis=0))


def draw_views(
    grid: Int64Array, crops: CropsConfig, max_tiles: int, rng: np.random.Generator
) -> Views:
    """Draw all views of one slide.

    First `draw_rows` takes at most `max_tiles` tiles, the same for all views; each crop is then cut
    from those by `spatial_crop` and turned by `augment_grid`, independently of the others.

    Args:
        grid: int64 (N, 2), column and row of each tile, N at least 1.
        crops: How many crops, and how large.
        max_tiles: Tiles that crops are cut from, at most.
        rng: Source of all draws.

    Returns:
        The views; rows are those of `grid`.
    """
    kept = draw_rows(len(grid), max_tiles, rng)
    tiles = grid[kept]

    def draw(scale: tuple[float, float]) -> Crop:
        rows = spatial_crop(tiles, scale, crops.min_tiles, rng)
        return Crop(kept[rows], augment_grid(tiles[rows], rng))

    return Views(
        tuple(draw(crops.global_scale) for _ in range(crops.global_crops)),
        tuple(draw(crops.local_scale) for _ in range(crops.local_crops)),
    )
