import math

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from slidemill.artifacts.formats import METRICS
from slidemill.errors import CohortError
from slidemill.evaluate.bootstrap import (
    COLUMNS,
    patient_predictions,
    retrieval_row_metrics,
    row_metrics,
)
from slidemill.evaluate.metrics import metrics_of
from slidemill.evaluate.resample import Summary, draw_weights


def table(labels, scores, patients=None, target="t", **columns) -> pd.DataFrame:
    n = len(labels)
    cells = {
        "draw": 0,
        "repeat": 0,
        "fold": np.arange(n) % 2,
        "slide_id": [f"s{i:03}" for i in range(n)],
        "patient_id": patients or [f"p{i:03}" for i in range(n)],
        "target": target,
        "label": np.asarray(labels, np.float64),
        "event": np.nan,
        "score": np.asarray(scores, np.float64),
    }
    return pd.DataFrame(cells | columns)


def binary(n: int = 40, seed: int = 0, **columns) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    y = np.arange(n) // 2 % 2
    return table(y, np.clip(0.45 + 0.2 * y + rng.normal(0, 0.2, n), 0, 1), **columns)


def measure(predictions, task_type="binary", names=("t",), draws=200, seed=0, missing=None):
    return row_metrics(predictions, task_type, names, draws=draws, seed=seed, missing=missing or {})


def overall(metrics: pd.DataFrame, metric: str = "auroc", target: str = "all") -> pd.Series:
    chosen = (metrics["fold"] == -1) & (metrics["metric"] == metric)
    return metrics[chosen & (metrics["target"] == target)].iloc[0]


def test_slides_of_a_patient_are_averaged() -> None:
    rows = table([1, 1, 0], [0.2, 0.6, 0.3], ["a", "a", "b"], fold=0)
    found = patient_predictions(rows).set_index("patient_id")["score"]
    assert found.to_dict() == pytest.approx({"a": 0.4, "b": 0.3})


@pytest.mark.parametrize("column", ["label", "fold", "event"])
def test_a_patient_with_two_labels_or_folds_is_a_bug(column: str) -> None:
    rows = table([1, 1, 0], [0.2, 0.6, 0.3], ["a", "a", "b"], fold=0, event=0.0)
    rows.loc[1, column] = 7
    with pytest.raises(ValueError, match="more than one"):
        patient_predictions(rows)


def test_two_rows_of_a_comparison_at_once_are_a_bug() -> None:
    with pytest.raises(ValueError, match="twice"):
        patient_predictions(pd.concat([binary(), binary(seed=1)]))


def test_columns_are_the_formats() -> None:
    fields = [field.name for field in METRICS.fields]
    assert list(COLUMNS) == fields[fields.index("target") :]
    assert tuple(measure(binary()).columns) == COLUMNS


def test_headline_rows_come_first_then_folds_without_interval() -> None:
    found = measure(pd.concat([binary(), binary(seed=1, repeat=1)]), missing={"all": 3})
    names = list(metrics_of("binary"))
    assert found["metric"].tolist()[: len(names)] == names
    whole, folds = found[: len(names)], found[len(names) :]
    assert (whole[["draw", "repeat", "fold"]] == -1).all(axis=None)
    assert (whole["n_patients"] == 40).all()
    assert (whole["n_positive"] == 20).all()
    assert (whole["n_missing"] == 3).all()
    assert len(folds) == len(names) * 4
    assert folds[["low", "high"]].isna().all(axis=None)
    assert (folds["n_patients"] == 20).all()
    assert (folds["n_missing"] == 0).all()


def test_headline_is_the_mean_over_repetitions_of_pooled_folds() -> None:
    one, two = binary(), binary(seed=1)
    found = measure(pd.concat([one, two.assign(repeat=1), one.assign(draw=1)]))
    expected = [roc_auc_score(rows["label"], rows["score"]) for rows in (one, two, one)]
    assert overall(found)["estimate"] == pytest.approx(np.mean(expected))


