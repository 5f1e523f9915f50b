"""The features stage: the kept tiles of every slide through one encoder.

Reads slides and tiles. Writes `slides/<slide>.h5` with `/features` and `/coords`, in the order of
the tiles, readable as it is by TRIDENT's and Patho-Bench's readers.
"""

from pathlib import Path
from typing import Any

import numpy as np

from slidemill.artifacts.formats import FEATURES
from slidemill.artifacts.hdf5 import open_hdf5, write_hdf5
from slidemill.artifacts.manifest import SlideTask
from slidemill.features.build import Encode
from slidemill.features.encoders import Encoder
from slidemill.features.engine import encode_slide
from slidemill.slides.reader import Slide
from slidemill.tiles.grid import TileGeometry
from slidemill.tiles.stage import read_tiles
from slidemill.tiles.trident import level0_magnification, nominal_magnification


def compute(
    task: SlideTask,
    *,
    encoder: Encoder,
    encode: Encode,
    mpp: float,
    batch_size: int,
    threads: int,
) -> int:
    """Encode the kept tiles of one slide.

    Args:
        task: The slide; upstream are its tiles.
        encoder: The tile encoder.
        encode: What it does to a batch of tiles.
        mpp: um per tile pixel that was asked for; a grid of magnifications gives others.
        batch_size: Tiles a batch.
        threads: Threads that read.

    Returns:
        Number of tiles.

    Raises:
        SlideError: If the slide is damaged or too coarse.
    """
    assert task.upstream_path is not None
    tiles, geometry = read_tiles(task.upstream_path)
    coords = tiles.loc[tiles["keep"], ["x", "y"]].to_numpy(np.int64)
    with Slide(Path(task.facts["path"]), task.facts["reader"]) as slide:
        features, numbers = encode_slide(slide, coords, geometry, encode, batch_size, threads)
        dimensions = slide.dimensions
    left_out = len(coords) - len(numbers)
    coords = coords[numbers]
    mpp_x, mpp_y = float(task.facts["mpp_x"]), float(task.facts["mpp_y"])
    write_hdf5(
        task.path,
        {"features": features, "coords": coords},
        FEATURES,
        task.stamp,
        {
            "encoder": encoder.spec.name,
            "weights_sha256": encoder.weights_sha256,
            "mpp": geometry.mpp,
            "tile_px": geometry.tile_px,
            "mpp_x": mpp_x,
            "mpp_y": mpp_y,
            "step_x": geometry.step_x,
            "step_y": geometry.step_y,
            "tiles_left_out": left_out,
        },
        {"coords": trident_attributes(task.slide_id, geometry, mpp, mpp_x, dimensions)},
    )
    return len(coords)


def trident_attributes(
    slide_id: str, geometry: TileGeometry, mpp: float, mpp_x: float, dimensions: tuple[int, int]
) -> dict[str, str | int | float]:
    """What TRIDENT writes on `coords`.

    Level 0 has the magnification of TRIDENT's table, or where that ends, the nearest to 10 / mpp;
    the tiles have the one that was asked for.
    """
    try:
        level0 = level0_magnification(mpp_x)
    except ValueError:
        level0 = max(1, round(10.0 / mpp_x))
    overlap = round(geometry.tile_px * (1.0 - geometry.step_x / geometry.width))
    return {
        "patch_size": geometry.tile_px,
        "patch_size_level0": round(geometry.width),
        "level0_magnification": level0,
        "target_magnification": nominal_magnification(mpp),
        "overlap": overlap,
        "name": slide_id,
        "savetodir": "",
        "level0_width": dimensions[0],
        "level0_height": dimensions[1],
    }


def read_stamp(path: Path) -> dict[str, Any]:
    """The stamp of a finished slide, and its number of tiles as `count`.

    Raises:
        ArtifactError: If the file is missing or not readable.
    """
    with open_hdf5(path, "features") as file:
        return dict(file.attrs) | {"count": len(file["coords"])}
