"""The difference of two runs, for people and as JSON."""

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from slidemill.artifacts.digest import SHORT
from slidemill.evaluate.names import METRIC_LABELS, metric_label
from slidemill.runs.config_diff import ABSENT, Change
from slidemill.runs.diff import MetricDiff, Run, RunDiff, SlidesDiff
from slidemill.runs.stage_diff import StageDiff
from slidemill.runs.tables import SHOWN, add, counted, say, show, table

SHOWN_METRICS = 3
"""Metrics of a row that people are shown; --json has all."""
NAMED_SLIDES = 10
"""Slides that a line names; --json has all."""
_VALUE_WIDTH = 60
_DIGEST = re.compile(r"[0-9a-f]{64}")


def print_diff(found: RunDiff) -> None:
    """Print what differs between two runs."""
    _print_runs(found)
    _print_changes("configuration", [*found.config, *found.sheet])
    _print_changes("code", found.code)
    _print_stages(found.stages)
    _print_slides(found)
    _print_done(found)
    _print_metrics(found.metrics)
    for reason in found.unknown:
        say(f"results cannot be compared: {reason}")
    if not found.differs:
        say("no difference in configuration and results")


def _print_runs(found: RunDiff) -> None:
    made = table("runs", ("", "run", "ended", "commit"), (), "command")
    for side, run in (("old", found.old), ("new", found.new)):
        facts = run.record
        command = " ".join(facts.command)
        add(made, side, run.path.stem, _end(run), (facts.commit or "unknown")[:10], command)
    show(made)


def _end(run: Run) -> str:
    return run.record.status or "no end"


def _print_changes(title: str, changes: Sequence[Change]) -> None:
    if not changes:
        return
    made = table(title, ("key", "old"), (), "new")
    for one in changes:
        add(made, one.key, _value(one.old), _value(one.new))
    show(made)


def _value(value: object) -> str:
    """A value of a configuration in a cell of a table."""
    if value is ABSENT:
        return "-"
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    if _DIGEST.fullmatch(text):
        return text[:SHORT]
    return text if len(text) <= _VALUE_WIDTH else f"{text[: _VALUE_WIDTH - 3]}..."


def _print_stages(stages: Sequence[StageDiff]) -> None:
    """A line for each stage that differs by itself; those that only read others are counted."""
    others = [one for one in stages if not one.same]
    if not others:
        return
    made = table("stages of another digest", ("stage", "old", "new"), (), "why")
    reading: Counter[tuple[str, str]] = Counter()
    for one in others:
        if one.old and one.new and not one.changes:
            above = ", ".join(dict.fromkeys(path.partition("/")[0] for path in one.reads))
            reading[one.one.stage, above] += 1
            continue
        old, new = (side.run if side else "-" for side in (one.old, one.new))
        add(made, one.one.stage, old, new, "; ".join(_reasons(one)))
    for (stage, above), number in reading.items():
        add(made, stage, counted(number, "run"), counted(number, "run"), f"reads another {above}")
    show(made)


def _reasons(one: StageDiff) -> Iterator[str]:
    if one.old is None or one.new is None:
        yield f"only in the {'new' if one.new else 'old'} run"
    for change in one.changes:
        yield f"{change.key}: {_value(change.old)} -> {_value(change.new)}"
    if one.reads:
        above = dict.fromkeys(path.partition("/")[0] for path in one.reads)
        yield f"reads another {', '.join(above)}"


def _print_slides(found: RunDiff) -> None:
    for words, slides in (("added", found.added), ("removed", found.removed)):
        if slides:
            say(f"{counted(len(slides), 'slide')} {words}: {_named(slides)}")
    differing = [one for one in found.slides if one.differs]
    if not differing:
        return
    right = ("ok", "failed", "rows", "changed", "bytes", "unreached")
    made = table("slides of both runs", ("stage", "run"), right)
    for one in differing:
        ok, failed, rows = (_pair(a, b) for a, b in zip(one.old, one.new, strict=True))
        unreached = _pair(len(one.gained), len(one.lost)) if one.gained or one.lost else ""
        marks = (len(one.changed) or "", len(one.bytes_changed) or "", unreached)
        add(made, one.stage.one.stage, one.stage.one.run, ok, failed, rows, *marks)
    show(made)
    _print_changed(differing)
    _print_alarm(differing)
    _print_failures(differing)


def _print_changed(differing: Sequence[SlidesDiff]) -> None:
    """Name the slides of other content.

    A slide encoder that is trained again changes the embeddings of all slides, also of those whose
    content is the same: it is named itself.
    """
    trained = [one for one in differing if one.stage.one.stage == "pretrain"]
    changed = _first((one for one in differing if one not in trained), lambda one: one.changed)
    if changed:
        say(f"{counted(len(changed), 'slide')} made from other content: {_named(changed)}")
    again = [one.stage.one.run for one in trained if one.changed]
    if again:
        say(f"{counted(len(again), 'slide encoder')} trained again: {_named(again)}")


def _print_done(found: RunDiff) -> None:
    for side in ("old", "new"):
        stages = Counter(one.stage.one.stage for one in found.done if getattr(one, side))
        if stages:
            named = ", ".join(f"{stage} ({number})" for stage, number in stages.items())
            say(f"finished in the {side} run only: {named}")


def _print_alarm(differing: Sequence[SlidesDiff]) -> None:
    alarms = [one for one in differing if one.bytes_changed]
    slides = _first(alarms, lambda one: one.bytes_changed)
    if slides:
        stages = ", ".join(f"{one.stage.one.stage}/{one.stage.one.run}" for one in alarms)
        say(
            f"ALARM: {counted(len(slides), 'slide')} made from the same content by the same stage "
            f"with other bytes: the stage is not deterministic, or its files were changed. "
            f"In {stages}: {_named(slides)}"
        )


