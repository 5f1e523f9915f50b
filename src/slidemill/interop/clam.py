"""CLAM's files: coordinates, features and its list of slides, written and (coordinates) read.

Writes one file a call, atomically. CLAM knows pixels of a pyramid level and no mpp: what it is
given is the tile's size in level-0 pixels, and its resolution is lost. Nothing is unpickled, and
torch is imported only to write `.pt` files.
"""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt

from slidemill.artifacts.atomic import atomic_path, write_text
from slidemill.interop.coordinates import (
    ForeignTiles,
    number_of,
    pair_of,
    pitch,
    read_coords,
    whole_number,
)
from slidemill.tiles.grid import Coords, TileGeometry

FEATURE_CHUNK = 32
"""Rows of a chunk of CLAM's features."""


def write_patches(
    path: Path, coords: Coords, slide_id: str, size: int, dimensions: tuple[int, int]
) -> None:
    """Write `patches/<slide>.h5`.

    Args:
        path: Where to.
        coords: (N, 2) int64 top-left corners, level-0 pixels.
        slide_id: The slide.
        size: Edge of a tile, level-0 pixels.
        dimensions: Level-0 width and height, pixels.
    """
    with atomic_path(path) as temporary, h5py.File(temporary, "w", locking=False) as file:
        dataset = file.create_dataset(
            "coords", data=coords, chunks=(1, 2), maxshape=(None, 2), track_times=False
        )
        dataset.attrs["downsample"] = np.ones(2)
        dataset.attrs["downsampled_level_dim"] = np.array(dimensions, np.int64)
        dataset.attrs["level_dim"] = np.array(dimensions, np.int64)
        dataset.attrs["name"] = slide_id
        dataset.attrs["patch_level"] = 0
        dataset.attrs["patch_size"] = size
        dataset.attrs["save_path"] = ""


def write_features(path: Path, features: npt.NDArray[np.float32], coords: Coords) -> None:
    """Write `h5_files/<slide>.h5`.

    Args:
        path: Where to.
        features: (N, D) float32, one row a tile.
        coords: (N, 2) int64 top-left corners, level-0 pixels; written as int32, as CLAM does.
    """
    with atomic_path(path) as temporary, h5py.File(temporary, "w", locking=False) as file:
        for name, array in (("features", features), ("coords", coords.astype(np.int32))):
            file.create_dataset(
                name,
                data=array,
                chunks=(FEATURE_CHUNK, array.shape[1]),
                maxshape=(None, array.shape[1]),
                track_times=False,
            )


def write_tensor(path: Path, features: npt.NDArray[np.float32]) -> None:
    """Write `pt_files/<slide>.pt`: the features as one tensor, float32 (N, D)."""
    import torch

    with atomic_path(path) as temporary:
        torch.save(torch.from_numpy(features), temporary)


def write_process_list(path: Path, slide_ids: Sequence[str]) -> None:
    """Write `process_list_autogen.csv`, of which CLAM's features step reads `slide_id`.

    The columns of CLAM's own segmentation are left out: it was not what found the tissue.
    """
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(["slide_id", "process", "status"])
    lines.writerows([slide_id, 0, "processed"] for slide_id in slide_ids)
    write_text(path, text.getvalue())


def read_patches(path: Path, mpp_x: float) -> ForeignTiles:
    """Read a `patches/<slide>.h5` of CLAM, or of `slidemill export clam`.

    Args:
        path: The file.
        mpp_x: um per level-0 pixel in x of the slide, which the file does not say.

    Returns:
        The tiles. CLAM's tile has no size but its pixels of a level: those are `tile_px`. Their
        distance is found from the coordinates, since the file does not say it and CLAM's own step
        is off where a downsample is no whole number.

    Raises:
        ValueError: If the file is damaged or says too little; the message says what.
    """
    coords, attributes = read_coords(path)
    size = whole_number(attributes, "patch_size")
    if size < 1 or number_of(attributes, "patch_level") < 0:
        raise ValueError(f"patch_size {size} or patch_level is no tile's")
    down_x, down_y = pair_of(attributes, "downsample")
    level_width, level_height = pair_of(attributes, "level_dim")
    geometry = TileGeometry(
        tile_px=size,
        mpp=down_x * mpp_x,
        width=size * down_x,
        height=size * down_y,
        step_x=float(pitch(coords, 0) or size * down_x),
        step_y=float(pitch(coords, 1) or size * down_y),
    )
    return ForeignTiles(
        coords,
        geometry,
        (level_width * down_x, level_height * down_y),
        # A level's pixels are whole numbers: it may end up to one of them before the slide does.
        (down_x if down_x > 1 else 0.5, down_y if down_y > 1 else 0.5),
    )
