r"""What the workflow itself costs: planning cohorts of 1,000, 10,000 and 100,000 slides.

Makes a sheet of N slides whose files are empty, in buckets of about 64 slides, in a temporary
folder, and runs the real Snakefile on it:

    python benchmarks/dag.py                    # 1,000, 10,000 and 100,000 slides, a table
    python benchmarks/dag.py --slides 10000 --json

- `dry_run_s`: `snakemake -n` before anything is there: every job is planned and printed.
- `no_op_s`: `snakemake` when everything is there; it has to say that there is nothing to be done.
- `add_one_s`: `snakemake -n` after one row was added to the sheet of that finished cohort;
  `add_one_jobs` are the jobs that it plans, by rule: one bucket of every stage, or this fails.
- `job_s`: one job as a cluster starts it, `slidemill tissue --bucket ...`, whose slides need no
  work: starting, reading the sheet, planning, and writing the bucket's manifest again.
- `jobs`: jobs of the dry run. `peak_mb`: the largest resident memory of one process of all these.
- `..._cpu_s`: CPU seconds of the same run, which other work on the machine disturbs less.

The finished cohort is made by the stages themselves, all of whose slides fail as empty files, and
`snakemake --touch`, which records what the outputs were made from. What comes after features is
empty files: planning does not open it. Thousands of manifests are flushed to the disk: with 100,000
slides, `TMPDIR=/dev/shm` saves many minutes. Bytecode is kept in the temporary folder, and a first
run that is not counted compiles it, so that the figures are those of an installed Python.
"""

import argparse
import json
import logging
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import yaml

from slidemill import jobs
from slidemill.artifacts.formats import SLIDES
from slidemill.artifacts.parquet import write_rows
from slidemill.cohort.stage import describe
from slidemill.config import Config, parse_config
from slidemill.plan import Plan
from slidemill.planner import make_plan

ROOT = Path(__file__).resolve().parents[1]
SIZES = (1_000, 10_000, 100_000)
BUCKET_SLIDES = 64
PER_SLIDE_STAGES = 4
SHOWN = ("dry_run_s", "no_op_s", "add_one_s", "job_s")
TOUCH = """
from snakemake.executors import touch
from snakemake.cli import main

touch.Executor.SLEEPING_TIME = 0  # it waits a tenth of a second for every job
main()
"""


@dataclass(frozen=True)
class Ran:
    """One command: what it printed, its wall and CPU seconds, and its largest process."""

    text: str
    wall_s: float
    cpu_s: float
    peak_mb: float


