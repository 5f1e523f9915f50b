"""What people ask about a run: how far it is, what came out, whether it is whole."""

from collections.abc import Hashable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table

from slidemill.artifacts.digest import file_sha256
from slidemill.artifacts.folder import StageId, read_dataset
from slidemill.artifacts.hdf5 import open_hdf5
from slidemill.artifacts.parquet import read_footer, read_parquet
from slidemill.errors import ArtifactError, UserError
from slidemill.evaluate.controls import ENCODER_CONTROLS, IN_FOREST
from slidemill.evaluate.encoder_rows import encoder_rows
from slidemill.evaluate.models import RETRIEVAL
from slidemill.evaluate.names import METRIC_LABELS, metric_label
from slidemill.plan import Plan

SHOWN_METRICS = 3
"""Metrics that the table on a terminal shows; the report shows all."""


def console() -> Console:
    """Where tables go; wide enough for logs and files."""
    found = Console()
    return found if found.is_terminal else Console(width=120)


def per_slide_stages(plan: Plan) -> list[StageId]:
    """Stages that leave a manifest of slides, in the order of the data."""
    return [
        plan.cohort,
        plan.tissue,
        *plan.tiles.values(),
        *(unit.features for unit in plan.encoders),
        *(unit.stage for unit in plan.pretrain),
    ]


def manifest_of(plan: Plan, stage: StageId) -> pd.DataFrame | None:
    """The manifest of a stage, or None where there is none yet."""
    path = plan.manifest_path(stage)
    kind = "cohort" if stage.stage == "cohort" else "manifest"
    return read_parquet(path, kind) if path.is_file() else None


def print_status(plan: Plan) -> None:
    """Print a line a stage, then every failed slide with its reason."""
    out = console()
    table = Table(title="stages")
    for heading in ("stage", "run", "done", "failed", "missing"):
        table.add_column(heading, justify="left" if heading in ("stage", "run") else "right")
    failures: dict[str, str] = {}
    for stage in per_slide_stages(plan):
        frame = manifest_of(plan, stage)
        if frame is None:
            table.add_row(stage.stage, stage.name, "0", "0", str(len(plan.slide_ids)))
            continue
        failed = frame[frame["status"] == "failed"]
        done = len(frame) - len(failed)
        missing = len(set(plan.slide_ids) - set(frame["slide_id"]))
        table.add_row(stage.stage, stage.name, str(done), str(len(failed)), str(missing))
        for row in failed.itertuples():
            failures.setdefault(
                str(row.slide_id), f"{row.failed_stage}, {row.error_code}: {row.message}"
            )
    for stage in [cell.stage for cell in plan.cells] + list(plan.evaluate.values()):
        there = (stage.folder(plan.results) / "metrics.parquet").is_file()
        table.add_row(stage.stage, stage.name, str(int(there)), "0", str(int(not there)))
    out.print(table)
    for slide_id, reason in failures.items():
        out.print(f"failed: {slide_id} ({reason})", markup=False, highlight=False)


def print_summary(plan: Plan, *, table: bool = True) -> None:
    """Print the results of every task, what failed, and where the report is."""
    out = console()
    for task, stage in plan.evaluate.items():
        path = plan.metrics_path(stage)
        if table and path.is_file():
            out.print(_results_table(task, read_parquet(path, "metrics")))
    last = [manifest_of(plan, unit.features) for unit in plan.encoders]
    failed = {s for f in last if f is not None for s in f.loc[f["status"] == "failed", "slide_id"]}
    if failed:
        out.print(
            f"{len(failed)} of {len(plan.slide_ids)} slides failed; `slidemill status` says why",
            highlight=False,
        )
    path = plan.report_path()
    if path.is_file():
        out.print(f"report: {path}", highlight=False, soft_wrap=True)


