"""What the manifests of a stage say of its slides, bucket by bucket.

Reads manifests and names of files, and writes nothing. A stage's manifest speaks for the buckets
that are older than it; of the others their own are read; a bucket that has none yet has done the
slides whose files lie there. Only slides of the sheet as it is now count.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from slidemill.artifacts.folder import StageId
from slidemill.artifacts.parquet import read_table
from slidemill.errors import ArtifactError
from slidemill.jobs import not_before
from slidemill.plan import WHOLE, Plan
from slidemill.runs.marks import Mark

State = Literal["done", "running", "lost", "missing"]


class Failure(NamedTuple):
    """A slide, and the stage in which it failed."""

    slide_id: str
    stage: str
    run: str
    error_code: str
    message: str


@dataclass(frozen=True)
class BucketStatus:
    """How far a bucket is; what is counted adds up to its slides.

    Attributes:
        bucket: Its name; `all` where the stage is not cut into buckets.
        done: Slides (or, of stages without slides, results) that are there.
        failed: Slides that failed, here or in an earlier stage.
        missing: Those that are not there yet, whether or not a job works on them.
        written: Whether its manifest is there.
        mark: The job that works on it, or was killed while it did.
    """

    bucket: str
    done: int
    failed: int
    missing: int
    written: bool
    mark: Mark | None = None

    @property
    def state(self) -> State:
        """`running`, `lost` (its job was killed), `done`, or `missing` (not all of it is there)."""
        if self.mark is not None and not self.mark.lost:
            return "running"
        if self.written and not self.missing:
            return "done"
        return "missing" if self.mark is None else "lost"


class _Row(NamedTuple):
    """What a manifest says of a slide, as far as it matters here."""

    status: str
    failed_stage: str | None
    error_code: str | None
    message: str | None


class Manifests:
    """The manifests of one run of a stage; each is read once at the most, and only if needed."""

    def __init__(self, plan: Plan, stage: StageId) -> None:
        self._plan, self._stage = plan, stage
        self._path = plan.manifest_path(stage)
        self._written = _times(stage.folder(plan.results) / "buckets")
        self._time = self._path.stat().st_mtime if self._path.is_file() else None
        self._all: Mapping[str, _Row] | None = None
        self._files: set[str] | None = None
        self._rows: dict[str, _Row] = {}

    def count(self, bucket: str, slides: Sequence[str], mark: Mark | None) -> BucketStatus:
        """Count a bucket's slides."""
        rows = self._of(bucket)
        if rows is None:
            there = self._finished()
            done = sum(slide_id in there for slide_id in slides)
            return BucketStatus(bucket, done, 0, len(slides) - done, written=False, mark=mark)
        known = {slide_id: rows[slide_id] for slide_id in slides if slide_id in rows}
        self._rows |= known
        failed = sum(row.status == "failed" for row in known.values())
        missing = len(slides) - len(known)
        done = len(known) - failed
        return BucketStatus(bucket, done, failed, missing, written=True, mark=mark)

    def failures(self) -> Iterator[Failure]:
        """Slides that failed in this very stage, of the buckets that were counted."""
        stage = self._stage
        for slide_id in self._plan.slide_ids:
            row = self._rows.get(slide_id)
            if row is not None and row.status == "failed" and row.failed_stage == stage.stage:
                code, message = str(row.error_code), str(row.message)
                yield Failure(slide_id, stage.stage, stage.name, code, message)

    def _of(self, bucket: str) -> Mapping[str, _Row] | None:
        """Rows that hold for a bucket; None if it has no manifest."""
        whole = "cohort" if self._stage.stage == "cohort" else "manifest"
        if bucket != WHOLE:
            path = self._plan.bucket_path(self._stage, bucket)
            written = self._written.get(path.name)
            if written is None:
                return None
            if self._time is None or written > self._time:
                return _read(path, "slides" if whole == "cohort" else "manifest")
        if self._all is None and self._time is not None:
            self._all = _read(self._path, whole)
        return self._all

    def _finished(self) -> set[str]:
        """Slides whose files lie there, and are not of before the stage was asked for again."""
        if self._files is None:
            suffix = ".h5" if self._stage.spec.container == "hdf5" else ".parquet"
            since = not_before(self._plan, self._stage.stage)
            folder = self._stage.folder(self._plan.results) / "slides"
            self._files = {
                name.removesuffix(suffix)
                for name, written in _times(folder, needed=since > 0).items()
                if name.endswith(suffix) and written >= since
            }
        return self._files


def _times(folder: Path, *, needed: bool = True) -> dict[str, float]:
    """When each file of a folder was written; 0 where that is not needed, which spares a look."""
    if not folder.is_dir():
        return {}
    found = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            try:
                found[entry.name] = entry.stat().st_mtime if needed else 0.0
            except FileNotFoundError:
                # A temporary file that has just got its name.
                continue
    return found


def _read(path: Path, kind: str) -> dict[str, _Row] | None:
    """Rows of a manifest by slide; None if the file went while it was looked for."""
    try:
        table = read_table(path, kind)
    except ArtifactError:
        if path.is_file():
            raise
        return None
    columns = [table[name].to_pylist() for name in _Row._fields]
    rows = (_Row(*values) for values in zip(*columns, strict=True))
    return dict(zip(table["slide_id"].to_pylist(), rows, strict=True))
