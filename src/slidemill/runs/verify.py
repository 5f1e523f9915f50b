"""Whether results are whole: every artifact of a plan against its manifest, format and digest.

Reads every file once and writes nothing. A problem is what keeps results from being those that the
configuration asks for; a note is something beside them that does no harm.
"""

import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

from slidemill.artifacts.folder import StageId
from slidemill.artifacts.parquet import Row
from slidemill.artifacts.workers import available_cpus
from slidemill.errors import Problem
from slidemill.plan import WHOLE, Plan
from slidemill.runs.check import (
    check_checkpoint,
    check_dataset,
    check_hdf5,
    check_slide,
    mend,
    read_table_of,
)
from slidemill.runs.status import buckets_of, slide_stages

T = TypeVar("T")
SHOWN_SLIDES = 5
"""Slides that one problem names."""
BESIDE = (".geojson", ".jpg")
"""Endings of files that lie beside a slide's own."""


@dataclass
class Verdict:
    """What was checked, and what was found.

    Attributes:
        problems: Everything that is not as it should be.
        notes: What lies beside the results.
        checked: How many of each kind of thing were looked at.
    """

    problems: list[Problem] = field(default_factory=list)
    notes: list[Problem] = field(default_factory=list)
    checked: Counter[str] = field(default_factory=Counter)

    @property
    def ok(self) -> bool:
        """Whether everything is whole."""
        return not self.problems

    def add(self, kind: str, problem: Problem | None) -> None:
        """Count a thing that was checked, and keep its problem."""
        self.checked[kind] += 1
        if problem is not None:
            self.problems.append(problem)

    def as_json(self) -> str:
        """The shape that docs/formats.md describes."""

        def plain(found: Iterable[Problem]) -> list[dict[str, str]]:
            return [{"path": one.where, "what": one.what, "todo": one.todo} for one in found]

        return json.dumps(
            {
                "ok": self.ok,
                "checked": dict(self.checked),
                "problems": plain(self.problems),
                "notes": plain(self.notes),
            },
            indent=2,
        )


def verify(plan: Plan) -> Verdict:
    """Check every artifact of a plan."""
    found = Verdict()
    slides: list[Callable[[], Problem | None]] = []
    for stage in plan.all_stages():
        output = last_output(plan, stage)
        found.add("dataset", check_dataset(stage, plan.results, output))
    candidates = {stage.name: stage for stage in plan.candidates.values()}
    for stage in [*slide_stages(plan), *candidates.values()]:
        slides += _Manifest(plan, stage, found).check()
    for problem in _side_by_side(slides):
        found.add("slide file", problem)
    for unit in plan.pretrain:
        found.add("checkpoint", check_checkpoint(plan, unit))
    for stage, tables in _tables(plan):
        for name, kind in tables.items():
            path = stage.folder(plan.results) / f"{name}.parquet"
            found.add("table", read_table_of(path, kind, stage, last_output(plan, stage))[1])
    _check_others(plan, found)
    return found


def last_output(plan: Plan, stage: StageId, bucket: str | None = None) -> Path:
    """What the job of a stage (and bucket) declares as its output, for `--forcerun`."""
    if stage.stage == "candidates":
        # They are made by the jobs of the tiles that are chosen among them.
        name = next(name for name, one in plan.candidates.items() if one == stage)
        stage = plan.tiles[name]
    if stage.stage in ("cohort", "tissue", "tiles", "features"):
        return plan.bucket_path(stage, bucket or next(iter(plan.buckets)))
    if stage in plan.splits.values():
        return stage.folder(plan.results) / "splits.parquet"
    if stage.stage == "report":
        return plan.report_path()
    if stage in plan.summaries.values():
        return plan.summary_path(stage)
    return plan.manifest_path(stage) if stage.stage == "pretrain" else plan.metrics_path(stage)


