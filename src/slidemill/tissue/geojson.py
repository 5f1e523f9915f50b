"""Tissue polygons from GeoJSON files that people or other tools made.

Reads what QuPath exports (a FeatureCollection, a bare list of features, one feature or one bare
geometry), what TRIDENT writes and what slidemill writes itself. Coordinates are level-0 pixels;
`_origin` says from where they count. Writes nothing.

Which features count:

- `objectType` (`object_type` and the class names in `id` of older QuPath) other than annotation,
  such as detection, cell, tile or tma_core, is left out; a feature without one is an annotation.
- An annotation whose class is in `SUBTRACTED_CLASSES` is cut out of the tissue. Classes are
  compared without regard to case, to QuPath's trailing `*` and to what follows a colon.
- An annotation of class `Region*`, QuPath's name for a training region, is left out.
- Every other annotation, of any class or none, is tissue.

Polygons that are valid and that nothing is cut out of are handed on exactly as they are, in the
file's order, even where they overlap: TRIDENT's grid depends on each single one.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import shapely
from shapely.affinity import translate
from shapely.geometry import Polygon

from slidemill.errors import SlideCode, SlideError

MAX_BYTES = 256 * 2**20
"""Larger files are refused: parsed, they take some ten times their size in memory."""

SUBTRACTED_CLASSES = (
    frozenset({"ignore", "exclude", "excluded", "other", "background", "glass", "hole", "holes"})
    | {"artifact", "artifacts", "artefact", "artefacts", "fold", "bubble", "air bubble"}
    | {"pen", "pen mark", "pen marking", "marker", "ink", "out of focus"}
)
"""Classes, in lower case, of annotations that are not tissue."""

LEFT_OUT_CLASSES = frozenset({"region"})
"""Classes, in lower case, of annotations that say nothing about tissue."""

_OLD_OBJECT_IDS = {
    "PathDetectionObject": "detection",
    "PathCellObject": "cell",
    "PathTileObject": "tile",
    "TMACoreObject": "tma_core",
}


def read_polygons(path: Path, corner: tuple[int, int] = (0, 0)) -> list[Polygon]:
    """Tissue polygons of a slide; see `read_placed`."""
    return read_placed(path, corner)[0]


def read_placed(path: Path, corner: tuple[int, int]) -> tuple[list[Polygon], str]:
    """Tissue polygons of a slide on its canvas, and from where the file was taken to count.

    Args:
        path: A GeoJSON file.
        corner: Corner of the slide's scanned part, level-0 pixels.

    Returns:
        Valid polygons of more than no area, in level-0 pixels and in the file's order; at least
        one. They may overlap, as those of the file do. In words, what was taken as the origin.

    Raises:
        SlideError: With `tissue-file`, if the file is missing, empty, too large, not JSON, not
            GeoJSON, has coordinates that are not finite numbers, or no tissue polygons.
    """
    try:
        document = _parse(path)
        tissue, holes, left_out = _sort(document, path)
    except RecursionError:
        _fail(path, "nested too deeply to be GeoJSON", "Export it again")
    if not tissue:
        _fail(
            path,
            f"no tissue polygons ({len(holes)} polygons of classes that are cut out, {left_out} "
            "features of kinds that do not count)",
            "Export the tissue as annotations with an area, unclassified or of class Tissue",
        )
    origin, said = _origin(document, corner, path)
    if origin != (0, 0):
        tissue = [translate(polygon, *origin) for polygon in tissue]
        holes = [translate(polygon, *origin) for polygon in holes]
    if not holes:
        return tissue, said
    united = shapely.union_all(holes)
    rest = [part for polygon in tissue for part in _cut(polygon, united)]
    if not rest:
        _fail(path, "the classes that are cut out cover all tissue", "Look at its annotations")
    return rest, said


def _origin(
    document: Any,  # noqa: ANN401 - what a JSON file holds
    corner: tuple[int, int],
    path: Path,
) -> tuple[tuple[float, float], str]:
    """Where a file's coordinates begin, level-0 pixels of the canvas, and who counts so.

    Ours says it; TRIDENT's, known by its `crs`, count from the canvas; QuPath's have no mark, so
    every other file counts as QuPath does.
    """
    members = document if isinstance(document, dict) else {}
    own = members.get("slidemill")
    if isinstance(own, dict):
        origin = own.get("origin", [0, 0])
        numbers = isinstance(origin, list) and [type(value) for value in origin] == [int, int]
        if not numbers:
            _fail(path, f"its slidemill origin {origin!r} is no pair of numbers", "Export it again")
        return (origin[0], origin[1]), "the origin that slidemill wrote in it"
    if "EPSG::3857" in json.dumps(members.get("crs")):
        return (0, 0), "the whole canvas' corner, as TRIDENT does"
    return corner, "the corner of the scanned part, as QuPath does"


def check_bounds(polygons: Sequence[Polygon], bounds: tuple[int, int]) -> None:
    """See to it that every polygon touches the slide.

    Coordinates that are too small, such as um for pixels, stay inside and cannot be told.

    Args:
        polygons: In level-0 pixels.
        bounds: Width and height of level 0.

    Raises:
        SlideError: With `tissue-file`, if a polygon lies entirely outside.
    """
    outside = [p for p in polygons if not p.intersects(shapely.box(0, 0, *bounds))]
    if outside:
        x0, y0, x1, y1 = (round(edge) for edge in outside[0].bounds)
        raise SlideError(
            SlideCode.TISSUE_FILE,
            f"{len(outside)} of {len(polygons)} tissue polygons lie outside the slide of "
            f"{bounds[0]} x {bounds[1]} px, the first at x {x0} to {x1}, y {y0} to {y1}. They are "
            "likely of another slide or in other units; give pixels of level 0, not um and not "
            "pixels of another level",
        )


def rasterise(
    polygons: Sequence[Polygon], downsample_x: float, downsample_y: float, width: int, height: int
) -> npt.NDArray[np.bool_]:
    """Mask of polygons: a pixel is set when its centre is inside one.

    A centre on an edge belongs to the polygon on its right, or below, so neighbours that share an
    edge neither overlap nor leave a gap. cv2.fillPoly is not used because it draws the outline
    too, which widens everything by about half a pixel.

    Args:
        polygons: Valid, in level-0 pixels; may overlap and reach beyond the mask.
        downsample_x: Level-0 pixels per mask pixel in x.
        downsample_y: The same in y.
        width: Width of the mask.
        height: Its height.

    Returns:
        (height, width) bool.
    """
    mask = np.zeros((height, width), dtype=np.bool_)
    scale = np.array([1 / downsample_x, 1 / downsample_y])
    for polygon in polygons:
        rings = [polygon.exterior, *polygon.interiors]
        # Pixel centres become whole numbers.
        edges = np.concatenate([_edges(shapely.get_coordinates(r) * scale - 0.5) for r in rings])
        if len(edges):
            _fill(mask, edges)
    return mask


def _edges(points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Edges of a closed ring, each downwards: (N, 2, 2), from and to, x and y.

    The same direction for all makes an edge that two polygons share round alike in both.
    """
    edges = np.stack([points[:-1], points[1:]], axis=1)
    upwards = edges[:, 0, 1] > edges[:, 1, 1]
    edges[upwards] = edges[upwards, ::-1]
    return edges


