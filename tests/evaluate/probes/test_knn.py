import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.preprocessing import normalize

from slidemill.config import KnnConfig
from slidemill.evaluate.probes import PROBES, Settings
from slidemill.splits.targets import Targets

FIT = PROBES["knn"].fit


def settings_of(k: int, temperature: float = 0.07) -> Settings:
    return Settings(knn=KnnConfig(k=k, temperature=temperature))


def votes(distances: np.ndarray) -> np.ndarray:
    """Of squared Euclidean distances on the unit sphere: cosine = 1 - d^2 / 2."""
    return np.exp((1 - distances**2 / 2) / 0.07)


@pytest.mark.parametrize("kind", ["multiclass", "regression"])
def test_it_is_scikit_learns_on_the_sphere(kind: str) -> None:
    rng = np.random.default_rng(0)
    x, new = rng.standard_normal((50, 6)) + 3, rng.standard_normal((12, 6)) + 3
    y = rng.integers(0, 3, 50) if kind == "multiclass" else rng.standard_normal(50)
    names = ("a", "b", "c") if kind == "multiclass" else ("age",)
    targets = Targets(kind, names, y.astype(float)[:, None])
    fitted = FIT(x, targets, [str(i) for i in range(50)], settings_of(7), inner_folds=2, seed=0)
    model = KNeighborsClassifier if kind == "multiclass" else KNeighborsRegressor
    other = model(7, weights=votes, algorithm="brute").fit(normalize(x - x.mean(0)), y)
    moved = normalize(new - x.mean(0))
    expected = other.predict_proba(moved) if kind == "multiclass" else other.predict(moved)
    assert np.allclose(fitted.predict(new), expected.reshape(12, -1), atol=1e-10)
    assert fitted.chosen == {"k": 7.0}


def test_by_hand() -> None:
    """Centred rows are (1, 0), (-1, 0), (0, 1), (0, -1); a new one looks along the first."""
    x = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    targets = Targets("binary", ("yes",), np.array([[1.0], [0.0], [0.0], [1.0]]))
    fitted = FIT(x, targets, list("abcd"), settings_of(2, 1.0), inner_folds=2, seed=0)
    # The second place is shared by (0, 1) and (0, -1): half a vote of exp(0) each.
    assert fitted.predict(np.array([[5.0, 0.0]]))[0, 0] == pytest.approx(
        (np.e + 0.5) / (np.e + 1.0)
    )


def test_k_is_no_more_than_the_rows() -> None:
    x = np.random.default_rng(0).standard_normal((4, 3))
    targets = Targets("binary", ("yes",), np.array([[1.0], [0.0], [0.0], [1.0]]))
    fitted = FIT(x, targets, list("abcd"), settings_of(20), inner_folds=2, seed=0)
    assert fitted.chosen == {"k": 4.0}
    assert np.isfinite(fitted.predict(x)).all()


def test_a_vector_at_the_centre_hears_all_alike() -> None:
    x = np.array([[1.0, 0.0], [-1.0, 0.0]])
    targets = Targets("binary", ("yes",), np.array([[1.0], [0.0]]))
    fitted = FIT(x, targets, ["a", "b"], settings_of(1), inner_folds=2, seed=0)
    assert fitted.predict(np.zeros((1, 2)))[0, 0] == 0.5
