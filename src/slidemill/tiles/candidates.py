"""The inner half of the tiles stage: all that is measured of every candidate tile.

Reads tissue masks and, unless `tiles.qc` is overview, the pixels of every tile that touches tissue.
Writes `slides/<slide>.parquet` with the format `candidates`, row-major (imported tiles in their
source's order). Its digest does not cover the limits by which tiles are kept, so that a change of
them reads nothing again.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from slidemill.artifacts.digest import file_sha256
from slidemill.artifacts.formats import CANDIDATES
from slidemill.artifacts.hdf5 import open_hdf5
from slidemill.artifacts.manifest import SlideTask
from slidemill.artifacts.parquet import read_columns, read_footer, write_parquet
from slidemill.errors import ArtifactError, SlideCode, SlideError
from slidemill.slides.bounds import bounds_of
from slidemill.slides.reader import Slide
from slidemill.slides.regions import MAX_UPSAMPLING
from slidemill.slides.staging import sound_slide
from slidemill.tiles.coverage import mask_fraction
from slidemill.tiles.grid import Coords, TileGeometry, exact_grid, padded_fraction, tile_geometry
from slidemill.tiles.keep import Columns
from slidemill.tiles.reading import read_qualities
from slidemill.tissue.classes import TissueClass

Fractions = npt.NDArray[np.float32]


@dataclass(frozen=True)
class GridSettings:
    """What decides the candidates of a slide.

    Attributes:
        tile_px: Edge of a tile, pixels.
        mpp: um per tile pixel that is asked for.
        overlap_px: Tile pixels that neighbouring tiles share.
        grid: exact, trident or import.
        qc: pixels or overview.
    """

    tile_px: int
    mpp: float
    overlap_px: int
    grid: Literal["exact", "trident", "import"]
    qc: Literal["pixels", "overview"]


@dataclass(frozen=True)
class Grid:
    """Tiles of a slide before their quality is known.

    Attributes:
        coords: (N, 2) int64 top-left corners, level-0 pixels.
        geometry: Size of the tiles.
        tissue: (N,) share of each tile that is tissue.
        touches: (N,) bool, whether it meets tissue at all.
    """

    coords: Coords
    geometry: TileGeometry
    tissue: Fractions
    touches: npt.NDArray[np.bool_]


def compute(task: SlideTask, settings: GridSettings, coordinates: Path | None) -> int:
    """Measure the candidate tiles of one slide and write them.

    Args:
        task: The slide; upstream is its tissue mask.
        settings: What decides the candidates.
        coordinates: Folder of imported coordinates, for `grid: import`.

    Returns:
        Number of candidates.

    Raises:
        SlideError: If the slide is too coarse or not the file that the cohort stage saw, no tile
            touches tissue, or none decodes.
    """
    assert task.upstream_path is not None
    facts = task.facts
    with open_hdf5(task.upstream_path, "tissue-mask") as file:
        classes = file["classes"][:]
        downsample = float(file.attrs["downsample_x"]), float(file.attrs["downsample_y"])
    grid = _lay(task, settings, coordinates, classes, downsample)

    def share(*kinds: TissueClass) -> Fractions:
        return mask_fraction(np.isin(classes, kinds), *downsample, grid.coords, grid.geometry)

    x, y, width, height = bounds_of(facts)
    unreadable = share(TissueClass.UNREADABLE)
    chosen = grid.touches | (unreadable > 0)
    columns: dict[str, npt.NDArray[Any]] = {
        "x": grid.coords[:, 0],
        "y": grid.coords[:, 1],
        "tissue_fraction": grid.tissue,
        "padded_fraction": padded_fraction(grid.coords, grid.geometry, width, height, (x, y)),
        "pen_fraction": share(TissueClass.PEN),
        "white_fraction": share(TissueClass.GLASS),
        "black_fraction": share(TissueClass.BLACK),
        "focus": np.full(len(chosen), np.nan, np.float32),
        "read_error": unreadable > 0,
    }
    columns = {name: values[chosen] for name, values in columns.items()}
    if settings.qc == "pixels":
        with sound_slide(facts, task.scratch) as path, Slide.of(facts, path) as slide:
            coords = np.stack([columns["x"], columns["y"]], axis=1)
            measured = read_qualities(slide, coords, grid.geometry, task.threads)
        # Damage that was seen from afar may spare the tile itself.
        meant = grid.touches[chosen] | measured.read_error
        columns |= measured.columns()
        columns = {name: values[meant] for name, values in columns.items()}
    _check(facts["path"], columns)
    write_parquet(task.path, columns, CANDIDATES, task.stamp, {"geometry": grid.geometry.as_dict()})
    return len(columns["x"])


def _check(path: str, columns: Columns) -> None:
    """Refuse a slide of which no tile can be used, whatever the limits.

    Raises:
        SlideError: If there is no candidate (no-tiles) or none decodes (read-error).
    """
    if not len(columns["x"]):
        raise SlideError(
            SlideCode.NO_TILES,
            f"{path}: no tile of the grid touches tissue; look at the tissue stage's overlay",
        )
    if columns["read_error"].all():
        raise SlideError(
            SlideCode.READ_ERROR,
            f"{path}: none of its {len(columns['x'])} tiles with tissue decodes; the file is "
            "damaged: copy or scan it again",
        )


def _lay(
    task: SlideTask,
    settings: GridSettings,
    coordinates: Path | None,
    classes: npt.NDArray[np.uint8],
    downsample: tuple[float, float],
) -> Grid:
    """Lay the grid that is asked for over a slide."""
    facts = task.facts
    mpp_x, mpp_y = float(facts["mpp_x"]), float(facts["mpp_y"])
    width, height = int(facts["width"]), int(facts["height"])
    if settings.grid == "trident":
        grid = _trident(task, settings, mpp_x, width, height)
    else:
        if settings.grid == "import":
            coords, geometry = read_coordinates(coordinates, task.slide_id)
        else:
            geometry = tile_geometry(
                settings.tile_px, settings.mpp, settings.overlap_px, mpp_x, mpp_y
            )
            x, y, scanned_width, scanned_height = bounds_of(facts)
            coords = exact_grid(geometry, scanned_width, scanned_height) + np.array([x, y])
        tissue = mask_fraction(classes == TissueClass.TISSUE, *downsample, coords, geometry)
        # Another tool's tiles are candidates as they are, wherever our mask lies.
        touches = (tissue > 0) | (settings.grid == "import")
        grid = Grid(coords, geometry, tissue, touches)
    finest = grid.geometry.width / grid.geometry.tile_px
    if finest * MAX_UPSAMPLING < 1.0:
        raise SlideError(
            SlideCode.TOO_COARSE,
            f"{facts['path']}: it has {mpp_x:.4g} um per pixel, and tiles are to have "
            f"{grid.geometry.mpp:.4g}; choose a larger tiles.mpp, or leave the slide out",
        )
    return grid


def _trident(
    task: SlideTask, settings: GridSettings, mpp_x: float, width: int, height: int
) -> Grid:
    from slidemill.tiles.trident import (
        nominal_magnification,
        touching,
        trident_geometry,
        trident_grid,
    )
    from slidemill.tissue.geojson import read_polygons

    assert task.upstream_path is not None
    try:
        geometry = trident_geometry(
            settings.tile_px, nominal_magnification(settings.mpp), settings.overlap_px, mpp_x
        )
    except ValueError as error:
        raise SlideError(SlideCode.TOO_COARSE, f"{task.facts['path']}: {error}") from None
    coords = trident_grid(geometry, width, height)
    polygons = read_polygons(task.upstream_path.with_suffix(".geojson"))
    touches, tissue = touching(coords, geometry, polygons, 0.0)
    return Grid(coords, geometry, tissue, touches)


def read_coordinates(folder: Path | None, slide_id: str) -> tuple[Coords, TileGeometry]:
    """Imported coordinates of a slide, and the size of the tiles.

    Raises:
        SlideError: If there are none for this slide (no-coordinates).
    """
    assert folder is not None
    path = folder / f"{slide_id}.parquet"
    try:
        found = read_columns(path, "coordinates")
        geometry = TileGeometry(**read_footer(path)["geometry"])
    except ArtifactError as error:
        raise SlideError(
            SlideCode.NO_COORDINATES,
            f"tiles.grid is import, and there are no coordinates for this slide ({error}); import "
            "them, or remove the slide",
        ) from None
    return np.stack([found["x"], found["y"]], axis=1), geometry


def inputs(
    facts: Any,  # noqa: ANN401 - a row of the cohort
    coordinates: Path | None,
) -> dict[str, str]:
    """Digests of files beside the slide that its candidates are made from."""
    if coordinates is None:
        return {}
    path = coordinates / f"{facts['slide_id']}.parquet"
    return {"coordinates": file_sha256(path) if path.is_file() else "missing"}


def read_stamp(path: Path) -> dict[str, Any]:
    """The stamp of a finished slide, and its number of candidates as `count`.

    Raises:
        ArtifactError: If the file is missing or not readable.
    """
    footer = read_footer(path)
    return footer | {"count": pq.read_metadata(path).num_rows}
