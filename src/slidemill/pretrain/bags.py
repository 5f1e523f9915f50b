"""Bags: the tiles of slides as training of a slide encoder sees them.

A bag is one slide's tile features with the tiles' coordinates. `BagSource` is what training asks
of a collection of bags, whether it lies in files or in memory; `ArrayBags` is the latter. Rows can
be asked for singly, so that a source over files reads only the tiles that a crop needs. Features
that are not finite never reach training: `finite_features` names the slide that has them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
from sklearn.preprocessing import StandardScaler

from slidemill.errors import CohortError

Int64Array = npt.NDArray[np.int64]
Float32Array = npt.NDArray[np.float32]
FloatArray = npt.NDArray[np.floating]
"""Features as they are stored: float16 or float32."""

_BLOCK_ROWS = 128


class BagSource(Protocol):
    """A collection of bags, each addressed by its index."""

    @property
    def slide_ids(self) -> Sequence[str]:
        """The slides, in the order of the indices."""
        ...

    @property
    def dim(self) -> int:
        """Width D of a tile's features, the same in all bags."""
        ...

    def coords(self, i: int) -> Int64Array:
        """Top-left corners (x, y) of slide i's tiles, level-0 pixels, int64 (N, 2)."""
        ...

    def step(self, i: int) -> tuple[float, float]:
        """Distance of neighbouring tiles of slide i in x and in y, level-0 pixels."""
        ...

    def step_um(self, i: int) -> tuple[float, float]:
        """Distance of neighbouring tiles of slide i in x and in y, micrometres."""
        ...

    def features(self, i: int, rows: Int64Array | None = None) -> FloatArray:
        """Features of slide i's tiles (N, D), or of those rows (len(rows), D).

        Rows come as they are stored, float16 or float32. They may be asked for in any order.
        """
        ...


@dataclass(frozen=True)
class ArrayBags:
    """Bags in memory.

    Attributes:
        slide_ids: The slides.
        tile_coords: int64 (N, 2) a slide, level-0 pixels.
        steps: Grid step (x, y) a slide, level-0 pixels.
        tile_features: float16 or float32 (N, D) a slide.
        steps_um: Grid step (x, y) a slide, micrometres; None where nobody asks for it.

    Raises:
        ValueError: If there is no slide, the lists differ in length, a slide has no tiles, or the
            shapes do not belong together.
    """

    slide_ids: Sequence[str]
    tile_coords: Sequence[Int64Array]
    steps: Sequence[tuple[float, float]]
    tile_features: Sequence[FloatArray]
    steps_um: Sequence[tuple[float, float]] | None = None

    def __post_init__(self) -> None:
        lists: list[Sequence[object]] = [self.slide_ids, self.tile_coords, self.steps]
        lists += [self.tile_features, *([] if self.steps_um is None else [self.steps_um])]
        if len({len(one) for one in lists}) != 1 or not self.slide_ids:
            raise ValueError(f"need the same number of each, not {[len(one) for one in lists]}")
        for slide_id, coords, features in zip(
            self.slide_ids, self.tile_coords, self.tile_features, strict=True
        ):
            if coords.shape != (len(features), 2) or len(features) == 0:
                raise ValueError(f"{slide_id}: coords {coords.shape}, features {features.shape}")
            if features.ndim != 2 or features.shape[1] != self.dim:
                raise ValueError(f"{slide_id}: features {features.shape}, not (N, {self.dim})")

    @property
    def dim(self) -> int:
        """Width D of a tile's features."""
        return int(self.tile_features[0].shape[1])

    def coords(self, i: int) -> Int64Array:
        """Top-left corners (x, y) of slide i's tiles, level-0 pixels, int64 (N, 2)."""
        return self.tile_coords[i]

    def step(self, i: int) -> tuple[float, float]:
        """Distance of neighbouring tiles of slide i in x and in y, level-0 pixels."""
        return self.steps[i]

    def step_um(self, i: int) -> tuple[float, float]:
        """Distance of neighbouring tiles of slide i in x and in y, micrometres.

        Raises:
            ValueError: If the bags were made without `steps_um`.
        """
        if self.steps_um is None:
            raise ValueError("these bags have no steps in micrometres: give steps_um")
        return self.steps_um[i]

    def features(self, i: int, rows: Int64Array | None = None) -> FloatArray:
        """Features of slide i's tiles (N, D), or of those rows (len(rows), D), as stored."""
        return self.tile_features[i] if rows is None else self.tile_features[i][rows]


