"""A real run without Snakemake: seven small slides, one of glass and one torn, up to features."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import yaml

from slidemill import jobs
from slidemill.artifacts.folder import StageId
from slidemill.artifacts.manifest import write_manifest
from slidemill.artifacts.parquet import read_rows
from slidemill.config import load_config
from slidemill.demo import write_demo
from slidemill.plan import Plan
from slidemill.planner import make_plan

CONFIG = {
    "buckets": 2,
    "cohort": {"sheet": "demo/slides.tsv", "max_failed": 0.5},
    "tissue": {"min_area_mm2": 0.005},
    "features": {"encoders": ["rgb-mean"]},
    "pretrain": {"runs": []},
    "evaluate": {"tasks": []},
}
GOOD = ("P001-1", "P002-1", "P002-2", "P003-1", "P004-1")


@dataclass(frozen=True)
class SmallRun:
    """A folder with a configuration, a cohort and results."""

    folder: Path

    @property
    def plan(self) -> Plan:
        """The plan as the sheet and the configuration are now."""
        return make_plan(load_config(self.folder / "config.yaml"), self.folder)

    @property
    def tiles(self) -> StageId:
        return next(iter(self.plan.tiles.values()))

    @property
    def features(self) -> StageId:
        return self.plan.encoders[0].features

    def configure(self, **sections: object) -> None:
        (self.folder / "config.yaml").write_text(yaml.safe_dump(CONFIG | sections))

    def slide(self, stage: StageId, slide_id: str, suffix: str = "") -> Path:
        """The file of a slide."""
        ending = suffix or (".h5" if stage.spec.container == "hdf5" else ".parquet")
        return stage.folder(self.plan.results) / "slides" / f"{slide_id}{ending}"

    def bucket_of(self, slide_id: str) -> str:
        """The bucket of a slide."""
        found = self.plan.buckets.items()
        return next(name for name, rows in found if slide_id in [row.slide_id for row in rows])

    def change_rows(self, path: Path, stage: StageId, change) -> None:
        """Write a manifest again, with other rows."""
        write_manifest(path, change(read_rows(path, "manifest")), stage)

    def compute(self) -> None:
        """Run everything up to the report."""
        plan = self.plan
        jobs.cohort(plan, plan.buckets, 0)
        jobs.gather_cohort(plan)
        jobs.tissue(plan, plan.buckets, 0)
        jobs.gather(plan, plan.tissue)
        for stage in plan.tiles.values():
            jobs.tiles(plan, stage, plan.buckets, 0)
            jobs.gather_tiles(plan, stage)
        for unit in plan.encoders:
            jobs.features(plan, unit, plan.buckets, 1)
            jobs.gather(plan, unit.features)
        jobs.report(plan)


def make_small_run(folder: Path) -> SmallRun:
    """Write a cohort and compute everything."""
    write_demo(folder / "demo", patients=4, size_px=(1024, 768), jobs=1)
    made = SmallRun(folder)
    made.configure()
    made.compute()
    return made


def copy_of(run: SmallRun, folder: Path) -> SmallRun:
    """A run to be damaged: results with their times, and the cohort."""
    shutil.copytree(run.folder, folder, dirs_exist_ok=True, copy_function=shutil.copy2)
    return SmallRun(folder)
