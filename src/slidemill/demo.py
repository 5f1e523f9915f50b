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
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import pandas as pd
from shapely.geometry import Polygon, box, mapping
from shapely.ops import unary_union

from slidemill.artifacts.atomic import atomic_path, write_text
from slidemill.errors import Problem, SheetError, UserError
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
_EAST_MPP = (0.46, 0.463)  # the scanner of one site, which is not quite square; others have 0.5
_COLUMNS = ("slide_id", "x", "y", "signal_fraction")


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
    seed: int
    spec: SlideSpec
    torn: bool = False


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
        UserError: If a parameter is out of its range.
        SheetError: If the folder has a sheet that is not of a demo; it is not written over.
    """
    start = time.perf_counter()
    if patients < 2 or seed < 0 or min(size_px) < MIN_SIZE_PX or (jobs is not None and jobs < 1):
        raise UserError(
            f"demo: patients = {patients}, seed = {seed}, size = {size_px[0]} x {size_px[1]} px, "
            f"jobs = {jobs}. Give at least 2 patients, a seed of 0 or more, at least "
            f"{MIN_SIZE_PX} px on each side, and at least 1 job."
        )
    plans = _plan_cohort(patients, seed, bad_slides, size_px)
    sheet, stamp = folder / "slides.tsv", folder / "demo.json"
    parameters = {
        "generator_version": GENERATOR_VERSION,
        "patients": patients,
        "seed": seed,
        "bad_slides": bad_slides,
        "size_px": list(size_px),
    }
    if not _is_complete(folder, plans, parameters):
        _clear_old_demo(folder)
        tiles = _write_slides(folder, plans, jobs or _cores(), progress)
        _write_truth_tiles(folder / "truth" / "tiles.parquet", tiles)
        write_text(folder / "README.txt", _README)
        _write_sheet(sheet, plans)
        record = {"parameters": parameters, "slides": [plan.slide_id for plan in plans]}
        write_text(stamp, json.dumps(record, indent=2) + "\n")
    count = len({plan.patient_id for plan in plans})
    return DemoSummary(sheet, len(plans), count, time.perf_counter() - start)


def _plan_cohort(
    patients: int, seed: int, bad_slides: bool, size_px: tuple[int, int]
) -> list[_Plan]:
    """Who has which slides; labels are balanced within sites and among patients of two slides."""
    # Patient numbers are shuffled, so that the order in the sheet says nothing about the label.
    numbers = np.random.default_rng([seed, 0]).permutation(patients) + 1
    plans: list[_Plan] = []
    for k, number in enumerate(numbers.tolist()):
        label, site = k % 2, (k // 2) % len(SITES)
        for part in range(2 if k % 4 == (k // 4) % 2 else 1):
            name = f"P{number:03d}"
            plans.append(_plan_slide(f"{name}-{part + 1}", name, site, label, size_px))
    plans.sort(key=lambda plan: plan.slide_id)
    if bad_slides:
        plans.append(_plan_slide("glass-1", "P-glass", 0, 0, size_px, kind="glass"))
        plans.append(_plan_slide("torn-1", "P-torn", 1, 1, size_px, kind="torn"))
    return [_vary(plan, seed, index) for index, plan in enumerate(plans)]
