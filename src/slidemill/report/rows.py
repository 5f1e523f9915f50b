"""Lines of the report's tables: estimates, rows, and what has to be said beside them."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from slidemill.plan import CellPlan


@dataclass(frozen=True)
class Estimate:
    """A metric with its interval; None where it is undefined.

    Attributes:
        value: The estimate.
        low: Lower end of the 95 % interval.
        high: Upper end.
        best: Whether it is the best of its column.
    """

    value: float | None
    low: float | None
    high: float | None
    best: bool = False


@dataclass(frozen=True)
class ResultRow:
    """A line of a table: a model on an input, and what it reached.

    Attributes:
        model: The model.
        source: What it was given; empty where the table says it.
        estimates: One a column; None where the row has no such thing.
        note: What has to be said beside the result; empty where there is nothing.
        breaks_mil: Whether the model breaks the MIL assumption.
    """

    model: str
    source: str
    estimates: list[Estimate | None]
    note: str = ""
    breaks_mil: bool = False


@dataclass(frozen=True)
class ResultTable:
    """A table of results.

    Attributes:
        title: What it shows.
        columns: Metrics, for people.
        rows: Its lines.
        open: Whether it is shown without being asked for.
        said: What it says, in a sentence; empty where nothing has to be said.
        first: What its first column names.
    """

    title: str
    columns: list[str]
    rows: list[ResultRow]
    open: bool = True
    said: str = ""
    first: str = "model"

    @property
    def has_sources(self) -> bool:
        """Whether rows say what they were given; in others it is the same for all."""
        return any(row.source for row in self.rows)


def remarks_of(manifests: Mapping[str, pd.DataFrame]) -> list[dict[str, str]]:
    """What to look at though nothing failed: slide, stage and remark, by slide.

    Args:
        manifests: Manifests of stages, and the cohort's table, by the stage's name.
    """
    rows = [
        {"slide_id": str(row["slide_id"]), "stage": stage, "remark": str(row["remark"])}
        for stage, table in manifests.items()
        # Tables of before remarks have no such column.
        if "remark" in table
        for _, row in table[table["remark"].notna()].iterrows()
    ]
    return sorted(rows, key=lambda row: row["slide_id"])


def estimate_of(row: Mapping[Hashable, Any], *, best: bool = False) -> Estimate:
    """An estimate from `estimate`, `low` and `high` of a table's row."""
    return Estimate(_number(row["estimate"]), _number(row["low"]), _number(row["high"]), best)


def transductive(cell: CellPlan) -> str:
    """What has to be said beside every row of a slide encoder of `patients: all`; else nothing."""
    if any(unit.run.patients == "all" for unit in cell.pretrain.values()):
        return "its encoder saw the test patients, without labels"
    return ""


def _number(value: float) -> float | None:
    return None if pd.isna(value) else float(value)
