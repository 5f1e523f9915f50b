"""Whether results are whole: every artifact of a plan against its manifest, format and digest.

Reads every file once and writes nothing. A problem is what keeps results from being those that the
configuration asks for; a note is something beside them that does no harm.
"""

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from slidemill.artifacts.folder import StageId
from slidemill.artifacts.parquet import Row
from slidemill.artifacts.workers import Lost, available_cpus, work_apart
from slidemill.errors import Problem
from slidemill.plan import WHOLE, Plan
from slidemill.runs.check import (
    SlideFile,
    check_checkpoint,
    check_dataset,
    check_hdf5,
    check_slide,
    check_summary,
    fix,
    named,
    read_table_of,
    unreadable,
)
from slidemill.runs.outcome import PER_SLIDE, StageKey
from slidemill.runs.status import buckets_of

Made = dict[StageKey, dict[str, str | None]]
"""Item digests by stage and slide; None where the slide has failed."""
FILE_SECONDS = 600.0
"""A file whose check takes longer is taken for damaged."""
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
    slides: list[SlideFile] = []
    for stage in plan.all_stages():
        output = last_output(plan, stage)
        found.add("dataset", check_dataset(stage, plan.results, output))
    made: Made = {}
    for stage in plan.all_stages():
        if stage.stage in PER_SLIDE:
            slides += _Manifest(plan, stage, found, made).check()
    for problem in _check_apart(slides):
        found.add("slide file", problem)
    for unit in plan.pretrain:
        found.add("checkpoint", check_checkpoint(plan, unit))
    for stage, tables in _tables(plan):
        for name, kind in tables.items():
            path = stage.folder(plan.results) / f"{name}.parquet"
            found.add("table", read_table_of(path, kind, stage, last_output(plan, stage))[1])
    _check_others(plan, found, made)
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
    """The manifest of one run of a stage, those of its buckets, and what they say of files.

    `made` has the slides' item digests of the stages before, and gets those of this one.
    """

    def __init__(self, plan: Plan, stage: StageId, found: Verdict, made: Made) -> None:
        self._plan, self._stage, self._found, self._made = plan, stage, found, made
        self._path = plan.manifest_path(stage)
        self._folder = stage.folder(plan.results)
        self._buckets = buckets_of(plan, stage)
        self._is_cohort = stage.stage == "cohort"

    def check(self) -> Iterator[SlideFile]:
        """Check the manifests; gives the slides' files, of which a check takes longer."""
        kind = "cohort" if self._is_cohort else "manifest"
        rows, problem = read_table_of(self._path, kind, self._stage, self._path)
        if problem is not None and self._stage.stage == "candidates":
            problem = Problem(problem.where, problem.what, self._join_candidates())
        self._found.add("manifest", problem)
        if problem is not None:
            return
        self._check_slides(rows)
        digests = {str(row["slide_id"]): row["item_digest"] for row in rows}
        self._made[self._stage.stage, self._stage.name] = digests
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
            self._say(f"slides of the sheet are lacking: {named(lacking)}", todo)
        twice = [name for name, count in counts.items() if count > 1]
        if twice:
            self._say(f"slides are there twice: {named(twice)}", fix(self._path, self._path))
        gone = [name for name in counts if name not in known]
        if gone:
            what = f"it has slides that the sheet no longer has: {named(gone)}"
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
            what = f"slides of the sheet are lacking: {named(lacking)}"
            return Problem(str(path), what, fix(path, output))
        there = [name for name in slides if name in whole]
        differ = [name for name in there if not _agree(ours[name], whole[name])]
        if differ:
            what = f"it does not say the same as {self._path.name} of {named(differ)}"
            return Problem(str(path), what, self._rejoin())
        return None

    def _rejoin(self) -> str:
        if self._stage.stage == "candidates":
            return self._join_candidates()
        return f"Run snakemake with --forcerun {self._path}, which joins the buckets again"

    def _files(self, rows: Sequence[Row]) -> Iterator[SlideFile]:
        homes = {name: bucket for bucket, slides in self._buckets.items() for name in slides}
        keys = [(one.stage, one.name) for one in self._stage.upstream]
        before = {key[0]: self._made[key] for key in keys if key in self._made}
        for row in rows:
            slide_id = str(row["slide_id"])
            if row["status"] == "ok" and slide_id in homes:
                output = last_output(self._plan, self._stage, homes[slide_id])
                above = {stage: digests.get(slide_id) for stage, digests in before.items()}
                path = self._folder / row["path"]
                yield SlideFile(path, row, self._stage, output, above)

    def _note_orphans(self, rows: Sequence[Row]) -> None:
        """Note files that no row is about."""
        folder = self._folder / "slides"
        own = {Path(row["path"]).name for row in rows if row["path"]}
        if self._stage.stage == "tissue":
            own |= {Path(name).stem + ending for name in own for ending in BESIDE}
            # A slide that fails here leaves its picture, to look at.
            own |= {f"{row['slide_id']}.jpg" for row in rows if row["failed_stage"] == "tissue"}
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


def _check_apart(files: Sequence[SlideFile]) -> list[Problem | None]:
    """Check files in processes of their own, with a bar where there is a terminal; in order."""
    from rich.console import Console
    from rich.progress import Progress

    found: list[Problem | None] = [None] * len(files)
    cpus, check = available_cpus(), lambda number: check_slide(files[number])
    apart = work_apart(check, range(len(files)), cpus, FILE_SECONDS)
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("verifying files", total=len(files))
        for number, result in apart:
            if isinstance(result, Lost):
                result = unreadable(files[number], result)
            found[number] = result
            bar.advance(task)
    return found


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


def _check_others(plan: Plan, found: Verdict, made: Made) -> None:
    """Check summaries against features, their moments, attention of models, and the report."""
    for unit in plan.encoders if plan.cells else ():
        stage = plan.summaries[unit.encoder.label]
        features = made.get((unit.features.stage, unit.features.name), {})
        found.add("summary", check_summary(plan.summary_path(stage), features))
        path = stage.folder(plan.results) / "moments.h5"
        found.add("moments", check_hdf5(path, "feature-moments", stage, plan.summary_path(stage)))
    for cell in plan.cells:
        output = plan.metrics_path(cell.stage)
        for path in sorted((cell.stage.folder(plan.results) / "slides").glob("*.h5")):
            found.add("attention", check_hdf5(path, "attention", cell.stage, output))
    path = plan.report_path()
    problem = None
    if not path.is_file():
        problem = Problem(str(path), "there is no report", fix(path, path))
    elif b"</html>" not in path.read_bytes()[-64:]:
        problem = Problem(str(path), "the report is cut off", fix(path, path))
    found.add("report", problem)
