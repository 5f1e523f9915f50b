"""STAMP's feature files: `feats` in half precision, coordinates in micrometres.

Writes one file a call, atomically. The layout is that of STAMP 2.1, in which the tile's size is
`tile_size_um` and `tile_size_px`; the slide's mpp is not in it.
"""

from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt

from slidemill.artifacts.atomic import atomic_path
from slidemill.interop.read import UnfitError
from slidemill.tiles.grid import Coords

STAMP_VERSION = "2.1.0"
"""Release that began this layout; STAMP refuses files of a later version than its own."""

CODE_HASH_DIGITS = 8


def write_features(
    path: Path,
    features: npt.NDArray[np.float32],
    coords: Coords,
    *,
    mpp: tuple[float, float],
    tile_px: int,
    tile_um: float,
    encoder: str,
    digest: str,
) -> None:
    """Write `<encoder>/<slide>.h5`.

    Args:
        path: Where to.
        features: (N, D) float32, one row a tile; written as float16.
        coords: (N, 2) int64 top-left corners, level-0 pixels; written as float32 um.
        mpp: um per level-0 pixel in x and y.
        tile_px: Edge of a tile, pixels.
        tile_um: Edge of a tile, um.
        encoder: Name of the encoder.
        digest: Digest of the features stage; its first digits stand where STAMP has the hash of
            its code.

    Raises:
        UnfitError: If a feature is too large for half precision.
    """
    with np.errstate(over="ignore"):
        half = features.astype(np.float16)
    lost = int((np.isfinite(features) & ~np.isfinite(half)).sum())
    if lost:
        raise UnfitError(
            f"{lost} numbers of its features are beyond 65504, the largest of half precision, "
            "which is all that STAMP keeps",
            "Export to another tool",
        )
    with atomic_path(path) as temporary, h5py.File(temporary, "w", locking=False) as file:
        um = (coords * np.array(mpp)).astype(np.float32)
        file.create_dataset("coords", data=um, track_times=False)
        file.create_dataset("feats", data=half, track_times=False)
        file.attrs["stamp_version"] = STAMP_VERSION
        file.attrs["extractor"] = encoder
        file.attrs["unit"] = "um"
        file.attrs["tile_size_um"] = tile_um
        file.attrs["tile_size_px"] = tile_px
        file.attrs["code_hash"] = digest[:CODE_HASH_DIGITS]
        file.attrs["feat_type"] = "tile"