def grid_positions(coords: Int64Array, step: tuple[float, float]) -> Int64Array:
    """Column and row of each tile in its slide's grid.

    The division is in float64: half precision cannot hold the coordinates of a whole slide.

    Args:
        coords: int64 (N, 2), top-left corners (x, y), level-0 pixels.
        step: Distance of neighbouring tiles in x and in y, level-0 pixels; need not be whole.

    Returns:
        int64 (N, 2): round(coords / step).

    Raises:
        ValueError: If coords are not integers or a step is not positive.
    """
    if not np.issubdtype(coords.dtype, np.integer):
        raise ValueError(f"coordinates are level-0 pixels in int64, not {coords.dtype}")
    if not min(step) > 0.0:
        raise ValueError(f"a grid step is a positive number of level-0 pixels, not {step}")
    return np.rint(coords / np.asarray(step, dtype=np.float64)).astype(np.int64)


def distinct_tiles(grid: Int64Array) -> Int64Array:
    """Rows of the tiles that training uses where several lie in the same cell: the first of each.

    Two tokens at one position would be one piece of tissue counted twice, and the more often it is
    there, the more it weighs. `len(grid) - len(distinct_tiles(grid))` is how many are passed over.

    Args:
        grid: int64 (N, 2), column and row of each tile.

    Returns:
        int64 (M,), ascending, one row of every cell that has a tile.
    """
    # The sort is stable: within a cell, rows stay ascending.
    order = np.lexsort((grid[:, 1], grid[:, 0]))
    new = np.ones(len(grid), dtype=np.bool_)
    new[1:] = np.any(np.diff(grid[order], axis=0) != 0, axis=1)
    return np.sort(order[new]).astype(np.int64)


def finite_features(bags: BagSource, i: int, rows: Int64Array) -> FloatArray:
    """Read rows of a slide's features for training.

    Returns:
        Float16 or float32 (len(rows), D), as stored.

    Raises:
        CohortError: If one of them is not finite.
    """
    features = bags.features(i, rows)
    if not _all_finite(features):
        count = int((~np.isfinite(features).all(axis=1)).sum())
        raise CohortError(
            f"slide {bags.slide_ids[i]}: features of {count} tile(s) of the {len(rows)} that were "
            "read are not finite, and training on them would spoil the encoder. Delete the slide's "
            "features file and compute it again (in float16 large features overflow: "
            "features.dtype), or leave the slide out of the sheet."
        )
    return features


def _all_finite(features: FloatArray) -> bool:
    """Whether no feature is infinite or not a number."""
    # By blocks: a second array as large as the features costs more than the test itself.
    for start in range(0, len(features), _BLOCK_ROWS):
        block = features[start : start + _BLOCK_ROWS]
        if block.dtype == np.float16:
            # All bits of the exponent set; numpy's own test takes five times as long.
            finite = int((block.view(np.uint16) & 0x7C00).max(initial=0)) < 0x7C00
        else:
            finite = bool(np.isfinite(block).all())
        if not finite:
            return False
    return True


def draw_rows(count: int, max_tiles: int, rng: np.random.Generator) -> Int64Array:
    """Rows of a bag to go on with: all, or `max_tiles` of them uniformly without replacement.

    Returns:
        int64 (min(count, max_tiles),), ascending and distinct.
    """
    if count <= max_tiles:
        return np.arange(count, dtype=np.int64)
    return np.sort(rng.choice(count, size=max_tiles, replace=False)).astype(np.int64)


def feature_moments(
    bags: BagSource, max_tiles: int, rng: np.random.Generator
) -> tuple[Float32Array, Float32Array]:
    """Mean and standard deviation of the tile features over all bags.

    Every tile counts alike. At most `max_tiles` tiles of a slide are read, by `draw_rows`.

    Args:
        bags: The training bags, and no others: a test slide's features must not enter.
        max_tiles: Tiles a slide at most.
        rng: Source of the draws.

    Returns:
        Mean and standard deviation, float32 (D,) each, from float64 sums; the deviation of a
        feature that does not vary is given as 1.

    Raises:
        CohortError: If a feature is not finite; it names the slide.
    """
    scaler = StandardScaler()
    for i in range(len(bags.slide_ids)):
        rows = draw_rows(len(bags.coords(i)), max_tiles, rng)
        scaler.partial_fit(finite_features(bags, i, rows).astype(np.float64))
    return scaler.mean_.astype(np.float32), scaler.scale_.astype(np.float32)
