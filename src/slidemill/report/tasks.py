"""Results of a task, as the report shows them: tables and figures of its comparison.

Reads a comparison's tables and SVG files; plain values out.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from slidemill.artifacts.parquet import read_parquet
from slidemill.cohort.sheet import SheetRow
from slidemill.config import TaskConfig
from slidemill.evaluate.controls import ENCODER_CONTROLS
from slidemill.evaluate.models import MODELS, RETRIEVAL
from slidemill.evaluate.names import HEADLINE, METRIC_LABELS, metric_label
from slidemill.plan import CellPlan, Plan
from slidemill.report.encoders import encoder_tables
from slidemill.report.figures import inline_svg
from slidemill.report.rows import Estimate, ResultRow, ResultTable, estimate_of, transductive
from slidemill.splits.classes import classes_of_task

FIGURES = {
    "forest": "",
    "roc": "ROC curves of patients' pooled out-of-fold predictions, first repetition.",
    "pr": "Precision and recall of the same predictions; the line is the prevalence.",
    "calibration": "Calibration of the same predictions.",
    "confusion": "Patients by class and by predicted class.",
    "scatter": "Predicted against true values.",
    "kaplan-meier": "Patients above and below their fold's median predicted risk.",
    "ratio": "Results by the number of training patients.",
}
"""Figures below a task's tables, in order, with their captions."""
OPEN_FIGURES = 2
"""Figures that are shown without being asked for."""
SHOWN_METRICS = 4
"""Metrics of the first table; a further one shows all."""
MULTICLASS_METRICS = ("auroc", "auprc", "balanced_accuracy", "f1")
"""Metrics of the control that predicts the site."""
LOWER_IS_BETTER = {"brier", "ece", "mae"}
MOST_PAIRS = 12
"""Pairs that a table of differences shows."""
CONTROLS: dict[str, str] = {
    "shuffled-labels": "labels shuffled within folds: nothing to learn",
    "mean-features": "linear probe on the mean of the tiles",
    "max-features": "linear probe on the largest values of the tiles",
    "tile-count": "the number of tiles alone: a confounder if it is far from chance",
    "site": "how much of the site is in the features",
    **{name: control.about for name, control in ENCODER_CONTROLS.items()},
}


@dataclass(frozen=True)
class Pair:
    """A difference between two lines."""

    a: str
    b: str
    estimate: Estimate
    p: str
    p_holm: str


@dataclass(frozen=True)
class TaskSection:
    """Results of one task.

    Attributes:
        name: The task.
        facts: What it is and of whom, in words.
        shuffled: Whether the whole task is a control.
        tables: Results, slide encoders with their controls, controls, retrieval.
        headline: The metric of the differences.
        pairs: Differences between models.
        pairs_left_out: How many more there are.
        figures: SVG and caption; the first ones are shown without being asked for.
        transductive: Inputs whose slide encoder saw the test patients; figures cannot say it.
    """

    name: str
    facts: str
    shuffled: bool
    tables: list[ResultTable]
    headline: str
    pairs: list[Pair]
    pairs_left_out: int
    figures: list[tuple[str, str]]
    transductive: tuple[str, ...] = ()

    @property
    def first_figures(self) -> list[tuple[str, str]]:
        """Figures that are shown at once."""
        return self.figures[:OPEN_FIGURES]

    @property
    def more_figures(self) -> list[tuple[str, str]]:
        """Figures that are shown when asked for."""
        return self.figures[OPEN_FIGURES:]


def task_section(plan: Plan, name: str) -> TaskSection:
    """Everything that the report shows of a task."""
    folder = plan.evaluate[name].folder(plan.results)
    cells = [cell for cell in plan.cells if cell.task.name == name]
    metrics = read_parquet(folder / "metrics.parquet", "metrics")
    overall = metrics[(metrics["fold"] < 0) & (metrics["repeat"] < 0)]
    task = cells[0].task
    pairs = list(_pairs(folder))
    return TaskSection(
        name=name,
        facts=_facts(cells[0], overall, plan.sheet.rows),
        shuffled=task.shuffle_labels,
        tables=[table for table in _tables(cells, overall, folder) if table.rows],
        headline=METRIC_LABELS[HEADLINE[task.type]],
        pairs=pairs[:MOST_PAIRS],
        pairs_left_out=max(0, len(pairs) - MOST_PAIRS),
        figures=[
            (inline_svg((folder / f"{figure}.svg").read_text(encoding="utf-8")), caption)
            for figure, caption in FIGURES.items()
            if (folder / f"{figure}.svg").is_file()
        ],
        transductive=tuple(dict.fromkeys(cell.source for cell in cells if transductive(cell))),
    )


