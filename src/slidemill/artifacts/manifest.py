"""Manifests, and the one loop over slides that every per-slide stage shares.

A job works on a bucket of slides, side by side in processes of their own, and leaves one manifest.
Each slide ends as `ok`, with a file that carries its digest, or as `failed`, with a code and a
message. A slide whose file is there with the right digest is not computed again. Only a
`SlideError`, or the death of the slide's process, makes a failed row: anything else is a bug or a
broken machine, and fails the job.
"""

import logging
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slidemill.artifacts.digest import file_sha256
from slidemill.artifacts.folder import StageId, open_folder
from slidemill.artifacts.formats import MANIFEST
from slidemill.artifacts.parquet import Row, read_parquet, write_rows
from slidemill.artifacts.provenance import Stamp
from slidemill.artifacts.workers import Lost, work_apart
from slidemill.errors import ArtifactError, CohortError, SlideCode, SlideError

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

SPARED_FAILURES = 2
"""So many failed slides do not stop a run, however small the cohort is."""
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
        threads: Threads that this slide may use.
        scratch: Folder for a copy of the slide; None where it is read in place.
    """

    slide_id: str
    facts: Mapping[str, Any]
    upstream_path: Path | None
    path: Path
    stamp: Stamp
    threads: int = 1
    scratch: Path | None = None


@dataclass(frozen=True)
class Remarked:
    """A slide's result, with what to look at though it is done.

    Attributes:
        count: Number of rows of the result.
        remark: In words; None where there is nothing to look at.
    """

    count: int
    remark: str | None = None


@dataclass(frozen=True)
class Pace:
    """How many slides are worked on at once, and for how long.

    Attributes:
        cpus: CPUs of the job; slides go side by side on them, and what is left over goes to the
            threads of each. 0 works in this process, for stages that hold a GPU.
        seconds: Wall time after which a slide has failed; not heeded in this process.
        contained: Whether files of others are read, so that even a lone slide needs a process of
            its own.
        stage_slides: Whether slides are copied to the job's scratch folder before they are read.
    """

    cpus: int = 0
    seconds: float = 1800.0
    contained: bool = True
    stage_slides: bool = False


@dataclass(frozen=True)
class SlideLoop:
    """How a stage works through slides.

    Attributes:
        stage: Identity of the stage.
        results: Folder of all results.
        suffix: Ending of the slide's file, such as `.h5`.
        compute: Does a slide and returns the number of rows of its result, or that with a remark.
            It writes `task.path` last, so that the file's presence means that the slide is done.
            None for a stage that has a way of its own to work through slides and does not `run`
            this loop.
        read_stamp: The `item_digest`, the `count` and, where there is one, the `remark` of a
            slide's file; raises ArtifactError if the file is missing or not readable.
        not_before: Results of before this time (seconds since the epoch) do not count.
        pace: How slides are spread over the job's CPUs.
        failed_in: Stage that failures are put down to; by default this one.
        inputs: Digests of files beside the slide that its result is made from, from its facts.
    """

    stage: StageId
    results: Path
    suffix: str
    compute: Callable[[SlideTask], int | Remarked] | None
    read_stamp: Callable[[Path], Mapping[str, Any]]
    not_before: float = 0.0
    pace: Pace = field(default=Pace())
    failed_in: str | None = None
    inputs: Callable[[Mapping[str, Any]], Mapping[str, str]] | None = None

    def run(
        self, slides: Sequence[Row], upstream: Sequence[Row], upstream_stage: StageId
    ) -> list[Row]:
        """Work through slides and return their manifest.

        Args:
            slides: Rows of the cohort's facts.
            upstream: Manifest (or facts) of the stage before, one row a slide.
            upstream_stage: Identity of the stage before.
        """
        from slidemill.slides.staging import scratch_folder

        rows, tasks = self.prepare(slides, upstream, upstream_stage)
        with scratch_folder(self.pace.stage_slides) as scratch:
            for task, row in self._work([replace(task, scratch=scratch) for task in tasks]):
                rows[task.slide_id] = row
                self.tell(row, len(rows), len(slides))
        return [rows[str(facts["slide_id"])] for facts in slides]

    def prepare(
        self, slides: Sequence[Row], upstream: Sequence[Row], upstream_stage: StageId
    ) -> tuple[dict[str, Row], list[SlideTask]]:
        """Open the stage's folder, and say which slides there is work for.

        Returns:
            Rows of slides that failed in an earlier stage, by slide, and the tasks of the others.
        """
        folder = open_folder(self.stage, self.results)
        before = {row["slide_id"]: row for row in upstream}
        rows: dict[str, Row] = {}
        tasks = []
        for facts in slides:
            slide_id = str(facts["slide_id"])
            above = before[slide_id]
            if above["status"] == "failed":
                rows[slide_id] = carried_failure(slide_id, above)
            else:
                tasks.append(self._task(folder, slide_id, facts, above, upstream_stage))
        return rows, tasks

    def tell(self, row: Row, number: int, total: int) -> None:
        """Write a line to the log."""
        log.info("%s %d/%d %s", self.stage.stage, number, total, _line(row))

    def _work(self, tasks: list[SlideTask]) -> Iterator[tuple[SlideTask, Row]]:
        """Work through tasks in processes of their own, or in this one; rows as they are ready."""
        processes = min(self.pace.cpus, len(tasks))
        if processes == 0 or (processes == 1 and not self.pace.contained):
            yield from ((task, self._one(task)) for task in tasks)
            return
        tasks = [replace(task, threads=self.pace.cpus // processes) for task in tasks]
        for number, row in work_apart(self._one, tasks, processes, self.pace.seconds):
            yield (
                tasks[number],
                self.lost(tasks[number], row) if isinstance(row, Lost) else row,
            )

    def lost(self, task: SlideTask, lost: Lost) -> Row:
        """The row of a slide whose process did not live to finish it, nor to remove its copy."""
        if task.scratch is not None:
            shutil.rmtree(task.scratch / task.slide_id, ignore_errors=True)
        seconds = self.pace.seconds if lost.timed_out else 0.0
        return self.failed(task, lost_error(task.facts["path"], lost), seconds)

    def failed(self, task: SlideTask, error: SlideError, seconds: float) -> Row:
        """The row of a slide that failed; a result of an earlier run would be taken for its own."""
        task.path.unlink(missing_ok=True)
        return failure(task.slide_id, self._failed_in, error, seconds)

    def done(self, task: SlideTask, count: int, seconds: float, **more: float) -> Row:
        """The row of a slide whose file has just been written; `more` are columns of the stage."""
        return self._ok(task, count=count, seconds=seconds, **more)

    def reused(self, task: SlideTask) -> Row | None:
        """The row of a slide whose file is there with the right digest; None if it is not."""
        if not self._is_done(task):
            return None
        stamp = self.read_stamp(task.path)
        return self._ok(task, count=int(stamp["count"]), remark=stamp.get("remark"), reused=True)

    def _ok(self, task: SlideTask, **values: Any) -> Row:  # noqa: ANN401 - mixed columns
        return manifest_row(
            task.slide_id,
            status="ok",
            item_digest=task.stamp.item_digest,
            path=str(task.path.relative_to(self.stage.folder(self.results))),
            sha256=file_sha256(task.path),
            **values,
        )

    @property
    def _failed_in(self) -> str:
        return self.failed_in or self.stage.stage

    def _task(
        self,
        folder: Path,
        slide_id: str,
        facts: Mapping[str, Any],
        above: Mapping[str, Any],
        upstream_stage: StageId,
    ) -> SlideTask:
        path = above["path"] if "sha256" in above else None
        made_from = {upstream_stage.stage: above["item_digest"]}
        made_from |= self.inputs(facts) if self.inputs else {}
        return SlideTask(
            slide_id=slide_id,
            facts=facts,
            upstream_path=upstream_stage.folder(self.results) / path if path else None,
            path=folder / "slides" / f"{slide_id}{self.suffix}",
            stamp=self.stage.stamp(slide_id, made_from),
        )

    def _one(self, task: SlideTask) -> Row:
        started = time.perf_counter()
        reused = self.reused(task)
        if reused is not None:
            return reused
        assert self.compute is not None
        try:
            found = self.compute(task)
        except SlideError as error:
            return self.failed(task, error, time.perf_counter() - started)
        done = found if isinstance(found, Remarked) else Remarked(found)
        return self._ok(
            task, count=done.count, remark=done.remark, seconds=time.perf_counter() - started
        )

    def _is_done(self, task: SlideTask) -> bool:
        try:
            found = self.read_stamp(task.path)
        except ArtifactError:
            return False
        young = task.path.stat().st_mtime >= self.not_before
        return young and bool(found["item_digest"] == task.stamp.item_digest)


def lost_error(path: object, lost: Lost) -> SlideError:
    """The fault of a slide whose process did not live to finish it."""
    if lost.timed_out:
        return SlideError(
            SlideCode.TIMED_OUT,
            f"{path}: {lost.reason}; if the slide is sound, raise cohort.slide_seconds",
        )
    if lost.starved:
        return SlideError(
            SlideCode.OUT_OF_MEMORY if lost.out_of_memory else SlideCode.CRASHED,
            f"{path}: {lost.reason}; give the job more memory (mem_mb) and run `slidemill failed "
            "--retry`; if that does not help the file is damaged: copy it again, or leave it out",
        )
    return SlideError(
        SlideCode.CRASHED,
        f"{path}: {lost.reason}; the file is damaged in a way that its library does not survive: "
        "copy it again, or leave it out",
    )


def records(frame: "pd.DataFrame") -> list[Row]:
    """Rows of a data frame; missing values are None."""
    plain = frame.astype(object).where(frame.notna(), None)
    return [{str(key): value for key, value in row.items()} for row in plain.to_dict("records")]


def failure(slide_id: str, stage: str, error: SlideError, seconds: float) -> Row:
    """Manifest row of a slide that failed in this stage."""
    return manifest_row(
        slide_id,
        status="failed",
        failed_stage=stage,
        error_code=error.code.value,
        message=error.message,
        seconds=seconds,
    )


def carried_failure(slide_id: str, above: Mapping[str, Any]) -> Row:
    """Manifest row of a slide that failed in an earlier stage."""
    keys = ("status", "failed_stage", "error_code", "message")
    return manifest_row(slide_id, **{key: above[key] for key in keys})


def manifest_row(slide_id: str, **values: Any) -> Row:  # noqa: ANN401 - mixed columns
    """A row of a manifest; columns that are not given are missing."""
    row: Row = {item.name: None for item in MANIFEST.fields}
    return row | {"slide_id": slide_id, "reused": False} | values


def _line(row: Mapping[str, Any]) -> str:
    if row["status"] == "failed":
        return f"{row['slide_id']}: failed, {row['error_code']}: {row['message']}"
    if row["reused"]:
        return f"{row['slide_id']}: already there"
    speed = f", {row['tiles_per_s']:,.0f} tiles/s" if row["tiles_per_s"] else ""
    waited = f", waited {row['waited']:.0%}" if row["waited"] is not None else ""
    return f"{row['slide_id']}: {row['count']} rows in {row['seconds']:.1f} s{speed}{waited}"


def write_manifest(path: Path, rows: Sequence[Row], stage: StageId) -> None:
    """Write the manifest of a bucket or of a stage."""
    stamp = Stamp(digest=stage.digest, item_digest=stage.digest, parameters=dict(stage.parameters))
    write_rows(path, rows, MANIFEST, stamp)


def read_manifest(path: Path) -> "pd.DataFrame":
    """Read a manifest."""
    return read_parquet(path, "manifest")


def merge(tables: Iterable[Sequence[Row]], slide_ids: Sequence[str]) -> list[Row]:
    """Join the tables of buckets in the order of the sheet.

    Raises:
        ArtifactError: If the buckets are not those of the sheet.
    """
    joined = [row for rows in tables for row in rows]
    if sorted(row["slide_id"] for row in joined) != sorted(slide_ids):
        raise ArtifactError(
            "the buckets' manifests do not hold the slides of the sheet. "
            "Run again: Snakemake renews the buckets whose slides have changed; where its records "
            "are gone, with --forcerun cohort_bucket."
        )
    by_id = {row["slide_id"]: row for row in joined}
    return [by_id[slide_id] for slide_id in slide_ids]


def _failed_line(row: Mapping[str, Any]) -> str:
    return f"{row['slide_id']} ({row['failed_stage']}, {row['error_code']}): {row['message']}"


def tell(rows: Sequence[Row]) -> None:
    """Write a line to the log for every slide that is to be looked at, and for every failed one."""
    for row in rows:
        if row["status"] == "failed":
            log.warning("%s", _failed_line(row))
        elif row["remark"]:
            log.warning("%s: %s", row["slide_id"], row["remark"])


def check_failures(rows: Sequence[Row], max_failed: float) -> None:
    """Stop the run if too much of the cohort has failed.

    Args:
        rows: Every slide of the cohort.
        max_failed: Share that may fail; unless it is 0, `SPARED_FAILURES` slides always may, but
            not all that there are.

    Raises:
        CohortError: With the first failures and what to do.
    """
    failed = [row for row in rows if row["status"] == "failed"]
    share = max_failed * len(rows)
    spared = min(SPARED_FAILURES, len(rows) - 1) if max_failed > 0 else 0
    if len(failed) <= max(spared, share):
        return
    shown = "\n".join(f"  - {_failed_line(row)}" for row in failed[:SHOWN_FAILURES])
    more = f"\n  and {len(failed) - SHOWN_FAILURES} more" if len(failed) > SHOWN_FAILURES else ""
    raise CohortError(
        f"{len(failed)} of {len(rows)} slides failed, more than cohort.max_failed = {max_failed} "
        f"allows:\n{shown}{more}\nMend or remove them in the sheet, or raise cohort.max_failed. "
        "All results of the other slides are kept; `slidemill failed` lists every one of these."
    )