def _print_failures(differing: Sequence[SlidesDiff]) -> None:
    failed: dict[str, str] = {}
    for one in differing:
        failed = dict(one.failed) | failed
    by_reason: dict[str, list[str]] = {}
    for slide, reason in failed.items():
        by_reason.setdefault(reason, []).append(slide)
    for reason, slides in by_reason.items():
        say(f"{counted(len(slides), 'slide')} newly failed ({reason}): {_named(slides)}")
    fixed = _first(differing, lambda one: one.fixed)
    if fixed:
        say(f"{counted(len(fixed), 'slide')} fixed: {_named(fixed)}")


def _first(
    stages: Iterable[SlidesDiff], slides: Callable[[SlidesDiff], Sequence[str]]
) -> list[str]:
    """Slides of several stages, each once."""
    return list(dict.fromkeys(slide for one in stages for slide in slides(one)))


def _named(slides: Sequence[str]) -> str:
    more = f" and {len(slides) - NAMED_SLIDES} more" if len(slides) > NAMED_SLIDES else ""
    return ", ".join(slides[:NAMED_SLIDES]) + more


def _pair(old: int, new: int) -> str:
    return f"{new:,}" if old == new else f"{old:,} -> {new:,}"


def _print_metrics(metrics: Sequence[MetricDiff]) -> None:
    if not metrics:
        return
    made = table(
        "metrics that differ [95 % interval]", ("task", "model on input", "metric"), ("old", "new")
    )
    shown = _shown(metrics)
    for one in shown:
        add(
            made,
            one.key["task"],
            _row(one.key),
            _metric(one.key),
            _interval(one.old),
            _interval(one.new),
        )
    show(made)
    if len(metrics) > len(shown):
        say(f"and {len(metrics) - len(shown)} more; --json has all")


def _shown(metrics: Sequence[MetricDiff]) -> list[MetricDiff]:
    """The first metrics of every row, results before controls."""
    names = [name for name in METRIC_LABELS if name in {one.key["metric"] for one in metrics}]
    first = names[:SHOWN_METRICS]
    found = [one for one in metrics if one.key["metric"] in first] or list(metrics)
    return sorted(found, key=lambda one: bool(one.key["control"]))[:SHOWN]


def _row(key: Mapping[str, Any]) -> str:
    control = f"control {key['control']}: " if key["control"] else ""
    sample = "" if key["sample"] == "all" else f", {key['sample']}"
    draw = "" if key["draw"] < 0 else f", draw {key['draw']}"
    return f"{control}{key['model']} on {key['input'] or '-'}{sample}{draw}"


def _metric(key: Mapping[str, Any]) -> str:
    target = "" if key["target"] == "all" else f" ({key['target']})"
    return f"{metric_label(str(key['metric']))}{target}"


def _interval(values: tuple[float, float, float] | None) -> str:
    if values is None:
        return "-"
    estimate, low, high = values
    if math.isnan(estimate):
        return "undefined"
    return f"{estimate:.3f}" + ("" if math.isnan(low) else f" [{low:.3f}, {high:.3f}]")


def diff_json(found: RunDiff) -> str:
    """What differs between two runs as JSON."""
    facts = {
        "differs": found.differs,
        "old": _run(found.old),
        "new": _run(found.new),
        "config": [one.as_json() for one in found.config],
        "sheet": [one.as_json() for one in found.sheet],
        "code": [one.as_json() for one in found.code],
        "stages": [_stage(one) for one in found.stages],
        "slides_added": list(found.added),
        "slides_removed": list(found.removed),
        "slides": [_slides(one) for one in found.slides if one.differs],
        "done": [
            {"stage": one.stage.one.stage, "run": one.stage.one.run, "old": one.old, "new": one.new}
            for one in found.done
        ],
        "metrics": [
            dict(one.key) | {"old": _numbers(one.old), "new": _numbers(one.new)}
            for one in found.metrics
        ],
        "unknown": list(found.unknown),
    }
    return json.dumps(facts, indent=2)


def _run(run: Run) -> dict[str, Any]:
    facts = run.record
    return {"record": str(run.path), "started": facts.started, "status": facts.status}


def _stage(one: StageDiff) -> dict[str, Any]:
    return {
        "stage": one.one.stage,
        "old": one.old.run if one.old else None,
        "new": one.new.run if one.new else None,
        "same": one.same,
        "changes": [change.as_json() for change in one.changes],
        "reads": list(one.reads),
    }


def _slides(one: SlidesDiff) -> dict[str, Any]:
    names = ("ok", "failed", "rows")
    return {
        "stage": one.stage.one.stage,
        "run": one.stage.one.run,
        "old": dict(zip(names, one.old, strict=True)),
        "new": dict(zip(names, one.new, strict=True)),
        "changed": list(one.changed),
        "bytes_changed": list(one.bytes_changed),
        "newly_failed": dict(one.failed),
        "fixed": list(one.fixed),
        "lost": list(one.lost),
        "gained": list(one.gained),
    }


def _numbers(values: tuple[float, float, float] | None) -> dict[str, float | None] | None:
    """Estimate and interval; what is undefined is null, since JSON has no NaN."""
    if values is None:
        return None
    plain = [None if math.isnan(value) else value for value in values]
    return dict(zip(("estimate", "low", "high"), plain, strict=True))
