"""The command line: one command a stage, and what people ask about runs.

Exit codes:

0   done
1   a bug or a broken machine, with its traceback; of `verify`: something is not whole; of `diff`:
    the runs differ
2   something that the user can fix, said in words
3   of `status` and `failed`: slides failed

Nothing heavy is imported before a command is chosen.
"""

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from slidemill.artifacts.workers import limit_threads
from slidemill.errors import UserError
from slidemill.interop.commands import export_app, import_app
from slidemill.runs.cli import app as runs_app
from slidemill.runs.commands import app as results_app

if TYPE_CHECKING:
    from slidemill.plan import Plan

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="slidemill: whole-slide images to tiles, features, slide encoders and evaluations.",
)
encoders_app = typer.Typer(
    help="Tile encoders: what there is, and fetching weights.", rich_markup_mode=None
)
app.add_typer(encoders_app, name="encoders", invoke_without_command=True)
app.add_typer(export_app, name="export")
app.add_typer(import_app, name="import")
app.add_typer(runs_app)
app.add_typer(results_app)

ConfigOption = Annotated[
    Path, typer.Option("--config", "-c", envvar="SLIDEMILL_CONFIG", help="The configuration.")
]
BucketOption = Annotated[
    str | None, typer.Option(help="One bucket, as in 0-of-4; by default all, then --gather.")
]
GatherOption = Annotated[bool, typer.Option("--gather", help="Only join the buckets' manifests.")]
RunOption = Annotated[
    str | None, typer.Option(help="One run, by the name of its folder; by default all.")
]
ThreadsOption = Annotated[
    int, typer.Option(min=1, envvar="SLURM_CPUS_PER_TASK", help="Threads to use.")
]
CpusOption = Annotated[
    int,
    typer.Option(
        min=0,
        help="Slides side by side; 0 takes the CPUs that this process was given "
        "(SLURM_CPUS_PER_TASK, or its affinity).",
    ),
]
FeatureThreadsOption = Annotated[
    int,
    typer.Option(
        min=0,
        help="Threads that read slides, and that a network on the CPU uses; 0 takes the CPUs that "
        "this process was given.",
    ),
]
DEFAULT_CONFIG = Path("config.yaml")


def main() -> None:
    """Run a command; faults that the user can fix are said without a traceback."""
    # Shared file systems refuse HDF5's locks; h5py looks when it is imported.
    os.environ.setdefault("HDF5_USE_FILE_LOCKING", "FALSE")
    limit_threads()
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s %(message)s",
        datefmt="%H:%M:%S",
        handlers=[_CurrentStderr()],
    )
    # Says how many threads it takes whenever pandas finds it installed.
    logging.getLogger("numexpr").setLevel(logging.WARNING)
    try:
        app()
    except UserError as error:
        sys.stderr.write(f"slidemill: {error}\n")
        raise SystemExit(2) from None


class _CurrentStderr(logging.StreamHandler[TextIO]):
    """Writes to what stderr is at that moment, so that lines go above a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line."""
        self.setStream(sys.stderr)
        super().emit(record)


def _per_slide(
    config: Path,
    bucket: str | None,
    gather: bool,
    work: "Callable[[Plan, list[str]], None]",
    join: "Callable[[Plan], object]",
) -> None:
    """A per-slide stage: one bucket, only the joining, or everything."""
    plan = _plan(config)
    if not gather:
        work(plan, _buckets(plan, bucket))
    if gather or bucket is None:
        join(plan)


def _cpus(threads: int) -> int:
    from slidemill.artifacts.workers import available_cpus

    return threads or available_cpus()


def _plan(config: Path) -> "Plan":
    from slidemill.config import load_config
    from slidemill.planner import make_plan

    return make_plan(load_config(config), Path())


def _buckets(plan: "Plan", bucket: str | None) -> list[str]:
    from slidemill.errors import ConfigError, Problem

    if bucket is None:
        return list(plan.buckets)
    if bucket not in plan.buckets:
        problem = Problem(
            "--bucket", f"no bucket {bucket!r}", f"There are: {', '.join(plan.buckets)}"
        )
        raise ConfigError("of this command", [problem])
    return [bucket]


@app.command()
def cohort(
    config: ConfigOption = DEFAULT_CONFIG,
    bucket: BucketOption = None,
    gather: GatherOption = False,
    threads: CpusOption = 0,
) -> None:
    """Open the slides of the sheet: dimensions, vendor, mpp and where it is from."""
    from slidemill import jobs

    def work(plan: "Plan", buckets: list[str]) -> None:
        jobs.cohort(plan, buckets, _cpus(threads))

    _per_slide(config, bucket, gather, work, jobs.gather_cohort)


@app.command()
def tissue(
    config: ConfigOption = DEFAULT_CONFIG,
    bucket: BucketOption = None,
    gather: GatherOption = False,
    threads: CpusOption = 0,
) -> None:
    """Find tissue: GeoJSON, mask and overlay of every slide."""
    from slidemill import jobs

    def work(plan: "Plan", buckets: list[str]) -> None:
        jobs.tissue(plan, buckets, _cpus(threads))

    _per_slide(config, bucket, gather, work, lambda plan: jobs.gather(plan, plan.tissue))