def test_intervals_hold_the_estimate_and_come_from_the_seed() -> None:
    rows = binary()
    found = measure(rows)
    whole = found[(found["fold"] == -1) & (found["metric"] != "ece")]
    assert (whole["low"] < whole["estimate"]).all()
    assert (whole["estimate"] < whole["high"]).all()
    pd.testing.assert_frame_equal(found, measure(rows.sample(frac=1, random_state=0)))
    assert not measure(rows, seed=1).equals(found)


def test_calibration_error_has_no_interval() -> None:
    row = overall(measure(binary()), "ece")
    assert row["estimate"] > 0
    assert math.isnan(row["low"])
    assert math.isnan(row["high"])


def test_resampling_is_of_patients_not_of_slides() -> None:
    """Ten copies of every patient's slide change neither estimate nor interval."""
    once = binary(30)
    often = pd.concat([once.assign(slide_id=once["slide_id"] + str(i)) for i in range(10)])
    pd.testing.assert_frame_equal(measure(once), measure(often))


def test_a_metric_that_is_undefined_is_nan_and_the_others_stay() -> None:
    found = measure(table([1, 1, 1], [0.1, 0.2, 0.9]))
    assert overall(found)[["estimate", "low", "high"]].isna().all()
    brier = overall(found, "brier")
    assert brier[["estimate", "low", "high"]].notna().all()


def test_draws_without_a_class_are_left_out() -> None:
    """One positive of six: a third of the draws lack it, and AUROC of the others is defined."""
    rows = table([1, 0, 0, 0, 0, 0], [0.5, 0.1, 0.2, 0.6, 0.3, 0.4])
    row = overall(measure(rows, draws=1000))
    assert row["estimate"] == pytest.approx(0.8)
    assert 0 <= row["low"] < 0.8 <= row["high"] == 1


def test_too_few_defined_draws_give_no_interval() -> None:
    assert all(math.isnan(end) for end in Summary(0.5, np.linspace(0, 1, 39)).interval())
    assert Summary(0.5, np.linspace(0, 1, 401)).interval() == pytest.approx(
        (0.025, 0.975), abs=2e-3
    )


def test_estimate_without_spread_is_its_own_interval() -> None:
    """Up to rounding: draws that differ from it in the last digit are not on one side of it."""
    low, high = Summary(0.7, np.full(100, 0.7 - 1e-16)).interval()
    assert (low, high) == pytest.approx((0.7, 0.7))


def test_draws_depend_on_the_seed_and_the_number_of_patients() -> None:
    weights = draw_weights(7, 100, 3)
    assert weights.shape == (100, 7)
    assert (weights.sum(axis=1) == 7).all()
    assert (weights == draw_weights(7, 100, 3)).all()
    assert weights.mean(axis=0) == pytest.approx(np.ones(7), abs=0.4)


def test_repetitions_may_test_different_patients() -> None:
    """Given splits: the union is resampled, and each repetition takes its own patients."""
    rows = binary(60)
    parts = [rows[:40].assign(repeat=0), rows[20:].assign(repeat=1)]
    row = overall(measure(pd.concat(parts)))
    expected = [roc_auc_score(part["label"], part["score"]) for part in parts]
    assert row["estimate"] == pytest.approx(np.mean(expected))
    assert row["n_patients"] == 60
    assert row["low"] < row["estimate"] < row["high"]


def test_labels_that_differ_between_repetitions_are_a_bug() -> None:
    rows = binary()
    with pytest.raises(ValueError, match="different labels"):
        measure(pd.concat([rows, rows.assign(repeat=1, label=1 - rows["label"])]))


def test_multiclass_takes_one_score_a_class() -> None:
    rng = np.random.default_rng(0)
    y, scores = np.arange(30) % 3, rng.dirichlet([1, 1, 1], 30)
    parts = [
        table((y == k).astype(float), scores[:, k], target=name)
        for k, name in enumerate(("mild", "bad", "worse"))
    ]
    names = ("mild", "bad", "worse")
    row = overall(measure(pd.concat(parts), "multiclass", names))
    assert row["estimate"] == pytest.approx(roc_auc_score(y, scores, multi_class="ovr"))
    assert row["n_positive"] == -1
    assert row["n_patients"] == 30
    with pytest.raises(ValueError, match="one score"):
        measure(pd.concat([*parts[:2], parts[2][1:]]), "multiclass", names)
    with pytest.raises(ValueError, match="exactly one class"):
        measure(pd.concat([*parts[:2], parts[1].assign(target="worse")]), "multiclass", names)


