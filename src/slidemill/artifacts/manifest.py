"""Manifests, and the one loop over slides that every per-slide stage shares.

A job works on a bucket of slides and leaves one manifest. Each slide ends as `ok`, with a file that
carries its digest, or as `failed`, with a code and a message. A slide whose file is there with the
right digest is not computed again. Only `SlideError` makes a failed row: anything else is a bug or
a broken machine, and fails the job.
"""

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from slidemill.artifacts.digest import file_sha256
from slidemill.artifacts.folder import StageId, open_folder
from slidemill.artifacts.formats import MANIFEST
from slidemill.artifacts.parquet import read_parquet, write_parquet
from slidemill.artifacts.provenance import Stamp
from slidemill.errors import ArtifactError, CohortError, SlideError

log = logging.getLogger(__name__)

SHOWN_FAILURES = 10
"""Failed slides that a message names; the manifest has them all."""


@dataclass(frozen=True)
class SlideTask:
    """One slide's work in a stage.

    Attributes:
        slide_id: The slide.
        facts: Its row of the cohort's table (path, mpp, dimensions).
        upstream_path: File of the stage before; None for the first.
        path: File to write.
        stamp: Provenance of that file.
    """

    slide_id: str
    facts: Mapping[str, Any]
    upstream_path: Path | None
    path: Path
    stamp: Stamp