def _results_table(task: str, metrics: pd.DataFrame) -> Table:
    overall = metrics[(metrics["fold"] < 0) & (metrics["sample"] == "all")]
    overall = overall[overall["target"].isin(["all", "macro"]) & (overall["model"] != RETRIEVAL)]
    # The site is another thing to predict, by other metrics; slide encoders have a dozen rows of
    # controls each: the report shows them.
    hidden = {"site", *ENCODER_CONTROLS} - set(IN_FOREST)
    overall = overall[~overall["control"].isin(hidden)]
    names = [name for name in METRIC_LABELS if name in set(overall["metric"])][:SHOWN_METRICS]
    counts = overall.iloc[0]
    table = Table(title=f"{task}: {counts['n_patients']} patients")
    table.add_column("model")
    table.add_column("input")
    for name in names:
        table.add_column(f"{metric_label(name)} [95 % interval]", justify="right")
    keys = ["model", "input", "control"]
    for (model, source, control), rows in overall.groupby(keys, sort=False):
        values = {row["metric"]: row for row in rows.to_dict("records")}
        cells = [_interval(values[name]) if name in values else "" for name in names]
        style = "dim" if control else None
        table.add_row(f"control: {control}" if control else str(model), str(source), *cells,
                      style=style)  # fmt: skip
    return table


def _interval(row: Mapping[Hashable, Any]) -> str:
    if pd.isna(row["estimate"]):
        return "undefined"
    return rf"{row['estimate']:.3f} \[{row['low']:.3f}, {row['high']:.3f}]"


def verify_all(plan: Plan) -> list[str]:
    """Check every artifact of a plan: format, digest, sha256; returns what is wrong."""
    return list(_verify(plan))


def _verify(plan: Plan) -> Iterator[str]:
    for stage in [*per_slide_stages(plan), *plan.candidates.values()]:
        folder = stage.folder(plan.results)
        try:
            if read_dataset(folder).get("Digest") != stage.digest:
                yield f"{folder}: dataset.json has another digest"
            frame = manifest_of(plan, stage)
        except ArtifactError as error:
            yield str(error)
            continue
        if frame is None:
            command = "tiles" if stage.stage == "candidates" else stage.stage
            yield f"{plan.manifest_path(stage)}: there is no manifest. Run {command}."
        elif stage.stage != "cohort":
            yield from _verify_slides(folder, frame, stage)
    tables: list[tuple[StageId, dict[str, str]]] = []
    if plan.cells:
        tables += [(stage, {"summary": "feature-summary"}) for stage in plan.summaries.values()]
    tables += [(unit.stage, {"metrics": "pretrain-metrics"}) for unit in plan.pretrain]
    both = {"predictions": "predictions", "metrics": "metrics"}
    tables += [(cell.stage, both) for cell in plan.cells]
    for task, stage in plan.evaluate.items():
        cells = [cell for cell in plan.cells if cell.task.name == task]
        paired = any(encoder.pairs() for encoder in encoder_rows(cells))
        more = {"controls": "comparisons"} if paired else {}
        tables.append((stage, both | {"comparisons": "comparisons"} | more))
    yield from _verify_checkpoints(plan)
    for stage, files in tables:
        for name, kind in files.items():
            path = stage.folder(plan.results) / f"{name}.parquet"
            try:
                read_parquet(path, kind)
                if read_footer(path)["digest"] != stage.digest:
                    yield f"{path}: written by another run ({read_footer(path)['digest'][:10]})"
            except ArtifactError as error:
                yield str(error)


def _verify_checkpoints(plan: Plan) -> Iterator[str]:
    """What is wrong with slide encoders: another's, or silent about whom they were trained on."""
    if not plan.pretrain:
        return
    from slidemill.pretrain.checkpoint import read_facts, read_trained_on

    for unit in plan.pretrain:
        path = unit.stage.folder(plan.results) / "checkpoint.safetensors"
        try:
            read_trained_on(path)
            found = str(read_facts(path).get("digest"))
        except UserError as error:
            yield str(error)
            continue
        if found != unit.stage.digest:
            yield f"{path}: written by another run ({found[:10]}). Delete it and run pretrain."


def _verify_slides(folder: Path, frame: pd.DataFrame, stage: StageId) -> Iterator[str]:
    for row in frame[frame["status"] == "ok"].itertuples():
        path = folder / str(row.path)
        if not path.is_file():
            yield f"{path}: the file is missing. Run {stage.stage} again."
        elif file_sha256(path) != row.sha256:
            yield f"{path}: its sha256 is not the manifest's. Delete it and run {stage.stage}."
        else:
            try:
                yield from _verify_stamp(path, str(row.item_digest))
            except ArtifactError as error:
                yield str(error)


def _verify_stamp(path: Path, item_digest: str) -> Iterator[str]:
    if path.suffix == ".parquet":
        found = read_footer(path)["item_digest"]
    else:
        with open_hdf5(path) as file:
            found = file.attrs["item_digest"]
    if found != item_digest:
        yield f"{path}: its digest is not the manifest's. Delete it and run again."