class _Manifest:
    """The manifest of one run of a stage, those of its buckets, and what they say of files."""

    def __init__(self, plan: Plan, stage: StageId, found: Verdict) -> None:
        self._plan, self._stage, self._found = plan, stage, found
        self._path = plan.manifest_path(stage)
        self._folder = stage.folder(plan.results)
        self._buckets = buckets_of(plan, stage)
        self._is_cohort = stage.stage == "cohort"

    def check(self) -> Iterator[Callable[[], Problem | None]]:
        """Check the manifests; gives the checks of the slides' files, which take longer."""
        kind = "cohort" if self._is_cohort else "manifest"
        rows, problem = read_table_of(self._path, kind, self._stage, self._path)
        if problem is not None and self._stage.stage == "candidates":
            problem = Problem(problem.where, problem.what, self._join_candidates())
        self._found.add("manifest", problem)
        if problem is not None:
            return
        self._check_slides(rows)
        by_id = {row["slide_id"]: row for row in rows}
        for bucket, slides in self._buckets.items():
            if bucket != WHOLE:
                self._found.add("bucket", self._check_bucket(bucket, slides, by_id))
        if not self._is_cohort:
            yield from self._files(rows)
            self._note_orphans(rows)

    def _join_candidates(self) -> str:
        """How the manifest of candidates is written again, which Snakemake does not know."""
        name = next(name for name, one in self._plan.candidates.items() if one == self._stage)
        gone = f"Delete {self._path}, then run" if self._path.exists() else "Run"
        return f"{gone} `slidemill tiles --run {name} --gather`"

    def _check_slides(self, rows: Sequence[Row]) -> None:
        """Whether the slides are those of the sheet, each once."""
        counts = Counter(str(row["slide_id"]) for row in rows)
        sheet = self._plan.slide_ids
        known = set(sheet)
        todo = f"Run snakemake again; if it finds nothing to do, with --forcerun {self._path}"
        lacking = [name for name in sheet if name not in counts]
        if lacking:
            self._say(f"slides of the sheet are lacking: {_named(lacking)}", todo)
        twice = [name for name, count in counts.items() if count > 1]
        if twice:
            self._say(f"slides are there twice: {_named(twice)}", mend(self._path, self._path))
        gone = [name for name in counts if name not in known]
        if gone:
            what = f"it has slides that the sheet no longer has: {_named(gone)}"
            self._found.notes.append(Problem(str(self._path), what, todo))

    def _say(self, what: str, todo: str) -> None:
        self._found.problems.append(Problem(str(self._path), what, todo))

    def _check_bucket(
        self, bucket: str, slides: Sequence[str], whole: Mapping[str, Row]
    ) -> Problem | None:
        """Whether a bucket's manifest has its slides, and says of them what the stage's says."""
        path = self._plan.bucket_path(self._stage, bucket)
        output = last_output(self._plan, self._stage, bucket)
        kind = "slides" if self._is_cohort else "manifest"
        rows, problem = read_table_of(path, kind, self._stage, output)
        if problem is not None:
            return problem
        ours = {str(row["slide_id"]): row for row in rows}
        lacking = [name for name in slides if name not in ours]
        if lacking:
            what = f"slides of the sheet are lacking: {_named(lacking)}"
            return Problem(str(path), what, mend(path, output))
        there = [name for name in slides if name in whole]
        differ = [name for name in there if not _agree(ours[name], whole[name])]
        if differ:
            what = f"it does not say the same as {self._path.name} of {_named(differ)}"
            return Problem(str(path), what, self._rejoin())
        return None

    def _rejoin(self) -> str:
        if self._stage.stage == "candidates":
            return self._join_candidates()
        return f"Run snakemake with --forcerun {self._path}, which joins the buckets again"

    def _files(self, rows: Sequence[Row]) -> Iterator[Callable[[], Problem | None]]:
        homes = {name: bucket for bucket, slides in self._buckets.items() for name in slides}
        for row in rows:
            if row["status"] == "ok" and row["slide_id"] in homes:
                output = last_output(self._plan, self._stage, homes[row["slide_id"]])
                yield partial(check_slide, self._folder / row["path"], row, self._stage, output)

    def _note_orphans(self, rows: Sequence[Row]) -> None:
        """Note files that no row is about."""
        folder = self._folder / "slides"
        own = {Path(row["path"]).name for row in rows if row["path"]}
        if self._stage.stage == "tissue":
            own |= {Path(name).stem + ending for name in own for ending in BESIDE}
        if not folder.is_dir():
            return
        for name in sorted(os.listdir(folder)):  # noqa: PTH208 - names are all that is needed
            if name in own:
                continue
            if name.startswith(".") and name.endswith(".tmp"):
                what = "half a file, of a job that runs or was killed"
                todo = "Delete it when nothing runs"
            else:
                what = "no row of the manifest is about this file"
                todo = "Leave it for when the slide comes back, or delete it"
            self._found.notes.append(Problem(str(folder / name), what, todo))


def _agree(bucket: Row, whole: Row) -> bool:
    return all(whole.get(key) == value for key, value in bucket.items())


def _named(slides: Sequence[str]) -> str:
    shown = ", ".join(slides[:SHOWN_SLIDES])
    more = len(slides) - SHOWN_SLIDES
    return f"{shown} and {more} more" if more > 0 else shown


def _side_by_side(checks: Sequence[Callable[[], T]]) -> Iterator[T]:
    """Run checks in threads, with a bar where there is a terminal; in their order."""
    from rich.console import Console
    from rich.progress import Progress

    shown = sys.stderr.isatty()
    with (
        Progress(console=Console(stderr=True), disable=not shown, transient=True) as bar,
        ThreadPoolExecutor(available_cpus()) as pool,
    ):
        task = bar.add_task("verifying files", total=len(checks))
        for result in pool.map(lambda check: check(), checks):
            bar.advance(task)
            yield result


def _tables(plan: Plan) -> Iterator[tuple[StageId, dict[str, str]]]:
    """The tables of every run that has no manifest of slides, by their kinds."""
    from slidemill.evaluate.encoder_rows import encoder_rows

    both = {"predictions": "predictions", "metrics": "metrics"}
    yield from ((stage, {"splits": "splits"}) for stage in plan.splits.values())
    yield from ((unit.stage, {"metrics": "pretrain-metrics"}) for unit in plan.pretrain)
    if plan.cells:
        yield from ((stage, {"summary": "feature-summary"}) for stage in plan.summaries.values())
    yield from ((cell.stage, both) for cell in plan.cells)
    for task, stage in plan.evaluate.items():
        cells = [cell for cell in plan.cells if cell.task.name == task]
        paired = any(encoder.pairs() for encoder in encoder_rows(cells))
        more = {"controls": "comparisons"} if paired else {}
        yield stage, both | {"splits": "splits", "comparisons": "comparisons"} | more


def _check_others(plan: Plan, found: Verdict) -> None:
    """Check moments of features, attention of models, and the report."""
    for stage in plan.summaries.values() if plan.cells else ():
        path = stage.folder(plan.results) / "moments.h5"
        found.add("moments", check_hdf5(path, "feature-moments", stage, plan.summary_path(stage)))
    for cell in plan.cells:
        output = plan.metrics_path(cell.stage)
        for path in sorted((cell.stage.folder(plan.results) / "slides").glob("*.h5")):
            found.add("attention", check_hdf5(path, "attention", cell.stage, output))
    path = plan.report_path()
    problem = None
    if not path.is_file():
        problem = Problem(str(path), "there is no report", mend(path, path))
    elif b"</html>" not in path.read_bytes()[-64:]:
        problem = Problem(str(path), "the report is cut off", mend(path, path))
    found.add("report", problem)
