"""Every metric under case weights is the plain one on the rows repeated by their weights."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slidemill.evaluate.metrics import metrics_of
from slidemill.evaluate.names import HEADLINE, METRIC_LABELS

VALUES = st.integers(0, 4)
"""Few different values, for many ties."""


def make_case(task_type, cells):
    """Values and scores from rows of small integers."""
    a, b, c, d = np.array(cells, dtype=np.float64).T
    if task_type == "multiclass":
        shares = np.stack([a, b, c], axis=1) + 1.0
        return (d % 3)[:, None], shares / shares.sum(axis=1, keepdims=True)
    if task_type == "regression":
        return (a / 3)[:, None], (b / 7)[:, None]
    if task_type == "survival":
        return np.stack([a, c % 2], axis=1), (b / 7)[:, None]
    return (a % 2)[:, None], (b / 4)[:, None]


@pytest.mark.parametrize("task_type", HEADLINE)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_weighted_is_plain_on_repeated_rows(task_type, data) -> None:
    cells = data.draw(st.lists(st.tuples(*[VALUES] * 4), min_size=2, max_size=14))
    y, scores = make_case(task_type, cells)
    rows = st.lists(st.integers(0, 3), min_size=len(y), max_size=len(y))
    weights = np.array(data.draw(st.lists(rows, min_size=1, max_size=4)), dtype=np.int64)
    for metric in metrics_of(task_type).values():
        found = metric.weighted(y, scores, weights)
        assert found.dtype == np.float64
        assert found.shape == (len(weights),)
        for value, weight in zip(found, weights, strict=True):
            if not weight.any():
                assert np.isnan(value), metric.name
                continue
            plain = metric.function(np.repeat(y, weight, axis=0), np.repeat(scores, weight, axis=0))
            assert value == pytest.approx(plain, abs=1e-9, nan_ok=True), metric.name


def test_numbers_far_from_zero_keep_their_digits() -> None:
    """A draw without the one huge row has the correlation of the small ones."""
    y, scores = np.array([[1e9], [1.0], [2.0], [3.0]]), np.array([[0.0], [1.0], [3.0], [2.0]])
    for name in ("pearson", "spearman", "r2"):
        metric = metrics_of("regression")[name]
        found = metric.weighted(y, scores, np.array([[0, 1, 1, 2]]))
        rows = [1, 2, 3, 3]
        assert found[0] == pytest.approx(metric.function(y[rows], scores[rows]), abs=1e-12)


def test_a_thousand_draws_of_all_metrics_take_seconds() -> None:
    rng = np.random.default_rng(0)
    cells = rng.integers(0, 50, (500, 4))
    weights = rng.multinomial(500, np.full(500, 1 / 500), size=1000)
    for task_type in HEADLINE:
        y, scores = make_case(task_type, cells)
        scores = scores / scores.max()
        start = time.perf_counter()
        for metric in metrics_of(task_type).values():
            metric.weighted(y, scores, weights)
        assert time.perf_counter() - start < 10.0, task_type


def test_metrics_are_in_the_order_of_the_labels() -> None:
    for task_type, headline in HEADLINE.items():
        metrics = metrics_of(task_type)
        assert headline in metrics
        assert list(metrics) == [name for name in METRIC_LABELS if name in metrics]
        assert [metric.label for metric in metrics.values()] == [METRIC_LABELS[n] for n in metrics]
        assert metrics[headline].higher_is_better
