"""What figures are drawn from: rows of a comparison, patients' predictions, estimates.

Reads data frames of the formats `predictions` and `metrics`, version 2, of one task; draws nothing.
Main figures show units that train on all patients, and of those the predictions of the first
repetition: repetitions of the same patients in one curve would look like more patients.
"""

import math
from dataclasses import dataclass

import pandas as pd

from slidemill.evaluate.bootstrap import MACRO, patient_predictions
from slidemill.evaluate.panel import ALL_TARGETS
from slidemill.splits.units import ALL

OVERALL_TARGETS = (MACRO, ALL_TARGETS)
"""Targets of metrics over all classes or labels."""


ROW_KEYS = ("model", "input", "control")
"""Columns that tell rows of a comparison apart."""


@dataclass(frozen=True)
class Row:
    """A row of a comparison.

    Attributes:
        model: The model's name in tables.
        input: What it was given.
        control: Which control it is; empty for results.
    """

    model: str
    input: str
    control: str

    @property
    def label(self) -> str:
        """The row for people, as `abmil on uni`."""
        name = f"{self.model} on {self.input}"
        return f"{name} ({self.control})" if self.control else name

    @property
    def lines(self) -> tuple[str, str]:
        """The row in two lines: the model, and what it was given."""
        control = f" ({self.control})" if self.control else ""
        return f"{self.model}{control}", f"on {self.input}"

    def of(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The rows of a table that are of this row."""
        mine = (frame["model"] == self.model) & (frame["input"] == self.input)
        return frame[mine & (frame["control"] == self.control)]


@dataclass(frozen=True)
class Estimate:
    """A metric with its interval; nan where it is undefined.

    Attributes:
        value: The estimate.
        low: Lower end of the 95 % interval.
        high: Upper end.
        chance: What guessing gives.
        n_patients: Patients it is over; 0 where it was not computed.
        n_positive: Positive patients, or those with an event; -1 where there is no such thing.
    """

    value: float = math.nan
    low: float = math.nan
    high: float = math.nan
    chance: float = math.nan
    n_patients: int = 0
    n_positive: int = -1


def main_rows(table: pd.DataFrame, what: str) -> pd.DataFrame:
    """The part of predictions or metrics that is of units that train on all patients.

    Args:
        table: Predictions or metrics of one task.
        what: What the table is, for the message.

    Raises:
        ValueError: If there is none.
    """
    found = table[table["sample"] == ALL]
    if found.empty:
        raise ValueError(f"the {what} have no rows of models that trained on all patients")
    return found


def rows_of(metrics: pd.DataFrame) -> list[Row]:
    """Rows of a comparison in the order of the table, results before controls."""
    keys = metrics[list(ROW_KEYS)].drop_duplicates()
    rows = [Row(str(m), str(i), str(c)) for m, i, c in keys.itertuples(index=False)]
    return sorted(rows, key=lambda row: bool(row.control))


def numbered(rows: list[Row]) -> list[tuple[int, Row]]:
    """Rows with their number among results or among controls, which chooses their line."""
    counts = {False: 0, True: 0}
    found = []
    for row in rows:
        found.append((counts[bool(row.control)], row))
        counts[bool(row.control)] += 1
    return found


def overall(metrics: pd.DataFrame, row: Row, metric: str, target: str | None = None) -> Estimate:
    """A metric of a row over all folds, repetitions and draws.

    Args:
        metrics: Metrics of one sample.
        row: The row.
        metric: Name of the metric.
        target: The class or label; by default over all of them.

    Returns:
        The estimate; all nan where the table has none.
    """
    mine = row.of(metrics)
    mine = mine[(mine["metric"] == metric) & (mine[["fold", "repeat", "draw"]] < 0).all(axis=1)]
    mine = of_target(mine) if target is None else mine[mine["target"] == target]
    if mine.empty:
        return Estimate()
    first = mine.iloc[0]
    return Estimate(
        float(first["estimate"]),
        float(first["low"]),
        float(first["high"]),
        float(first["chance"]),
        int(first["n_patients"]),
        int(first["n_positive"]),
    )


def of_target(metrics: pd.DataFrame) -> pd.DataFrame:
    """The part of a metric's rows that is over all classes or labels, not of single ones."""
    return metrics[metrics["target"].isin(OVERALL_TARGETS)]


def patients_of(predictions: pd.DataFrame, row: Row, target: str | None = None) -> pd.DataFrame:
    """Patients' pooled out-of-fold predictions of a row, of its first repetition.

    The scores of a patient's slides are averaged.

    Args:
        predictions: Predictions of models that trained on all patients.
        row: The row.
        target: The class, label or column; by default all of them.

    Returns:
        As `patient_predictions`, in the order of targets and patients; empty where the row has no
        such predictions.
    """
    mine = row.of(predictions)
    # Retrieval has no labels and is no prediction of one.
    mine = mine[mine["label"].notna()]
    if target is not None:
        mine = mine[mine["target"] == target]
    mine = mine[(mine["repeat"] == mine["repeat"].min()) & (mine["draw"] == mine["draw"].min())]
    return patient_predictions(mine)


def counts_text(estimates: list[Estimate], positive: str) -> str:
    """How many patients the estimates are over, as `120 patients, 40 with event`.

    Args:
        estimates: Of all rows.
        positive: What the positive patients are, such as `with event`; empty leaves them out.
    """
    patients = sorted({e.n_patients for e in estimates if e.n_patients})
    if not patients:
        return "no patients"
    text = _span(patients) + (" patient" if patients == [1] else " patients")
    positives = sorted({e.n_positive for e in estimates if e.n_patients and e.n_positive >= 0})
    return f"{text}, {_span(positives)} {positive}" if positive and positives else text


def _span(values: list[int]) -> str:
    low, high = values[0], values[-1]
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