class Cohort:
    """A cohort of empty slides in a folder, and the workflow on it."""

    def __init__(self, folder: Path, slides: int) -> None:
        self.folder, self.slides = folder, slides
        bucket_count = max(1, round(slides / BUCKET_SLIDES))
        self.sections = {
            "buckets": bucket_count,
            "cohort": {"sheet": "slides.tsv", "max_failed": 1.0},
            "features": {"encoders": ["rgb-mean"]},
            "pretrain": {"runs": [{"name": "dinov2"}]},
            "evaluate": {"tasks": [{"name": "label", "column": "label"}]},
        }
        (folder / "config.yaml").write_text(yaml.safe_dump(self.sections))
        (folder / "slides.tsv").write_text("slide_id\tpath\tpatient_id\tlabel\n")
        for number in range(min(slides + 1, 1000)):
            (folder / "slides" / f"{number:03d}").mkdir(parents=True)
        self._add(range(slides))

    def add_one(self) -> None:
        """Add a row to the sheet."""
        self._add([self.slides])

    def _add(self, numbers: "range | list[int]") -> None:
        with (self.folder / "slides.tsv").open("a") as sheet:
            for i in numbers:
                path = f"slides/{i % 1000:03d}/slide-{i:06d}.svs"
                (self.folder / path).touch()
                sheet.write(f"slide-{i:06d}\t{path}\tpatient-{i * 4 // 5:06d}\t{i % 2}\n")

    def plan(self) -> Plan:
        """What the configuration asks for."""
        config: Config = parse_config(self.sections, "of this benchmark")
        return make_plan(config, self.folder)

    def run(self, *command: str) -> Ran:
        """Run a program of this environment in the folder."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        bytecode = {"PYTHONPYCACHEPREFIX": str(self.folder / "bytecode")}
        environment = os.environ | {"PATH": path, "OMP_NUM_THREADS": "1"} | bytecode
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        started = time.perf_counter()
        with tempfile.TemporaryFile("w+") as printed:
            process = subprocess.Popen(
                command, cwd=self.folder, env=environment, stdout=printed, stderr=printed
            )
            _, status, used = os.wait4(process.pid, 0)
            wall_s = time.perf_counter() - started
            process.returncode = os.waitstatus_to_exitcode(status)
            printed.seek(0)
            text = printed.read()
        if process.returncode:
            raise SystemExit(f"{' '.join(command)[-300:]} failed:\n{text[-3000:]}")
        return Ran(text, wall_s, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)

    def snakemake(self, *arguments: str) -> Ran:
        """Run the workflow."""
        return self.run("snakemake", *arguments, *self._options("2"))

    def finish(self) -> None:
        """Make everything that the workflow would make."""
        plan = self.plan()
        buckets = list(plan.buckets)
        for bucket, rows in plan.buckets.items():
            # As the stage's job, without a process of its own for each bucket.
            facts = [describe(plan.cohort, row, plan.config.cohort) for row in rows]
            write_rows(
                plan.bucket_path(plan.cohort, bucket), facts, SLIDES, plan.cohort.stamp("", {})
            )
        jobs.gather_cohort(plan)
        jobs.tissue(plan, buckets, 1)
        jobs.gather(plan, plan.tissue)
        for stage in plan.tiles.values():
            jobs.tiles(plan, stage, buckets, 1)
            jobs.gather_tiles(plan, stage)
        for unit in plan.encoders:
            jobs.features(plan, unit, buckets, 1)
            jobs.gather(plan, unit.features)
        later = [plan.splits_path(task) for task in plan.splits]
        later += [plan.manifest_path(unit.stage) for unit in plan.pretrain]
        later += [plan.summary_path(stage) for stage in plan.summaries.values()]
        later += [plan.metrics_path(cell.stage) for cell in plan.cells]
        later += [*plan.targets("evaluate"), *plan.targets("report")]
        for path in later:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        self.touch("--forceall")

    def touch(self, *arguments: str) -> None:
        """Let Snakemake take what is there for finished; many jobs at once, greedily, is faster."""
        options = [*arguments, "--touch", "--quiet", "--scheduler", "greedy"]
        self.run(sys.executable, "-c", TOUCH, *options, *self._options("10000"))

    def _options(self, cores: str) -> list[str]:
        where = ["--snakefile", str(ROOT / "Snakefile"), "--directory", str(self.folder)]
        return ["--cores", cores, *where]


def planned(text: str) -> dict[str, int]:
    """Jobs by rule that a dry run shows, targets left out."""
    if "Job stats:" not in text:
        return {}
    table = text.split("Job stats:")[1].split("\n\n")[0]
    counts = {name: int(n) for name, n in re.findall(r"^(\w+) +(\d+)$", table, re.MULTILINE)}
    return {name: n for name, n in counts.items() if name not in ("all", "total")}


def measure(slides: int, repeats: int) -> dict[str, object]:
    """All figures of a cohort of one size; the best of several runs of each."""
    with tempfile.TemporaryDirectory(prefix="slidemill-dag-") as folder:
        cohort = Cohort(Path(folder), slides)
        cohort.snakemake("-n", "--quiet")
        runs = {"dry_run": [cohort.snakemake("-n") for _ in range(repeats)]}
        cohort.finish()
        runs["no_op"] = [cohort.snakemake() for _ in range(repeats)]
        if "Nothing to be done" not in runs["no_op"][0].text:
            raise SystemExit(f"a finished cohort has jobs:\n{runs['no_op'][0].text[-3000:]}")
        bucket = next(iter(cohort.plan().buckets))
        job = ("slidemill", "tissue", "--bucket", bucket, "--threads", "4")
        cohort.run(*job)
        runs["job"] = [cohort.run(*job) for _ in range(repeats)]
        # That job wrote a manifest, as a job would; what reads it is as new again afterwards.
        cohort.touch()
        cohort.add_one()
        runs["add_one"] = [cohort.snakemake("-n") for _ in range(repeats)]
    added = planned(runs["add_one"][0].text)
    if [n for rule, n in added.items() if rule.endswith("_bucket")] != [1] * PER_SLIDE_STAGES:
        raise SystemExit(f"one slide more is not one bucket's jobs: {added}")
    figures: dict[str, object] = {"slides": slides}
    for name, several in runs.items():
        figures[f"{name}_s"] = round(min(run.wall_s for run in several), 2)
        figures[f"{name}_cpu_s"] = round(min(run.cpu_s for run in several), 2)
    figures["jobs"] = sum(planned(runs["dry_run"][0].text).values())
    figures["add_one_jobs"] = added
    every = [run for several in runs.values() for run in several]
    figures["peak_mb"] = round(max(run.peak_mb for run in every))
    return figures


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slides", type=int, help="one size; by default 1,000 to 100,000")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each, the best counts")
    parser.add_argument("--json", action="store_true", help="one line of JSON a size")
    arguments = parser.parse_args()
    logging.disable()  # every slide is a failed one
    sizes = [arguments.slides] if arguments.slides else SIZES
    if not arguments.json:
        names = " | ".join(f"{name} (CPU)" for name in SHOWN)
        print(f"| slides | jobs | {names} | jobs of one slide more | peak_mb |")
        print("|---" * (len(SHOWN) + 4) + "|")
    for slides in sizes:
        found = measure(slides, arguments.repeats)
        if arguments.json:
            print(json.dumps(found), flush=True)
            continue
        seconds = [f"{found[name]} ({found[name.removesuffix('s') + 'cpu_s']})" for name in SHOWN]
        added = sum(found["add_one_jobs"].values())
        cells = [f"{slides:,}", f"{found['jobs']:,}", *seconds, str(added), str(found["peak_mb"])]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
