"""Kaplan-Meier curves of patients of high and low predicted risk, one panel a row."""

import math
import warnings
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from scipy.stats import CensoredData, ecdf, logrank

from slidemill.evaluate.figures.data import Row
from slidemill.evaluate.figures.multiples import row_panels, without_patients
from slidemill.evaluate.figures.style import COLOURS, DASHES, Dash, look, shown, text_width

Float64Array = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Group:
    """How a group of patients is called and drawn."""

    name: str
    colour: str
    dash: Dash


LOW, HIGH = Group("low risk", COLOURS[0], DASHES[0]), Group("high risk", COLOURS[1], DASHES[1])
ALL_PATIENTS = Group("patients", "#444444", DASHES[0])
"""Where risks are alike, so that there are no groups."""


@dataclass(frozen=True)
class Survival:
    """A Kaplan-Meier curve as steps: each value holds from its time on.

    Attributes:
        time: float64 (m,), 0 and then every time that was observed, ascending.
        share: float64 (m,), share of patients without the event.
        low: float64 (m,), lower end of its 95 % interval; nan where it is undefined.
        high: float64 (m,), upper end.
    """

    time: Float64Array
    share: Float64Array
    low: Float64Array
    high: Float64Array


def survival(time: Float64Array, event: BoolArray) -> Survival:
    """Kaplan & Meier's (1958) estimate with Greenwood's intervals on the log-log scale.

    Before the first event, nobody is lost and the interval is 1; after the last patient's event it
    is undefined.

    Args:
        time: Observed times, (n,), n at least 1.
        event: Whether the event was seen then, (n,).
    """
    found = ecdf(CensoredData.right_censored(time, ~event)).sf
    with warnings.catch_warnings():
        # The formula has no value where the share is 0 or 1; what stands there is said above.
        warnings.simplefilter("ignore", RuntimeWarning)
        ends = found.confidence_interval(0.95, method="log-log")
    share = np.asarray(found.probabilities, np.float64)
    low, high = (np.where(share == 1.0, 1.0, end.probabilities) for end in (ends.low, ends.high))
    return Survival(
        *(
            np.concatenate([[start], values])
            for start, values in ((0.0, found.quantiles), (1.0, share), (1.0, low), (1.0, high))
        )
    )


def high_risk(patients: pd.DataFrame) -> BoolArray:
    """Whether each patient's risk is above the median of the patients of its fold, (n,).

    Risks of different folds are of different models, whose scales need not agree: across folds they
    are not compared.

    Args:
        patients: `fold` and `score`, one row a patient.
    """
    median = patients.groupby("fold")["score"].transform("median")
    return (patients["score"] > median).to_numpy()


def logrank_p(time: Float64Array, event: BoolArray, group: BoolArray) -> float:
    """Two-sided p of the log-rank test between two groups; nan if one is empty or has no event."""
    if group.all() or not group.any() or not event.any():
        return math.nan
    parts = [CensoredData.right_censored(time[part], ~event[part]) for part in (group, ~group)]
    return float(logrank(*parts).pvalue)


@look()
def kaplan_meier_figure(predictions: pd.DataFrame, metrics: pd.DataFrame) -> Figure:
    """Survival of patients above and below the median risk of their fold, in the first repetition.

    Args:
        predictions: Rows of the `predictions` format, of one survival task.
        metrics: Rows of the `metrics` format, which give the order of rows.

    Returns:
        The figure, with 95 % bands, a log-rank test, and the numbers at risk.

    Raises:
        ValueError: If no model trained on all patients.
    """

    def draw(part: SubFigure, title: str, patients: pd.DataFrame, _: Row) -> None:
        _panel(part, title, patients)

    note = (
        "High risk: above the median of out-of-fold risks in the patient's own fold. Bands are "
        "95 % intervals; small bars are censored patients."
    )
    entries = tuple(
        Line2D([], [], color=group.colour, linestyle=group.dash, linewidth=1.7, label=group.name)
        for group in (LOW, HIGH)
    )
    return row_panels(predictions, metrics, draw, height=3.6, note=note, entries=entries)


def _panel(part: SubFigure, title: str, patients: pd.DataFrame) -> None:
    if patients.empty:
        return without_patients(part, title)
    time, event = patients["label"].to_numpy(np.float64), patients["event"].to_numpy() == 1
    high = high_risk(patients)
    groups = [(LOW, ~high), (HIGH, high)] if high.any() else [(ALL_PATIENTS, ~high)]
    axes, table = part.subplots(2, 1, sharex=True, height_ratios=(5, 1))
    axes.set_title(f"{title}\n{_test(time, event, high)}", loc="left")
    axes.set(ylim=(0, 1.03), ylabel="share without event")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=False))
    axes.set_xlim(0, max(float(time.max()), 1e-9) * 1.02)
    for group, mine in groups:
        _curve(axes, time[mine], event[mine], group)
    _at_risk(axes, table, [(group, time[mine]) for group, mine in groups])
    table.set_xlabel(f"time ({shown(patients['target'].iloc[0], 2.2)})")
    return None


def _test(time: Float64Array, event: BoolArray, high: BoolArray) -> str:
    if not high.any():
        return "no split: the risks of a fold are alike"
    p = logrank_p(time, event, high)
    if math.isnan(p):
        return "log-rank undefined: no event"
    return "log-rank p < 0.001" if p < 0.001 else f"log-rank p = {p:.3f}"


def _curve(axes: Axes, time: Float64Array, event: BoolArray, group: Group) -> None:
    found = survival(time, event)
    colour = group.colour
    axes.fill_between(
        found.time, found.low, found.high, step="post", color=colour, alpha=0.15, linewidth=0
    )
    axes.plot(
        found.time,
        found.share,
        drawstyle="steps-post",
        color=colour,
        linestyle=group.dash,
        linewidth=1.7,
    )
    censored = np.unique(time[~event])
    at = found.share[np.searchsorted(found.time, censored, side="right") - 1]
    axes.plot(censored, at, linestyle="none", marker="|", markersize=5, color=colour)


def _at_risk(axes: Axes, table: Axes, groups: list[tuple[Group, Float64Array]]) -> None:
    """Patients whose time is not over, at every tick, in the colours of the groups."""
    places = [len(groups) - 1 - i for i in range(len(groups))]
    table.set_ylim(-0.6, len(groups) - 0.4)
    table.set_yticks(places, [group.name for group, _ in groups])
    table.tick_params(axis="both", length=0)
    # Numbers are centred on their ticks, and the first tick is where the names end.
    widest = max(text_width(f"{len(time):,}") for _, time in groups)
    table.tick_params(axis="y", pad=36.0 * widest + 5.0)
    table.spines[:].set_visible(False)
    low, high = axes.get_xlim()
    ticks = [tick for tick in axes.get_xticks() if low <= tick <= high]
    axes.tick_params(axis="x", labelbottom=True)
    table.tick_params(axis="x", labelbottom=False)
    table.set_title("patients at risk", loc="left", color="#555555")
    for place, (group, time) in zip(places, groups, strict=True):
        for tick in ticks:
            text = f"{int((time >= tick).sum()):,}"
            table.text(tick, place, text, ha="center", va="center", color=group.colour)
    for label, (group, _) in zip(table.get_yticklabels(), groups, strict=True):
        label.set_color(group.colour)
