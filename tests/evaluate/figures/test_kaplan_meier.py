import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.text import Text
from scipy.stats import norm
from sksurv.compare import compare_survival

from evaluate.figures.frames import comparison, metrics, predictions, rows
from slidemill.evaluate.figures.data import patients_of, rows_of
from slidemill.evaluate.figures.kaplan_meier import (
    high_risk,
    kaplan_meier_figure,
    logrank_p,
    survival,
)

TIME = np.array([3.0, 1.0, 2.0, 2.0, 4.0, 5.0, 5.0])
EVENT = np.array([False, True, True, False, True, True, False])


def texts_of(figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text)]


def test_the_curve_is_that_of_a_hand() -> None:
    found = survival(TIME, EVENT)
    assert found.time.tolist() == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    after = [1, 6 / 7, 6 / 7 * 5 / 6, 6 / 7 * 5 / 6, 6 / 7 * 5 / 6 * 2 / 3]
    assert found.share == pytest.approx([*after, after[-1] / 2])
    # Greenwood's variance of log S at 2: sum of d / n (n - d) over the two events.
    variance = 1 / (7 * 6) + 1 / (6 * 5)
    share = 5 / 7
    half = norm.ppf(0.975) * math.sqrt(variance) / math.log(share)
    assert found.low[2] == pytest.approx(share ** math.exp(-half))
    assert found.high[2] == pytest.approx(share ** math.exp(half))
    assert found.low[0] == found.high[0] == 1.0


def test_without_events_nobody_is_lost_and_with_all_nobody_left() -> None:
    none = survival(TIME, np.zeros(7, dtype=bool))
    assert (none.share == 1.0).all()
    assert (none.low == 1.0).all()
    every = survival(TIME, np.ones(7, dtype=bool))
    assert every.share[-1] == 0.0
    assert math.isnan(every.low[-1])


def test_the_test_is_the_log_rank_of_others() -> None:
    rng = np.random.default_rng(0)
    time, event = rng.exponential(5, 40).round(1) + 0.1, rng.random(40) < 0.6
    group = rng.random(40) < 0.5
    outcome = np.array(list(zip(event, time, strict=True)), dtype=[("e", bool), ("t", float)])
    _, p = compare_survival(outcome, group)
    assert logrank_p(time, event, group) == pytest.approx(p)
    assert math.isnan(logrank_p(time, event, np.zeros(40, dtype=bool)))
    assert math.isnan(logrank_p(time, np.zeros(40, dtype=bool), group))


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 999), st.integers(1, 5), st.integers(1, 40))
def test_only_risks_of_one_fold_are_compared(seed: int, folds: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    patients = pd.DataFrame({"fold": rng.integers(0, folds, n), "score": rng.normal(size=n)})
    high = high_risk(patients)
    other = patients.assign(score=patients["score"] * 3.0 + 100.0 * patients["fold"])
    assert np.array_equal(high_risk(other), high)
    for _, part in patients.assign(high=high).groupby("fold"):
        assert int(part["high"].sum()) == len(part) // 2


def test_a_panel_has_both_curves_and_the_numbers_at_risk() -> None:
    table, judged = comparison("survival", of=rows(1), patients=50)
    figure = kaplan_meier_figure(table, judged)
    axes, at_risk = figure.axes
    patients = patients_of(table, rows_of(judged)[0])
    high = high_risk(patients)
    time, event = patients["label"].to_numpy(), patients["event"].to_numpy() == 1
    low_line, _, high_line, _ = axes.lines
    for line, group in ((low_line, ~high), (high_line, high)):
        expected = survival(time[group], event[group])
        assert np.array_equal(line.get_xdata(), expected.time)
        assert np.array_equal(line.get_ydata(), expected.share)
        assert line.get_drawstyle() == "steps-post"
    ticks = [tick for tick in axes.get_xticks() if 0 <= tick <= axes.get_xlim()[1]]
    counts = [int((time[group] >= tick).sum()) for group in (~high, high) for tick in ticks]
    assert [int(text.get_text().replace(",", "")) for text in at_risk.texts] == counts
    texts = texts_of(figure)
    assert any("median of out-of-fold risks in the patient's own fold" in text for text in texts)
    assert "time (days_to_death)" in texts


def test_only_the_first_rows_have_panels_and_the_figure_says_it() -> None:
    table, judged = comparison("survival", of=rows(8, 1), patients=12, slides=1)
    figure = kaplan_meier_figure(table, judged)
    assert len(figure.axes) == 2 * 6
    assert any("The first 6 of 8 rows." in text for text in texts_of(figure))


def test_what_cannot_be_split_or_tested_says_so() -> None:
    table = predictions("survival", of=rows(3), patients=12)
    table.loc[table["model"] == "abmil-4heads", "score"] = 1.0
    table.loc[table["model"] == "linear-probe", "event"] = 0.0
    judged = metrics("survival", table)
    table = table[table["model"] != "clam-sb"]
    texts = texts_of(kaplan_meier_figure(table, judged))
    assert any("no split: the risks of a fold are alike" in text for text in texts)
    assert any("log-rank undefined: no event" in text for text in texts)
    assert "No patient is tested." in texts
