"""Slide encoders of a task beside their controls, as the report shows them.

Reads a comparison's metrics and differences; plain values out. One table a slide encoder: a line a
readout, and beside the trained encoder its own controls and the differences from them.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from slidemill.artifacts.parquet import read_parquet
from slidemill.evaluate.controls import READOUTS
from slidemill.evaluate.encoder_rows import EncoderRows, RowKey, encoder_rows
from slidemill.evaluate.names import HEADLINE, metric_label
from slidemill.plan import CellPlan
from slidemill.report.rows import Estimate, ResultRow, ResultTable, estimate_of, transductive

COLUMNS = (
    "trained",
    "random init",
    "shuffled",
    "over random",
    "over shuffled",
    "over mean tile",
)
"""Columns of a slide encoder's table; the last ones are paired differences of the trained one."""


def encoder_tables(
    cells: Sequence[CellPlan], main: pd.DataFrame, folder: Path
) -> Iterator[ResultTable]:
    """A table of each slide encoder of a task.

    Args:
        cells: Cells of the task.
        main: Metrics over all folds, of models that trained on all patients.
        folder: The comparison, with `controls.parquet`.
    """
    metric = HEADLINE[cells[0].task.type]
    estimates = {
        RowKey(row["model"], row["input"], row["control"]): estimate_of(row)
        for row in main[main["metric"] == metric].to_dict("records")
    }
    path = folder / "controls.parquet"
    differences: dict[tuple[str, str], Estimate] = {}
    if path.is_file():
        table = read_parquet(path, "comparisons")
        table = table[table["target"].isin(["all", "macro"])]
        differences = {
            (row["a"], row["b"]): estimate_of(row | {"estimate": row["difference"]})
            for row in table.to_dict("records")
        }
    for encoder in encoder_rows(cells):
        yield ResultTable(
            f"Slide encoder {encoder.cell.source}: {metric_label(metric)} of {encoder.cell.model}, "
            "and its paired gain over controls",
            list(COLUMNS),
            list(_lines(encoder, estimates, differences)),
            said=verdict(encoder, differences),
            first="readout",
        )


def verdict(encoder: EncoderRows, differences: dict[tuple[str, str], Estimate]) -> str:
    """What the controls say of the class token, in a sentence; empty where nothing is compared.

    An interval that includes 0 is no proof that two rows are equal: it says that these patients do
    not tell them apart, and that is how it is put.
    """
    trained = encoder.rows.get("cls")
    compared = (
        (encoder.rows.get("random-init"), "pretraining adds", "over a random encoder",
         "pretraining makes it worse than a random encoder"),
        (encoder.mean_features, "it adds", "over the mean of the tiles",
         "it is worse than the mean of the tiles"),
        (encoder.rows.get("shuffled-coordinates"), "where tiles lie adds", "",
         "it is worse than with shuffled coordinates"),
    )  # fmt: skip
    parts = []
    for other, adds, over, worse in compared:
        found = differences.get((trained.label, other.label)) if trained and other else None
        if found is None or found.value is None or found.low is None or found.high is None:
            continue
        numbers = f"{found.value:+.2f} [{found.low:.2f}, {found.high:.2f}]"
        if found.low > 0:
            said = f"{adds} something {over}"
        elif found.high < 0:
            said = worse
        else:
            said = f"{adds} nothing {over}"
        parts.append(f"{said.strip()} ({numbers})")
    if not parts:
        return ""
    return f"By the class token, as far as these patients tell: {'; '.join(parts)}."


def _lines(
    encoder: EncoderRows,
    estimates: dict[RowKey, Estimate],
    differences: dict[tuple[str, str], Estimate],
) -> Iterator[ResultRow]:
    note = transductive(encoder.cell)

    def line(about: str, keys: list[RowKey | None], mean: RowKey | None) -> ResultRow:
        trained, *own = keys
        found = [estimates.get(key) if key else None for key in keys]
        found += [
            differences.get((trained.label, other.label)) if trained and other else None
            for other in (*own, mean)
        ]
        return ResultRow(about, "", found, note)

    for readout in READOUTS:
        names = (readout.trained, readout.random_init, readout.shuffled)
        keys = [encoder.rows.get(name) if name else None for name in names]
        if keys[0]:
            yield line(readout.about, keys, encoder.mean_features)
    for about, key in (
        ("mean of tiles", encoder.mean_features),
        ("largest values of tiles", encoder.max_features),
    ):
        if key in estimates:
            rest: list[Estimate | None] = [None] * (len(COLUMNS) - 1)
            yield ResultRow(about, "", [estimates[key], *rest])
