import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve

from evaluate.figures.frames import NAMES, comparison, metrics, predictions, rows
from slidemill.evaluate.figures.calibration import BINS, calibration_figure, reliability


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 200), st.integers(1, 12), st.booleans(), st.integers(0, 999))
def test_the_curve_is_scikit_learns(n: int, bins: int, ties: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.random(n).round(1) if ties else rng.random(n)
    labels = (rng.random(n) < scores).astype(np.int64)
    found = reliability(labels, scores, bins)
    observed, predicted = calibration_curve(labels, scores, n_bins=bins, strategy="quantile")
    assert found.observed == pytest.approx(observed)
    assert found.predicted == pytest.approx(predicted)
    assert found.count.sum() == n
    assert (found.low <= found.observed + 1e-12).all()
    assert (found.high >= found.observed - 1e-12).all()


def test_intervals_are_wilsons() -> None:
    found = reliability(np.array([1, 1, 0, 0, 0, 0, 0, 0]), np.full(8, 0.3))
    z, n, p = 1.959963984540054, 8, 0.25
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    assert found.low.item() == pytest.approx(centre - half)
    assert found.high.item() == pytest.approx(centre + half)


def test_distinct_scores_are_in_bins_of_equally_many() -> None:
    rng = np.random.default_rng(0)
    found = reliability(rng.integers(0, 2, 100), rng.permutation(100) / 100)
    assert found.count.tolist() == [10] * BINS


def test_a_panel_a_result_and_a_line_a_class() -> None:
    table, judged = comparison("multiclass", of=rows(2, 1), patients=60)
    figure = calibration_figure(NAMES["multiclass"], table, judged)
    assert len(figure.axes) == 4
    curves, below = figure.axes[0], figure.axes[1]
    assert len(curves.lines) == 1 + 3
    assert len(below.patches) == 3
    assert curves.get_xlim() == curves.get_ylim() == (0, 1)


def test_few_patients_have_few_bins() -> None:
    table, judged = comparison("binary", of=rows(1), patients=12)
    line = calibration_figure(("met",), table, judged).axes[0].lines[1]
    assert len(line.get_xdata()) == 2


def test_one_class_is_drawn_and_no_patient_said() -> None:
    table = predictions("binary", of=rows(2), patients=20)
    table["label"] = 0.0
    judged = metrics("binary", table)
    line = calibration_figure(("met",), table, judged).axes[0].lines[1]
    assert np.asarray(line.get_ydata()).tolist() == [0.0] * 4
    empty = calibration_figure(("met",), table[table["model"] != "linear-probe"], judged)
    assert any(text.get_text() == "No patient is tested." for text in empty.axes[2].texts)
