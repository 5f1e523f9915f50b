"""What exports read: a finished run's tiles, features and tissue, slide by slide.

Reads manifests, tile tables, features and tissue GeoJSON; writes nothing. Gives kept tiles only,
of slides that did not fail, and never features that are not of exactly those tiles.
"""

import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from shapely.affinity import translate
from shapely.geometry import MultiPolygon, Polygon, shape

from slidemill.artifacts.folder import StageId
from slidemill.artifacts.hdf5 import open_hdf5
from slidemill.artifacts.manifest import read_manifest, records
from slidemill.artifacts.parquet import read_parquet
from slidemill.errors import ArtifactError, ProblemsError
from slidemill.plan import EncoderPlan, Plan
from slidemill.slides.bounds import bounds_of
from slidemill.tiles.grid import Coords, TileGeometry
from slidemill.tiles.stage import read_tiles
from slidemill.tiles.trident import level0_magnification, nominal_magnification

log = logging.getLogger(__name__)

SHOWN = 10
"""Names that a line of the log has at the most."""

SQUARE_WITHIN = 0.01
"""Part of its width by which a tile's height may differ for tools whose tiles are square."""

Float32Array = npt.NDArray[np.float32]


class UnfitError(Exception):
    """A slide that a tool's format cannot hold.

    Attributes:
        what: Why not.
        todo: What the user can do about it.
    """

    def __init__(self, what: str, todo: str) -> None:
        self.what, self.todo = what, todo
        super().__init__(f"{what}. {todo}.")


class ExportError(ProblemsError):
    """Slides that a tool's format cannot hold; the others are written."""

    title = "export to"


class ImportCoordinatesError(ProblemsError):
    """Files of another tool that cannot be taken for this cohort's slides."""

    title = "import from"


@dataclass(frozen=True)
class SlideFacts:
    """What the cohort's table says of a slide.

    Attributes:
        slide_id: The slide.
        width: Level-0 width, pixels.
        height: Level-0 height, pixels.
        mpp_x: um per level-0 pixel in x.
        mpp_y: The same in y.
        item_digest: Digest of what the slide file is.
        corner: Corner of the scanned part, level-0 pixels, from which QuPath counts.
    """

    slide_id: str
    width: int
    height: int
    mpp_x: float
    mpp_y: float
    item_digest: str
    corner: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class SlideTiles:
    """The kept tiles of one slide.

    Attributes:
        facts: The slide.
        table: Their rows of the tile table, in its order.
        geometry: Their size.
        overlap_px: Tile pixels that neighbouring tiles share.
        magnification: Magnification that the tiling stands for: an int where it is whole.
        tissue: GeoJSON of the slide's tissue; None where there is none.
    """

    facts: SlideFacts
    table: pd.DataFrame
    geometry: TileGeometry
    overlap_px: int
    magnification: int | float
    tissue: Path | None

    @property
    def coords(self) -> Coords:
        """(N, 2) int64 top-left corners, level-0 pixels."""
        return self.table[["x", "y"]].to_numpy(np.int64)


def read_facts(plan: Plan) -> dict[str, SlideFacts]:
    """Facts of every slide that could be opened, by its id.

    Raises:
        ArtifactError: If the cohort stage has not run.
    """
    frame = read_parquet(plan.manifest_path(plan.cohort), "cohort")
    return {
        str(row["slide_id"]): SlideFacts(
            slide_id=str(row["slide_id"]),
            width=int(row["width"]),
            height=int(row["height"]),
            mpp_x=float(row["mpp_x"]),
            mpp_y=float(row["mpp_y"]),
            item_digest=str(row["item_digest"]),
            corner=bounds_of(row)[:2],
        )
        for row in records(frame[frame["status"] == "ok"])
    }


def iterate_slides(plan: Plan, stage: StageId) -> Iterator[SlideTiles]:
    """The kept tiles of every slide of a tiling; slides that failed are named in the log.

    Raises:
        ArtifactError: If the tiles stage has not run, or a file of it is damaged.
    """
    facts, tissue = read_facts(plan), finished_files(plan, plan.tissue)
    folder = stage.folder(plan.results)
    for row in records(read_manifest(plan.manifest_path(stage))):
        slide_id = str(row["slide_id"])
        if row["status"] != "ok":
            log.warning("%s is left out: it failed in %s", slide_id, row["failed_stage"])
            continue
        if slide_id not in facts:
            raise ArtifactError(
                f"{plan.manifest_path(stage)}: it has slide {slide_id}, which the cohort's table "
                "has not. Run cohort and tiles again."
            )
        table, geometry = read_tiles(folder / str(row["path"]))
        overlap, magnification = _asked_for(stage, geometry, facts[slide_id])
        polygons = tissue[slide_id].with_suffix(".geojson") if slide_id in tissue else None
        yield SlideTiles(
            facts=facts[slide_id],
            table=table[table["keep"]].reset_index(drop=True),
            geometry=geometry,
            overlap_px=overlap,
            magnification=magnification,
            tissue=polygons if polygons and polygons.is_file() else None,
        )


