"""TRIDENT's files: coordinates, features and tissue, written and (coordinates) read.

Writes one file a call, atomically, with TRIDENT's names, dtypes, chunks and attributes, so that
TRIDENT and Patho-Bench take them for their own. `savetodir` is empty: files of ours name no path.
Reads coordinates of any TRIDENT version whose attributes say the tile's size; unpickles nothing.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
from shapely.geometry import Polygon, mapping

from slidemill.artifacts.atomic import atomic_path, write_text
from slidemill.interop.coordinates import ForeignTiles, number_of, read_coords, whole_number
from slidemill.interop.read import SlideTiles, UnfitError, square_size
from slidemill.tiles.grid import Coords, TileGeometry
from slidemill.tiles.trident import level0_magnification

FIELD_WITHIN = 0.01
"""Part of a tile's width by which what TRIDENT reads may differ before it is worth a warning."""

Attributes = Mapping[str, str | int | float]


def folder_name(magnification: int | float, tile_px: int, overlap_px: int) -> str:
    """Folder of a tiling in a TRIDENT job, such as `20x_256px_0px_overlap`.

    A magnification that is not whole is written with up to six digits: 13.3333x for 0.75 um.
    """
    return f"{magnification:g}x_{tile_px}px_{overlap_px}px_overlap"


def coords_attributes(slide: SlideTiles) -> dict[str, str | int | float]:
    """Attributes of TRIDENT's /coords.

    Raises:
        UnfitError: If TRIDENT's table has no magnification for the slide, or if the tile is not
            square in level-0 pixels, which TRIDENT cannot say.
    """
    geometry, facts = slide.geometry, slide.facts
    size = square_size(geometry, "TRIDENT")
    try:
        source = level0_magnification(facts.mpp_x)
    except ValueError as error:
        raise UnfitError(str(error), "Leave it out of the sheet, or export to qupath") from None
    return {
        "level0_height": facts.height,
        "level0_magnification": source,
        "level0_width": facts.width,
        "name": facts.slide_id,
        "overlap": slide.overlap_px,
        "patch_size": geometry.tile_px,
        "patch_size_level0": size,
        "savetodir": "",
        "target_magnification": slide.magnification,
    }


def reads_as_said(slide: SlideTiles) -> bool:
    """Whether TRIDENT, given these coordinates, reads the tiles that this run means.

    It reads by magnifications and not by `patch_size_level0`. On a slide whose mpp is not in the
    middle of its bucket that is another field of view than an exact grid's, and nothing says so.
    """
    source = level0_magnification(slide.facts.mpp_x)
    read = slide.geometry.tile_px * source / slide.magnification
    return abs(read - slide.geometry.width) <= FIELD_WITHIN * slide.geometry.width


def write_patches(path: Path, coords: Coords, attributes: Attributes) -> None:
    """Write `patches/<slide>_patches.h5`.

    Args:
        path: Where to.
        coords: (N, 2) int64 top-left corners, level-0 pixels.
        attributes: What `coords_attributes` gives.
    """
    with atomic_path(path) as temporary, h5py.File(temporary, "w", locking=False) as file:
        _dataset(file, "coords", coords, attributes)


def write_features(
    path: Path,
    features: npt.NDArray[np.float32],
    coords: Coords,
    attributes: Attributes,
    encoder: str,
) -> None:
    """Write `features_<encoder>/<slide>.h5`.

    Args:
        path: Where to.
        features: (N, D) float32, one row a tile.
        coords: (N, 2) int64 top-left corners, level-0 pixels.
        attributes: What `coords_attributes` gives.
        encoder: Name of the encoder.
    """
    own: Attributes = {"encoder": encoder, "name": attributes["name"], "savetodir": ""}
    with atomic_path(path) as temporary, h5py.File(temporary, "w", locking=False) as file:
        _dataset(file, "coords", coords, attributes)
        _dataset(file, "features", features, own)


def _dataset(file: h5py.File, name: str, array: npt.NDArray[Any], attributes: Attributes) -> None:
    width = array.shape[1]
    # Chunks of one row are slow, but they are TRIDENT's, and its tools append to them.
    dataset = file.create_dataset(
        name, data=array, chunks=(1, width), maxshape=(None, width), track_times=False
    )
    for key, value in attributes.items():
        dataset.attrs[key] = value


def write_contours(path: Path, slide_id: str, polygons: Sequence[Polygon]) -> None:
    """Write `contours_geojson/<slide>.geojson`.

    Args:
        path: Where to.
        slide_id: The slide.
        polygons: Its tissue, level-0 pixels; holes are kept.
    """
    collection = {
        "type": "FeatureCollection",
        "name": slide_id,
        "crs": {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::3857"}},
        "features": [
            {
                "type": "Feature",
                "properties": {"tissue_id": number},
                "geometry": mapping(polygon),
            }
            for number, polygon in enumerate(polygons)
        ],
    }
    write_text(path, json.dumps(collection) + "\n")


def read_patches(path: Path, mpp_x: float) -> ForeignTiles:
    """Read a `<slide>_patches.h5` of TRIDENT, or of `slidemill export trident`.

    Args:
        path: The file.
        mpp_x: um per level-0 pixel in x of the slide, which the file does not say.

    Returns:
        The tiles; their `mpp` is the true um per tile pixel, not the nominal one.

    Raises:
        ValueError: If the file is damaged or says too little; the message says what.
    """
    coords, attributes = read_coords(path)
    tile_px = whole_number(attributes, "patch_size")
    size = number_of(attributes, "patch_size_level0")
    overlap = number_of(attributes, "overlap")
    if tile_px < 1 or size <= 0 or not 0 <= overlap < tile_px:
        raise ValueError(
            f"patch_size {tile_px}, patch_size_level0 {size:g} and overlap {overlap:g} are no tile"
        )
    step = max(1.0, float(round(size) - round(overlap * size / tile_px)))
    geometry = TileGeometry(
        tile_px=tile_px,
        mpp=size * mpp_x / tile_px,
        width=size,
        height=size,
        step_x=step,
        step_y=step,
    )
    dimensions = (
        whole_number(attributes, "level0_width"),
        whole_number(attributes, "level0_height"),
    )
    return ForeignTiles(coords, geometry, dimensions, (0.5, 0.5))
