"""The demo cohort: a sheet, painted slides and the truth about them.

Everything in it is synthetic, and real to the software: pyramidal TIFF slides of several sites and
resolutions, patients with more than one slide, nuisances that are unrelated to the label, and, if
wanted, a slide of bare glass and a torn file. `slides.tsv` and then `demo.json` are written last,
so a folder that has `demo.json` is complete. The same parameters give the same files whatever the
number of processes is.
"""

import json
import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import shapely
from shapely import Polygon
from shapely.geometry import mapping

from slidemill.artifacts.atomic import atomic_path, write_text
from slidemill.errors import UserError
from slidemill.slides.pyramid import write_pyramid
from slidemill.slides.synthetic import SlideSpec, paint_slide
from slidemill.tiles.grid import exact_grid, tile_geometry

GENERATOR_VERSION = 1
"""Raised when the same parameters come to give other files."""
TRUTH_TILE_PX = 256
TRUTH_MPP = 0.5
TORN_SHARE = 0.6
"""Share of a torn file's bytes that is left."""
SITES = (("north", 1.0, 1.0), ("south", 1.18, 0.88), ("east", 0.86, 1.12))
"""Sites, each with its usual strength of haematoxylin and of eosin."""
MIN_SIZE_PX = 512
_MPP = {"east": (0.46, 0.463)}  # (x, y); that scanner is not quite square, all others have 0.5
_STAMP = "demo.json"
_Kind = Literal["good", "glass", "torn"]


@dataclass(frozen=True)
class DemoSummary:
    """What was written, or found complete.

    Attributes:
        sheet: The slide sheet.
        slides: Number of slides, bad ones among them.
        patients: Number of patients, those of bad slides among them.
        seconds: How long it took.
    """

    sheet: Path
    slides: int
    patients: int
    seconds: float


@dataclass(frozen=True)
class _Plan:
    """One slide to be."""

    slide_id: str
    patient_id: str
    site: str
    label: int
    kind: _Kind
    seed: int
    spec: SlideSpec


def write_demo(
    folder: Path,
    *,
    patients: int = 32,
    seed: int = 0,
    bad_slides: bool = True,
    jobs: int | None = None,
    size_px: tuple[int, int] = (4096, 3072),
    progress: Callable[[int, int], None] | None = None,
) -> DemoSummary:
    """Write the demo cohort, unless it is there already with the same parameters.

    Args:
        folder: Where to; it is made.
        patients: Number of patients with good slides; half are positive.
        seed: Decides everything else.
        bad_slides: Whether to add a slide of bare glass and a torn file, each with a patient.
        jobs: Number of processes; without it, one a core.
        size_px: Width and height of level 0, pixels.
        progress: Called with the number of slides done and of all, after each slide.

    Raises:
        UserError: If a parameter is out of its range, or the folder has a sheet that is not of a
            demo, which is not written over.
    """
    start = time.perf_counter()
    if patients < 2 or seed < 0 or min(size_px) < MIN_SIZE_PX or (jobs is not None and jobs < 1):
        raise UserError(
            f"demo: patients = {patients}, seed = {seed}, size = {size_px[0]} x {size_px[1]} px, "
            f"jobs = {jobs}. Give at least 2 patients, a seed of 0 or more, at least "
            f"{MIN_SIZE_PX} px on each side, and at least 1 job."
        )
    plans = _plan_cohort(patients, seed, bad_slides, size_px)
    record = {
        "generator_version": GENERATOR_VERSION,
        "patients": patients,
        "seed": seed,
        "bad_slides": bad_slides,
        "size_px": list(size_px),
        "slides": [plan.slide_id for plan in plans],
    }
    sheet = folder / "slides.tsv"
    old = _read_record(folder)
    if old != record or not all(path.exists() for path in _files(folder, record)):
        if old is not None:
            _remove_demo(folder, old)
        tiles = _write_slides(folder, plans, jobs or len(os.sched_getaffinity(0)), progress)
        with atomic_path(folder / "truth" / "tiles.parquet") as temporary:
            tiles.to_parquet(temporary, index=False)
        write_text(folder / "README.txt", _README)
        write_text(sheet, _sheet_text(plans))
        write_text(folder / _STAMP, json.dumps(record, indent=2) + "\n")
    count = len({plan.patient_id for plan in plans})
    return DemoSummary(sheet, len(plans), count, time.perf_counter() - start)