def _asked_for(
    stage: StageId, geometry: TileGeometry, facts: SlideFacts
) -> tuple[int, int | float]:
    """Overlap and magnification as the configuration gave them, or, imported, as the tiles are."""
    (candidates,) = stage.upstream
    asked = candidates.parameters
    if asked["grid"] != "import":
        return int(asked["overlap_px"]), nominal_magnification(float(asked["mpp"]))
    overlap = max(0, round(geometry.tile_px * (1.0 - geometry.step_x / geometry.width)))
    try:
        source = level0_magnification(facts.mpp_x)
    except ValueError:
        return overlap, nominal_magnification(geometry.mpp)
    # What a TRIDENT file said of itself: a slide of 0.499 um is of 20x there, not of 20.04x.
    return overlap, nominal_magnification(10.0 * geometry.width / (source * geometry.tile_px))


def finished_files(plan: Plan, stage: StageId) -> dict[str, Path]:
    """Files of a per-slide stage by slide; empty where the stage has not run."""
    path = plan.manifest_path(stage)
    if not path.is_file():
        return {}
    folder = stage.folder(plan.results)
    return {
        str(row["slide_id"]): folder / str(row["path"])
        for row in records(read_manifest(path))
        if row["status"] == "ok"
    }


def encoders_of(plan: Plan, stage: StageId) -> dict[str, EncoderPlan]:
    """Encoders that read a tiling, by a name that is safe in a path and that no two share."""
    found: dict[str, EncoderPlan] = {}
    for unit in plan.encoders:
        if unit.tiles.name == stage.name:
            name = safe_name(unit.encoder.label)
            found[name if name not in found else f"{name}-{unit.features.digest[:8]}"] = unit
    return found


def shorten(names: Sequence[str]) -> str:
    """Names for one line of a log: the first ones, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def safe_name(name: str) -> str:
    """A name as one component of a path: letters, digits, `_`, `-` and `.`, no dot in front."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name).lstrip(".-") or "encoder"


def read_features(path: Path, coords: Coords) -> tuple[Float32Array, Coords]:
    """Features of a slide's kept tiles, and the tiles that they are of.

    These are all kept tiles, but for those that did not decode when they were encoded.

    Args:
        path: The features file.
        coords: (N, 2) int64 top-left corners of the kept tiles, level-0 pixels.

    Returns:
        (n, D) float32 and (n, 2) int64, in the order of `coords`.

    Raises:
        ArtifactError: If the file is damaged, or is of other tiles.
    """
    with open_hdf5(path, "features") as file:
        found: Coords = file["coords"][:]
        left_out = int(file.attrs.get("tiles_left_out", 0))
        features: Float32Array = file["features"][:].astype(np.float32)
    kept = {tuple(corner): number for number, corner in enumerate(coords.tolist())}
    numbers = np.array([kept.get(tuple(corner), -1) for corner in found.tolist()], np.int64)
    in_order = bool((np.diff(numbers, prepend=-1) > 0).all())
    if not in_order or len(found) + left_out != len(coords):
        raise ArtifactError(
            f"{path}: its features are not of the tiles that are kept now. Run features again."
        )
    return features, found


def square_size(geometry: TileGeometry, tool: str) -> int:
    """Edge of a tile in whole level-0 pixels, for tools that know square tiles only.

    Raises:
        UnfitError: If width and height differ by more than a percent; less is a scanner's
            calibration, which those tools do not look at either.
    """
    if abs(geometry.width - geometry.height) > SQUARE_WITHIN * geometry.width:
        raise UnfitError(
            f"its tiles are {geometry.width:.0f} x {geometry.height:.0f} level-0 pixels, since its "
            f"mpp differs between x and y, and {tool} knows square tiles only",
            "Use tiles.grid: trident, or export to stamp or qupath",
        )
    return round(geometry.width)


def read_tissue(path: Path) -> list[Polygon]:
    """Polygons of a slide's tissue GeoJSON, level-0 pixels of the canvas.

    Raises:
        ArtifactError: If the file is damaged.
    """
    collection = read_collection(path)
    x, y = collection.get("slidemill", {}).get("origin", (0, 0))
    geometries = (shape(feature["geometry"]) for feature in collection["features"])
    if (x, y) != (0, 0):
        geometries = (translate(geometry, x, y) for geometry in geometries)
    return [
        polygon
        for geometry in geometries
        for polygon in (geometry.geoms if isinstance(geometry, MultiPolygon) else [geometry])
        if isinstance(polygon, Polygon)
    ]


def read_collection(path: Path) -> Mapping[str, Any]:
    """A GeoJSON FeatureCollection as plain values.

    Raises:
        ArtifactError: If the file is damaged.
    """
    try:
        collection: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"{path}: not readable as GeoJSON ({error}). Run tissue again."
        ) from error
    return collection
