"""What differs between two runs: configuration, code, stages, slides' results and metrics.

Reads the records of runs and the tables beside them, and nothing else: so runs can be compared
whose results have gone since, or that are of different folders. Of a run that was killed, only
what was known at its start can be compared.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slidemill.artifacts.parquet import read_parquet
from slidemill.runs.config_diff import Change, changes
from slidemill.runs.record import RunRecord, metrics_path, read_record, results_path
from slidemill.runs.stage_diff import StageDiff, pair_stages

if TYPE_CHECKING:
    import pandas as pd

ONE_CALL = ("recompute", "until")
"""Keys of the configuration that say how one call went."""
METRIC_KEYS = [
    "task", "model", "input", "control", "sample", "target", "metric", "draw", "repeat",
]  # fmt: skip
"""Columns that tell a metric's rows apart."""
INTERVAL = ["estimate", "low", "high"]


@dataclass(frozen=True)
class Run:
    """A run that is compared.

    Attributes:
        path: Its record.
        record: What the record says.
        slides: Its `run-results`; None where it has none.
        metrics: Its metrics over all folds; None where it has none.
    """

    path: Path
    record: RunRecord
    slides: "pd.DataFrame | None"
    metrics: "pd.DataFrame | None"


@dataclass(frozen=True)
class SlidesDiff:
    """What became of the slides that both runs have, in one stage of both.

    Attributes:
        stage: The stage.
        old: ok, failed and rows in the old run.
        new: The same in the new one.
        changed: Slides whose result was made from something else, under the same stage's digest.
        bytes_changed: Slides whose file has other bytes although it was made from the same.
        failed: Newly failed slides: where, and with which code.
        fixed: Slides that had failed, and have a result now.
        lost: Slides that the new run had not reached, and the old one had.
        gained: Slides that the old run had not reached, and the new one had.
    """

    stage: StageDiff
    old: tuple[int, int, int]
    new: tuple[int, int, int]
    changed: tuple[str, ...]
    bytes_changed: tuple[str, ...]
    failed: Mapping[str, str]
    fixed: tuple[str, ...]
    lost: tuple[str, ...]
    gained: tuple[str, ...]

    @property
    def differs(self) -> bool:
        """Whether anything is not as it was."""
        seen = (self.changed, self.bytes_changed, self.failed, self.fixed, self.lost, self.gained)
        return any(seen) or self.old != self.new


@dataclass(frozen=True)
class MetricDiff:
    """A metric whose value differs: estimate, low and high of both; None where there is none."""

    key: Mapping[str, Any]
    old: tuple[float, float, float] | None
    new: tuple[float, float, float] | None


@dataclass(frozen=True)
class DoneDiff:
    """A stage that only one of the runs had finished when it ended."""

    stage: StageDiff
    old: bool
    new: bool


@dataclass(frozen=True)
class RunDiff:
    """All that differs between two runs.

    Attributes:
        old: The one run.
        new: The other.
        config: Keys of the configuration.
        sheet: Path, digest or number of slides of the sheet.
        code: Commit and versions of packages.
        stages: Every stage, the same ones included.
        added: Slides that only the new run has; None where results cannot be compared.
        removed: Slides that only the old run has.
        slides: Results of slides, by stage.
        done: Stages that only one of the runs had finished.
        metrics: Metrics that differ.
        unknown: Why results cannot be compared, if so.
    """

    old: Run
    new: Run
    config: tuple[Change, ...]
    sheet: tuple[Change, ...]
    code: tuple[Change, ...]
    stages: tuple[StageDiff, ...]
    added: tuple[str, ...]
    removed: tuple[str, ...]
    slides: tuple[SlidesDiff, ...]
    done: tuple[DoneDiff, ...]
    metrics: tuple[MetricDiff, ...]
    unknown: tuple[str, ...]

    @property
    def differs(self) -> bool:
        """Whether configuration or results differ, or cannot be known to be the same."""
        facts = (self.config, self.sheet, self.added, self.removed, self.done, self.metrics)
        stages = any(not stage.same for stage in self.stages)
        slides = any(one.differs for one in self.slides)
        return any(facts) or stages or slides or bool(self.unknown)


def load_run(path: Path) -> Run:
    """Read a run's record and the tables beside it.

    Raises:
        ArtifactError: If the record is not readable, or a table is damaged.
    """
    tables = (results_path(path), "run-results"), (metrics_path(path), "metrics")
    record = read_record(path)
    slides, metrics = (read_parquet(at, kind) if at.is_file() else None for at, kind in tables)
    return Run(path, record, slides, metrics)


