"""The look that all figures of a comparison share, and their bytes.

Makes figures and turns them into SVG and PNG; reads and writes no file. Colours are told apart by
people with colour-blindness, and lines differ by dash as well, for print in grey. Names of models,
classes and columns are shown as they are: a `$` or `_` in one is never taken for mathematics.
The same figure gives the same bytes, whatever the user's settings of matplotlib are.
"""

import io
import math
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, Literal, TypedDict

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase, SubFigure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path
from matplotlib.transforms import Bbox

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
"""Okabe and Ito's colours, but for the yellow, which is too light on white."""

Dash = Literal["solid"] | tuple[float, Sequence[float]]

DASHES: tuple[Dash, ...] = (
    "solid",
    (0.0, (5.0, 1.6)),
    (0.0, (1.2, 1.2)),
    (0.0, (6.0, 1.5, 1.2, 1.5)),
)
"""Dashes of lines. Their number and that of the colours have no divisor in common, so that so many
pairs as their product are all different, and neighbours differ in both."""

GREY = "#8a8a8a"
"""Colour of controls."""

FAINT = "#c8c8c8"
"""Colour of what lines are held against: diagonals, chance, prevalence."""

WIDTH = 8.0
"""Width of every figure, inches."""

FONT_SIZE = 9.0
"""Size of all type, points; 12 pixels where a figure is shown 800 pixels wide."""

DPI = 150
"""Resolution of the PNG."""

LINE = 0.185
"""Height of a line of type with its space, inches."""

MINUS = "\N{MINUS SIGN}"

Place = Literal["outside right upper", "outside lower center"]
"""Where the legend of a figure is."""

NAME = 5.2
"""Width of a name that fits into a legend beside its numbers, inches."""


class LineStyle(TypedDict):
    """Colour, dash, width and order of a line, as keywords of matplotlib."""

    color: str
    linestyle: Dash
    linewidth: float
    zorder: float


_HANDLE = 0.75
"""Width of a legend beside its text, inches."""

_GRID = 2.0**20
"""Parts of a figure's width and height on which panels are placed."""

_SETTINGS: dict[Any, Any] = {
    "figure.dpi": DPI,
    "font.size": FONT_SIZE,
    "axes.titlesize": FONT_SIZE,
    "axes.labelsize": FONT_SIZE,
    "xtick.labelsize": FONT_SIZE,
    "ytick.labelsize": FONT_SIZE,
    "legend.fontsize": FONT_SIZE,
    "legend.title_fontsize": FONT_SIZE,
    "figure.titlesize": FONT_SIZE,
    "figure.labelsize": FONT_SIZE,
    "lines.solid_capstyle": "butt",
    "legend.frameon": False,
    "legend.handlelength": 2.6,
    "legend.labelspacing": 0.35,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.edgecolor": "#444444",
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "xtick.labelcolor": "#222222",
    "ytick.labelcolor": "#222222",
    "text.color": "#222222",
    "axes.labelcolor": "#222222",
    "text.parse_math": False,
    "axes.formatter.use_mathtext": False,
    "svg.hashsalt": "slidemill",
    "svg.fonttype": "path",
}


