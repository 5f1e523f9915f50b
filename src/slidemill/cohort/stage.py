"""The cohort stage: opens slides and says what they are.

Reads the sheet and the slides' metadata, no pixels. Writes `buckets/<bucket>.parquet` (what the
files are) and `cohort.parquet` (joined with the sheet, one row a slide). Guarantees that every
slide of the sheet has exactly one row: `ok` with a resolution and its source, or `failed` with a
reason.
"""

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from slidemill.artifacts.digest import fingerprint
from slidemill.artifacts.folder import StageId, open_folder
from slidemill.artifacts.formats import COHORT, SLIDES
from slidemill.artifacts.manifest import check_failures, failure, merge
from slidemill.artifacts.parquet import read_parquet, write_parquet
from slidemill.artifacts.provenance import Stamp
from slidemill.cohort.sheet import Sheet, SheetRow
from slidemill.config import CohortConfig
from slidemill.errors import SlideError
from slidemill.slides.reader import Slide
from slidemill.slides.resolution import objective_power, resolve_mpp

log = logging.getLogger(__name__)


def run_bucket(
    stage: StageId,
    results: Path,
    rows: Sequence[SheetRow],
    config: CohortConfig,
    output: Path,
) -> None:
    """Open the slides of one bucket and write what they are.

    Args:
        stage: Identity of the stage.
        results: Folder of all results.
        rows: The bucket's rows of the sheet.
        config: The cohort's configuration.
        output: The bucket's table.
    """
    open_folder(stage, results)
    frame = pd.DataFrame([describe(stage, row, config) for row in rows])
    for row in frame[frame["status"] == "failed"].itertuples():
        log.warning("cohort %s: failed, %s: %s", row.slide_id, row.error_code, row.message)
    stamp = Stamp(digest=stage.digest, item_digest=stage.digest, parameters=dict(stage.parameters))
    write_parquet(output, frame[[item.name for item in SLIDES.fields]], SLIDES, stamp)


def describe(stage: StageId, row: SheetRow, config: CohortConfig) -> dict[str, Any]:
    """Open a slide and say what it is: a row of the `slides` table."""
    started = time.perf_counter()
    facts: dict[str, Any] = {item.name: None for item in SLIDES.fields} | {
        "slide_id": row.slide_id,
        "path": str(row.path),
        "tissue": str(row.tissue) if row.tissue else None,
        "width": 0,
        "height": 0,
        "levels": 0,
        "size_bytes": row.path.stat().st_size if row.path.is_file() else 0,
    }
    try:
        with Slide(row.path) as slide:
            facts |= _facts(slide)
            resolution = resolve_mpp(slide.properties, row.mpp, config.missing_mpp)
    except SlideError as error:
        return facts | {
            key: value
            for key, value in failure(
                row.slide_id, stage.stage, error, time.perf_counter() - started
            ).items()
            if key in facts and key != "path"
        }
    facts |= {
        "mpp_x": resolution.mpp_x,
        "mpp_y": resolution.mpp_y,
        "mpp_source": resolution.source,
        "fingerprint": fingerprint(row.path),
        "status": "ok",
        "seconds": time.perf_counter() - started,
    }
    inputs = [facts["fingerprint"], resolution.mpp_x, resolution.mpp_y]
    return facts | {"item_digest": stage.item_digest(inputs)}


def _facts(slide: Slide) -> dict[str, Any]:
    return {
        "width": slide.dimensions[0],
        "height": slide.dimensions[1],
        "levels": len(slide.level_dimensions),
        "vendor": slide.vendor,
        "reader": slide.reader,
        "objective_power": objective_power(slide.properties),
    }


def gather(
    stage: StageId, results: Path, sheet: Sheet, buckets: Sequence[Path], max_failed: float
) -> Path:
    """Join the buckets with the sheet into `cohort.parquet`; returns its path.

    Raises:
        CohortError: If more than `max_failed` of the slides failed; the table is written before.
    """
    facts = merge(
        (read_parquet(path, "slides") for path in buckets), [row.slide_id for row in sheet.rows]
    )
    identity = pd.DataFrame(
        {
            "slide_id": row.slide_id,
            "patient_id": row.patient_id,
            "split": row.split,
        }
        | {name: row.labels.get(name) for name in sheet.label_columns}
        for row in sheet.rows
    )
    frame = identity.merge(facts, on="slide_id", validate="one_to_one")
    path = open_folder(stage, results) / "cohort.parquet"
    stamp = Stamp(digest=stage.digest, item_digest=stage.digest, parameters=dict(stage.parameters))
    write_parquet(path, frame, COHORT, stamp)
    check_failures(frame, max_failed, path)
    return path
