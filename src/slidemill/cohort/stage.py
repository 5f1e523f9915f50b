"""The cohort stage: opens slides and says what they are.

Reads the sheet and the slides' metadata; pixels only where levels have to be told apart, and of a
slide that opens and fails. Writes `buckets/<bucket>.parquet` (what the files are), `cohort.parquet`
(joined with the sheet, one row a slide), and `slides/<slide>.jpg`, the picture of a slide that
failed. Guarantees that every slide of the sheet has exactly one row: `ok` with a resolution and its
source, or `failed` with a reason.
"""

import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from slidemill.artifacts.atomic import write_bytes
from slidemill.artifacts.folder import StageId, open_folder
from slidemill.artifacts.formats import COHORT, SLIDES
from slidemill.artifacts.manifest import check_failures, failure, lost_error, merge, tell
from slidemill.artifacts.parquet import Row, read_rows, write_rows
from slidemill.artifacts.provenance import Stamp
from slidemill.artifacts.workers import Lost, work_apart
from slidemill.cohort.sheet import Sheet, SheetRow
from slidemill.config import CohortConfig
from slidemill.errors import SlideError
from slidemill.slides.identity import check_same, slide_fingerprint
from slidemill.slides.overview import jpeg_of, read_picture
from slidemill.slides.reader import Slide
from slidemill.slides.resolution import objective_power, resolve_mpp

PICTURE_PX = 800
"""Longest edge of the picture of a slide that failed here."""
MAX_READ_PX = 64_000_000
"""A picture of which more pixels would have to be read is not made."""


def run_bucket(
    stage: StageId,
    results: Path,
    rows: Sequence[SheetRow],
    config: CohortConfig,
    output: Path,
    cpus: int,
) -> None:
    """Open the slides of one bucket, side by side, and write what they are.

    Args:
        stage: Identity of the stage.
        results: Folder of all results.
        rows: The bucket's rows of the sheet.
        config: The cohort's configuration.
        output: The bucket's table.
        cpus: Processes that open slides.
    """
    open_folder(stage, results)
    found: dict[int, Row] = {}
    work = partial(describe, stage, config=config, pictures=stage.folder(results) / "slides")
    for number, facts in work_apart(work, list(rows), cpus, config.slide_seconds):
        if isinstance(facts, Lost):
            error = lost_error(rows[number].path, facts)
            found[number] = _failed(stage, rows[number], _unknown(rows[number]), error, 0.0)
        else:
            found[number] = facts
    table = [found[number] for number in range(len(rows))]
    stamp = Stamp(digest=stage.digest, item_digest=stage.digest, parameters=dict(stage.parameters))
    write_rows(output, table, SLIDES, stamp)


def describe(
    stage: StageId, row: SheetRow, config: CohortConfig, pictures: Path | None = None
) -> Row:
    """Open a slide and say what it is: a row of the `slides` table.

    Args:
        stage: Identity of the stage.
        row: The slide's row of the sheet.
        config: The cohort's configuration.
        pictures: Folder for the picture of a slide that opens and fails; None makes none.
    """
    started = time.perf_counter()
    path, seen = Path(row.path), ""
    # What is wrong with a file that cannot be read is said better by who opens it.
    with suppress(OSError, RuntimeError):
        seen = slide_fingerprint(path)
    facts = _unknown(row)
    try:
        with Slide(path, config.reader, row.scene) as slide:
            facts |= _facts(slide)
            try:
                resolution = resolve_mpp(slide.properties, row.mpp, config.missing_mpp)
            except SlideError:
                if pictures is not None:
                    _keep_picture(slide, pictures / f"{row.slide_id}.jpg")
                raise
        # Facts and fingerprint have to be of the same file.
        check_same(path, seen)
    except SlideError as error:
        return _failed(stage, row, facts, error, time.perf_counter() - started)
    facts |= {
        "mpp_x": resolution.mpp_x,
        "mpp_y": resolution.mpp_y,
        "mpp_source": resolution.source,
        "fingerprint": seen,
        "status": "ok",
        "seconds": time.perf_counter() - started,
    }
    inputs = [facts["fingerprint"], resolution.mpp_x, resolution.mpp_y]
    inputs += [] if row.scene is None else [row.scene]
    return facts | {"item_digest": stage.item_digest(inputs)}


