"""The tissue stage: a class map, polygons and a picture of every slide.

Reads slides once, at a fixed physical resolution, or the sheet's GeoJSON. Writes, per slide,
`slides/<slide>.geojson` (level-0 pixels as QuPath counts), `slides/<slide>.jpg` (the overlay) and
`slides/<slide>.h5` (mask and classes, written last). A slide in which nothing is found is a failed
row, never an empty result; it leaves its picture alone, to look at.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import numpy.typing as npt

from slidemill.artifacts.atomic import write_bytes, write_text
from slidemill.artifacts.digest import file_sha256
from slidemill.artifacts.formats import TISSUE
from slidemill.artifacts.hdf5 import read_attributes, write_hdf5
from slidemill.artifacts.manifest import Remarked, SlideTask
from slidemill.config import TissueConfig
from slidemill.errors import ArtifactError, SlideCode, SlideError
from slidemill.slides.overview import Overview, read_overview
from slidemill.slides.reader import RGB, Slide
from slidemill.slides.regions import Region, read_region
from slidemill.slides.staging import sound_slide
from slidemill.tissue import advice
from slidemill.tissue.classes import Kind, TissueClass, parse_kinds
from slidemill.tissue.find import TissueMap, clean_up, find_tissue
from slidemill.tissue.picture import picture_of
from slidemill.tissue.polygons import mask_to_polygons, to_geojson

if TYPE_CHECKING:
    from shapely.geometry import Polygon

    from slidemill.tissue.unet import Segmenter

Part = tuple[slice, slice]
"""Rows and columns of an overview."""
LoadSegmenter = Callable[[], "Segmenter"]


@dataclass(frozen=True)
class Found:
    """Tissue of a slide: classes of pixels and outlines in level-0 pixels."""

    tissue: TissueMap
    polygons: "list[Polygon]"
    remark: str | None = None


def compute(
    task: SlideTask, config: TissueConfig, load_segmenter: LoadSegmenter | None = None
) -> int | Remarked:
    """Find the tissue of one slide and write its three files.

    Args:
        task: The slide.
        config: Settings of the stage.
        load_segmenter: Gives the network for `method: unet`.

    Returns:
        Number of pieces of tissue, and what to look at if there is something.

    Raises:
        SlideError: If the slide is damaged, is not the file that the cohort stage saw (changed), or
            has no tissue (no-tissue).
    """
    facts = task.facts
    mpp_x, mpp_y = float(facts["mpp_x"]), float(facts["mpp_y"])
    # A slide that is coarser than the mask is to be has its own resolution.
    mpp = max(config.mpp, mpp_x, mpp_y)
    downsample = mpp / mpp_x, mpp / mpp_y
    kinds = excluded_kinds(facts, config)
    fault: SlideError | None = None
    with sound_slide(facts, task.scratch) as path, Slide.of(facts, path) as slide:
        bounds = slide.dimensions
        corner = slide.bounds[:2]
        part = _part(slide, downsample)
        overview = read_overview(slide, *downsample, task.threads)
        if config.method == "import":
            try:
                found = _imported(facts["tissue"], overview, downsample, slide)
            except SlideError as error:
                found, fault = _nothing(overview), error
        elif config.method == "unet":
            assert load_segmenter is not None
            classes = _by_network(slide, overview, config, load_segmenter(), (mpp_x, mpp_y))
            classes = _only(classes, part)
            found = _outlined(_cleaned(classes, mpp, config), downsample, bounds)
        else:
            tissue = find_tissue(
                overview.pixels[part],
                mpp,
                method=config.method,
                min_area_mm2=config.min_area_mm2,
                min_hole_mm2=config.min_hole_mm2,
                unreadable=overview.unreadable[part],
                exclude=kinds,
            )
            tissue = _on_canvas(tissue, overview.unreadable.shape, part)
            found = _outlined(tissue, downsample, bounds)
            found = replace(found, remark=advice.remark(tissue))
        if fault is None and not found.tissue.mask.any():
            seen = overview.pixels[part], overview.unreadable[part], mpp
            fault = advice.no_tissue(facts["path"], found.tissue, config, kinds, seen)
        overlay = picture_of(
            slide, overview.pixels, downsample, found.polygons, found.tissue.classes, task.threads
        )
    if fault is not None:
        # Without the .h5 it does not count as done.
        task.path.with_suffix(".geojson").unlink(missing_ok=True)
        write_bytes(task.path.with_suffix(".jpg"), overlay)
        raise fault
    _write(
        task,
        found,
        mpp,
        downsample,
        overlay,
        corner,
    )
    return Remarked(found.tissue.pieces, found.remark) if found.remark else found.tissue.pieces


def _write(
    task: SlideTask,
    found: Found,
    mpp: float,
    downsample: tuple[float, float],
    overlay: bytes,
    origin: tuple[int, int],
) -> None:
    tissue = found.tissue
    stamp = task.stamp.as_attributes(TISSUE.type, TISSUE.version)
    mpp_x, mpp_y = float(task.facts["mpp_x"]), float(task.facts["mpp_y"])
    geojson = to_geojson(found.polygons, mpp_x, mpp_y, dict(stamp), origin)
    write_text(task.path.with_suffix(".geojson"), geojson)
    write_bytes(task.path.with_suffix(".jpg"), overlay)
    write_hdf5(
        task.path,
        {"mask": tissue.mask.astype(np.uint8), "classes": tissue.classes},
        TISSUE,
        task.stamp,
        {
            "mpp": mpp,
            "downsample_x": downsample[0],
            "downsample_y": downsample[1],
            "threshold": tissue.threshold,
            "tissue_mm2": float(tissue.mask.sum() * (mpp / 1000) ** 2),
            "pieces": tissue.pieces,
            "remark": found.remark or "",
        },
    )


def _part(slide: Slide, downsample: tuple[float, float]) -> Part:
    """Pixels of the overview that lie wholly in the scanned part; all where that is all."""
    x, y, width, height = slide.bounds
    if slide.bounds == (0, 0, *slide.dimensions):
        return np.s_[:, :]
    return _within(y, height, downsample[1]), _within(x, width, downsample[0])


def _within(start: int, size: int, downsample: float) -> slice:
    """Whole pixels of a stretch; the one that it begins in where it has none."""
    first, last = math.ceil(start / downsample), math.floor((start + size) / downsample)
    if first < last:
        return slice(first, last)
    first = math.floor(start / downsample)
    return slice(first, first + 1)


def _only(classes: npt.NDArray[np.uint8], part: Part) -> npt.NDArray[np.uint8]:
    """Classes of the scanned part, on a canvas that is glass beside it."""
    canvas = np.full(classes.shape, TissueClass.GLASS, np.uint8)
    canvas[part] = classes[part]
    return canvas


def _on_canvas(tissue: TissueMap, shape: tuple[int, ...], part: Part) -> TissueMap:
    canvas = np.full(shape, TissueClass.GLASS, np.uint8)
    canvas[part] = tissue.classes
    return replace(tissue, classes=canvas)


def excluded_kinds(facts: Any, config: TissueConfig) -> tuple[Kind, ...]:  # noqa: ANN401 - a row
    """What is left out of a slide: what its row of the sheet says, else the configuration."""
    own = facts.get("exclude")
    return parse_kinds(own) if own else config.exclude


def _nothing(overview: Overview) -> Found:
    """A slide of which nothing is known but its picture."""
    classes = np.zeros(overview.unreadable.shape, np.uint8)
    classes[overview.unreadable] = TissueClass.UNREADABLE
    return Found(TissueMap(classes, math.nan, 0), [])


def _outlined(tissue: TissueMap, downsample: tuple[float, float], bounds: tuple[int, int]) -> Found:
    return Found(tissue, mask_to_polygons(tissue.mask, *downsample, bounds))


def _imported(
    tissue_path: str | None,
    overview: Overview,
    downsample: tuple[float, float],
    slide: Slide,
) -> Found:
    """The sheet's polygons as they are, and the mask that they make."""
    from slidemill.tissue.geojson import check_bounds, rasterise, read_placed

    if tissue_path is None:
        raise SlideError(
            SlideCode.TISSUE_FILE,
            "tissue.method is import, but the sheet's tissue column is empty for this slide; give "
            "a GeoJSON there",
        )
    polygons, said = read_placed(Path(tissue_path), slide.bounds[:2])
    bounded = slide.bounds != (0, 0, *slide.dimensions)
    remark = f"{Path(tissue_path).name} is taken to count from {said}" if bounded else None
    try:
        check_bounds(polygons, slide.dimensions)
    except SlideError as error:
        if remark is None:
            raise
        raise SlideError(error.code, f"{error.message}. {remark}") from None
    height, width = overview.unreadable.shape
    mask = rasterise(polygons, *downsample, width, height)
    classes = np.where(mask, np.uint8(TissueClass.TISSUE), np.uint8(TissueClass.GLASS))
    classes[overview.unreadable & ~mask] = TissueClass.UNREADABLE
    return Found(TissueMap(classes, math.nan, len(polygons)), polygons, remark)


