"""Small multiples: one panel for each of the first rows of a comparison."""

import textwrap
from collections.abc import Callable

import pandas as pd
from matplotlib.figure import Figure, FigureBase, SubFigure
from matplotlib.lines import Line2D

from slidemill.evaluate.figures.data import Row, main_rows, patients_of, rows_of
from slidemill.evaluate.figures.style import LINE, WIDTH, columns_of, say, shown

MAX_ROWS = 6
"""Rows of a comparison that get a panel; more would be too small to read."""

TITLE = 3.1
"""Width of a panel's title, inches; a wider one would run into the next panel."""

_NOTE = 105
"""Characters of a line of the note."""

Draw = Callable[[SubFigure, str, pd.DataFrame, Row], None]
"""Draws a panel: its part of the figure, its title, patients' predictions, the row."""


def row_panels(
    predictions: pd.DataFrame,
    metrics: pd.DataFrame,
    draw: Draw,
    *,
    height: float,
    targets: tuple[str, ...] | None = None,
    note: str = "",
    entries: tuple[Line2D, ...] = (),
    title: str = "",
) -> Figure:
    """One panel for each of the first results, two side by side; controls only if all rows are.

    Args:
        predictions: Rows of the `predictions` format, of one task.
        metrics: Rows of the `metrics` format, which give the order.
        draw: Draws one panel.
        height: Height of a panel, inches.
        targets: Classes or labels that are drawn; by default all.
        note: What has to be known of all panels; stands below them.
        entries: Lines of a legend for all panels, labelled.
        title: Title of that legend.

    Raises:
        ValueError: If no model trained on all patients.
    """
    predictions = main_rows(predictions, "predictions")
    if targets is not None:
        predictions = predictions[predictions["target"].isin(targets)]
    rows = rows_of(main_rows(metrics, "metrics"))
    listed = [row for row in rows if not row.control] or rows
    count = min(len(listed), MAX_ROWS)
    more = f"The first {count} of {len(listed)} rows." if count < len(listed) else ""
    text = [line for part in (note, more) for line in textwrap.wrap(part, _NOTE)]
    across = columns_of([str(entry.get_label()) for entry in entries])
    lines = len(text) + -(-len(entries) // across) + bool(title) + 1
    sizes = (-(-count // 2) * height, LINE * lines)
    figure = Figure(figsize=(WIDTH, sum(sizes)), layout="constrained")
    above, below = _subfigures(figure, 2, 1, height_ratios=sizes)
    for part, row in zip(_parts(above, count), listed[:count], strict=False):
        draw(part, title_of(row), patients_of(predictions, row), row)
    if entries:
        below.legend(handles=list(entries), loc="upper center", ncols=across, title=title)
    if text:
        below.supxlabel("\n".join(text), color="#555555")
    return figure


def _parts(figure: SubFigure, count: int) -> list[SubFigure]:
    """Parts of a figure, two side by side; a lone one is in the middle, no larger than others."""
    if count == 1:
        return _subfigures(figure, 1, 3, width_ratios=(1, 2, 1))[1:2]
    return _subfigures(figure, -(-count // 2), 2)


def _subfigures(
    figure: FigureBase,
    rows: int,
    columns: int,
    *,
    height_ratios: tuple[float, ...] | None = None,
    width_ratios: tuple[float, ...] | None = None,
) -> list[SubFigure]:
    """Parts of a figure, row by row."""
    found = figure.subfigures(
        rows, columns, squeeze=False, height_ratios=height_ratios, width_ratios=width_ratios
    )
    return list(found.ravel())


def title_of(row: Row) -> str:
    """A row in two lines: the model, and what it was given."""
    return "\n".join(shown(line, TITLE) for line in row.lines)


def without_patients(part: SubFigure, title: str) -> None:
    """A panel that says that there is nothing to draw."""
    axes = part.add_subplot()
    axes.set_axis_off()
    axes.set_title(title, loc="left")
    say(axes, "No patient is tested.")
