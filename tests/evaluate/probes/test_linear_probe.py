import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from slidemill.config import LinearProbeConfig
from slidemill.evaluate.probes import PROBES, Settings
from slidemill.evaluate.probes import linear_probe as module
from slidemill.evaluate.probes.base import Float64Array
from slidemill.evaluate.probes.inner import STRENGTHS, deal
from slidemill.splits.targets import Targets

FIT = PROBES["linear-probe"].fit


def reference(strength: float) -> object:
    """The same in scikit-learn's own words."""
    return make_pipeline(
        StandardScaler(),
        LogisticRegression(C=strength, class_weight="balanced", max_iter=10_000, tol=1e-9),
    )


def planted(n: int, dim: int, classes: int, shift: float) -> tuple[Float64Array, Float64Array]:
    rng = np.random.default_rng(0)
    y = np.arange(n) % classes
    if classes == 2:
        y = (np.arange(n) % 5 == 0).astype(np.int64)  # unequal classes
    x = rng.standard_normal((n, dim)) * rng.uniform(0.1, 5, dim) + rng.uniform(-9, 9, dim)
    x[:, 0] += shift * y
    return x, y.astype(np.float64)


@pytest.mark.parametrize("strength", [1e-3, 0.1, 1.0])
@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("dim", [5, 200])
def test_it_is_scikit_learns(dim: int, classes: int, strength: float) -> None:
    """Also where D > n: the fit in the span of the rows is the fit of all features."""
    x, y = planted(80, dim, classes, 1.0)
    kind = "binary" if classes == 2 else "multiclass"
    names = ("yes",) if classes == 2 else tuple("abcd")
    settings = Settings(linear_probe=LinearProbeConfig(strength=strength))
    fitted = FIT(
        x, Targets(kind, names, y[:, None]), [str(i) for i in range(80)], settings,
        inner_folds=5, seed=0,
    )  # fmt: skip
    new = planted(33, dim, classes, 1.0)[0] + 0.3
    expected = reference(strength).fit(x, y).predict_proba(new)
    expected = expected[:, 1:] if classes == 2 else expected
    assert np.allclose(fitted.predict(new), expected, atol=1e-6)
    assert fitted.chosen == {"strength": strength}


@pytest.mark.parametrize(("dim", "shift"), [(4, 2.0), (60, 1.0), (300, 0.0)])
def test_the_strength_has_the_lowest_balanced_log_loss_out_of_fold(dim: int, shift: float) -> None:
    x, y = planted(100, dim, 2, shift)
    patients = [f"p{i // 2}" for i in range(100)]
    fitted = FIT(
        x, Targets("binary", ("yes",), y[:, None]), patients, Settings(), inner_folds=4, seed=3
    )
    folds = deal(y.astype(np.int64), patients, 4, 3)
    weights = np.where(y == 1, 1 / y.sum(), 1 / (1 - y).sum())
    losses = [
        log_loss(
            y,
            cross_val_predict(reference(strength), x, y, cv=folds, method="predict_proba"),
            sample_weight=weights,
        )
        for strength in STRENGTHS
    ]
    assert fitted.chosen == {"strength": STRENGTHS[np.argmin(losses)], "inner_folds": 4.0}


def test_noise_is_penalised_harder_than_signal() -> None:
    chosen = []
    for shift in (0.0, 4.0):
        x, y = planted(200, 50, 2, shift)
        x[:, 1:10] += shift * y[:, None]
        targets = Targets("binary", ("yes",), y[:, None])
        fitted = FIT(x, targets, [str(i) for i in range(200)], Settings(), inner_folds=5, seed=0)
        chosen.append(fitted.chosen["strength"])
    assert chosen[0] < chosen[1]


def test_too_few_patients_to_choose_by_are_recorded() -> None:
    x, y = planted(10, 3, 2, 1.0)
    targets = Targets("binary", ("yes",), y[:, None])
    patients = ["same" if label else str(i) for i, label in enumerate(y)]
    fitted = FIT(x, targets, patients, Settings(), inner_folds=5, seed=0)
    assert fitted.chosen == {"strength": 1.0, "inner_folds": 0.0}


def test_a_fit_that_did_not_converge_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ITERATIONS", 1)
    x, y = planted(60, 30, 2, 1.0)
    targets = Targets("binary", ("yes",), y[:, None])
    settings = Settings(linear_probe=LinearProbeConfig(strength=10.0))
    fitted = FIT(x, targets, [str(i) for i in range(60)], settings, inner_folds=5, seed=0)
    assert fitted.chosen == {"strength": 10.0, "unconverged": 1.0}


@pytest.mark.parametrize("name", ["linear-probe", "simpleshot", "knn"])
def test_two_classes_of_a_multiclass_task_are_two_outputs(name: str) -> None:
    rng = np.random.default_rng(0)
    y = np.arange(20) % 2
    x = rng.standard_normal((20, 3)) + 3 * y[:, None]
    targets = Targets("multiclass", ("a", "b"), y[:, None].astype(np.float64))
    patients = [f"p{i}" for i in range(20)]
    fitted = PROBES[name].fit(x, targets, patients, Settings(), inner_folds=3, seed=0)
    scores = fitted.predict(x)
    assert scores.shape == (20, 2)
    assert np.allclose(scores.sum(axis=1), 1)
    assert (scores.argmax(axis=1) == y).mean() > 0.9