def _by_network(
    slide: Slide,
    overview: Overview,
    config: TissueConfig,
    segmenter: "Segmenter",
    mpp: tuple[float, float],
) -> npt.NDArray[np.uint8]:
    """Classes by the network at its own resolution, brought to the overview's."""
    own = max(config.unet.mpp, *mpp)
    scale_x, scale_y = own / mpp[0], own / mpp[1]
    width = math.ceil(slide.dimensions[0] / scale_x)
    height = math.ceil(slide.dimensions[1] / scale_y)

    def read(x: int, y: int, w: int, h: int) -> RGB:
        region = Region(x * scale_x, y * scale_y, w * scale_x, h * scale_y)
        try:
            return read_region(slide, region, w, h)
        except SlideError as error:
            if error.code is not SlideCode.READ_ERROR:
                raise
            # What does not decode is marked by the overview, whatever the network makes of white.
            return np.full((h, w, 3), 255, np.uint8)

    classes = segmenter.predict(read, width, height)
    size = overview.unreadable.shape[::-1]
    fitted = np.asarray(
        cv2.resize(classes, (size[0], size[1]), interpolation=cv2.INTER_NEAREST_EXACT)
    ).astype(np.uint8)
    fitted[overview.unreadable] = TissueClass.UNREADABLE
    return fitted