def _facts(cell: CellPlan, overall: pd.DataFrame, rows: Sequence[SheetRow]) -> str:
    task = cell.task
    columns = ", ".join(task.columns)
    first = overall[(overall["control"] == "") & (overall["model"] != RETRIEVAL)].iloc[0]
    said = f"{task.type}, column{'s' if len(task.columns) > 1 else ''} {columns}"
    said += f"; {first['n_patients']} patients"
    if task.type in ("binary", "survival"):
        kind = "positive" if task.type == "binary" else "with an event"
        said += f", {first['n_positive']} {kind}"
    said += _classes(task, rows)
    if first["n_missing"]:
        said += f", {first['n_missing']} without a label"
    return said


def _classes(task: TaskConfig, rows: Sequence[SheetRow]) -> str:
    """The order of the classes, which decides what is positive and what quadratic kappa weighs."""
    if task.type not in ("binary", "multiclass"):
        return ""
    (classes,) = classes_of_task(task, rows).values()
    if task.type == "multiclass":
        return f"; classes in order {', '.join(classes)}"
    return f" ({task.positive or classes[-1]})"


def _tables(cells: list[CellPlan], overall: pd.DataFrame, folder: Path) -> Iterator[ResultTable]:
    kind = cells[0].task.type
    everyone = overall[overall["sample"] == "all"]
    target = "macro" if kind == "multilabel" else "all"
    main = everyone[everyone["target"] == target]
    results = [cell for cell in cells if not cell.control and cell.model != RETRIEVAL]
    own = set(main.loc[main["control"] != "site", "metric"])
    names = [name for name in METRIC_LABELS if name in own]
    title = "Mean over labels" if kind == "multilabel" else ""
    yield _table(title, results, main, names[:SHOWN_METRICS])
    if len(names) > SHOWN_METRICS:
        yield _table("All metrics", results, main, names, shown=False)
    if kind == "multilabel":
        for label in dict.fromkeys(everyone["target"]):
            if label != target:
                rows = everyone[everyone["target"] == label]
                yield _table(f"Label {label}", results, rows, names, shown=False)
    yield from encoder_tables(cells, main, folder)
    controls = [
        cell for cell in cells if cell.control and not cell.controls and cell.control != "site"
    ]
    yield _table("Controls", controls, main, names[:SHOWN_METRICS])
    for cell in cells:
        if cell.controls:
            title = f"Controls of slide encoder {cell.source}, all metrics"
            yield _table(title, cell.rows(), main, names, shown=False)
    sites = [cell for cell in cells if cell.control == "site"]
    predicted = everyone[everyone["control"] == "site"]
    yield _table("Control: the site as the label", sites, predicted, list(MULTICLASS_METRICS))
    found = [cell for cell in cells if cell.model == RETRIEVAL]
    hits = everyone[everyone["model"] == RETRIEVAL]
    columns = list(dict.fromkeys(hits["metric"]))
    yield _table("Retrieval, one patient left out at a time", found, hits, columns, shown=False)
    for sample in dict.fromkeys(overall["sample"]):
        if sample != "all":
            rows = overall[(overall["sample"] == sample) & (overall["target"] == target)]
            title = f"Trained on {sample}"
            yield _table(title, results, rows, names, shown=False)


def _table(
    title: str,
    cells: Sequence[CellPlan],
    rows: pd.DataFrame,
    names: list[str],
    *,
    shown: bool = True,
) -> ResultTable:
    real = rows[rows["control"] == ""]
    best = {
        name: (found.min() if name in LOWER_IS_BETTER else found.max())
        for name, found in real.groupby("metric")["estimate"]
    }
    lines = []
    for cell in cells:
        mine = rows[
            (rows["model"] == cell.model)
            & (rows["input"] == cell.source)
            & (rows["control"] == cell.control)
        ]
        values = {row["metric"]: row for row in mine.to_dict("records")}
        if not values:
            continue
        estimates: list[Estimate | None] = [
            estimate_of(
                values[name], best=not cell.control and values[name]["estimate"] == best[name]
            )
            if name in values
            else Estimate(None, None, None)
            for name in names
        ]
        model = cell.control or cell.model
        breaks = cell.entry is not None and MODELS[cell.entry.name].breaks_mil
        marked = breaks and not cell.control
        lines.append(ResultRow(model, cell.source, estimates, _note(cell), marked))
    return ResultTable(title, [metric_label(name) for name in names], lines, shown)


def _note(cell: CellPlan) -> str:
    about = CONTROLS.get(cell.control, "")
    return "; ".join(said for said in (about, transductive(cell)) if said)


def _pairs(folder: Path) -> Iterator[Pair]:
    table = read_parquet(folder / "comparisons.parquet", "comparisons")
    for row in table[(table["sample"] == "all")].to_dict("records"):
        if row["target"] in ("all", "macro"):
            difference = estimate_of(row | {"estimate": row["difference"]})
            yield Pair(row["a"], row["b"], difference, _p(row["p"]), _p(row["p_holm"]))


def _p(value: float) -> str:
    if pd.isna(value):
        return "not defined"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
