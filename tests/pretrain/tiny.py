"""Bags and settings of trainings that take a second."""

import numpy as np

from slidemill.config.pretrain import PretrainRun
from slidemill.pretrain.bags import ArrayBags

STEP = 256
SETTINGS = {
    "size": "1x16",
    "heads": 1,
    "head": {"prototypes": 32, "hidden": 32, "bottleneck": 16},
    "crops": {"local_crops": 2},
    "batch_slides": 4,
    "epochs": 2,
    "learning_rate": 2e-3,
    "teacher_momentum": 0.9,
}


def make_tiny(**changes: object) -> PretrainRun:
    """A small run; changes go over its settings."""
    return PretrainRun.model_validate(SETTINGS | changes)


def make_grid(tiles: int, rng: np.random.Generator) -> np.ndarray:
    """Cells of ragged tissue, int64 (tiles, 2)."""
    return np.stack(np.divmod(np.sort(rng.permutation(100)[:tiles]), 10), axis=1)


def make_bags(count: int = 8, dim: int = 6, first: int = 20, dtype: type = np.float32) -> ArrayBags:
    """Slides of 20 to 60 tiles, each of a stain of its own."""
    rng = np.random.default_rng(11)
    sizes = [first + 5 * (i % 8) for i in range(count)]
    grids = [make_grid(size, rng) for size in sizes]
    features = [
        (rng.normal(size=(size, dim)) + rng.normal(size=dim)).astype(dtype) for size in sizes
    ]
    return ArrayBags(
        [f"slide-{i}" for i in range(count)],
        [(grid * STEP).astype(np.int64) for grid in grids],
        [(float(STEP), float(STEP))] * count,
        features,
        [(128.0, 128.0)] * count,
    )
