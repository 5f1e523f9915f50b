"""HDF5 coordinates of other tools, checked before anything is believed.

Reads `/coords` and its attributes and writes nothing. Tools and their versions disagree about ints
and floats, so any number is taken for what it is worth; nothing is unpickled and no link into
another file is followed.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from slidemill.tiles.grid import Coords, TileGeometry

MAX_TILES = 50_000_000
"""More tiles than any slide has: a file can claim any number without holding one."""


@dataclass(frozen=True)
class ForeignTiles:
    """Tiles as another tool's file has them.

    Attributes:
        coords: (N, 2) int64 top-left corners, level-0 pixels, in the file's order.
        geometry: Their size.
        dimensions: Width and height of level 0 by the file's own account, pixels.
        tolerance: How far those may be from the slide's, pixels.
    """

    coords: Coords
    geometry: TileGeometry
    dimensions: tuple[float, float]
    tolerance: tuple[float, float]


def read_coords(path: Path) -> tuple[Coords, dict[str, Any]]:
    """`/coords` of a file, (N, 2) int64, and its attributes.

    Raises:
        ValueError: If the file is damaged or has no such coordinates; the message says which.
    """
    try:
        with h5py.File(path, "r", locking=False) as file:
            if not isinstance(file.get("coords", getlink=True), h5py.HardLink):
                raise ValueError("it has no dataset /coords")
            dataset = file["coords"]
            if not isinstance(dataset, h5py.Dataset) or dataset.dtype.kind not in "iuf":
                raise ValueError("/coords is no dataset of numbers")
            if dataset.ndim != 2 or dataset.shape[1] != 2:
                raise ValueError(f"/coords has the shape {dataset.shape}, not (N, 2)")
            if dataset.is_virtual or dataset.external or len(dataset) > MAX_TILES:
                raise ValueError("/coords is not in this file, or is beyond any slide's tiles")
            values, attributes = dataset[:], dict(dataset.attrs)
    except (OSError, RuntimeError, TypeError) as error:
        raise ValueError(f"not readable as HDF5 ({error})") from error
    with np.errstate(invalid="ignore"):
        coords = values.astype(np.int64)
    if not np.array_equal(coords, values):
        raise ValueError("/coords has numbers that are not whole")
    return coords, attributes


def number_of(attributes: Mapping[str, Any], name: str) -> float:
    """A finite number among attributes, whatever its dtype.

    Raises:
        ValueError: If it is missing or no number.
    """
    if name not in attributes:
        raise ValueError(f"/coords has no attribute {name}")
    value = np.asarray(attributes[name])
    if value.dtype.kind not in "iuf" or value.size != 1 or not np.isfinite(value).all():
        raise ValueError(f"attribute {name} is {attributes[name]!r}, not a number")
    return float(value.reshape(()))


def whole_number(attributes: Mapping[str, Any], name: str) -> int:
    """A whole number among attributes, be it an int or a float.

    Raises:
        ValueError: If it is missing, no number, or not whole.
    """
    value = number_of(attributes, name)
    if value != round(value):
        raise ValueError(f"attribute {name} is {value:g}, not a whole number")
    return round(value)


def pair_of(attributes: Mapping[str, Any], name: str) -> tuple[float, float]:
    """Two positive numbers among attributes.

    Raises:
        ValueError: If they are missing or are something else.
    """
    value = np.asarray(attributes.get(name, ()))
    if value.dtype.kind not in "iuf" or value.shape != (2,) or not (value > 0).all():
        raise ValueError(f"attribute {name} of /coords is missing, or is not two positive numbers")
    return float(value[0]), float(value[1])


def pitch(coords: Coords, axis: int) -> int | None:
    """Distance of neighbouring tiles along an axis; None where no two share a line.

    Only tiles of one line (a row, for x) are compared: CLAM begins a grid of its own at every
    contour, and between two such grids any distance may occur. Of the distances within lines it is
    the commonest, and the smallest of those that are equally common.

    Args:
        coords: (N, 2) level-0 pixels.
        axis: 0 for x, 1 for y.
    """
    order = np.lexsort((coords[:, axis], coords[:, 1 - axis]))
    along: npt.NDArray[np.int64] = np.diff(coords[order, axis])
    same_line = np.diff(coords[order, 1 - axis]) == 0
    counts = Counter(along[same_line & (along > 0)].tolist())
    return min(counts, key=lambda distance: (-counts[distance], distance)) if counts else None


def fault_of(tiles: ForeignTiles, width: int, height: int) -> str | None:
    """Why tiles cannot be of a slide of these level-0 dimensions; None if they can."""
    (own_width, own_height), (near_x, near_y) = tiles.dimensions, tiles.tolerance
    if abs(own_width - width) > near_x or abs(own_height - height) > near_y:
        return (
            f"it is of a slide of {own_width:g} x {own_height:g} pixels, the cohort's has "
            f"{width} x {height}"
        )
    x, y = tiles.coords[:, 0], tiles.coords[:, 1]
    outside = int(((x < 0) | (y < 0) | (x >= width) | (y >= height)).sum())
    if outside:
        return f"{outside} of {len(x)} tiles begin outside the slide"
    if len(np.unique(tiles.coords, axis=0)) < len(x):
        return "some tiles are there twice"
    return None
