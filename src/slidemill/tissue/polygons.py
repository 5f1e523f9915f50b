"""Masks as polygons in level-0 pixels, and as GeoJSON that QuPath opens."""

import json
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import shapely
from shapely.affinity import translate
from shapely.geometry import Polygon, mapping

Points = npt.NDArray[np.float64]

TISSUE_COLOUR = [46, 160, 67]
"""Colour of tissue annotations in QuPath, RGB."""
TOLERANCE_PX = 0.75
"""How far an outline may leave the mask's edge, mask pixels: just what takes the stairs out."""


def mask_to_polygons(
    mask: npt.NDArray[np.bool_],
    downsample_x: float,
    downsample_y: float,
    bounds: tuple[int, int],
) -> list[Polygon]:
    """Outlines of a mask, holes kept.

    Outlines follow the edges of pixels, not their centres: pixel (row r, column c) covers c to
    c + 1 in x. They are simplified by less than a mask pixel (`TOLERANCE_PX`; Douglas and Peucker,
    1973), which takes the stairs out.

    Args:
        mask: (H, W).
        downsample_x: Level-0 pixels per mask pixel in x.
        downsample_y: Level-0 pixels per mask pixel in y.
        bounds: Width and height of level 0; polygons are clipped to it.

    Returns:
        Valid polygons in level-0 pixels, from top to bottom and left to right.
    """
    scale = np.array([downsample_x, downsample_y])
    polygons = np.array(
        [Polygon(shell * scale, [h * scale for h in holes]) for shell, holes in _rings(mask)],
        dtype=object,
    )
    if not len(polygons):
        return []
    bad = ~shapely.is_valid(polygons)
    polygons[bad] = shapely.make_valid(polygons[bad])
    reach = np.array([mask.shape[1] * downsample_x, mask.shape[0] * downsample_y])
    if (reach > bounds).any():
        polygons = shapely.intersection(polygons, shapely.box(0, 0, *bounds))
    # Repair and clipping may leave several parts, points and lines.
    parts = shapely.get_parts(shapely.get_parts(polygons))
    flat = [part for part in parts if isinstance(part, Polygon) and part.area > 0]
    return sorted(flat, key=lambda polygon: (polygon.bounds[1], polygon.bounds[0]))


def _rings(mask: npt.NDArray[np.bool_]) -> list[tuple[Points, list[Points]]]:
    """Outline and holes of every piece, each ring (n, 2) as x and y in mask pixels.

    OpenCV traces the centres of border pixels. On a grid of twice the resolution and one more,
    a mask pixel covers the cells from its one corner to the other, both included; the centres of
    border cells are then the corners of mask pixels.
    """
    height, width = mask.shape
    fine = np.zeros((2 * height + 1, 2 * width + 1), np.uint8)
    fine[1::2, 1::2] = mask
    cv2.dilate(fine, np.ones((3, 3), np.uint8), dst=fine)
    contours, tree = cv2.findContours(fine, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    pieces: dict[int, tuple[Points, list[Points]]] = {}
    for index, contour in enumerate(contours):
        exact = _with_inner_corners(np.asarray(contour, np.int32)[:, 0])
        ring = cv2.approxPolyDP(exact, 2 * TOLERANCE_PX, True)[:, 0]
        if len(ring) < 3:
            ring = exact  # a speck keeps its every corner
        points = ring.astype(np.float64) / 2
        parent = int(tree[0, index, 3])
        if parent < 0:
            pieces[index] = (points, [])
        else:
            pieces[parent][1].append(points)
    return list(pieces.values())


def _with_inner_corners(contour: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """A contour on the fine grid with its inner corners, (n, 2), which OpenCV cuts by a diagonal.

    Corners of mask pixels have even coordinates, and of the two ways round a diagonal step one
    leads over a point of which both are even.
    """
    after = np.roll(contour, -1, axis=0)
    cut = np.flatnonzero((np.abs(after - contour) == 1).all(axis=1))
    first, second = contour[cut], after[cut]
    even = (first[:, 0] % 2 == 0) & (second[:, 1] % 2 == 0)
    x = np.where(even, first[:, 0], second[:, 0])
    y = np.where(even, second[:, 1], first[:, 1])
    return np.asarray(np.insert(contour, cut + 1, np.stack([x, y], 1), axis=0), np.int32)


def to_geojson(
    polygons: list[Polygon],
    mpp_x: float,
    mpp_y: float,
    provenance: dict[str, Any],
    origin: tuple[int, int] = (0, 0),
) -> str:
    """GeoJSON of tissue annotations, as QuPath counts: from the corner of the scanned part.

    Args:
        polygons: The pieces of tissue, level-0 pixels of the canvas.
        mpp_x: um per level-0 pixel in x.
        mpp_y: um per level-0 pixel in y.
        provenance: Kept under the collection's `slidemill` member, which other tools ignore.
        origin: Corner of the scanned part, level-0 pixels; kept there too, where it is not (0, 0).
    """
    if origin != (0, 0):
        provenance = provenance | {"origin": list(origin)}
        polygons = [translate(polygon, -origin[0], -origin[1]) for polygon in polygons]
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
