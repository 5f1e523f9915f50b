import numpy as np
import pytest
from scipy.optimize import approx_fprime
from sklearn.preprocessing import StandardScaler
from sksurv.datasets import load_gbsg2, load_whas500
from sksurv.linear_model import CoxPHSurvivalAnalysis
from sksurv.preprocessing import OneHotEncoder

from slidemill.config import LinearProbeConfig
from slidemill.evaluate.probes import PROBES, Settings
from slidemill.evaluate.probes import cox as module
from slidemill.evaluate.probes.base import Float64Array
from slidemill.evaluate.probes.cox import PartialLikelihood
from slidemill.evaluate.probes.inner import STRENGTHS, deal
from slidemill.splits.targets import EVENT, TIME, Targets

FIT = PROBES["cox"].fit
COHORTS = {"whas500": load_whas500, "gbsg2": load_gbsg2}


def cohort(name: str) -> tuple[Float64Array, Targets]:
    """Times of both have ties."""
    table, outcome = COHORTS[name]()
    for column in table.select_dtypes("object"):
        table[column] = table[column].astype("category")
    x = OneHotEncoder().fit_transform(table).to_numpy(np.float64)
    event, time = outcome.dtype.names
    values = np.stack([outcome[time], outcome[event]], 1).astype(np.float64)
    return x, Targets("survival", ("time",), values)


def reference(x: Float64Array, values: Float64Array, alpha: float) -> CoxPHSurvivalAnalysis:
    outcome = np.array(
        [(bool(row[EVENT]), row[TIME]) for row in values], dtype=[("e", bool), ("t", float)]
    )
    return CoxPHSurvivalAnalysis(alpha=alpha, ties="breslow", n_iter=500, tol=1e-12).fit(x, outcome)


@pytest.mark.parametrize("strength", [1e-3, 0.1, 1.0, 1000.0])
@pytest.mark.parametrize("name", ["whas500", "gbsg2"])
def test_it_is_scikit_survivals(name: str, strength: float) -> None:
    x, targets = cohort(name)
    settings = Settings(linear_probe=LinearProbeConfig(strength=strength))
    fitted = FIT(x, targets, [str(i) for i in range(len(x))], settings, inner_folds=5, seed=0)
    z = StandardScaler().fit_transform(x)
    expected = z @ reference(z, targets.values, 1 / strength).coef_
    assert fitted.chosen == {"strength": strength}
    assert np.allclose(fitted.predict(x)[:, 0], expected, atol=1e-4)
    assert np.abs(expected).max() > 1e-3


@pytest.mark.parametrize("strength", [1e-3, 0.1])
def test_more_features_than_rows(strength: float) -> None:
    x, targets = cohort("whas500")
    rng = np.random.default_rng(0)
    rows = rng.choice(len(x), 60, replace=False)
    wide = np.concatenate([x, x @ rng.standard_normal((x.shape[1], 80)) + rng.standard_normal(80)
                           + rng.standard_normal((len(x), 80))], axis=1)[rows]  # fmt: skip
    wide = wide[:, wide.std(0) > 0]
    part = targets.take(rows)
    settings = Settings(linear_probe=LinearProbeConfig(strength=strength))
    fitted = FIT(wide, part, [str(i) for i in range(60)], settings, inner_folds=5, seed=0)
    z = StandardScaler().fit_transform(wide)
    expected = z @ reference(z, part.values, 1 / strength).coef_
    assert np.allclose(fitted.predict(wide)[:, 0], expected, atol=1e-4)


def test_the_gradient_is_that_of_the_loss() -> None:
    rng = np.random.default_rng(0)
    values = np.stack([rng.integers(1, 6, 30), rng.integers(0, 2, 30)], 1).astype(np.float64)
    likelihood = PartialLikelihood.of(values)
    risk = rng.standard_normal(30)
    expected = approx_fprime(risk, lambda r: likelihood.loss(r)[0], 1e-6)
    assert np.allclose(likelihood.loss(risk)[1], expected, atol=1e-4)


