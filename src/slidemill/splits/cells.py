"""Cells of label columns: text of the sheet, coded as numbers.

Takes columns of text with missing values and gives float64 with nan for them. A cell that cannot be
coded is a `Problem` with its row, column and slide, and nan: all faults are reported at once.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from slidemill.errors import CohortError, Problem
from slidemill.slides.measures import number
from slidemill.splits.classes import in_order
from slidemill.splits.targets import Float64Array
from slidemill.splits.words import named


class _Fault(NamedTuple):
    """What is wrong with a cell, and what can be done."""

    what: str
    todo: str


_NO_NUMBER = _Fault(
    "is not a finite number", "Write it with a decimal point, or leave the cell empty"
)
_NEGATIVE = _Fault(
    "is a negative time", "Give the time from the start of observation, or leave the cell empty"
)
_NO_EVENT = _Fault(
    "is no event",
    "Write 1, true or yes where it was seen, 0, false or no where the time is censored",
)
_SEEN = {"1": 1.0, "1.0": 1.0, "true": 1.0, "yes": 1.0}
_CENSORED = {"0": 0.0, "0.0": 0.0, "false": 0.0, "no": 0.0}
_EVENTS = _SEEN | _CENSORED
_FIRST_ROW = 2
"""The header is row 1 of the sheet, as a spreadsheet counts; blank rows are not counted."""


@dataclass(frozen=True)
class Column:
    """A label column of the cohort.

    Attributes:
        name: Its name.
        texts: Its cells without blanks around them, one a slide; None where it is missing.
        slides: The slides, in the cohort's order.
    """

    name: str
    texts: tuple[str | None, ...]
    slides: tuple[str, ...]

    @property
    def classes(self) -> list[str]:
        """The values that are there: numbers by their size, else in alphabetical order."""
        return in_order(text for text in self.texts if text is not None)


Coded = tuple[Float64Array, list[Problem]]
"""A column's values, float64 (n,), nan where they are missing or faulty, and the faults."""


def read_columns(cohort: pd.DataFrame, names: Sequence[str]) -> tuple[Column, ...]:
    """The columns of the cohort that a task reads.

    Raises:
        CohortError: If a column is not in the cohort, or has no value at all.
    """
    absent = [name for name in names if name not in cohort.columns]
    if absent:
        raise CohortError(
            f"the sheet has no column {named(absent)}. It has "
            f"{named([str(name) for name in cohort.columns], most=40)}: name one of them in the "
            "task, or add the column."
        )
    slides = tuple(str(slide) for slide in cohort["slide_id"])
    columns = tuple(Column(name, read_texts(cohort[name]), slides) for name in names)
    empty = [column.name for column in columns if not column.classes]
    if empty:
        raise CohortError(
            f"all {len(slides)} slides have no value in {named(empty)}, so there is nothing to "
            "predict. Fill the column, or name another one in the task."
        )
    return columns


def read_texts(column: "pd.Series[str]") -> tuple[str | None, ...]:
    """Cells of a column of text; None where they are missing, empty or blank."""
    return tuple(None if pd.isna(cell) else str(cell).strip() or None for cell in column)


def code_classes(column: Column, classes: Sequence[str]) -> Coded:
    """Code cells by the index of their class; a class that is not listed is a fault."""
    index = {name: float(number) for number, name in enumerate(classes)}
    unknown = _Fault(
        f"is none of the classes {named(classes, most=40)}",
        "Add it to the task's `classes`, fix it, or leave the cell empty",
    )
    return _code(column, lambda text: index.get(text, unknown))


def code_numbers(column: Column) -> Coded:
    """Code cells as finite numbers."""
    return _code(column, _number)


def code_times(column: Column) -> Coded:
    """Code cells as times, which are finite numbers and not negative."""
    return _code(column, _time)


def code_events(column: Column) -> Coded:
    """Code cells as events: 1 where it was seen, 0 where the time is censored."""
    return _code(column, lambda text: _EVENTS.get(text.lower(), _NO_EVENT))


def two_classes(column: Column, positive: str | None) -> tuple[str, str]:
    """The negative and the positive class of a column of two classes.

    Args:
        column: The column.
        positive: The positive class; None takes the later one in order.

    Raises:
        CohortError: If there are not exactly two classes, or `positive` is neither.
    """
    found = column.classes
    if len(found) == 1:
        raise CohortError(
            f"{column.name} has one class only, {found[0]!r}, so there is nothing to tell apart. "
            "Choose another column, or add patients of another class."
        )
    if len(found) != 2:
        raise CohortError(
            f"{column.name} takes exactly two classes, not {len(found)}: {named(found)}. Make the "
            "task multiclass, choose another column, or leave the cells of other classes empty."
        )
    if positive is not None and positive not in found:
        raise CohortError(
            f"the positive class {positive!r} is not in {column.name}, which has {named(found)}. "
            "Set the task's `positive` to one of them."
        )
    chosen = found[1] if positive is None else positive
    return (found[0] if chosen == found[1] else found[1]), chosen


def _code(column: Column, code: Callable[[str], float | _Fault]) -> Coded:
    values = np.full(len(column.texts), np.nan)
    problems = []
    for row, text in enumerate(column.texts):
        if text is None:
            continue
        value = code(text)
        if isinstance(value, _Fault):
            where = f"row {row + _FIRST_ROW}, column {column.name}, slide {column.slides[row]}"
            problems.append(Problem(where, f"{text!r} {value.what}", value.todo))
        else:
            values[row] = value
    return values, problems


def _number(text: str) -> float | _Fault:
    value = number(text)
    return value if value is not None and np.isfinite(value) else _NO_NUMBER


def _time(text: str) -> float | _Fault:
    value = _number(text)
    return _NEGATIVE if isinstance(value, float) and value < 0.0 else value
