"""The tiles stage: which tiles of every slide go on.

Reads candidates and no pixels. Writes `slides/<slide>.parquet`: every candidate in its order, with
all that was measured of it, and `keep`. A slide of which no tile is kept is a failed row.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from slidemill.artifacts.formats import TILES
from slidemill.artifacts.manifest import SlideTask
from slidemill.artifacts.parquet import read_columns, read_footer, read_parquet, write_parquet
from slidemill.errors import SlideCode, SlideError
from slidemill.tiles.grid import TileGeometry
from slidemill.tiles.keep import Limits, keep, why_none

if TYPE_CHECKING:
    import pandas as pd


def compute(task: SlideTask, limits: Limits) -> int:
    """Choose the tiles of one slide and write them.

    Args:
        task: The slide; upstream are its candidates.
        limits: What a tile has to keep to.

    Returns:
        Number of tiles kept.

    Raises:
        SlideError: If no tile is kept (no-tiles).
    """
    assert task.upstream_path is not None
    candidates = read_columns(task.upstream_path, "candidates")
    geometry = read_footer(task.upstream_path)["geometry"]
    kept = keep(candidates, limits)
    if not kept.any():
        raise SlideError(
            SlideCode.NO_TILES,
            f"{task.facts['path']}: none of its {len(kept)} tiles with tissue is kept: "
            f"{why_none(candidates, limits)}. Relax these limits of tiles, or choose smaller tiles",
        )
    columns = candidates | {"keep": kept}
    write_parquet(task.path, columns, TILES, task.stamp, {"geometry": geometry})
    return int(kept.sum())


def read_stamp(path: Path) -> dict[str, Any]:
    """The stamp of a finished slide, and its number of kept tiles as `count`.

    Raises:
        ArtifactError: If the file is missing or not readable.
    """
    footer = read_footer(path)
    return footer | {"count": int(read_columns(path, "tiles")["keep"].sum())}


def read_tiles(path: Path) -> "tuple[pd.DataFrame, TileGeometry]":
    """The tiles of a slide and their size.

    Raises:
        ArtifactError: If the file is missing, damaged, or of an unknown version.
    """
    frame = read_parquet(path, "tiles")
    return frame, TileGeometry(**read_footer(path)["geometry"])
