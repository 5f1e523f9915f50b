"""Exports: what a run has made, as another tool lays it out.

Walks the plan: reads tiles, and features and tissue where they are there, and writes the tool's
files below a folder of the user's. A slide that the tool's format cannot hold is named in one error
at the end, after all others are written; a slide that failed in the run is named in the log.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from slidemill.errors import Problem, UserError
from slidemill.interop import clam, qupath, stamp, trident
from slidemill.interop.read import (
    ExportError,
    SlideTiles,
    UnfitError,
    encoders_of,
    finished_files,
    iterate_slides,
    read_collection,
    read_features,
    read_tissue,
    safe_name,
    shorten,
    square_size,
)
from slidemill.plan import EncoderPlan, Plan

log = logging.getLogger(__name__)

ExportTool = Literal["trident", "clam", "stamp", "qupath"]


@dataclass(frozen=True)
class EncodedFile:
    """Features of one slide.

    Attributes:
        unit: The encoder's part of the plan.
        path: The features file.
        alone: Whether it is the tiling's only encoder.
    """

    unit: EncoderPlan
    path: Path
    alone: bool


Encoded = Mapping[str, EncodedFile]
"""A slide's features by the encoder's name, safe in a path."""


def export(plan: Plan, tool: ExportTool, out: Path) -> int:
    """Write every finished slide of a run as a tool's files.

    With several tilings, each gets a folder of its own below `out`, but for TRIDENT and STAMP,
    whose own layouts part them.

    Args:
        plan: The plan of the run.
        tool: The tool.
        out: Folder to write to; files of the same names are replaced.

    Returns:
        Number of slides that were written.

    Raises:
        ArtifactError: If the run has no tiles yet, or files of it are damaged.
        UserError: If the tool takes features only and there are none.
        ExportError: With every slide that the format cannot hold; the others are written.
    """
    write = _WRITERS[tool]
    written: set[str] = set()
    other_field: list[str] = []
    problems: list[Problem] = []
    if tool == "stamp":
        _need_features(plan)
    for stage in plan.tiles.values():
        units = encoders_of(plan, stage)
        files = {name: finished_files(plan, unit.features) for name, unit in units.items()}
        apart = len(plan.tiles) > 1 and tool in ("clam", "qupath")
        root = out / safe_name(stage.name) if apart else out
        done = []
        for slide in iterate_slides(plan, stage):
            slide_id = slide.facts.slide_id
            encoded = {
                name: EncodedFile(units[name], found[slide_id], len(units) == 1)
                for name, found in files.items()
                if slide_id in found
            }
            if tool == "stamp" and not encoded:
                log.warning("%s is left out: it has no features", slide_id)
                continue
            try:
                write(root, slide, encoded)
            except UnfitError as error:
                problems.append(Problem(slide_id, error.what, error.todo))
                continue
            done.append(slide_id)
            if tool == "trident" and not trident.reads_as_said(slide):
                other_field.append(slide_id)
        if tool == "clam":
            clam.write_process_list(root / "process_list_autogen.csv", done)
        written.update(done)
    if problems:
        raise ExportError(f"{tool} (the other {len(written)} slides are written)", problems)
    _warn_of_fields(tool, other_field)
    return len(written)


def _warn_of_fields(tool: str, slide_ids: list[str]) -> None:
    if slide_ids:
        log.warning(
            "%d slides have tiles that %s would not read as this run did, since it rounds mpp to "
            "a magnification; features are right, new ones of it would be of another field: %s",
            len(slide_ids),
            tool,
            shorten(slide_ids),
        )


def _need_features(plan: Plan) -> None:
    if not any(plan.manifest_path(unit.features).is_file() for unit in plan.encoders):
        raise UserError(
            f"{plan.results}: STAMP's files are features, and this run has none yet. "
            "Run `slidemill features`, then export again."
        )


def _write_trident(root: Path, slide: SlideTiles, encoded: Encoded) -> None:
    slide_id, coords = slide.facts.slide_id, slide.coords
    attributes = trident.coords_attributes(slide)
    name = trident.folder_name(slide.magnification, slide.geometry.tile_px, slide.overlap_px)
    trident.write_patches(root / name / "patches" / f"{slide_id}_patches.h5", coords, attributes)
    for encoder, file in encoded.items():
        path = root / name / f"features_{encoder}" / f"{slide_id}.h5"
        features, encoded_coords = read_features(file.path, coords)
        trident.write_features(path, features, encoded_coords, attributes, encoder)
    if slide.tissue is not None:
        contours = root / "contours_geojson" / f"{slide_id}.geojson"
        trident.write_contours(contours, slide_id, read_tissue(slide.tissue))


def _write_clam(root: Path, slide: SlideTiles, encoded: Encoded) -> None:
    facts, coords = slide.facts, slide.coords
    size, dimensions = square_size(slide.geometry, "CLAM"), (facts.width, facts.height)
    patches = root / "patches" / f"{facts.slide_id}.h5"
    clam.write_patches(patches, coords, facts.slide_id, size, dimensions)
    for encoder, file in encoded.items():
        # CLAM has one encoder a folder; with one, its folders are where it puts them.
        folder = root if file.alone else root / f"features_{encoder}"
        features, encoded_coords = read_features(file.path, coords)
        clam.write_features(folder / "h5_files" / f"{facts.slide_id}.h5", features, encoded_coords)
        clam.write_tensor(folder / "pt_files" / f"{facts.slide_id}.pt", features)


def _write_stamp(root: Path, slide: SlideTiles, encoded: Encoded) -> None:
    facts, coords, geometry = slide.facts, slide.coords, slide.geometry
    for encoder, file in encoded.items():
        stamp.write_features(
            root / encoder / f"{facts.slide_id}.h5",
            *read_features(file.path, coords),
            mpp=(facts.mpp_x, facts.mpp_y),
            tile_px=geometry.tile_px,
            tile_um=geometry.tile_px * geometry.mpp,
            encoder=encoder,
            digest=file.unit.features.digest,
        )


def _write_qupath(root: Path, slide: SlideTiles, _: Encoded) -> None:
    tissue = read_collection(slide.tissue)["features"] if slide.tissue is not None else []
    path = root / f"{slide.facts.slide_id}.geojson"
    qupath.write_objects(path, tissue, slide.table, slide.geometry, slide.facts.corner)


_WRITERS: Mapping[ExportTool, Callable[[Path, SlideTiles, Encoded], None]] = {
    "trident": _write_trident,
    "clam": _write_clam,
    "stamp": _write_stamp,
    "qupath": _write_qupath,
}