def _keep_picture(slide: Slide, path: Path) -> None:
    """Leave a picture to look at, where one is read quickly."""
    level = slide.best_level(max(slide.bounds[2:]) / PICTURE_PX)
    width, height = slide.level_dimensions[level]
    if width * height > MAX_READ_PX:
        return
    with suppress(SlideError):
        write_bytes(path, jpeg_of(read_picture(slide, PICTURE_PX).pixels))


def _unknown(row: SheetRow) -> Row:
    """A row of the `slides` table of which only the sheet's part is known."""
    return {item.name: None for item in SLIDES.fields} | {
        "slide_id": row.slide_id,
        "path": row.path,
        "tissue": row.tissue,
        "width": 0,
        "height": 0,
        "levels": 0,
        "exclude": row.exclude,
        "bounds_x": 0,
        "bounds_y": 0,
        "bounds_width": 0,
        "bounds_height": 0,
        "size_bytes": _length(Path(row.path)),
    }


def _failed(stage: StageId, row: SheetRow, facts: Row, error: SlideError, seconds: float) -> Row:
    found = failure(row.slide_id, stage.stage, error, seconds)
    return facts | {key: value for key, value in found.items() if key in facts and key != "path"}


def _length(path: Path) -> int:
    """Bytes of a file; 0 where there is none, or none that can be looked at."""
    try:
        return path.stat().st_size if path.is_file() else 0
    except OSError:
        return 0


def _facts(slide: Slide) -> Row:
    x, y, width, height = slide.bounds
    scales = (f"{one.downsample:.10g} {one.source}" for one in slide.level_scales)
    return {
        "scene": slide.scene,
        "other_scenes": "; ".join(slide.other_scenes) or None,
        "level_scales": ", ".join(scales),
        "levels_left_out": "; ".join(slide.left_out) or None,
        "bounds_x": x,
        "bounds_y": y,
        "bounds_width": width,
        "bounds_height": height,
        "remark": _remark(slide),
        "width": slide.dimensions[0],
        "height": slide.dimensions[1],
        "levels": len(slide.level_dimensions),
        "vendor": slide.vendor,
        "reader": slide.reader,
        "objective_power": objective_power(slide.properties),
    }


def _remark(slide: Slide) -> str | None:
    """What to look at, though the slide opens."""
    if not slide.other_scenes:
        return None
    return (
        f"the file has {len(slide.other_scenes) + 1} scenes; {slide.scene!r} is read, and not "
        f"{', '.join(map(repr, slide.other_scenes))}: the sheet's column scene chooses"
    )


def gather(
    stage: StageId, results: Path, sheet: Sheet, buckets: Sequence[Path], max_failed: float
) -> Path:
    """Join the buckets with the sheet into `cohort.parquet`; returns its path.

    Raises:
        CohortError: If more than `max_failed` of the slides failed; the table is written before.
    """
    facts = merge(
        (read_rows(path, "slides") for path in buckets), [row.slide_id for row in sheet.rows]
    )
    table = [
        {"patient_id": row.patient_id, "split": row.split}
        | known
        | {name: row.labels.get(name) for name in sheet.label_columns}
        for row, known in zip(sheet.rows, facts, strict=True)
    ]
    path = open_folder(stage, results) / "cohort.parquet"
    stamp = Stamp(digest=stage.digest, item_digest=stage.digest, parameters=dict(stage.parameters))
    write_rows(path, table, COHORT, stamp)
    tell(table)
    check_failures(table, max_failed)
    return path
