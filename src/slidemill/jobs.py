"""What a job of each stage does: the plan, the folder and the numerics brought together.

Every function does one job of the workflow, or, where no bucket or run is named, the whole stage.
Heavy libraries are imported in the job that needs them, so that the light ones start fast.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from slidemill.artifacts.folder import StageId, open_folder
from slidemill.artifacts.manifest import (
    Pace,
    SlideLoop,
    check_failures,
    merge,
    tell,
    write_manifest,
)
from slidemill.artifacts.parquet import Row, read_columns, read_rows
from slidemill.config import STAGES
from slidemill.errors import ArtifactError, ConfigError, Problem, UserError
from slidemill.plan import EncoderPlan, Plan
from slidemill.runs.marks import working

if TYPE_CHECKING:
    from slidemill.tissue.unet import Segmenter

log = logging.getLogger(__name__)
T = TypeVar("T")


def not_before(plan: Plan, stage: str) -> float:
    """Time since when results of a stage count: when it, or one before it, was asked for again."""
    order: list[str] = list(STAGES)
    named = order[: order.index(stage) + 1]
    flags = [plan.recompute_flag(name) for name in named]
    return max((flag.stat().st_mtime for flag in flags if flag.exists()), default=0.0)


def cohort(plan: Plan, buckets: Iterable[str], threads: int) -> None:
    """Open the slides of buckets."""
    from slidemill.cohort.stage import run_bucket

    for bucket in buckets:
        rows = plan.buckets[bucket]
        output = plan.bucket_path(plan.cohort, bucket)
        with working(plan, plan.cohort, bucket):
            run_bucket(plan.cohort, plan.results, rows, plan.config.cohort, output, threads)


def gather_cohort(plan: Plan) -> Path:
    """Join the buckets of the cohort."""
    from slidemill.cohort.stage import gather

    paths = [plan.bucket_path(plan.cohort, bucket) for bucket in plan.buckets]
    return gather(plan.cohort, plan.results, plan.sheet, paths, plan.config.cohort.max_failed)


def tissue(plan: Plan, buckets: Iterable[str], threads: int) -> None:
    """Find the tissue of buckets of slides."""
    from slidemill.tissue.stage import compute, inputs, read_stamp

    config = plan.config.tissue
    load = None
    if config.method == "unet":
        # One process: a network takes all the threads, or the GPU, that there are.
        load, threads = _segmenter(plan, threads), 1
    work = partial(compute, config=config, load_segmenter=load)
    loop = SlideLoop(
        plan.tissue, plan.results, ".h5", work, read_stamp, not_before(plan, "tissue"),
        pace=_pace(plan, threads), inputs=partial(inputs, config=config),
    )  # fmt: skip
    _run(plan, loop, plan.cohort, buckets, plan.tissue)


def _segmenter(plan: Plan, threads: int) -> "Callable[[], Segmenter]":
    """Loads the network of the tissue stage, once a process."""
    config = plan.config.tissue.unet
    path = plan.folder / str(config.checkpoint)

    @cache
    def load() -> "Segmenter":
        import torch

        from slidemill.tissue.unet import load_segmenter

        torch.set_num_threads(threads)
        return load_segmenter(config, path, config.device)

    return load


def tiles(plan: Plan, stage: StageId, buckets: Iterable[str], threads: int) -> None:
    """Measure the candidates of one grid on buckets of slides, and choose tiles among them."""
    from slidemill.tiles import candidates
    from slidemill.tiles.keep import Limits
    from slidemill.tiles.stage import compute, read_stamp

    buckets = list(buckets)
    above = plan.candidates[stage.name]
    work = partial(
        candidates.compute,
        settings=candidates.GridSettings(**above.parameters),
        coordinates=plan.coordinates,
    )
    since = not_before(plan, "tiles")
    measuring = SlideLoop(
        above, plan.results, ".parquet", work, candidates.read_stamp, since,
        pace=replace(_pace(plan, threads), contained=plan.config.tiles.qc == "pixels"),
        failed_in="tiles",
        inputs=partial(candidates.inputs, coordinates=plan.coordinates),
    )  # fmt: skip
    _run(plan, measuring, plan.tissue, buckets, stage)
    choose = partial(compute, limits=Limits(**stage.parameters))
    choosing = SlideLoop(stage, plan.results, ".parquet", choose, read_stamp, since)
    _run(plan, choosing, above, buckets, stage)


def features(plan: Plan, unit: EncoderPlan, buckets: Iterable[str], threads: int) -> None:
    """Run one tile encoder over buckets of slides; readers and encoder live through all of them."""
    from slidemill.features.encoders import misfit
    from slidemill.features.session import Session, Settings
    from slidemill.features.stage import FeaturesRun, read_stamp

    config, parameters = plan.config.features, unit.features.parameters
    grid = unit.candidates.parameters
    tile_px, mpp = int(grid["tile_px"]), float(grid["mpp"])
    settings = Settings(
        precision=parameters["precision"],
        dtype=parameters["dtype"],
        tokens=parameters["tokens"],
        tile_px=tile_px,
        batch_size=None if config.batch_size == "auto" else config.batch_size,
        compiled=config.compile,
        device=config.device,
        cpus=threads,
        seconds=plan.config.cohort.slide_seconds,
        max_unreadable=config.max_unreadable,
    )
    warning = misfit(unit.encoder, tile_px, mpp)
    if warning:
        log.warning(warning)
    read = partial(read_stamp, max_unreadable=config.max_unreadable)
    since = not_before(plan, "features")
    loop = SlideLoop(unit.features, plan.results, ".h5", None, read, since, _pace(plan, threads))
    with Session(unit.encoder, settings) as session:

        def run(slides: Sequence[Row], upstream: Sequence[Row], above: StageId) -> list[Row]:
            bucket = FeaturesRun(loop, unit.encoder, settings, mpp)
            return bucket.run(session, slides, upstream, above)

        _run(plan, loop, unit.tiles, buckets, unit.features, run)


def gather(plan: Plan, stage: StageId) -> Path:
    """Join the buckets' manifests of a per-slide stage.

    Raises:
        CohortError: If too many slides failed; the manifest is written before.
    """
    tables = [read_rows(plan.bucket_path(stage, bucket), "manifest") for bucket in plan.buckets]
    rows = merge(tables, plan.slide_ids)
    path = plan.manifest_path(stage)
    write_manifest(path, rows, stage)
    tell(rows)
    check_failures(rows, plan.config.cohort.max_failed)
    return path


def gather_tiles(plan: Plan, stage: StageId) -> Path:
    """Join the buckets' manifests of a grid and of its candidates.

    Raises:
        CohortError: If too many slides failed; both manifests are written before.
    """
    candidates = plan.candidates[stage.name]
    rows = merge(
        (read_rows(plan.bucket_path(candidates, bucket), "manifest") for bucket in plan.buckets),
        plan.slide_ids,
    )
    write_manifest(plan.manifest_path(candidates), rows, candidates)
    return gather(plan, stage)


def check_cohort(plan: Plan) -> None:
    """Refuse a cohort's table of another sheet, for what depends on who is in the cohort.

    Snakemake notices rows that came or went by its records; where these are gone it does not.

    Raises:
        ArtifactError: With what to do.
    """
    path = plan.manifest_path(plan.cohort)
    found = read_columns(path, "cohort")["slide_id"].tolist()
    if sorted(found) != sorted(plan.slide_ids):
        raise ArtifactError(
            f"{path}: it has {len(found)} slides and is not of the sheet as it is now, of "
            f"{len(plan.slide_ids)}. Run snakemake with --forcerun cohort_bucket: it looks at "
            "every slide file, and computes nothing that is there."
        )


def splits(plan: Plan, task: str) -> Path:
    """Make the folds of a task."""
    from slidemill.splits.stage import run

    check_cohort(plan)
    config = plan.config.evaluate
    chosen = next(one for one in config.tasks if one.name == task)
    named = chosen.splits or config.splits
    given = plan.folder / named if named else None
    path = plan.manifest_path(plan.cohort)
    return run(plan.splits[task], plan.results, path, chosen, config, given)


def pretrain(plan: Plan, name: str, threads: int) -> Path:
    """Train one slide encoder and embed every slide."""
    from slidemill.device import choose_device
    from slidemill.pretrain.distributed import join, leave, own_device
    from slidemill.pretrain.stage import run

    unit = _named(plan.pretrain, name, "pretrain", lambda unit: unit.stage)
    device = choose_device(plan.config.pretrain.device)
    with working(plan, unit.stage):
        ranks = join(device)
        try:
            own = own_device(device, ranks)
            return run(plan, unit, own, threads, not_before(plan, "pretrain"), ranks)
        finally:
            leave()


def launch_pretrain(config: Path, name: str, threads: int, processes: int) -> None:
    """Run `slidemill pretrain` for one run in several processes of this node, by torchrun.

    Raises:
        UserError: If a process fails; its own message is above.
    """
    import signal
    import subprocess
    import sys

    # What follows the two dashes is not torchrun's: it would take --run for one of its own.
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone",
        f"--nproc-per-node={processes}", "-m", "--", "slidemill.cli", "pretrain",
        "--config", str(config), "--run", name, "--threads", str(threads),
    ]  # fmt: skip
    with subprocess.Popen(command) as torchrun:
        # Who ends this process means the training; torchrun ends its own.
        before = signal.signal(signal.SIGTERM, lambda *_: torchrun.terminate())
        try:
            code = torchrun.wait()
        finally:
            signal.signal(signal.SIGTERM, before)
            torchrun.terminate()
    if code != 0:
        raise UserError(f"pretrain {name}: a process of the training ended with {code}; see above.")


def evaluate(plan: Plan, name: str, threads: int) -> Path:
    """Summarise features, run one row of a comparison, or compare the models of a task."""
    for task, stage in plan.evaluate.items():
        if stage.name == name:
            from slidemill.evaluate.comparison import run_task

            with working(plan, stage):
                return run_task(plan, task)

    from slidemill.device import choose_device
    from slidemill.evaluate.stage import run_cell, run_summary

    for unit in plan.encoders:
        summary = plan.summaries[unit.encoder.label]
        if summary.name == name:
            with working(plan, summary):
                return run_summary(plan, unit)
    cell = _named(plan.cells, name, "evaluate", lambda cell: cell.stage)
    with working(plan, cell.stage):
        return run_cell(plan, cell, choose_device(plan.config.evaluate.device), threads)


def report(plan: Plan) -> Path:
    """Write the report."""
    from slidemill.report.stage import run

    check_cohort(plan)
    with working(plan, plan.report):
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


def _pace(plan: Plan, threads: int) -> Pace:
    config = plan.config.cohort
    return Pace(threads, config.slide_seconds, stage_slides=config.stage_slides)


def _run(
    plan: Plan,
    loop: SlideLoop,
    above: StageId,
    buckets: Iterable[str],
    named: StageId,
    run: Callable[[Sequence[Row], Sequence[Row], StageId], list[Row]] | None = None,
) -> None:
    """Work through buckets, by the loop or by a stage's own way, and write their manifests.

    Args:
        plan: The plan.
        loop: The bookkeeping.
        above: The stage before.
        buckets: The buckets.
        named: The stage that people know the work as: candidates are a part of tiles.
        run: The stage's own way.
    """
    for bucket in buckets:
        with working(plan, named, bucket):
            slides = read_rows(plan.bucket_path(plan.cohort, bucket), "slides")
            upstream = (
                slides
                if above is plan.cohort
                else read_rows(plan.bucket_path(above, bucket), "manifest")
            )
            found = (run or loop.run)(slides, upstream, above)
            write_manifest(plan.bucket_path(loop.stage, bucket), found, loop.stage)
