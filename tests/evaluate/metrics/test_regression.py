import math

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import mean_absolute_error, r2_score

from slidemill.evaluate.metrics import metrics_of

METRICS = metrics_of("regression")


def test_metrics_are_the_libraries() -> None:
    rng = np.random.default_rng(0)
    y = rng.normal(5, 2, (50, 1)).round(1)
    p = (y + rng.normal(0, 1, (50, 1))).round(1)
    a, b = y[:, 0], p[:, 0]
    expected = {
        "pearson": stats.pearsonr(a, b).statistic,
        "spearman": stats.spearmanr(a, b).statistic,
        "r2": r2_score(a, b),
        "mae": mean_absolute_error(a, b),
    }
    for name, value in expected.items():
        assert METRICS[name].function(y, p) == pytest.approx(value), name


def test_by_hand() -> None:
    y, p = np.array([[1.0], [2.0], [3.0]]), np.array([[2.0], [2.0], [5.0]])
    assert METRICS["mae"].function(y, p) == pytest.approx(1.0)
    assert METRICS["r2"].function(y, p) == pytest.approx(1 - 5 / 2)
    # Ranks 1, 2, 3 and 1.5, 1.5, 3.
    assert METRICS["spearman"].function(y, p) == pytest.approx(math.sqrt(3) / 2)


def test_what_does_not_vary_has_no_correlation() -> None:
    varied, constant = np.array([[1.0], [2.0], [4.0]]), np.full((3, 1), 0.1)
    for name in ("pearson", "spearman"):
        assert math.isnan(METRICS[name].function(constant, varied))
        assert math.isnan(METRICS[name].function(varied, constant))
    assert math.isnan(METRICS["r2"].function(constant, varied))
    assert METRICS["r2"].function(varied, constant) < 0
    for name in ("pearson", "spearman", "r2"):
        assert math.isnan(METRICS[name].function(varied[:1], varied[:1])), name


def test_chance_is_what_a_constant_gives() -> None:
    y = np.array([[1.0], [2.0], [9.0]])
    assert METRICS["mae"].chance(y) == pytest.approx(8 / 3)
    assert METRICS["r2"].chance(y) == METRICS["r2"].function(y, np.full((3, 1), 4.0)) == 0.0