@contextmanager
def look() -> Iterator[None]:
    """The shared settings, and matplotlib's own for all others; also a decorator."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_SETTINGS)
        yield


def save(figure: Figure) -> dict[str, bytes]:
    """A figure as `svg` and `png`, without dates, versions or random ids.

    Its layout stays as it is then.
    """
    svg = io.BytesIO()
    with look():
        _settle(figure)
        figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    return {"svg": svg.getvalue(), "png": png_of(figure)}


def png_of(figure: Figure) -> bytes:
    """A figure as PNG."""
    png = io.BytesIO()
    with look():
        figure.savefig(png, format="png", dpi=DPI, metadata={"Software": None})
    return png.getvalue()


def _settle(figure: Figure) -> None:
    """Lay a figure out, once, on a grid.

    The solver of the layout makes other rounding errors in every process, which show in the last
    decimal of the SVG and in its ids. On a grid they are gone; its nodes are none that a layout of
    whole points has, so that nothing comes to lie between two of them.
    """
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    pending: list[FigureBase] = [figure]
    while pending:
        part = pending.pop()
        pending += part.subfigs
        if isinstance(part, SubFigure):
            part.bbox_relative.set_points(_on_grid(part.bbox_relative.get_points()))
        for text in part.texts:
            x, y = _on_grid(text.get_position())
            text.set_position((float(x), float(y)))
    for axes in figure.axes:
        axes.set_position(Bbox(_on_grid(axes.get_position(original=True).get_points())))


def _on_grid(places: npt.ArrayLike) -> npt.NDArray[np.float64]:
    return np.asarray(np.floor(np.asarray(places, np.float64) * _GRID + 0.377) / _GRID)


def line_style(number: int, *, control: bool) -> LineStyle:
    """Colour, dash and width of the line of a row.

    Args:
        number: Which of its kind the row is, from 0: results and controls count on their own.
        control: Whether it is a control: grey, thin, and underneath.
    """
    dash = DASHES[number % len(DASHES)]
    if control:
        return LineStyle(color=GREY, linestyle=dash, linewidth=1.1, zorder=2.0)
    colour = COLOURS[number % len(COLOURS)]
    return LineStyle(color=colour, linestyle=dash, linewidth=1.7, zorder=3.0)


def shown(name: object, width: float = NAME) -> str:
    """A name for people: on one line, and without the middle of one that is too wide.

    Args:
        name: The name.
        width: Room for it, inches.
    """
    text = " ".join(str(name).split())
    if text_width(text) <= width:
        return text
    # By halves: how many characters fit beside the sign that some are missing.
    fit, too_many = 0, len(text)
    while too_many - fit > 1:
        kept = (fit + too_many) // 2
        fits = text_width(_elided(text, kept)) <= width
        fit, too_many = (kept, too_many) if fits else (fit, kept)
    return _elided(text, fit)


def _elided(text: str, kept: int) -> str:
    return f"{text[: kept - kept // 2]}…{text[len(text) - kept // 2 :]}"


def number(value: float) -> str:
    """A number with two decimals and a true minus sign; `undefined` for nan."""
    if math.isnan(value):
        return "undefined"
    # Rounded first: -0.001 would be -0.00.
    return f"{round(value, 2) + 0.0:.2f}".replace("-", MINUS)


def interval(estimate: float, low: float, high: float) -> str:
    """An estimate with its interval, as far as they are defined."""
    if math.isnan(estimate):
        return "undefined"
    if math.isnan(low) or math.isnan(high):
        return number(estimate)
    return f"{number(estimate)} [{number(low)}, {number(high)}]"


def count(number: int, noun: str) -> str:
    """A number of things, as `1 patient` or `2,000 patients`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


@lru_cache(maxsize=4096)
def text_width(text: str) -> float:
    """Width of the widest line of a text in the figures' type, inches."""
    font = FontProperties(family="DejaVu Sans", size=FONT_SIZE)
    measure = text_to_path.get_text_width_height_descent
    widths = [measure(line, font, False)[0] for line in text.split("\n") if line]
    return float(max(widths, default=0.0)) / 72.0


def say(axes: Axes, why: str) -> None:
    """Say in a panel why it is empty."""
    axes.text(
        0.5,
        0.5,
        _wrapped(why, 30),
        transform=axes.transAxes,
        ha="center",
        va="center",
        color="#555555",
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 3.0},
    )


def panels(
    count: int,
    *,
    columns: int,
    panel: tuple[float, float],
    labels: Sequence[str] = (),
) -> tuple[Figure, list[Axes], Place]:
    """A figure of panels with room for a legend.

    Args:
        count: Number of panels.
        columns: Panels side by side at the most.
        panel: Width and height of a panel with its labels, inches; the width is a wish.
        labels: Entries of the legend that will be drawn.

    Returns:
        The figure, its panels row by row, and where its legend belongs, for `legend`.
    """
    across = min(columns, max(count, 1))
    down = -(-max(count, 1) // across)
    widest = max((text_width(label) for label in labels), default=0.0) + _HANDLE
    beside = bool(labels) and across * panel[0] + widest <= WIDTH
    lines = len(labels) if beside else -(-len(labels) // columns_of(labels))
    legend_height = LINE * (lines + 1.5) if labels else 0.0
    height = down * panel[1]
    height = max(height, legend_height) if beside else height + legend_height
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    found = [figure.add_subplot(down, across, i + 1) for i in range(max(count, 1))]
    return figure, found, "outside right upper" if beside else "outside lower center"


def columns_of(labels: Sequence[str]) -> int:
    """Columns that a legend has below a figure's panels, three at the most."""
    widest = max((text_width(label) for label in labels), default=0.0) + _HANDLE
    return max(1, min(3, int(WIDTH / widest), len(labels)))


def legend(
    figure: Figure, place: Place, handles: Sequence[Artist], labels: Sequence[str], title: str
) -> None:
    """A legend outside of all panels, so that it covers nothing."""
    if handles:
        columns = columns_of(labels) if "lower" in place else 1
        figure.legend(
            handles, list(labels), loc=place, title=title, alignment="left", ncols=columns
        )


def _wrapped(text: str, width: int) -> str:
    return "\n".join(textwrap.wrap(text, width))