def _cleaned(classes: npt.NDArray[np.uint8], mpp: float, config: TissueConfig) -> TissueMap:
    return clean_up(classes, mpp, config.min_area_mm2, config.min_hole_mm2)


def inputs(facts: Any, config: TissueConfig) -> dict[str, str]:  # noqa: ANN401 - a row of the cohort
    """Digests of what else a slide's result is made from: its tissue file, its own exclude."""
    if config.method in ("otsu", "hsv", "entropy") and facts.get("exclude"):
        return {"exclude": " ".join(excluded_kinds(facts, config)) or "none"}
    if config.method != "import" or not facts["tissue"]:
        return {}
    path = Path(facts["tissue"])
    return {"tissue-file": file_sha256(path) if path.is_file() else "missing"}


def read_stamp(path: Path) -> dict[str, Any]:
    """The stamp of a finished slide, and its number of pieces as `count`.

    Raises:
        ArtifactError: If one of the slide's three files is missing or not readable.
    """
    attributes = read_attributes(path)
    for suffix in (".geojson", ".jpg"):
        if not path.with_suffix(suffix).is_file():
            raise ArtifactError(f"{path.with_suffix(suffix)}: there is no such file. Run tissue.")
    # Results of before remarks have none.
    remark = str(attributes.get("remark", "")) or None
    return attributes | {"count": int(attributes["pieces"]), "remark": remark}