def _fill(mask: npt.NDArray[np.bool_], edges: npt.NDArray[np.float64]) -> None:
    """Fill between crossings, row by row, by the even-odd rule; within the edges' box only."""
    size = mask.shape[::-1]
    left, top = np.clip(np.ceil(edges.min(axis=(0, 1))), 0, size).astype(np.int64)
    right, bottom = np.clip(np.ceil(edges.max(axis=(0, 1))), 0, size).astype(np.int64)
    (x0, y0), (x1, y1) = edges[:, 0].T, edges[:, 1].T
    first = np.clip(np.ceil(y0), top, bottom).astype(np.int64)
    counts = np.clip(np.ceil(y1), top, bottom).astype(np.int64) - first
    edge = np.repeat(np.arange(len(edges)), counts)
    row = np.arange(len(edge)) - np.repeat(np.cumsum(counts) - counts, counts) + first[edge]
    x = x0[edge] + (row - y0[edge]) * ((x1 - x0)[edge] / (y1 - y0)[edge])
    column = np.clip(np.ceil(x), left, right).astype(np.int64)
    toggles = np.zeros((bottom - top, right - left + 1), dtype=np.bool_)
    np.logical_xor.at(toggles, (row - top, column - left), True)
    mask[top:bottom, left:right] |= np.logical_xor.accumulate(toggles, axis=1)[:, :-1]


def _parse(path: Path) -> Any:  # noqa: ANN401 - what a JSON file holds
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            cause = f"{size / 2**20:.0f} MB, more than {MAX_BYTES // 2**20}"
            _fail(path, cause, "Export annotations only, without detections and cells")
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        remedy = "Fix the sheet's tissue column, or the file"
        _fail(path, f"not readable ({error.strerror})", remedy)
    except UnicodeDecodeError:
        _fail(path, "not JSON: it is no UTF-8 text", "Export it again, as GeoJSON, not compressed")
    if not text.strip():
        _fail(path, "the file is empty", "Export it again")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        _fail(path, f"not JSON ({error})", "Export it again, as GeoJSON")


