"""How far a run is: of every stage and bucket what is done, running, failed and missing.

Reads manifests, marks of jobs and names of files, and writes nothing.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from slidemill.artifacts.folder import StageId
from slidemill.plan import WHOLE, Plan
from slidemill.runs.counts import BucketStatus, Failure, Manifests, State
from slidemill.runs.marks import mark_name, read_marks


@dataclass(frozen=True)
class StageStatus:
    """How far one run of a stage is.

    Attributes:
        stage: Its identity.
        unit: What is counted: `slide`, or `result` where a run leaves one for the whole cohort.
        buckets: Its buckets.
    """

    stage: StageId
    unit: Literal["slide", "result"]
    buckets: tuple[BucketStatus, ...]

    @property
    def done(self) -> int:
        """Slides, or results, that are there."""
        return sum(bucket.done for bucket in self.buckets)

    @property
    def failed(self) -> int:
        """Slides that failed, here or in an earlier stage."""
        return sum(bucket.failed for bucket in self.buckets)

    @property
    def missing(self) -> int:
        """Those that are not there yet."""
        return sum(bucket.missing for bucket in self.buckets)

    def count(self, state: State) -> int:
        """Buckets in a state."""
        return sum(bucket.state == state for bucket in self.buckets)


@dataclass(frozen=True)
class RunStatus:
    """How far everything is that a configuration asks for.

    Attributes:
        results: Folder of all results.
        slides: Slides of the sheet.
        stages: Every run of every stage, in the order of the data.
        failures: Slides with the stage in which they failed, in the order of stages and sheet.
    """

    results: Path
    slides: int
    stages: tuple[StageStatus, ...]
    failures: tuple[Failure, ...]

    @property
    def failed_slides(self) -> int:
        """Slides that failed somewhere."""
        return len({failure.slide_id for failure in self.failures})

    def as_json(self) -> str:
        """The shape that docs/formats.md describes."""
        return json.dumps(
            {
                "results": str(self.results),
                "slides": self.slides,
                "failed_slides": self.failed_slides,
                "stages": [_stage_json(stage) for stage in self.stages],
                "failed": [failure._asdict() for failure in self.failures],
            },
            indent=2,
        )


def _stage_json(found: StageStatus) -> dict[str, Any]:
    return {
        "stage": found.stage.stage,
        "run": found.stage.name,
        "digest": found.stage.digest,
        "unit": found.unit,
        "done": found.done,
        "running": found.count("running"),
        "failed": found.failed,
        "missing": found.missing,
        "buckets": [
            {
                "bucket": bucket.bucket,
                "state": bucket.state,
                "done": bucket.done,
                "failed": bucket.failed,
                "missing": bucket.missing,
                "running": asdict(bucket.mark) if bucket.mark else None,
            }
            for bucket in found.buckets
        ],
    }


def slide_stages(plan: Plan) -> list[StageId]:
    """Stages that leave a manifest of slides, in the order of the data."""
    return [
        plan.cohort,
        plan.tissue,
        *plan.tiles.values(),
        *(unit.features for unit in plan.encoders),
        *(unit.stage for unit in plan.pretrain),
    ]


def buckets_of(plan: Plan, stage: StageId) -> dict[str, list[str]]:
    """Slides of a stage by bucket; a stage that is not cut has one of all slides."""
    if stage.stage == "pretrain":
        return {WHOLE: plan.slide_ids}
    return {name: [row.slide_id for row in rows] for name, rows in plan.buckets.items()}


def read_status(plan: Plan) -> RunStatus:
    """Find out how far everything is.

    Raises:
        ArtifactError: If a manifest is damaged.
    """
    marks = read_marks(plan.results)
    stages: list[StageStatus] = []
    failures: list[Failure] = []
    for stage in slide_stages(plan):
        found = Manifests(plan, stage)
        buckets = [
            found.count(bucket, slides, marks.get(_mark(stage, bucket)))
            for bucket, slides in buckets_of(plan, stage).items()
        ]
        stages.append(StageStatus(stage, "slide", tuple(buckets)))
        failures += found.failures()
    for stage, path in _results(plan):
        there = path.is_file()
        bucket = BucketStatus(
            WHOLE, int(there), 0, int(not there), there, marks.get(mark_name(stage))
        )
        stages.append(StageStatus(stage, "result", (bucket,)))
    return RunStatus(plan.results, len(plan.slide_ids), tuple(stages), tuple(failures))


def _mark(stage: StageId, bucket: str) -> str:
    return mark_name(stage, None if bucket == WHOLE else bucket)


def _results(plan: Plan) -> Iterator[tuple[StageId, Path]]:
    """Runs that leave one result for the whole cohort, and the last file that each writes."""
    if plan.cells:
        yield from ((stage, plan.summary_path(stage)) for stage in plan.summaries.values())
    yield from ((cell.stage, plan.metrics_path(cell.stage)) for cell in plan.cells)
    yield from ((stage, plan.metrics_path(stage)) for stage in plan.evaluate.values())
    yield plan.report, plan.report_path()
