"""The compact square: tiles of a slide moved together before crops are cut.

Tissue is ragged, so that a rectangle of a slide holds few or many tiles. Here the tiles are put in
an order and laid on a square without gaps, and a crop is a square window of that: crops of one edge
have the same number of tiles on every slide. Only the choice of tiles comes from the square: the
encoder sees where the tiles lie in the tissue.

With `stored`, as published (method dinov2-compact), the square holds a random subset of the tiles
in their stored order, drawn anew for every crop and smaller for local crops. Neighbours in the
square are then neighbours in the file. `row-major` and `hilbert` put all tiles on the square first
and cut then, so that no crop is thinned; with `hilbert`, tissue and square are both walked along
Hilbert's curve, and a window of the square is a patch or a few of tissue.
"""

from functools import lru_cache
from math import isqrt
from typing import Literal

import numpy as np

from slidemill.config.pretrain import CropsConfig
from slidemill.pretrain.bags import Int64Array, draw_rows
from slidemill.pretrain.crops import Crop, Views, augment_grid, rebase

Ordering = Literal["stored", "row-major", "hilbert"]


def compact_views(
    grid: Int64Array,
    crops: CropsConfig,
    max_tiles: int,
    ordering: Ordering,
    rng: np.random.Generator,
) -> Views:
    """Draw all views of one slide from its compact square.

    A slide of N tiles has a square of side floor(sqrt(N)); with `stored` of side
    floor(sqrt(min(N, cap))), where cap is `max_tiles` for global crops and max_tiles x u^2 for
    local ones of largest size u. If the tiles are more than the square holds, a random subset of
    them keeps its order. A crop is a window of floor(s x side) cells a side, at least one, s
    uniform in the size's range and the place uniform. Its side is made smaller where the crop would
    have more than `max_tiles` tiles, and larger where it would have fewer than `min_tiles` or the
    largest square number up to `max_tiles`, whichever is less. Where the slide's square is smaller
    than that, the crop is the whole slide.

    Args:
        grid: int64 (N, 2), column and row of each tile, N at least 1, no cell twice.
        crops: How many crops, and how large; sizes are shares of the square's side.
        max_tiles: Tiles of a crop at most.
        ordering: Order in which tiles fill the square.
        rng: Source of all draws.

    Returns:
        The views; rows are those of `grid`, positions the tiles' own, turned or mirrored.

    Raises:
        ValueError: If sizes are in micrometres: the square has none.
    """
    if crops.unit != "share":
        raise ValueError("crops of the compact square are sized by share, not in micrometres")
    order = tissue_order(grid, ordering)
    least = _ceil_sqrt(min(crops.min_tiles, isqrt(max_tiles) ** 2, len(grid)))

    def draw(size: tuple[float, float], cap: int) -> Crop:
        side = isqrt(min(len(grid), max(cap, least**2)))
        if side < least:
            rows = np.arange(len(grid), dtype=np.int64)
        else:
            edge = min(max(int(rng.uniform(*size) * side), least), isqrt(max_tiles))
            column, row = rng.integers(side - edge, size=2, endpoint=True)
            kept = order[draw_rows(len(grid), side**2, rng)]
            square = kept[square_ranks(side, ordering)]
            rows = np.sort(square[row : row + edge, column : column + edge], axis=None)
        return Crop(rows, augment_grid(grid[rows], rng))

    def cap(share: float) -> int:
        return int(max_tiles * share**2) if ordering == "stored" else len(grid)

    return Views(
        tuple(draw(crops.global_size, cap(1.0)) for _ in range(crops.global_crops)),
        tuple(draw(crops.local_size, cap(crops.local_size[1])) for _ in range(crops.local_crops)),
    )


def tissue_order(grid: Int64Array, ordering: Ordering) -> Int64Array:
    """Order of a slide's tiles.

    Args:
        grid: int64 (N, 2), column and row of each tile.
        ordering: The order.

    Returns:
        int64 (N,), rows of `grid`; those of one cell stay in their stored order.
    """
    if ordering == "stored":
        return np.arange(len(grid), dtype=np.int64)
    if ordering == "row-major":
        return np.lexsort((grid[:, 0], grid[:, 1])).astype(np.int64)
    return np.argsort(hilbert_index(rebase(grid)), kind="stable").astype(np.int64)


@lru_cache(maxsize=32)
def square_ranks(side: int, ordering: Ordering) -> Int64Array:
    """Which tile of an order lies in which cell of the square.

    Args:
        side: Cells a side, at least 1.
        ordering: The order. For `hilbert`, cells are ranked by the curve of the smallest square
            with a power of two cells a side that holds this one.

    Returns:
        int64 (side, side), numbers 0 to side^2 - 1, by row and column; read-only.
    """
    ranks = np.arange(side**2, dtype=np.int64)
    if ordering == "hilbert":
        cells = np.stack([ranks % side, ranks // side], axis=1)
        curve = np.argsort(hilbert_index(cells))
        ranks = np.empty_like(curve)
        ranks[curve] = np.arange(side**2)
    square = ranks.reshape(side, side)
    square.flags.writeable = False
    return square


def hilbert_index(cells: Int64Array) -> Int64Array:
    """Place of cells along Hilbert's curve (Hilbert 1891, Math. Ann. 38, 459).

    The curve fills the smallest square from 0 with a power of two cells a side that holds all
    `cells`; it starts in cell (0, 0) and each step goes to a neighbour.

    Args:
        cells: int64 (N, 2), column and row, from 0 and below 2^31.

    Returns:
        int64 (N,), different for different cells.
    """
    x, y = cells[:, 0].copy(), cells[:, 1].copy()
    index = np.zeros(len(cells), dtype=np.int64)
    bits = int(cells.max(initial=0)).bit_length()
    for bit in reversed(range(bits)):
        far_x, far_y = x >> bit & 1, y >> bit & 1
        # The curve visits the quadrants (0, 0), (0, 1), (1, 1), (1, 0).
        index = 4 * index + (3 * far_x ^ far_y)
        # Within the first and the last, it is mirrored at a diagonal.
        last = (1 << bit) - 1
        x, y = x & last, y & last
        mirror = far_x & (1 - far_y) == 1
        x, y = np.where(mirror, last - x, x), np.where(mirror, last - y, y)
        x, y = np.where(far_y == 0, y, x), np.where(far_y == 0, x, y)
    return index


def _ceil_sqrt(number: int) -> int:
    """Side of the smallest square that holds a number of cells, at least one."""
    return isqrt(number - 1) + 1
