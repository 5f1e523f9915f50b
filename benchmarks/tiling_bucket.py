"""Slides of a bucket side by side: seconds a slide on one CPU and on all, tiles a second.

    python benchmarks/tiling_bucket.py --slide big.tif

Takes the slide that `tiling.py` builds, as often as `--slides` says, in one bucket; every column of
quality is from the tiles' own pixels.
"""

import argparse
import tempfile
import time
from pathlib import Path

from slidemill import jobs
from slidemill.artifacts.parquet import read_rows
from slidemill.artifacts.workers import available_cpus
from slidemill.config import parse_config
from slidemill.planner import make_plan


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slide", type=Path, required=True)
    parser.add_argument("--slides", type=int, default=8)
    arguments = parser.parse_args()
    rows = [f"b{i}\t{arguments.slide.resolve()}\tp{i}" for i in range(arguments.slides)]
    settings = {
        "buckets": 1,
        "cohort": {"sheet": "slides.tsv"},
        "tiles": {"min_tissue": 0.1},
        "features": {"encoders": ["rgb-mean"]},
    }
    for cpus in sorted({1, available_cpus()}):
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder)
            (out / "slides.tsv").write_text("\n".join(["slide_id\tpath\tpatient_id", *rows]) + "\n")
            plan = make_plan(parse_config(settings, "benchmark"), out)
            stage = next(iter(plan.tiles.values()))
            jobs.cohort(plan, plan.buckets, cpus)
            started = time.perf_counter()
            jobs.tissue(plan, plan.buckets, cpus)
            tissue = time.perf_counter()
            jobs.tiles(plan, stage, plan.buckets, cpus)
            tiles = time.perf_counter() - tissue
            manifest = plan.bucket_path(plan.candidates[stage.name], "0-of-1")
            count = sum(row["count"] for row in read_rows(manifest, "manifest"))
        print(
            f"{cpus} CPUs: tissue {(tissue - started) / len(rows):.3f} s a slide, "
            f"tiles {tiles / len(rows):.3f} s a slide, {count / tiles:,.0f} tiles/s"
        )


if __name__ == "__main__":
    main()