def test_multilabel_is_by_label_with_a_mean_over_those_defined() -> None:
    a, b = binary(40, target="a"), binary(40, seed=3, target="b")[:20]
    c = table(np.ones(10), np.linspace(0, 1, 10), target="c")
    found = measure(
        pd.concat([a, b, c]), "multilabel", ("a", "b", "c", "d"), missing={"b": 20, "d": 40}
    )
    rows = {target: overall(found, target=target) for target in ("a", "b", "c", "d", "macro")}
    assert rows["a"]["estimate"] == pytest.approx(roc_auc_score(a["label"], a["score"]))
    assert [rows[t]["n_patients"] for t in rows] == [40, 20, 10, 0, 40]
    assert [rows[t]["n_positive"] for t in rows] == [20, 10, 10, 0, -1]
    assert [rows[t]["n_missing"] for t in rows] == [0, 20, 0, 40, 0]
    assert math.isnan(rows["c"]["estimate"])
    assert math.isnan(rows["d"]["estimate"])
    mean = (rows["a"]["estimate"] + rows["b"]["estimate"]) / 2
    assert rows["macro"]["estimate"] == pytest.approx(mean)
    assert rows["macro"]["low"] < mean < rows["macro"]["high"]
    assert rows["macro"]["chance"] == 0.5
    in_fold = found[(found["fold"] == 0) & (found["metric"] == "auroc")].set_index("target")
    assert list(in_fold.index) == ["a", "b", "c", "macro"]
    assert in_fold.loc["macro", "estimate"] == pytest.approx(
        in_fold.loc[["a", "b"], "estimate"].mean()
    )


def test_survival_and_regression() -> None:
    rng = np.random.default_rng(0)
    times, event = rng.exponential(1, 50), (rng.random(50) < 0.6).astype(float)
    rows = table(times, -times + rng.normal(0, 0.5, 50), event=event)
    row = overall(measure(rows, "survival"), "c_harrell")
    assert row["n_positive"] == event.sum()
    assert 0.5 < row["low"] < row["estimate"] < row["high"] <= 1
    rows = table(times, times + rng.normal(0, 0.5, 50))
    row = overall(measure(rows, "regression"), "mae")
    assert row["n_positive"] == -1
    assert row["chance"] == pytest.approx(np.abs(times - np.median(times)).mean())


def test_no_predictions_are_refused() -> None:
    with pytest.raises(CohortError, match="no predictions"):
        measure(binary()[:0])
    with pytest.raises(CohortError):
        retrieval_row_metrics(binary()[:0], draws=100, seed=0)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_scores_that_are_not_finite_are_a_bug(bad: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        measure(table([0, 1], [0.5, bad]))


def test_missing_counts_of_an_unknown_target_are_a_bug() -> None:
    with pytest.raises(ValueError, match="missing"):
        measure(binary(), missing={"er": 2})


def test_retrieval_is_a_mean_over_patients_of_their_slides() -> None:
    patients = ["a", "a", "a", "b", *(f"p{i}" for i in range(28))]
    scores = [1.0, 1.0, 0.0, 0.0, *([1.0, 0.0] * 14)]
    rows = table([np.nan] * 32, scores, patients, target="acc@5", fold=0)
    found = retrieval_row_metrics(
        pd.concat([rows, rows.assign(target="map@5/k", score=0.2)]), draws=500, seed=0
    )
    assert tuple(found.columns) == COLUMNS
    assert found["metric"].tolist() == ["acc@5", "map@5/k"]
    assert (found["target"] == "all").all()
    first = found.iloc[0]
    assert first["estimate"] == pytest.approx((2 / 3 + 14) / 30)
    assert first["low"] < first["estimate"] < first["high"]
    assert first["n_patients"] == 30
    assert first["n_positive"] == -1
    assert math.isnan(first["chance"])
    assert found.iloc[1][["estimate", "low", "high"]].tolist() == pytest.approx([0.2] * 3)