@app.command()
def tiles(
    config: ConfigOption = DEFAULT_CONFIG,
    run: RunOption = None,
    bucket: BucketOption = None,
    gather: GatherOption = False,
    threads: CpusOption = 0,
) -> None:
    """Lay the grid of tiles over every slide, judge each tile, and keep the good ones."""
    from slidemill import jobs

    plan = _plan(config)
    for stage in [jobs.named_tiles(plan, run)] if run else list(plan.tiles.values()):
        if not gather:
            jobs.tiles(plan, stage, _buckets(plan, bucket), _cpus(threads))
        if gather or bucket is None:
            jobs.gather_tiles(plan, stage)


@app.command()
def features(
    config: ConfigOption = DEFAULT_CONFIG,
    run: RunOption = None,
    bucket: BucketOption = None,
    gather: GatherOption = False,
    threads: FeatureThreadsOption = 0,
) -> None:
    """Run tile encoders over every slide."""
    from slidemill import jobs

    plan = _plan(config)
    for unit in [jobs.named_encoder(plan, run)] if run else plan.encoders:
        if not gather:
            jobs.features(plan, unit, _buckets(plan, bucket), _cpus(threads))
        if gather or bucket is None:
            jobs.gather(plan, unit.features)


@app.command()
def splits(
    config: ConfigOption = DEFAULT_CONFIG,
    task: Annotated[str | None, typer.Option(help="One task; by default all.")] = None,
) -> None:
    """Make the folds of every task."""
    from slidemill import jobs

    plan = _plan(config)
    for name in [task] if task else list(plan.splits):
        jobs.splits(plan, name)


@app.command()
def pretrain(
    config: ConfigOption = DEFAULT_CONFIG, run: RunOption = None, threads: ThreadsOption = 1
) -> None:
    """Train slide encoders and embed every slide."""
    from slidemill import jobs

    plan = _plan(config)
    processes = plan.config.pretrain.processes
    for name in [run] if run else [unit.stage.name for unit in plan.pretrain]:
        if processes > 1 and "WORLD_SIZE" not in os.environ:
            jobs.launch_pretrain(config, name, threads, processes)
        else:
            jobs.pretrain(plan, name, threads)


@app.command()
def evaluate(
    config: ConfigOption = DEFAULT_CONFIG, run: RunOption = None, threads: ThreadsOption = 1
) -> None:
    """Cross-validate models, and compare them."""
    from slidemill import jobs

    plan = _plan(config)
    stages = [*plan.summaries.values()] if plan.cells else []
    stages += [cell.stage for cell in plan.cells] + list(plan.evaluate.values())
    for name in [run] if run else [stage.name for stage in stages]:
        jobs.evaluate(plan, name, threads)


@app.command()
def report(config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Write the report: one HTML file."""
    from slidemill import jobs

    jobs.report(_plan(config))


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(help="Where to write the cohort.")],
    patients: Annotated[
        int, typer.Option(min=4, help="Patients; every fourth has two slides.")
    ] = 32,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the slides.")] = 0,
    bad_slides: Annotated[bool, typer.Option(help="Add a slide of glass and a torn file.")] = True,
) -> None:
    """Write a synthetic cohort: pyramidal slides with a known truth, and their sheet."""
    from rich.console import Console
    from rich.progress import Progress

    from slidemill.demo import write_demo

    with Progress(console=Console(stderr=True)) as bar:
        work = bar.add_task("painting slides", total=None)
        done = write_demo(
            folder,
            patients=patients,
            seed=seed,
            bad_slides=bad_slides,
            progress=lambda number, total: bar.update(work, completed=number, total=total),
        )
    typer.echo(f"{done.sheet}: {done.slides} slides of {done.patients} patients")


@encoders_app.callback()
def encoders(context: typer.Context) -> None:
    """List the tile encoders."""
    if context.invoked_subcommand is None:
        from slidemill.features.listing import print_encoders

        print_encoders()


@encoders_app.command("show")
def show_encoder(
    name: Annotated[str, typer.Argument(help="An encoder, such as uni2-h.")],
) -> None:
    """Tell all about one encoder."""
    from slidemill.features.listing import print_encoder

    print_encoder(name)


@encoders_app.command("download")
def download_weights(
    names: Annotated[
        list[str], typer.Argument(help="Encoders, such as uni2-h or timm:resnet50.a1_in1k.")
    ],
) -> None:
    """Fetch weights of encoders for nodes without network; print their files and sha256."""
    from slidemill.errors import WeightsError
    from slidemill.features.download import download
    from slidemill.features.encoders import find_spec
    from slidemill.features.weights import nothing_to_load

    failures: list[str] = []
    for spec in [find_spec(name) for name in names]:
        if not spec.needs_weights and spec.builder != "none":
            typer.echo(nothing_to_load(spec))
            continue
        try:
            weights = download(spec)
        except WeightsError as error:
            # The others may be had all the same.
            failures.append(str(error))
        else:
            typer.echo(f"{weights.path} {weights.sha256}")
    if failures:
        raise WeightsError("\n".join(failures))


if __name__ == "__main__":
    main()
