"""What came out of a run: a table of results a task, what failed, and where the report is."""

from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, Any

from slidemill.plan import Plan
from slidemill.runs.printing import HINT, console, failed_line, say
from slidemill.runs.status import read_status

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table

SHOWN_METRICS = 3
"""Metrics that the table on a terminal shows; the report shows all."""


def print_summary(plan: Plan, *, table: bool = True) -> None:
    """Print the results of every task, what failed, and where the report is.

    Args:
        plan: The plan.
        table: Whether to print the results; without, it is the last word of a run.
    """
    if table:
        _print_results(plan)
    found = read_status(plan)
    if found.failures:
        say(f"{failed_line(found)}; {HINT}")
    path = plan.report_path()
    if path.is_file():
        say(f"report: {path}")


def _print_results(plan: Plan) -> None:
    from slidemill.artifacts.parquet import read_parquet

    for task, stage in plan.evaluate.items():
        path = plan.metrics_path(stage)
        if path.is_file():
            console().print(_results_table(task, read_parquet(path, "metrics")))


def _results_table(task: str, metrics: "pd.DataFrame") -> "Table":
    from rich.table import Table

    from slidemill.evaluate.controls import ENCODER_CONTROLS, IN_FOREST
    from slidemill.evaluate.models import RETRIEVAL
    from slidemill.evaluate.names import METRIC_LABELS, metric_label

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
    import pandas as pd

    if pd.isna(row["estimate"]):
        return "undefined"
    return rf"{row['estimate']:.3f} \[{row['low']:.3f}, {row['high']:.3f}]"
