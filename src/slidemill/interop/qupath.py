"""GeoJSON that QuPath (0.4 and later) opens: tissue as annotations, tiles with their measurements.

Writes one file a call, atomically; everything is in level-0 pixels, which are QuPath's own unit.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from slidemill.artifacts.atomic import write_text
from slidemill.artifacts.manifest import records
from slidemill.tiles.grid import TileGeometry

_NOT_MEASURED = ("x", "y", "keep")
"""Columns of the tile table that say where a tile is, and not how it is."""


def write_objects(
    path: Path,
    tissue: Sequence[Mapping[str, Any]],
    tiles: pd.DataFrame,
    geometry: TileGeometry,
    corner: tuple[int, int] = (0, 0),
) -> None:
    """Write `<slide>.geojson`.

    Args:
        path: Where to.
        tissue: GeoJSON features of the tissue, as the tissue stage wrote them.
        tiles: The kept tiles, columns of the tile table; what is missing in it is left out.
        geometry: Size of the tiles.
        corner: Corner of the scanned part, level-0 pixels, from which QuPath counts.
    """
    features = [_annotation(feature) for feature in tissue]
    features += _tiles(tiles, geometry, corner)
    write_text(path, json.dumps({"type": "FeatureCollection", "features": features}) + "\n")


def _annotation(feature: Mapping[str, Any]) -> dict[str, Any]:
    # QuPath takes an object without a type for an annotation; said all the same, for others.
    properties = {"objectType": "annotation", **(feature.get("properties") or {})}
    return {"type": "Feature", "geometry": feature["geometry"], "properties": properties}


def _tiles(
    tiles: pd.DataFrame, geometry: TileGeometry, corner: tuple[int, int]
) -> Iterator[dict[str, Any]]:
    """One QuPath tile object a row; its rectangle is the true one, beyond the slide too."""
    for row in records(tiles):
        left, top = row["x"] - corner[0], row["y"] - corner[1]
        right, bottom = left + geometry.width, top + geometry.height
        ring = [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
        measured = {
            name: float(value)
            for name, value in row.items()
            if name not in _NOT_MEASURED and value is not None
        }
        yield {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [ring]},
            "properties": {"objectType": "tile", "measurements": measured},
        }