def _plan_cohort(
    patients: int, seed: int, bad_slides: bool, size_px: tuple[int, int]
) -> list[_Plan]:
    """Who has which slides; labels are balanced in sites and among patients of two slides."""
    # Patient numbers are shuffled, so that the order in the sheet says nothing about the label.
    numbers = np.random.default_rng([seed, _COHORT_STREAM]).permutation(patients) + 1
    rows: list[tuple[str, str, int, int, _Kind]] = []
    for k, number in enumerate(numbers.tolist()):
        patient = f"P{number:03d}"
        for part in range(2 if k % 4 == (k // 4) % 2 else 1):
            rows.append((f"{patient}-{part + 1}", patient, (k // 2) % len(SITES), k % 2, "good"))
    rows.sort()
    if bad_slides:
        rows += [("glass-1", "P-glass", 0, 0, "glass"), ("torn-1", "P-torn", 1, 1, "torn")]
    return [_plan_slide(row, seed, index, size_px) for index, row in enumerate(rows)]


_COHORT_STREAM = 2**32 - 1  # apart from the index of any slide


def _plan_slide(
    row: tuple[str, str, int, int, _Kind], seed: int, index: int, size_px: tuple[int, int]
) -> _Plan:
    """Draw what varies from slide to slide whatever its label is."""
    slide_id, patient_id, site_number, label, kind = row
    site, haematoxylin, eosin = SITES[site_number]
    rng = np.random.default_rng([seed, index])
    mpp_x, mpp_y = _MPP.get(site, (0.5, 0.5))
    jitter = rng.lognormal(0.0, 0.1, 2).tolist()
    marks: tuple[Literal["blue", "green", "black"], ...] = ("blue", "green", "black")
    pen, blurred = rng.random() < 0.2, rng.random() < 0.2
    colour = marks[int(rng.integers(len(marks)))]
    spec = SlideSpec(
        width_px=size_px[0],
        height_px=size_px[1],
        mpp_x=mpp_x,
        mpp_y=mpp_y,
        positive=label == 1,
        tissue=kind != "glass",
        haematoxylin=haematoxylin * jitter[0],
        eosin=eosin * jitter[1],
        pen=colour if pen and kind == "good" else None,
        blurred=blurred and kind == "good",
    )
    return _Plan(slide_id, patient_id, site, label, kind, int(rng.integers(2**63)), spec)


def _files(folder: Path, record: dict[str, Any]) -> list[Path]:
    """Every file that a record stands for, but the record itself."""
    slides = [Path(slide_id).name for slide_id in record["slides"]]
    return [
        folder / "slides.tsv",
        folder / "README.txt",
        folder / "truth" / "tiles.parquet",
        *(folder / "slides" / f"{slide_id}.tif" for slide_id in slides),
        *(folder / "truth" / f"{slide_id}.geojson" for slide_id in slides),
    ]


def _read_record(folder: Path) -> dict[str, Any] | None:
    """What the folder's demo was made of; None where there is none."""
    stamp = folder / _STAMP
    if not stamp.exists():
        if (folder / "slides.tsv").exists():
            raise UserError(
                f"{folder / 'slides.tsv'}: there is a sheet here that is not of a demo, and it is "
                "not written over. Choose another folder, or remove the sheet."
            )
        return None
    try:
        record = json.loads(stamp.read_text(encoding="utf-8"))
    except ValueError:
        record = None
    if not isinstance(record, dict) or not isinstance(record.get("slides"), list):
        raise UserError(f"{stamp}: this is no record of a demo. Choose another folder.")
    return record


def _remove_demo(folder: Path, record: dict[str, Any]) -> None:
    """Remove an older demo, its record last, so that no slide of it stays among the new ones."""
    for path in _files(folder, record):
        path.unlink(missing_ok=True)
    (folder / _STAMP).unlink()


def _write_slides(
    folder: Path,
    plans: Sequence[_Plan],
    jobs: int,
    progress: Callable[[int, int], None] | None,
) -> pd.DataFrame:
    """Write all slides; the truth about their tiles, in the order of the plans."""
    tables: dict[int, pd.DataFrame] = {}

    def done(index: int, table: pd.DataFrame) -> None:
        tables[index] = table
        if progress is not None:
            progress(len(tables), len(plans))

    if jobs == 1:
        for index, plan in enumerate(plans):
            done(index, _write_slide(folder, plan))
    else:
        # spawn: a fork would copy the threads' locks of whatever the caller has loaded.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(min(jobs, len(plans)), mp_context=context) as pool:
            futures = {pool.submit(_write_slide, folder, p): i for i, p in enumerate(plans)}
            for future in as_completed(futures):
                done(futures[future], future.result())
    return pd.concat([tables[index] for index in range(len(plans))], ignore_index=True)


def _write_slide(folder: Path, plan: _Plan) -> pd.DataFrame:
    """Paint and write one slide and its regions; the truth about its tiles."""
    painted = paint_slide(plan.spec, plan.seed)
    spec = plan.spec
    with atomic_path(folder / "slides" / f"{plan.slide_id}.tif") as temporary:
        write_pyramid(temporary, painted.pixels, mpp_x=spec.mpp_x, mpp_y=spec.mpp_y)
        if plan.kind == "torn":
            os.truncate(temporary, int(temporary.stat().st_size * TORN_SHARE))
    kind = {"classification": {"name": "signal"}}
    features = [
        {"type": "Feature", "properties": kind, "geometry": mapping(region)}
        for region in painted.signal_regions
    ]
    collection = {"type": "FeatureCollection", "features": features}
    write_text(folder / "truth" / f"{plan.slide_id}.geojson", json.dumps(collection) + "\n")
    return truth_tiles(plan.slide_id, painted.signal_regions, spec)


def truth_tiles(slide_id: str, regions: Sequence[Polygon], spec: SlideSpec) -> pd.DataFrame:
    """Share of signal in the tiles of the global grid of 256 px at 0.5 um per pixel.

    Args:
        slide_id: The slide.
        regions: Its signal regions, level-0 pixels.
        spec: Size and resolution of the slide.

    Returns:
        One row a tile that has signal: slide_id; x, y (int64, top-left, level-0 pixels);
        signal_fraction (float32), the share of the tile's area within the regions.
    """
    geometry = tile_geometry(TRUTH_TILE_PX, TRUTH_MPP, 0, spec.mpp_x, spec.mpp_y)
    x, y = exact_grid(geometry, spec.width_px, spec.height_px).T
    tiles = shapely.box(x, y, x + geometry.width, y + geometry.height)
    areas = shapely.area(shapely.intersection(tiles, shapely.union_all(list(regions))))
    fraction = np.asarray(areas / (geometry.width * geometry.height), dtype=np.float32)
    some = fraction > 0
    return pd.DataFrame(
        {
            "slide_id": pd.Series([slide_id] * int(some.sum()), dtype="str"),
            "x": x[some],
            "y": y[some],
            "signal_fraction": fraction[some],
        }
    )


def _sheet_text(plans: Sequence[_Plan]) -> str:
    lines = ["slide_id\tpath\tpatient_id\tsite\tlabel"]
    for plan in plans:
        path = f"slides/{plan.slide_id}.tif"
        lines.append(f"{plan.slide_id}\t{path}\t{plan.patient_id}\t{plan.site}\t{plan.label}")
    return "\n".join(lines) + "\n"


_README = """\
A demo cohort of slidemill. Every slide is painted by a program: no patient is behind any of it.

slides.tsv           The slide sheet. label is 1 for patients whose slides have foci, else 0. site
                     decides stain and scanner and is unrelated to the label.
slides/*.tif         Pyramidal TIFF slides with their resolution in the tags.
truth/*.geojson      Outlines of the foci of each slide in level-0 pixels; none in negative slides.
truth/tiles.parquet  Share of foci in each tile of the grid of 256 px at 0.5 um per pixel from
                     (0, 0): slide_id, x, y (top-left, level-0 pixels), signal_fraction. Tiles
                     without any are left out.
demo.json            The parameters; while they stay the same, nothing is written again.

The signal: in a focus nuclei are about three times as dense as elsewhere and a little larger.
Strength of the stains, cellularity, patches of stronger stain, pen marks and blurred patches vary
in both classes alike.

If there, glass-1 has no tissue and torn-1 is a file that was cut off; both are meant to fail.

No number that comes from this cohort says anything about real tissue.
"""
