"""Results of a small run, written without computing anything: manifests, files, metrics."""

import hashlib
from pathlib import Path

from slidemill.artifacts.digest import digest_of, file_sha256
from slidemill.artifacts.folder import open_folder
from slidemill.artifacts.formats import COHORT, METRICS, SPLITS
from slidemill.artifacts.manifest import manifest_row, write_manifest
from slidemill.artifacts.parquet import write_rows
from slidemill.artifacts.provenance import Stamp
from slidemill.config import parse_config
from slidemill.plan import Plan
from slidemill.planner import make_plan

CONFIG = {
    "buckets": 2,
    "cohort": {"sheet": "s.tsv"},
    "features": {"encoders": ["rgb-mean"]},
    "evaluate": {
        "tasks": [{"name": "t", "column": "label"}],
        "models": ["linear-probe"],
        "controls": [],
        "folds": 2,
    },
}
SLIDES = ("s0", "s1", "s2", "s3")
LATER = ("tissue", "candidates", "tiles", "features")


def make(folder: Path, slides=SLIDES, **sections) -> Plan:
    """Plan a configuration on a sheet of some slides."""
    lines = [f"{name}\t{name}.svs\tp{name}\t{i % 2}\n" for i, name in enumerate(slides)]
    (folder / "s.tsv").write_text("slide_id\tpath\tpatient_id\tlabel\n" + "".join(lines))
    return make_plan(parse_config(CONFIG | sections, "test"), folder)


def write(plan: Plan, failed=(), content="", auroc=0.75) -> None:
    """Write every stage.

    Args:
        plan: The plan.
        failed: Slides that fail in the tissue stage.
        content: Which slides are made from something else, such as `s1`.
        auroc: The comparison's AUROC.
    """
    for stage in plan.all_stages():
        open_folder(stage, plan.results)
    rows = [cohort_row(plan, name, content) for name in plan.slide_ids]
    stamp = Stamp(plan.cohort.digest, plan.cohort.digest)
    write_rows(plan.manifest_path(plan.cohort), rows, COHORT, stamp)
    for stage in [stage for stage in plan.all_stages() if stage.stage in LATER]:
        rows = [slide_row(plan, stage, name, failed, content) for name in plan.slide_ids]
        write_manifest(plan.manifest_path(stage), rows, stage)
    write_tables(plan, auroc)


def cohort_row(plan, name, content):
    values = {"str": "x", "int64": 1, "float64": 1.0}
    row = {item.name: values[item.dtype] for item in COHORT.fields}
    made = plan.cohort.item_digest(f"{name} {content == name}")
    facts = {"slide_id": name, "patient_id": f"p{name}", "status": "ok", "item_digest": made}
    return row | facts | {"failed_stage": None, "error_code": None, "message": None}


def slide_row(plan, stage, name, failed, content):
    if name in failed:
        facts = {"failed_stage": "tissue", "error_code": "no-tissue", "message": "none"}
        return manifest_row(name, status="failed", **facts)
    path = stage.folder(plan.results) / "slides" / f"{name}.h5"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(hashlib.sha256(f"{stage.digest}{name}{content == name}".encode()).digest())
    made = stage.item_digest(f"{name} {content == name}")
    facts = {"path": f"slides/{name}.h5", "sha256": file_sha256(path), "count": 5}
    return manifest_row(name, status="ok", item_digest=made, **facts)


def write_tables(plan, auroc):
    stamp = Stamp(digest_of("x"), digest_of("x"))
    splits = {item.name: "x" if item.dtype == "str" else 0 for item in SPLITS.fields}
    write_rows(plan.splits_path("t"), [splits] * 4, SPLITS, stamp)
    row = {item.name: "all" if item.dtype == "str" else -1 for item in METRICS.fields}
    row |= {"task": "t", "model": "linear-probe", "input": "rgb-mean", "metric": "auroc"}
    row |= {"control": "", "estimate": auroc, "low": auroc - 0.1, "high": None}
    for stage in plan.evaluate.values():
        write_rows(plan.metrics_path(stage), [row, row | {"fold": 0}], METRICS, stamp)
    plan.report_path().write_text("<html>")
