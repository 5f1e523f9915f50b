"""A cohort on the cluster: running the workflow as a user does, and comparing what it leaves."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
VOLATILE = {"seconds", "reused", "tiles_per_s", "waited"}
"""Columns of manifests that differ from run to run; times and speeds."""
SLIDES_ONLY: Mapping[str, Any] = {
    "buckets": 2,
    "cohort": {"sheet": "slides.tsv", "max_failed": 0.3},
    "tissue": {"min_area_mm2": 0.005},
    "features": {"encoders": ["rgb-mean"]},
    "pretrain": {},
    "evaluate": {},
}
"""Cohort, tissue, tiles and features of the small cohort: eight jobs."""


@dataclass
class Scenario:
    """A project of its own: configuration, sheet, results; run on a cluster or on this machine.

    Attributes:
        folder: The project.
        environment: Further variables.
        kept: Files of slides that must not be written again, and when each was written.
        drivers: Runs that were started.
    """

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)
    kept: dict[str, int] = field(default_factory=dict)
    drivers: "list[Driver]" = field(default_factory=list)

    @property
    def results(self) -> Path:
        """Folder of all results."""
        return self.folder / "results"

    def configure(self, cohort: Path, config: Mapping[str, Any] = SLIDES_ONLY) -> None:
        """Write the configuration, and a sheet of the slides of a cohort where they lie."""
        self.folder.mkdir(parents=True, exist_ok=True)
        header, *rows = (cohort / "slides.tsv").read_text().splitlines()
        place = header.split("\t").index("path")
        lines = [header]
        for row in rows:
            cells = row.split("\t")
            cells[place] = str(cohort / cells[place])
            lines.append("\t".join(cells))
        (self.folder / "slides.tsv").write_text("\n".join(lines) + "\n")
        (self.folder / "config.yaml").write_text(yaml.safe_dump(dict(config)))

    def command(self, *arguments: str, slurm: bool = True) -> list[str]:
        """The command that a user types in the repository's root, for another folder."""
        quick = str(ROOT / "tests" / "cluster" / "quick")
        how = ["--profile", "slurm", "--profile", quick] if slurm else ["--cores", "2"]
        return [str(BIN / "snakemake"), *how, *arguments, "--directory", str(self.folder)]

    def start(self, *arguments: str, slurm: bool = True) -> "Driver":
        """Start a run."""
        log = self.folder / f"driver-{time.time_ns()}.log"
        with log.open("w") as stream:
            process = subprocess.Popen(
                self.command(*arguments, slurm=slurm),
                cwd=ROOT,
                env=self.variables(),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.drivers.append(Driver(process, log))
        return self.drivers[-1]

    def end(self) -> None:
        """End runs that a test has left."""
        for driver in self.drivers:
            if driver.process.poll() is None:
                driver.kill()

    def run(self, *arguments: str, slurm: bool = True, ok: bool = True) -> str:
        """Run to the end and return what was printed."""
        driver = self.start(*arguments, slurm=slurm)
        printed = driver.wait()
        assert (driver.process.returncode == 0) == ok, printed
        return printed

    def variables(self) -> dict[str, str]:
        """The environment of a run."""
        more = {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
        return os.environ | more | self.environment

    def slidemill(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command of slidemill in the project."""
        return subprocess.run(
            [str(BIN / "slidemill"), *arguments],
            cwd=self.folder,
            env=self.variables(),
            capture_output=True,
            text=True,
            check=False,
        )

    def content(self) -> dict[str, str]:
        """What the results are: the sha256 of every slide's file, and of every table's values.

        Times, speeds and the records of runs are left out, since they differ by nature.
        """
        found = {}
        for path in sorted(self.results.rglob("*")):
            parts = path.relative_to(self.results).parts
            if not path.is_file() or parts[0] not in STAGES or path.name == "dataset.json":
                continue
            if path.name.startswith("."):
                continue
            name = "/".join(parts)
            found[name] = _table(path) if path.suffix == ".parquet" else _sha256(path)
        return found

    def keep(self) -> None:
        """Remember the files of finished slides: nothing may compute them again.

        The file that says that a slide is finished is written last; all its others stay then.
        """
        for folder in self.results.glob("*/*/slides"):
            paths = [path for path in folder.iterdir() if not path.name.startswith(".")]
            finished = {path.stem for path in paths if path.suffix in (".h5", ".parquet")}
            for path in paths:
                if path.stem in finished:
                    self.kept.setdefault(str(path), path.stat().st_mtime_ns)

    def assert_whole(self, undisturbed: Mapping[str, str]) -> None:
        """Every artifact verifies, equals that of an undisturbed run, and was computed once.

        And nothing is left to do.
        """
        assert "Nothing to be done" in self.run("--dry-run")
        verified = self.slidemill("verify")
        assert verified.returncode == 0, verified.stdout + verified.stderr
        assert self.content() == undisturbed
        assert {path: Path(path).stat().st_mtime_ns for path in self.kept} == self.kept


STAGES = ("cohort", "tissue", "tiles", "candidates", "features", "splits", "pretrain", "evaluate")


@dataclass
class Driver:
    """A running `snakemake`.

    Attributes:
        process: It.
        log: What it prints.
    """

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def printed(self) -> str:
        """What it has printed."""
        return self.log.read_text(errors="replace")

    def wait(self, seconds: float = 600.0) -> str:
        """Wait for its end and return what it printed."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"not done after {seconds:.0f} s:\n{self.printed}") from None
        return self.printed

    def kill(self) -> None:
        """End it as a lost login node would: at once, and without a word to its jobs."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def until(ready: Callable[[], Any], what: str, seconds: float = 120.0) -> Any:
    """Wait until something is true, and return it."""
    end = time.monotonic() + seconds
    while not (found := ready()):
        assert time.monotonic() < end, f"waited {seconds:.0f} s for {what}"
        time.sleep(0.1)
    return found


@contextmanager
def small_disk(folder: Path, megabytes: float) -> Iterator[None]:
    """A file system of its own for a folder; `resize_disk` changes it."""
    folder.mkdir(parents=True, exist_ok=True)
    size = f"size={int(megabytes * 1024)}k"
    subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def remount(folder: Path, *options: str) -> None:
    """Change the options of a mounted file system, such as `size=10m` or `ro`."""
    subprocess.run(["mount", "-o", ",".join(["remount", *options]), str(folder)], check=True)


def copy_cohort(cohort: Path, folder: Path) -> Path:
    """A cohort of one's own, to change slides of."""
    shutil.copytree(cohort, folder)
    return folder


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _table(path: Path) -> str:
    table = pq.read_table(path)
    kept = [name for name in table.column_names if name not in VOLATILE]
    rows = table.select(kept).to_pylist()
    return hashlib.sha256(json.dumps(rows, sort_keys=True, default=str).encode()).hexdigest()
