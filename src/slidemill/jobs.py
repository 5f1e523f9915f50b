"""What a job of each stage does: the plan, the folder and the numerics brought together.

Every function does one job of the workflow, or, where no bucket or run is named, the whole stage.
Heavy libraries are imported in the job that needs them, so that the light ones start fast.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from slidemill.artifacts.folder import StageId, open_folder
from slidemill.artifacts.manifest import (
    SlideLoop,
    SlideTask,
    check_failures,
    merge,
    read_manifest,
    write_manifest,
)
from slidemill.artifacts.parquet import read_parquet
from slidemill.config import STAGES
from slidemill.errors import ConfigError, Problem
from slidemill.plan import EncoderPlan, Plan

T = TypeVar("T")
ReadStamp = Callable[[Path], Mapping[str, Any]]


def not_before(plan: Plan, stage: str) -> float:
    """Time since when results of a stage count: when it, or one before it, was asked for again."""
    order: list[str] = list(STAGES)
    named = order[: order.index(stage) + 1]
    flags = [plan.recompute_flag(name) for name in named]
    return max((flag.stat().st_mtime for flag in flags if flag.exists()), default=0.0)


def cohort(plan: Plan, buckets: Iterable[str]) -> None:
    """Open the slides of buckets."""
    from slidemill.cohort.stage import run_bucket

    for bucket in buckets:
        rows = plan.buckets[bucket]
        output = plan.bucket_path(plan.cohort, bucket)
        run_bucket(plan.cohort, plan.results, rows, plan.config.cohort, output)


def gather_cohort(plan: Plan) -> Path:
    """Join the buckets of the cohort."""
    from slidemill.cohort.stage import gather

    paths = [plan.bucket_path(plan.cohort, bucket) for bucket in plan.buckets]
    return gather(plan.cohort, plan.results, plan.sheet, paths, plan.config.cohort.max_failed)


def tissue(plan: Plan, buckets: Iterable[str]) -> None:
    """Find the tissue of buckets of slides."""
    from slidemill.tissue.stage import compute, read_stamp

    work = partial(compute, config=plan.config.tissue)
    _loop(plan, plan.tissue, plan.cohort, ".h5", work, read_stamp, buckets)


def tiles(plan: Plan, stage: StageId, buckets: Iterable[str]) -> None:
    """Lay one grid over buckets of slides."""
    from slidemill.tiles.stage import compute, read_stamp

    wanted = {key: value for key, value in stage.parameters.items() if key != "grid"}
    _loop(plan, stage, plan.tissue, ".parquet", partial(compute, **wanted), read_stamp, buckets)


def features(plan: Plan, unit: EncoderPlan, buckets: Iterable[str], threads: int) -> None:
    """Run one tile encoder over buckets of slides; it is built once."""
    from slidemill.features.build import build
    from slidemill.features.stage import compute, read_stamp

    config = plan.config.features
    encode = build(unit.encoder, config.device, config.precision)
    work = partial(
        compute,
        encoder=unit.encoder,
        encode=encode,
        batch_size=config.batch_size,
        threads=threads,
    )
    _loop(plan, unit.features, unit.tiles, ".h5", work, read_stamp, buckets)


def gather(plan: Plan, stage: StageId) -> Path:
    """Join the buckets' manifests of a per-slide stage.

    Raises:
        CohortError: If too many slides failed; the manifest is written before.
    """
    frames = [read_manifest(plan.bucket_path(stage, bucket)) for bucket in plan.buckets]
    frame = merge(frames, plan.slide_ids)
    path = plan.manifest_path(stage)
    write_manifest(path, frame, stage)
    check_failures(frame, plan.config.cohort.max_failed, path)
    return path


def splits(plan: Plan, task: str) -> Path:
    """Make the folds of a task."""
    from slidemill.splits.stage import run

    config = plan.config.evaluate
    chosen = next(one for one in config.tasks if one.name == task)
    given = Path(config.splits) if config.splits else None
    path = plan.manifest_path(plan.cohort)
    return run(plan.splits[task], plan.results, path, chosen, config, given)


def pretrain(plan: Plan, name: str, threads: int) -> Path:
    """Train one slide encoder and embed every slide."""
    from slidemill.device import choose_device
    from slidemill.pretrain.stage import run

    unit = _named(plan.pretrain, name, "pretrain", lambda unit: unit.stage)
    device = choose_device(plan.config.pretrain.device)
    return run(plan, unit, device, threads, not_before(plan, "pretrain"))


def evaluate(plan: Plan, name: str, threads: int) -> Path:
    """Cross-validate one model on one input, or compare the models of a task."""
    from slidemill.evaluate.stage import run_cell, run_task

    for task, stage in plan.evaluate.items():
        if stage.name == name:
            return run_task(plan, task)
    cell = _named(plan.cells, name, "evaluate", lambda cell: cell.stage)
    return run_cell(plan, cell, "cpu", threads)


def report(plan: Plan) -> Path:
    """Write the report."""
    from slidemill.report.stage import run

    return run(plan, open_folder(plan.report, plan.results))


def named_tiles(plan: Plan, name: str) -> StageId:
    """A tiling by the name of its folder."""
    return _named(list(plan.tiles.values()), name, "tiles", lambda stage: stage)


def named_encoder(plan: Plan, name: str) -> EncoderPlan:
    """A features run by the name of its folder, or by its encoder's name."""
    for unit in plan.encoders:
        if unit.encoder.spec.name == name:
            return unit
    return _named(plan.encoders, name, "features", lambda unit: unit.features)


def _named(units: Iterable[T], name: str, stage: str, stage_of: Callable[[T], StageId]) -> T:
    units = list(units)
    for unit in units:
        if stage_of(unit).name == name:
            return unit
    known = ", ".join(stage_of(unit).name for unit in units) or "none"
    problem = Problem("--run", f"no run of {stage} is called {name!r}", f"There are: {known}")
    raise ConfigError(stage, [problem])


def _loop(
    plan: Plan,
    stage: StageId,
    above: StageId,
    suffix: str,
    compute: Callable[[SlideTask], int],
    read_stamp: ReadStamp,
    buckets: Iterable[str],
) -> None:
    loop = SlideLoop(
        stage, plan.results, suffix, compute, read_stamp, not_before(plan, stage.stage)
    )
    for bucket in buckets:
        slides = read_parquet(plan.bucket_path(plan.cohort, bucket), "slides")
        upstream: pd.DataFrame = (
            slides if above is plan.cohort else read_manifest(plan.bucket_path(above, bucket))
        )
        write_manifest(plan.bucket_path(stage, bucket), loop.run(slides, upstream, above), stage)
