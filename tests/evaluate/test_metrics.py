import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, balanced_accuracy_score, roc_auc_score

from slidemill.errors import CohortError
from slidemill.evaluate.bootstrap import bootstrap_intervals, fold_metrics, patient_predictions
from slidemill.evaluate.metrics import METRICS

SKLEARN = {
    "auroc": roc_auc_score,
    "auprc": average_precision_score,
    "balanced_accuracy": lambda y, p: balanced_accuracy_score(y, p >= 0.5),
}


def table(labels, probabilities, patients=None, repeat=0):
    n = len(labels)
    return pd.DataFrame(
        {
            "repeat": repeat,
            "fold": np.arange(n) % 2,
            "slide_id": [f"s{i}" for i in range(n)],
            "patient_id": patients or [f"p{i}" for i in range(n)],
            "label": np.asarray(labels, np.int64),
            "probability": np.asarray(probabilities, np.float64),
        }
    )


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 6)), min_size=2, max_size=30))
def test_metrics_and_their_weighted_forms_are_sklearns(rows):
    y = np.array([int(label) for label, _ in rows])
    p = np.array([value / 6 for _, value in rows])
    if len(set(y.tolist())) < 2:
        assert all(np.isnan(metric.function(y, p)) for metric in METRICS.values())
        return
    rng = np.random.default_rng(0)
    weights = rng.multinomial(len(y), np.full(len(y), 1 / len(y)), size=5).astype(np.int64)
    for name, metric in METRICS.items():
        assert metric.function(y, p) == pytest.approx(SKLEARN[name](y, p))
        for draw, found in zip(weights, metric.weighted(y, p, weights), strict=True):
            again_y, again_p = np.repeat(y, draw), np.repeat(p, draw)
            if len(set(again_y.tolist())) == 2:
                assert found == pytest.approx(SKLEARN[name](again_y, again_p))


def test_closed_forms():
    y = np.array([0, 0, 1, 1])
    auroc = METRICS["auroc"].function
    assert auroc(y, np.array([0.1, 0.2, 0.3, 0.4])) == 1
    assert auroc(y, np.array([0.4, 0.3, 0.2, 0.1])) == 0
    assert auroc(y, np.full(4, 0.5)) == 0.5


def test_slides_of_a_patient_are_averaged():
    rows = table([1, 1, 0], [0.2, 0.6, 0.3], ["a", "a", "b"]).assign(fold=0)
    found = patient_predictions(rows).set_index("patient_id")["probability"]
    assert found.to_dict() == pytest.approx({"a": 0.4, "b": 0.3})


def test_intervals_hold_the_estimate_and_come_from_the_seed():
    rng = np.random.default_rng(0)
    y = np.arange(40) % 2
    rows = table(y, np.clip(0.5 + 0.2 * (y - 0.5) + rng.normal(0, 0.2, 40), 0, 1))
    found = bootstrap_intervals(rows, draws=300, seed=0).set_index("metric")
    assert (found["low"] < found["estimate"]).all()
    assert (found["estimate"] < found["high"]).all()
    assert (found["n_patients"] == 40).all()
    assert (found["n_positive"] == 20).all()
    assert bootstrap_intervals(rows, draws=300, seed=0).equals(found.reset_index())


def test_resampling_is_of_patients_not_of_slides():
    """Ten copies of every patient's slide change neither estimate nor interval."""
    rng = np.random.default_rng(1)
    y = np.arange(30) % 2
    p = np.clip(0.5 + 0.3 * (y - 0.5) + rng.normal(0, 0.2, 30), 0, 1)
    once = table(y, p)
    often = pd.concat([once] * 10)
    a, b = (bootstrap_intervals(rows, draws=200, seed=0) for rows in (once, often))
    assert np.allclose(a[["estimate", "low", "high"]], b[["estimate", "low", "high"]])


def test_one_class_is_refused_and_folds_of_one_class_are_nan():
    with pytest.raises(CohortError):
        bootstrap_intervals(table([1, 1], [0.1, 0.2]), draws=100, seed=0)
    folds = fold_metrics(table([0, 1, 0, 1], [0.1, 0.9, 0.2, 0.8]))
    assert folds.loc[folds["metric"] == "auroc", "estimate"].isna().all()


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    covered = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        y = np.arange(60) % 2
        p = 1 / (1 + np.exp(-(rng.normal(0, 1, 60) + y)))
        row = (
            bootstrap_intervals(table(y, p), draws=200, seed=seed).set_index("metric").loc["auroc"]
        )
        covered += row["low"] <= 0.7602 <= row["high"]  # Phi(1 / sqrt(2))
    assert 50 <= covered <= 60
