"""The tiles stage: the candidate tiles of every slide.

Reads tissue masks and no pixels. Writes `slides/<slide>.parquet`, one row a tile that touches
tissue, row-major; `keep` marks those that go on. A slide of which no tile is kept is a failed row.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from slidemill.artifacts.formats import TILES
from slidemill.artifacts.hdf5 import open_hdf5
from slidemill.artifacts.manifest import SlideTask
from slidemill.artifacts.parquet import read_footer, read_parquet, write_parquet
from slidemill.errors import SlideCode, SlideError
from slidemill.tiles.coverage import mask_fraction
from slidemill.tiles.grid import TileGeometry, exact_grid, padded_fraction, tile_geometry


def compute(
    task: SlideTask, *, tile_px: int, mpp: float, overlap_px: int, min_tissue: float
) -> int:
    """Lay the grid over one slide and write its tiles.

    Returns:
        Number of tiles kept.

    Raises:
        SlideError: If no tile has enough tissue (no-tiles).
    """
    assert task.upstream_path is not None
    facts = task.facts
    geometry = tile_geometry(tile_px, mpp, overlap_px, float(facts["mpp_x"]), float(facts["mpp_y"]))
    width, height = int(facts["width"]), int(facts["height"])
    coords = exact_grid(geometry, width, height)
    with open_hdf5(task.upstream_path, "tissue-mask") as file:
        downsample = float(file.attrs["downsample_x"]), float(file.attrs["downsample_y"])
        tissue = mask_fraction(file["mask"][:], *downsample, coords, geometry)
    candidate = tissue > 0
    frame = pd.DataFrame(
        {
            "x": coords[candidate, 0],
            "y": coords[candidate, 1],
            "tissue_fraction": tissue[candidate],
            "padded_fraction": padded_fraction(coords, geometry, width, height)[candidate],
            "keep": tissue[candidate] >= np.float32(min_tissue),
        }
    )
    kept = int(frame["keep"].sum())
    if not kept:
        best = float(tissue.max(initial=0.0))
        raise SlideError(
            SlideCode.NO_TILES,
            f"of {len(frame)} tiles that touch tissue none has a tissue fraction of {min_tissue}; "
            f"the best has {best:.2f}. Lower tiles.min_tissue or choose smaller tiles",
        )
    write_parquet(task.path, frame, TILES, task.stamp, {"geometry": geometry.as_dict()})
    return kept


def read_stamp(path: Path) -> dict[str, Any]:
    """The stamp of a finished slide, and its number of kept tiles as `count`.

    Raises:
        ArtifactError: If the file is missing or not readable.
    """
    footer = read_footer(path)
    return footer | {"count": int(pq.read_table(path, columns=["keep"])["keep"].to_numpy().sum())}


def read_tiles(path: Path) -> tuple[pd.DataFrame, TileGeometry]:
    """The tiles of a slide and their size.

    Raises:
        ArtifactError: If the file is missing, damaged, or of an unknown version.
    """
    frame = read_parquet(path, "tiles")
    return frame, TileGeometry(**read_footer(path)["geometry"])
