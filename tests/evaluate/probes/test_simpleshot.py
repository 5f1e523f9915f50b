import numpy as np
from sklearn.neighbors import NearestCentroid
from sklearn.preprocessing import normalize

from slidemill.evaluate.probes import PROBES, Settings
from slidemill.splits.targets import Targets

FIT = PROBES["simpleshot"].fit


def test_it_ranks_as_scikit_learns_nearest_centroid() -> None:
    rng = np.random.default_rng(0)
    y = np.arange(60) % 3
    x = rng.standard_normal((60, 5)) + y[:, None] * 0.5 + 4
    targets = Targets("multiclass", ("a", "b", "c"), y.astype(float)[:, None])
    fitted = FIT(x, targets, [str(i) for i in range(60)], Settings(), inner_folds=2, seed=0)
    new = rng.standard_normal((40, 5)) + 4.5
    other = NearestCentroid().fit(normalize(x - x.mean(0)), y)
    expected = other.predict(normalize(new - x.mean(0)))
    assert (fitted.predict(new).argmax(1) == expected).all()
    assert fitted.chosen == {}


def test_by_hand() -> None:
    """Means (1, 0) and (-1, 0); a new row along (0, 1) is as far from both, one along the first
    is at squared distances 0 and 4."""
    x = np.array([[3.0, 1.0], [1.0, 1.0]])
    targets = Targets("binary", ("yes",), np.array([[1.0], [0.0]]))
    fitted = FIT(x, targets, ["a", "b"], Settings(), inner_folds=2, seed=0)
    found = fitted.predict(np.array([[2.0, 9.0], [7.0, 1.0]]))
    assert np.allclose(found[:, 0], [0.5, 1 / (1 + np.exp(-4.0))])