@dataclass(frozen=True)
class SlideLoop:
    """How a stage works through slides.

    Attributes:
        stage: Identity of the stage.
        results: Folder of all results.
        suffix: Ending of the slide's file, such as `.h5`.
        compute: Does a slide and returns the number of rows of its result. It writes
            `task.path` last, so that the file's presence means that the slide is done.
        read_stamp: The `item_digest` and the `count` of a slide's file; raises ArtifactError if
            the file is missing or not readable.
        not_before: Results of before this time (seconds since the epoch) do not count.
    """

    stage: StageId
    results: Path
    suffix: str
    compute: Callable[[SlideTask], int]
    read_stamp: Callable[[Path], Mapping[str, Any]]
    not_before: float = 0.0

    def run(
        self, slides: pd.DataFrame, upstream: pd.DataFrame, upstream_stage: StageId
    ) -> pd.DataFrame:
        """Work through slides and return their manifest.

        Args:
            slides: Rows of the cohort's facts.
            upstream: Manifest (or facts) of the stage before, one row a slide.
            upstream_stage: Identity of the stage before.
        """
        folder = open_folder(self.stage, self.results)
        before = {row["slide_id"]: row for row in records(upstream)}
        rows = []
        for number, facts in enumerate(records(slides), start=1):
            slide_id = str(facts["slide_id"])
            above = before[slide_id]
            if above["status"] == "failed":
                rows.append(carried_failure(slide_id, above))
                continue
            task = self._task(folder, slide_id, facts, above, upstream_stage)
            rows.append(self._one(task, folder))
            log.info("%s %d/%d %s", self.stage.stage, number, len(slides), _line(rows[-1]))
        return pd.DataFrame(rows, columns=[item.name for item in MANIFEST.fields])

    def _task(
        self,
        folder: Path,
        slide_id: str,
        facts: Mapping[str, Any],
        above: Mapping[str, Any],
        upstream_stage: StageId,
    ) -> SlideTask:
        path = above["path"] if "sha256" in above else None
        return SlideTask(
            slide_id=slide_id,
            facts=facts,
            upstream_path=upstream_stage.folder(self.results) / path if path else None,
            path=folder / "slides" / f"{slide_id}{self.suffix}",
            stamp=self.stage.stamp(slide_id, {upstream_stage.stage: above["item_digest"]}),
        )

    def _one(self, task: SlideTask, folder: Path) -> dict[str, Any]:
        started = time.perf_counter()
        reused = self._is_done(task)
        try:
            count = None if reused else self.compute(task)
        except SlideError as error:
            # A result of an earlier run would be taken for this one's.
            task.path.unlink(missing_ok=True)
            return failure(task.slide_id, self.stage.stage, error, time.perf_counter() - started)
        return _row(
            task.slide_id,
            status="ok",
            item_digest=task.stamp.item_digest,
            seconds=None if reused else time.perf_counter() - started,
            path=str(task.path.relative_to(folder)),
            sha256=file_sha256(task.path),
            count=count if count is not None else int(self.read_stamp(task.path)["count"]),
            reused=reused,
        )

    def _is_done(self, task: SlideTask) -> bool:
        try:
            found = self.read_stamp(task.path)
        except ArtifactError:
            return False
        young = task.path.stat().st_mtime >= self.not_before
        return young and bool(found["item_digest"] == task.stamp.item_digest)


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows of a table as mappings; missing values are None."""
    plain = frame.astype(object).where(frame.notna(), None)
    return [{str(key): value for key, value in row.items()} for row in plain.to_dict("records")]


def failure(slide_id: str, stage: str, error: SlideError, seconds: float) -> dict[str, Any]:
    """Manifest row of a slide that failed in this stage."""
    return _row(
        slide_id,
        status="failed",
        failed_stage=stage,
        error_code=error.code.value,
        message=error.message,
        seconds=seconds,
    )


def carried_failure(slide_id: str, above: Mapping[str, Any]) -> dict[str, Any]:
    """Manifest row of a slide that failed in an earlier stage."""
    keys = ("status", "failed_stage", "error_code", "message")
    return _row(slide_id, **{key: above[key] for key in keys})


def _row(slide_id: str, **values: Any) -> dict[str, Any]:  # noqa: ANN401 - mixed columns
    row: dict[str, Any] = {item.name: None for item in MANIFEST.fields}
    return row | {"slide_id": slide_id, "reused": False} | values


def _line(row: Mapping[str, Any]) -> str:
    if row["status"] == "failed":
        return f"{row['slide_id']}: failed, {row['error_code']}: {row['message']}"
    if row["reused"]:
        return f"{row['slide_id']}: already there"
    return f"{row['slide_id']}: {row['count']} rows in {row['seconds']:.1f} s"


def write_manifest(path: Path, frame: pd.DataFrame, stage: StageId) -> None:
    """Write the manifest of a bucket or of a stage."""
    stamp = Stamp(digest=stage.digest, item_digest=stage.digest, parameters=dict(stage.parameters))
    write_parquet(path, frame.astype({"count": "Int64"}), MANIFEST, stamp)


def read_manifest(path: Path) -> pd.DataFrame:
    """Read a manifest."""
    return read_parquet(path, "manifest")


def merge(frames: Iterable[pd.DataFrame], slide_ids: Sequence[str]) -> pd.DataFrame:
    """Join the tables of buckets in the order of the sheet.

    Raises:
        ArtifactError: If the buckets are not those of the sheet.
    """
    joined = pd.concat(list(frames), ignore_index=True)
    if sorted(joined["slide_id"]) != sorted(slide_ids):
        raise ArtifactError(
            "the buckets' manifests do not hold the slides of the sheet. "
            "Run again: Snakemake renews the buckets whose slides have changed."
        )
    ordered: pd.DataFrame = joined.set_index("slide_id").loc[list(slide_ids)].reset_index()
    return ordered


def check_failures(frame: pd.DataFrame, max_failed: float, where: Path) -> None:
    """Stop the run if too much of the cohort has failed.

    Raises:
        CohortError: With the first failures and what to do.
    """
    failed = frame[frame["status"] == "failed"]
    if len(failed) <= max_failed * len(frame):
        return
    shown = "\n".join(
        f"  - {row.slide_id} ({row.failed_stage}, {row.error_code}): {row.message}"
        for row in failed.head(SHOWN_FAILURES).itertuples()
    )
    more = f"\n  and {len(failed) - SHOWN_FAILURES} more" if len(failed) > SHOWN_FAILURES else ""
    raise CohortError(
        f"{len(failed)} of {len(frame)} slides failed, more than cohort.max_failed = {max_failed} "
        f"allows:\n{shown}{more}\nMend or remove them in the sheet, or raise cohort.max_failed. "
        f"All results of the other slides are kept; every row is in {where}."
    )
