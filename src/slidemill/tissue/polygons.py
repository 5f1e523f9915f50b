"""Masks as polygons in level-0 pixels, and as GeoJSON that QuPath opens."""

import json
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely
from shapely.geometry import MultiPolygon, Polygon, mapping

TISSUE_COLOUR = [46, 160, 67]
"""Colour of tissue annotations in QuPath, RGB."""


def mask_to_polygons(
    mask: npt.NDArray[np.bool_],
    downsample_x: float,
    downsample_y: float,
    bounds: tuple[int, int],
) -> list[Polygon]:
    """Outlines of a mask, holes kept.

    The union of the mask's runs of pixels is exact; it is then simplified by less than a mask
    pixel, which takes the stairs out of the outline.

    Args:
        mask: (H, W).
        downsample_x: Level-0 pixels per mask pixel in x.
        downsample_y: Level-0 pixels per mask pixel in y.
        bounds: Width and height of level 0; polygons are clipped to it.

    Returns:
        Valid polygons in level-0 pixels, from top to bottom and left to right.
    """
    rows, starts, stops = _runs(mask)
    boxes = shapely.box(starts, rows, stops, rows + 1)
    exact = shapely.union_all(boxes)
    smooth = shapely.simplify(exact, tolerance=0.75, preserve_topology=True)
    scaled = shapely.transform(smooth, lambda xy: xy * np.array([downsample_x, downsample_y]))
    clipped = shapely.intersection(shapely.make_valid(scaled), shapely.box(0, 0, *bounds))
    parts = [part for part in shapely.get_parts(clipped) if isinstance(part, Polygon)]
    flat = [
        polygon
        for part in parts
        for polygon in (part.geoms if isinstance(part, MultiPolygon) else [part])
        if not polygon.is_empty
    ]
    return sorted(flat, key=lambda polygon: (polygon.bounds[1], polygon.bounds[0]))


def _runs(
    mask: npt.NDArray[np.bool_],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Row, first column and column after the last of every horizontal run."""
    padded = np.pad(mask.astype(np.int8), ((0, 0), (1, 1)))
    steps = np.diff(padded, axis=1)
    rows, starts = np.nonzero(steps == 1)
    _, stops = np.nonzero(steps == -1)
    return rows, starts, stops


def to_geojson(
    polygons: list[Polygon], mpp_x: float, mpp_y: float, provenance: dict[str, Any]
) -> str:
    """GeoJSON of tissue annotations in level-0 pixels.

    Args:
        polygons: The pieces of tissue.
        mpp_x: um per level-0 pixel in x.
        mpp_y: um per level-0 pixel in y.
        provenance: Kept under the collection's `slidemill` member, which readers ignore.
    """
    features = [
        {
            "type": "Feature",
            "geometry": mapping(polygon),
            "properties": {
                "objectType": "annotation",
                "name": f"tissue {number}",
                "classification": {"name": "Tissue", "color": TISSUE_COLOUR},
                "tissue_id": number,
                "area_mm2": round(polygon.area * mpp_x * mpp_y / 1e6, 6),
            },
        }
        for number, polygon in enumerate(polygons)
    ]
    collection = {"type": "FeatureCollection", "features": features, "slidemill": provenance}
    return json.dumps(collection, sort_keys=True) + "\n"
