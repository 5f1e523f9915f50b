"""Real runs of the real Snakefile on a small cohort."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
import yaml

from slidemill.demo import write_demo

ROOT = Path(__file__).resolve().parents[2]

CONFIG = {
    "buckets": 2,
    "cohort": {"sheet": "demo/slides.tsv", "max_failed": 0.3},
    "tissue": {"min_area_mm2": 0.005},
    "features": {"encoders": ["rgb-mean"]},
    "pretrain": {
        "runs": [
            {
                "size": "1x16",
                "heads": 1,
                "head": {"prototypes": 16, "hidden": 16, "bottleneck": 8},
                "epochs": 2,
                "batch_slides": 4,
            }
        ]
    },
    "evaluate": {
        "tasks": [{"name": "grade", "column": "label"}],
        "folds": 2,
        "bootstrap": 100,
        "mil": {"epochs": 2, "width": 8},
        "controls": ["shuffled-labels", "tile-count"],
    },
}


@dataclass(frozen=True)
class Project:
    """A folder with a configuration and a cohort, in which the workflow is run."""

    folder: Path

    @property
    def results(self) -> Path:
        return self.folder / "results"

    def configure(self, **sections: object) -> None:
        (self.folder / "config.yaml").write_text(yaml.safe_dump(CONFIG | sections))

    def command(self, *arguments: str) -> list[str]:
        program = Path(sys.executable).with_name("snakemake")
        where = ["--snakefile", str(ROOT / "Snakefile"), "--directory", str(self.folder)]
        return [str(program), *arguments, "--cores", "2", *where]

    def environment(self) -> dict[str, str]:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return os.environ | {"PATH": path, "OMP_NUM_THREADS": "1"}

    def run(self, *arguments: str, ok: bool = True) -> str:
        """Run Snakemake and return what it printed."""
        done = subprocess.run(
            self.command(*arguments),
            cwd=ROOT,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert (done.returncode == 0) == ok, done.stdout
        return done.stdout

    def one(self, pattern: str) -> Path:
        """The only file of the results that has a pattern."""
        (found,) = self.results.glob(pattern)
        return found

    def manifest(self, pattern: str) -> pd.DataFrame:
        return pd.read_parquet(self.one(pattern)).set_index("slide_id")


@pytest.fixture(scope="session")
def cohort(tmp_path_factory) -> Path:
    """Six patients, eight good slides, one of glass and one torn."""
    folder = tmp_path_factory.mktemp("cohort") / "demo"
    write_demo(folder, patients=6, size_px=(1536, 1152), jobs=1)
    return folder


@pytest.fixture
def project(tmp_path, cohort) -> Project:
    shutil.copytree(cohort, tmp_path / "demo")
    made = Project(tmp_path)
    made.configure()
    return made


@pytest.fixture(scope="module")
def finished(tmp_path_factory, cohort) -> Project:
    """A project in which everything has been run once; tests of it undo what they change."""
    folder = tmp_path_factory.mktemp("finished")
    shutil.copytree(cohort, folder / "demo")
    made = Project(folder)
    made.configure()
    made.run()
    return made