def _sort(document: Any, path: Path) -> tuple[list[Polygon], list[Polygon], int]:  # noqa: ANN401
    """Polygons of tissue, polygons that are cut out of it, and how many features do not count."""
    tissue: list[Polygon] = []
    holes: list[Polygon] = []
    left_out = 0
    for feature in _features(document, path):
        role = _role(feature)
        if role is None:
            left_out += 1
        else:
            (tissue if role else holes).extend(_polygons(feature.get("geometry"), path))
    return tissue, holes, left_out


def _features(document: Any, path: Path) -> Iterator[dict[str, Any]]:  # noqa: ANN401
    """All features, with a bare geometry as a feature that has no properties."""
    if isinstance(document, list):
        for item in document:
            yield from _features(item, path)
        return
    kind = document.get("type") if isinstance(document, dict) else None
    if kind == "FeatureCollection" and isinstance(document.get("features"), list):
        yield from _features(document["features"], path)
    elif kind == "Feature":
        yield document
    elif isinstance(kind, str) and ("coordinates" in document or "geometries" in document):
        yield {"type": "Feature", "geometry": document}
    else:
        _fail(path, "not GeoJSON: a member is no feature or geometry", "Export it again")


def _role(feature: dict[str, Any]) -> bool | None:
    """True for tissue, False for what is cut out of it, None for what does not count."""
    properties = feature.get("properties")
    properties = properties if isinstance(properties, dict) else {}
    kind = properties.get("objectType") or properties.get("object_type")
    if (kind or _OLD_OBJECT_IDS.get(str(feature.get("id")), "annotation")) != "annotation":
        return None
    label = properties.get("classification")
    if isinstance(label, dict):
        names = label.get("names")
        label = label.get("name") or (names[0] if isinstance(names, list) and names else None)
    name = str(label or "").partition(":")[0].strip().rstrip("*").casefold()
    return None if name in LEFT_OUT_CLASSES else name not in SUBTRACTED_CLASSES


def _polygons(geometry: Any, path: Path) -> Iterator[Polygon]:  # noqa: ANN401
    """Valid polygons of a geometry; points and lines have no area and are passed over."""
    if not isinstance(geometry, dict):
        return
    kind = geometry.get("type")
    if kind == "GeometryCollection":
        members = geometry.get("geometries")
        for member in members if isinstance(members, list) else []:
            yield from _polygons(member, path)
    elif kind in ("Polygon", "MultiPolygon"):
        listed = geometry.get("coordinates")
        parts = [listed] if kind == "Polygon" else listed
        for part in parts if isinstance(parts, list) else [parts]:
            yield from _valid(_polygon(part, path))


def _polygon(listed: Any, path: Path) -> Polygon:  # noqa: ANN401
    """One polygon; empty where its outline has fewer than three corners."""
    if not isinstance(listed, list):
        _fail(path, "a polygon has no list of coordinates", "Export it again")
    rings = [_ring(ring, path) for ring in listed]
    solid = [ring for ring in rings if len(ring) >= 4]
    if not rings or len(rings[0]) < 4:
        return Polygon()
    return Polygon(solid[0], solid[1:])


def _ring(listed: Any, path: Path) -> npt.NDArray[np.float64]:  # noqa: ANN401
    """Corners of a ring, (N, 2), the first repeated at the end; a third dimension is dropped."""
    try:
        points = np.asarray(listed)
    except ValueError:
        points = np.empty(0, dtype=object)
    if points.size == 0 and listed == []:
        return np.empty((0, 2))
    if points.ndim != 2 or points.shape[1] < 2 or points.dtype.kind not in "iuf":
        _fail(path, "coordinates are not pairs of numbers", "Export it again")
    points = points[:, :2].astype(np.float64)
    if not np.isfinite(points).all():
        _fail(path, "coordinates are not finite", "Export it again")
    closed = np.array_equal(points[0], points[-1])
    return points if closed else np.concatenate([points, points[:1]])


def _valid(polygon: Polygon) -> Iterator[Polygon]:
    """Polygonal parts of a polygon, made valid where it is not."""
    geometry: shapely.Geometry = polygon
    if not polygon.is_valid:
        geometry = shapely.make_valid(polygon, method="structure", keep_collapsed=False)
    for part in shapely.get_parts(geometry):
        if isinstance(part, Polygon) and part.area > 0:
            yield part


def _cut(polygon: Polygon, holes: shapely.Geometry) -> Iterator[Polygon]:
    """What is left of a polygon; the polygon itself where nothing is cut out of it."""
    if not polygon.intersects(holes):
        yield polygon
        return
    for part in shapely.get_parts(shapely.difference(polygon, holes)):
        yield from _valid(part) if isinstance(part, Polygon) else ()


def _fail(path: Path, cause: str, remedy: str) -> NoReturn:
    raise SlideError(SlideCode.TISSUE_FILE, f"{path}: {cause}. {remedy}")
