import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from slidemill.config import LinearProbeConfig
from slidemill.evaluate.probes import PROBES, Settings
from slidemill.evaluate.probes.base import Float64Array
from slidemill.evaluate.probes.inner import STRENGTHS, deal_patients
from slidemill.splits.targets import Targets

FIT = PROBES["ridge"].fit


def planted(n: int, dim: int) -> tuple[Float64Array, Float64Array]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n, dim)) * rng.uniform(0.1, 5, dim) + rng.uniform(-9, 9, dim)
    return x, 50 + 7 * x[:, 0] + 3 * rng.standard_normal(n)


@pytest.mark.parametrize("strength", [1e-3, 1.0, 100.0])
@pytest.mark.parametrize("dim", [5, 200])
def test_it_is_the_closed_form(dim: int, strength: float) -> None:
    x, y = planted(60, dim)
    settings = Settings(linear_probe=LinearProbeConfig(strength=strength))
    targets = Targets("regression", ("age",), y[:, None])
    fitted = FIT(x, targets, [str(i) for i in range(60)], settings, inner_folds=5, seed=0)
    z, wanted = (x - x.mean(0)) / x.std(0), (y - y.mean()) / y.std()
    weights = np.linalg.solve(z.T @ z + np.eye(dim) / strength, z.T @ wanted)
    new = planted(20, dim)[0] + 0.2
    expected = (new - x.mean(0)) / x.std(0) @ weights * y.std() + y.mean()
    assert np.allclose(fitted.predict(new)[:, 0], expected, rtol=1e-8)


@pytest.mark.parametrize("dim", [4, 120])
def test_the_strength_has_the_lowest_squared_error_out_of_fold(dim: int) -> None:
    x, y = planted(70, dim)
    patients = [f"p{i // 2}" for i in range(70)]
    targets = Targets("regression", ("age",), y[:, None])
    fitted = FIT(x, targets, patients, Settings(), inner_folds=5, seed=2)
    folds = deal_patients(patients, 5, 2)
    errors = []
    for strength in STRENGTHS:
        model = make_pipeline(StandardScaler(), Ridge(alpha=1 / strength))
        # A shift and scale of the target changes neither the fit nor the choice.
        errors.append(((cross_val_predict(model, x, y, cv=folds) - y) ** 2).sum())
    assert fitted.chosen == {"strength": STRENGTHS[np.argmin(errors)], "inner_folds": 5.0}


def test_one_value_is_refused() -> None:
    targets = Targets("regression", ("age",), np.full((5, 1), 3.0))
    with pytest.raises(ValueError, match="two values"):
        FIT(np.eye(5), targets, list("abcde"), Settings(), inner_folds=2, seed=0)
