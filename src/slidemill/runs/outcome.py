"""What a run came to: a row a slide and stage, the metrics over all folds, and counts.

Reads manifests and metrics only, no file of a slide. Where a stage was not joined (the run ended
with an error), the buckets' manifests that are newer than the stage's count.
"""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from slidemill.artifacts.digest import digest_of
from slidemill.artifacts.folder import StageId
from slidemill.artifacts.formats import METRICS, RUN_RESULTS
from slidemill.artifacts.parquet import Row, read_rows, read_table, write_parquet, write_rows
from slidemill.artifacts.provenance import Stamp
from slidemill.errors import ArtifactError
from slidemill.plan import Plan

log = logging.getLogger(__name__)

PER_SLIDE = frozenset({"cohort", "tissue", "candidates", "tiles", "features", "pretrain"})
"""Stages that leave a manifest of slides."""
SHORTENED = 16
"""Hexadecimal digits that are kept of a digest."""

_SLIDE_COLUMNS = tuple(item.name for item in RUN_RESULTS.fields[2:])
_DIGESTS = ("item_digest", "sha256")
_LAST_FILES = {"cohort": "cohort.parquet", "splits": "splits.parquet", "report": "report.html"}

StageKey = tuple[str, str]
"""Stage and name of the folder."""
SlideRows = dict[str, tuple[Any, ...]]
"""What slides came to in a stage, by slide: the columns of `run-results` after stage and run."""


def last_file(stage: str, artifact_type: str) -> str:
    """Name of the file that a stage writes last: when it is there, the stage is done.

    Args:
        stage: Name of the stage.
        artifact_type: Type of its main artifact.
    """
    if stage == "evaluate":
        return "summary.parquet" if artifact_type == "feature-summary" else "metrics.parquet"
    return _LAST_FILES.get(stage, "manifest.parquet")


def slide_rows(plan: Plan) -> dict[StageKey, SlideRows]:
    """What every slide came to, by stage; stages that are not per slide are left out."""
    return {
        (stage.stage, stage.name): _slides(plan, stage)
        for stage in plan.all_stages()
        if stage.stage in PER_SLIDE
    }


def _slides(plan: Plan, stage: StageId) -> SlideRows:
    manifest = plan.manifest_path(stage)
    kind, bucket_kind = (
        ("cohort", "slides") if stage.stage == "cohort" else ("manifest", "manifest")
    )
    since = _written(manifest)
    found = _read(manifest, kind) if since else {}
    for bucket in plan.buckets:
        path = plan.bucket_path(stage, bucket)
        if _written(path) > since:
            found |= _read(path, bucket_kind)
    return {slide_id: found[slide_id] for slide_id in plan.slide_ids if slide_id in found}


def _read(path: Path, kind: str) -> SlideRows:
    try:
        table = read_table(path, kind)
    except ArtifactError as error:
        log.warning("left out of the run's results: %s", error)
        return {}
    columns: list[Sequence[Any]] = []
    for name in _SLIDE_COLUMNS:
        known = name in table.column_names
        values = table[name].to_pylist() if known else [None] * table.num_rows
        if name in _DIGESTS:
            values = [value and value[:SHORTENED] for value in values]
        columns.append(values)
    return dict(zip(columns[0], zip(*columns, strict=True), strict=True))


def _written(path: Path) -> int:
    """When a file was written, ns; 0 where there is none."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def write_results(path: Path, found: Mapping[StageKey, SlideRows]) -> None:
    """Write what every slide came to as a `run-results` table."""
    pairs = [(key, row) for key, rows in found.items() for row in rows.values()]
    columns: dict[str, list[Any]] = {
        "stage": [stage for (stage, _), _ in pairs],
        "run": [run for (_, run), _ in pairs],
    }
    for number, name in enumerate(_SLIDE_COLUMNS):
        columns[name] = [row[number] for _, row in pairs]
    write_parquet(path, columns, RUN_RESULTS, _stamp(path))


def metrics_rows(plan: Plan) -> list[Row]:
    """Rows over all folds of every comparison that is there."""
    found: list[Row] = []
    for stage in plan.evaluate.values():
        path = plan.metrics_path(stage)
        if path.is_file():
            try:
                rows = read_rows(path, "metrics")
            except ArtifactError as error:
                log.warning("left out of the run's metrics: %s", error)
                continue
            found += [row for row in rows if row["fold"] < 0]
    return found


def write_metrics(path: Path, rows: Sequence[Row]) -> None:
    """Write metrics over all folds."""
    write_rows(path, rows, METRICS, _stamp(path))


def _stamp(path: Path) -> Stamp:
    """Tables of a run belong to no stage: their digest is that of the run's name."""
    digest = digest_of({"run": path.stem.removesuffix("-metrics")})
    return Stamp(digest=digest, item_digest=digest)


def counts(plan: Plan, found: Mapping[StageKey, SlideRows]) -> Iterator[dict[str, Any]]:
    """What every stage came to, as values of a `StageCounts`."""
    total = len(plan.slide_ids)
    status, failed_stage, code = (
        _SLIDE_COLUMNS.index(name) for name in ("status", "failed_stage", "error_code")
    )
    for stage in plan.all_stages():
        path = stage.folder(plan.results) / last_file(stage.stage, stage.spec.type)
        facts: dict[str, Any] = {"stage": stage.stage, "run": stage.name, "done": path.is_file()}
        if (stage.stage, stage.name) in found:
            rows = found[stage.stage, stage.name].values()
            codes = Counter(
                f"{row[failed_stage]}: {row[code]}" for row in rows if row[status] == "failed"
            )
            failed = codes.total()
            facts |= {"ok": len(rows) - failed, "failed": failed, "codes": dict(codes)}
            facts["missing"] = total - len(rows)
        yield facts