def test_the_loss_by_hand() -> None:
    """Two events at one time, both at risk of both; one censored row outlives them."""
    values = np.array([[1.0, 1.0], [1.0, 1.0], [2.0, 0.0]])
    risk = np.log([2.0, 3.0, 5.0])
    lost, _ = PartialLikelihood.of(values).loss(risk)
    assert lost == pytest.approx(-np.log(2 / 10) - np.log(3 / 10))


def test_no_risk_is_too_large() -> None:
    values = np.array([[1.0, 1.0], [2.0, 1.0], [3.0, 0.0]])
    lost, gradient = PartialLikelihood.of(values).loss(np.array([-1000.0, 0.0, 1000.0]))
    assert lost == pytest.approx(2000.0 + 1000.0)
    assert np.allclose(gradient, [-1.0, -1.0, 2.0])


def test_the_strength_has_the_highest_cross_validated_partial_likelihood() -> None:
    """What held-out rows add to the likelihood of the others, by scikit-survival's weights."""
    x, targets = cohort("whas500")
    rows = np.random.default_rng(1).choice(len(x), 90, replace=False)
    x, targets = x[rows], targets.take(rows)
    patients = [f"p{i // 2}" for i in range(90)]
    fitted = FIT(x, targets, patients, Settings(), inner_folds=3, seed=5)
    lost = np.zeros(len(STRENGTHS))
    for train, held in deal(targets.strata(), patients, 3, 5):
        scaler = StandardScaler().fit(x[train])
        of_fold = []
        for strength in STRENGTHS:
            model = reference(scaler.transform(x[train]), targets.values[train], 1 / strength)
            risk = scaler.transform(x) @ model.coef_
            of_all = PartialLikelihood.of(targets.values).loss(risk)[0]
            of_fold.append(
                of_all - PartialLikelihood.of(targets.values[train]).loss(risk[train])[0]
            )
        assert np.allclose(module._Losses(x, targets.values)(train, held), of_fold, rtol=1e-4)
        lost += of_fold
    assert fitted.chosen == {"strength": STRENGTHS[np.argmin(lost)], "inner_folds": 3.0}


@pytest.mark.parametrize(("events", "folds"), [(1, 0), (2, 2), (29, 4), (30, 4)])
def test_inner_folds_need_two_patients_with_events(events: int, folds: int) -> None:
    rng = np.random.default_rng(0)
    values = np.stack([rng.exponential(size=30), (np.arange(30) < events).astype(float)], 1)
    targets = Targets("survival", ("time",), values)
    fitted = FIT(
        rng.standard_normal((30, 3)), targets, [str(i) for i in range(30)], Settings(),
        inner_folds=4, seed=0,
    )  # fmt: skip
    assert fitted.chosen["inner_folds"] == folds


def test_no_event_is_refused() -> None:
    targets = Targets("survival", ("time",), np.array([[1.0, 0.0], [2.0, 0.0]]))
    with pytest.raises(ValueError, match="none was seen"):
        FIT(np.eye(2), targets, ["a", "b"], Settings(), inner_folds=2, seed=0)


def test_the_curvature_is_that_of_the_gradient() -> None:
    rng = np.random.default_rng(0)
    values = np.stack([rng.integers(1, 6, 30), rng.integers(0, 2, 30)], 1).astype(np.float64)
    likelihood, z = PartialLikelihood.of(values), rng.standard_normal((30, 4))
    weights = rng.standard_normal(4)
    expected = approx_fprime(weights, lambda w: z.T @ likelihood.loss(z @ w)[1], 1e-6)
    assert np.allclose(likelihood.curvature(z @ weights, z), expected, atol=1e-4)


def test_a_fit_that_did_not_converge_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_STEPS", 1)
    x, targets = cohort("whas500")
    settings = Settings(linear_probe=LinearProbeConfig(strength=1.0))
    fitted = FIT(x, targets, [str(i) for i in range(len(x))], settings, inner_folds=5, seed=0)
    assert fitted.chosen == {"strength": 1.0, "unconverged": 1.0}