def compare(old: Run, new: Run) -> RunDiff:
    """Compare two runs."""
    stages = tuple(pair_stages(old.record.stages, new.record.stages))
    unknown = tuple(reason for run in (old, new) if (reason := _no_results(run)))
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    slides: tuple[SlidesDiff, ...] = ()
    metrics: tuple[MetricDiff, ...] = ()
    if old.slides is not None and new.slides is not None:
        before, after = set(old.slides["slide_id"]), set(new.slides["slide_id"])
        added, removed = tuple(sorted(after - before)), tuple(sorted(before - after))
        slides = tuple(_compare_slides(stages, old.slides, new.slides, before & after))
    if old.metrics is not None and new.metrics is not None:
        metrics = tuple(_compare_metrics(old.metrics, new.metrics))
    one, other = old.record, new.record
    return RunDiff(
        old,
        new,
        tuple(changes(_lasting(one.config), _lasting(other.config))),
        tuple(changes(one.sheet.model_dump(), other.sheet.model_dump(), ("sheet",))),
        tuple(changes(_code(one), _code(other))),
        stages,
        added,
        removed,
        slides,
        () if unknown else tuple(_compare_done(stages, one, other)),
        metrics,
        unknown,
    )


def _no_results(run: Run) -> str | None:
    if run.record.finished is None:
        return f"{run.path.stem} has no end: it was killed, or is still running"
    if run.slides is None or run.metrics is None or not run.record.counts:
        return f"{run.path.stem} could not note its results when it ended"
    return None


def _lasting(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in ONE_CALL}


def _code(record: RunRecord) -> dict[str, Any]:
    return {"commit": record.commit, "versions": record.versions}


def _compare_done(
    stages: Sequence[StageDiff], old: RunRecord, new: RunRecord
) -> Iterator[DoneDiff]:
    before, after = ({(c.stage, c.run): c.done for c in run.counts} for run in (old, new))
    for stage in stages:
        if stage.old is not None and stage.new is not None:
            one, other = before[stage.old.key], after[stage.new.key]
            if one != other:
                yield DoneDiff(stage, one, other)


def _compare_slides(
    stages: Sequence[StageDiff], old: "pd.DataFrame", new: "pd.DataFrame", both: set[str]
) -> Iterator[SlidesDiff]:
    """Results of the slides of both runs, in every stage of both that is per slide."""
    before, after = (
        dict(list(frame[frame["slide_id"].isin(both)].groupby(["stage", "run"])))
        for frame in (old, new)
    )
    for stage in stages:
        if stage.old is None or stage.new is None:
            continue
        one, other = before.get(stage.old.key), after.get(stage.new.key)
        if one is not None or other is not None:
            yield _compare_stage(stage, _by_slide(old, one), _by_slide(new, other))


def _by_slide(frame: "pd.DataFrame", part: "pd.DataFrame | None") -> "pd.DataFrame":
    return (frame.iloc[:0] if part is None else part).set_index("slide_id")


def _compare_stage(stage: StageDiff, old: "pd.DataFrame", new: "pd.DataFrame") -> SlidesDiff:
    joined = old.merge(new, left_index=True, right_index=True, suffixes=("_old", "_new"))
    was, has = joined["status_old"] == "ok", joined["status_new"] == "ok"
    other_input = joined["item_digest_old"] != joined["item_digest_new"]
    other_bytes = joined["sha256_old"].notna() & (joined["sha256_old"] != joined["sha256_new"])
    failed = joined[was & ~has]
    reasons = failed["failed_stage_new"] + ": " + failed["error_code_new"]
    return SlidesDiff(
        stage,
        _totals(old),
        _totals(new),
        # Under another digest of the stage every slide's is another, which says nothing of it.
        changed=tuple(joined.index[was & has & other_input]) if stage.same else (),
        bytes_changed=tuple(joined.index[was & has & ~other_input & other_bytes]),
        failed={str(slide): str(reason) for slide, reason in reasons.items()},
        fixed=tuple(joined.index[~was & has]),
        lost=tuple(old.index.difference(new.index)),
        gained=tuple(new.index.difference(old.index)),
    )


def _totals(frame: "pd.DataFrame") -> tuple[int, int, int]:
    ok = int((frame["status"] == "ok").sum())
    return ok, len(frame) - ok, int(frame["count"].fillna(0).sum())


def _compare_metrics(old: "pd.DataFrame", new: "pd.DataFrame") -> Iterator[MetricDiff]:
    """Metrics that differ, in the order of the new run; those of the old one alone come last."""
    before, after = (_by_key(frame) for frame in (old, new))
    for key in dict.fromkeys([*after, *before]):
        one, other = before.get(key), after.get(key)
        if repr(one) != repr(other):  # NaN is like NaN
            yield MetricDiff(dict(zip(METRIC_KEYS, key, strict=True)), one, other)


def _by_key(frame: "pd.DataFrame") -> dict[tuple[Any, ...], tuple[float, float, float]]:
    keys = frame[METRIC_KEYS].itertuples(index=False, name=None)
    values = frame[INTERVAL].astype(float).itertuples(index=False, name=None)
    return dict(zip(keys, values, strict=True))
