"""The tissue stage: a mask, polygons and a picture of every slide.

Reads slides at a fixed physical resolution. Writes, per slide, `slides/<slide>.geojson` (level-0
pixels), `slides/<slide>.jpg` (the overlay) and `slides/<slide>.h5` (the mask, written last).
A slide in which nothing is found is a failed row, never an empty result.
"""

from pathlib import Path
from typing import Any

import numpy as np

from slidemill.artifacts.atomic import write_bytes, write_text
from slidemill.artifacts.formats import TISSUE
from slidemill.artifacts.hdf5 import read_attributes, write_hdf5
from slidemill.artifacts.manifest import SlideTask
from slidemill.config import TissueConfig
from slidemill.errors import ArtifactError, SlideCode, SlideError
from slidemill.slides.overview import read_overview
from slidemill.slides.reader import Slide
from slidemill.tissue.otsu import find_tissue
from slidemill.tissue.overlay import EDGE_PX, draw_overlay
from slidemill.tissue.polygons import mask_to_polygons, to_geojson


def compute(task: SlideTask, config: TissueConfig) -> int:
    """Find the tissue of one slide and write its three files.

    Returns:
        Number of pieces of tissue.

    Raises:
        SlideError: If the slide is damaged, or has no tissue (no-tissue).
    """
    mpp_x, mpp_y = float(task.facts["mpp_x"]), float(task.facts["mpp_y"])
    downsample_x, downsample_y = config.mpp / mpp_x, config.mpp / mpp_y
    with Slide(Path(task.facts["path"])) as slide:
        pixels = read_overview(slide, downsample_x, downsample_y)
        bounds = slide.dimensions
        scale = max(1.0, max(bounds) / EDGE_PX)
        picture = read_overview(slide, scale, scale)
    tissue = find_tissue(pixels, config.mpp, config.min_area_mm2, config.min_hole_mm2)
    if not tissue.mask.any():
        raise SlideError(
            SlideCode.NO_TISSUE,
            f"no piece of tissue of at least {config.min_area_mm2} square mm is more saturated "
            f"than {tissue.threshold:.3f}; look at the slide, and lower tissue.min_area_mm2 if it "
            "has smaller pieces",
        )
    polygons = mask_to_polygons(tissue.mask, downsample_x, downsample_y, bounds)
    stamp = task.stamp.as_attributes(TISSUE.type, TISSUE.version)
    write_text(task.path.with_suffix(".geojson"), to_geojson(polygons, mpp_x, mpp_y, dict(stamp)))
    overlay = draw_overlay(picture, polygons, scale, scale)
    write_bytes(task.path.with_suffix(".jpg"), overlay)
    write_hdf5(
        task.path,
        {"mask": tissue.mask.astype(np.uint8)},
        TISSUE,
        task.stamp,
        {
            "mpp": config.mpp,
            "downsample_x": downsample_x,
            "downsample_y": downsample_y,
            "threshold": tissue.threshold,
            "tissue_mm2": float(tissue.mask.sum() * (config.mpp / 1000) ** 2),
            "pieces": tissue.pieces,
        },
    )
    return tissue.pieces


def read_stamp(path: Path) -> dict[str, Any]:
    """The stamp of a finished slide, and its number of pieces as `count`.

    Raises:
        ArtifactError: If one of the slide's three files is missing or not readable.
    """
    attributes = read_attributes(path)
    for suffix in (".geojson", ".jpg"):
        if not path.with_suffix(suffix).is_file():
            raise ArtifactError(f"{path.with_suffix(suffix)}: there is no such file. Run tissue.")
    return attributes | {"count": int(attributes["pieces"])}
