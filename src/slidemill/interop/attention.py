"""Attention of a run as pictures and as GeoJSON for QuPath.

Reads attention of the evaluate stage, tile tables for the tiles' size, and slides at low
resolution. Writes `<row of the comparison>/<slide>.png` and `.geojson` below a folder of the
user's, atomically. A slide that is damaged or does not fit is named in one error at the end, after
all others are written.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from slidemill.artifacts.atomic import write_bytes
from slidemill.artifacts.formats import ATTENTION
from slidemill.artifacts.hdf5 import open_hdf5
from slidemill.artifacts.manifest import records
from slidemill.artifacts.parquet import read_parquet
from slidemill.config import NAME_PATTERN
from slidemill.errors import ArtifactError, Problem, SlideError, UserError
from slidemill.evaluate.figures.style import png_of, shown
from slidemill.interop import qupath
from slidemill.interop.read import ExportError, Float32Array, UnfitError, shorten
from slidemill.plan import CellPlan, Plan
from slidemill.report.heatmap import attention_heat, heatmap_figure, percentiles, tile_boxes
from slidemill.slides.bounds import bounds_of
from slidemill.slides.overview import Picture, read_picture
from slidemill.slides.reader import Slide
from slidemill.tiles.grid import Coords, TileGeometry
from slidemill.tiles.stage import read_tiles

log = logging.getLogger(__name__)

PICTURE_PX = 1200
"""Longest edge of the slide in a picture, pixels."""


@dataclass(frozen=True)
class SlideAttention:
    """Attention over the tiles of one slide.

    Attributes:
        weights: float32 (N,), one a tile.
        coords: (N, 2) int64 top-left corners, level-0 pixels.
        geometry: Size of the tiles.
    """

    weights: Float32Array
    coords: Coords
    geometry: TileGeometry

    def table(self) -> pd.DataFrame:
        """A row a tile: its corner, and its attention in three measures."""
        return pd.DataFrame(
            {
                "x": self.coords[:, 0],
                "y": self.coords[:, 1],
                "attention": self.weights.astype(np.float64),
                "attention_percentile": percentiles(self.weights),
                "attention_times_n": self.weights.astype(np.float64) * len(self.weights),
            }
        )


def export_attention(plan: Plan, out: Path, run: str | None = None) -> int:
    """Write every slide with attention as a picture and as GeoJSON.

    In the GeoJSON each tile is a QuPath tile with the measurements `attention`, as the model gave
    it; `attention_percentile`, its rank within the slide, 0 to 100; and `attention_times_n`, which
    is 1 for a tile that has its even share.

    Args:
        plan: The plan of the run.
        out: Folder to write to; files of the same names are replaced.
        run: Folder of one row of a comparison, as `evaluate` names it; by default all rows with
            attention.

    Returns:
        Number of slides and rows that were written.

    Raises:
        UserError: If there is no attention, or none of that row.
        ArtifactError: If the cohort's table is missing.
        ExportError: With every slide that could not be written; the others are.
    """
    files = _files(plan, run)
    cohort = read_parquet(plan.manifest_path(plan.cohort), "cohort")
    facts = {str(row["slide_id"]): row for row in records(cohort)}
    problems: list[Problem] = []
    written = 0
    for number, (slide_id, cells) in enumerate(files.items(), start=1):
        done, found = _export_slide(plan, out, slide_id, cells, facts)
        written += done
        problems += found
        log.info("export attention: slide %d/%d", number, len(files))
    if problems:
        raise ExportError(f"attention (the other {written} are written)", problems)
    return written


def _files(plan: Plan, run: str | None) -> dict[str, list[CellPlan]]:
    """Rows of comparisons with attention over each slide, by slide."""
    with_attention = {
        cell.stage.name: (cell, sorted(_folder(plan, cell).glob("*.h5"))) for cell in plan.cells
    }
    with_attention = {name: pair for name, pair in with_attention.items() if pair[1]}
    if not with_attention:
        raise UserError(
            f"{plan.results}: this run has no attention yet. Run `slidemill evaluate` with a model "
            "that has attention, such as abmil, then export again."
        )
    if run is not None and run not in with_attention:
        raise UserError(
            f"--run {run}: no row of a comparison with attention has this folder. Give one of "
            f"{shorten(list(with_attention))}."
        )
    files: dict[str, list[CellPlan]] = {}
    for name, (cell, paths) in with_attention.items():
        if run in (None, name):
            for path in paths:
                files.setdefault(path.stem, []).append(cell)
    return files


def _folder(plan: Plan, cell: CellPlan) -> Path:
    return cell.stage.folder(plan.results) / "slides"


def _export_slide(
    plan: Plan,
    out: Path,
    slide_id: str,
    cells: Sequence[CellPlan],
    facts: Mapping[str, Mapping[str, Any]],
) -> tuple[int, list[Problem]]:
    """Write one slide for all rows that have attention over it; what could not be written."""
    written, problems = 0, []
    seen: Picture | None = None
    for cell in cells:
        try:
            row = _known(slide_id, facts)
            found = read_attention(plan, cell, slide_id)
            path = out / cell.stage.name / f"{slide_id}.geojson"
            qupath.write_objects(path, [], found.table(), found.geometry, bounds_of(row)[:2])
            # Once for all rows, and not before one needs it.
            if seen is None:
                seen = _read_picture(row)
            boxes = tile_boxes(found.coords, found.geometry, seen.scale, seen.corner)
            painted = attention_heat(seen.pixels, boxes, found.weights)
            tiles = f"{len(found.weights):,} tile{'' if len(found.weights) == 1 else 's'}"
            title = f"{shown(slide_id)}\n{shown(f'{cell.model} on {cell.source}')}, {tiles}"
            write_bytes(path.with_suffix(".png"), png_of(heatmap_figure(painted, title)))
            written += 1
        except UnfitError as error:
            problems.append(Problem(_where(cell, slide_id), error.what, error.todo))
        except (ArtifactError, SlideError) as error:
            what = str(error).rstrip(".")
            problems.append(Problem(_where(cell, slide_id), what, "Then export again"))
    return written, problems


def _where(cell: CellPlan, slide_id: str) -> str:
    return f"{cell.stage.name}/{slide_id}"


def _known(slide_id: str, facts: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any]:
    """The slide's row of the cohort.

    Raises:
        UnfitError: If there is none, or its name is not safe as that of a file.
    """
    if slide_id not in facts or not re.fullmatch(NAME_PATTERN, slide_id):
        raise UnfitError(
            "there is attention over it, and the cohort has no such slide",
            "Remove the file, or run cohort and evaluate again",
        )
    return facts[slide_id]


def read_attention(plan: Plan, cell: CellPlan, slide_id: str) -> SlideAttention:
    """Attention of one row of a comparison over one slide.

    Raises:
        ArtifactError: If a file is missing or damaged.
        UnfitError: If weights are not finite, or not of the tiles that are kept now.
    """
    with open_hdf5(_folder(plan, cell) / f"{slide_id}.h5", ATTENTION.type) as file:
        weights: Float32Array = file["attention"][:]
        coords: Coords = file["coords"][:]
    tiles = cell.encoder.tiles.folder(plan.results) / "slides" / f"{slide_id}.parquet"
    table, geometry = read_tiles(tiles)
    if weights.ndim != 1 or coords.shape != (len(weights), 2) or not len(weights):
        raise UnfitError(
            f"it has {weights.shape} weights for {coords.shape} corners of tiles",
            "Delete its attention and run evaluate again",
        )
    if not np.isfinite(weights).all():
        raise UnfitError(
            "its attention has weights that are not finite",
            "Look at the model's training, and run evaluate again",
        )
    kept = set(map(tuple, table.loc[table["keep"], ["x", "y"]].to_numpy(np.int64).tolist()))
    if not set(map(tuple, coords.tolist())) <= kept:
        raise UnfitError(
            "its attention is not of the tiles that are kept now", "Run evaluate again"
        )
    return SlideAttention(weights, coords, geometry)


def _read_picture(row: Mapping[str, Any]) -> Picture:
    """The scanned part of a slide at low resolution.

    Raises:
        SlideError: If the slide is not readable.
    """
    with Slide.of(row) as slide:
        return read_picture(slide, PICTURE_PX)
