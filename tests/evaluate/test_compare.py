import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from slidemill.artifacts.formats import COMPARISONS
from slidemill.evaluate.bootstrap import row_metrics
from slidemill.evaluate.compare import COLUMNS, compare_rows, corrected_t_test, holm
from slidemill.evaluate.encoder_rows import RowKey

FOLDS = 5


def make_row(
    model: str, scores, labels, repeats: int = 1, target: str = "t", **columns
) -> pd.DataFrame:
    """Predictions of one row; patients are dealt to folds differently in each repetition."""
    n = len(labels)
    tables = [
        pd.DataFrame(
            {
                "model": model,
                "input": "uni",
                "control": "",
                "draw": 0,
                "repeat": repeat,
                "fold": np.random.default_rng(repeat).permutation(n) % FOLDS,
                "slide_id": [f"s{i:03}" for i in range(n)],
                "patient_id": [f"p{i:03}" for i in range(n)],
                "target": target,
                "label": np.asarray(labels, np.float64),
                "event": np.nan,
                "score": scores,
            }
        )
        for repeat in range(repeats)
    ]
    return pd.concat(tables).assign(**columns)


def sizes(repeats: int = 1, test: int = 20, train: int = 80):
    return {(0, repeat, fold): (test, train) for repeat in range(repeats) for fold in range(FOLDS)}


def compare(predictions, given=None, task_type="binary", names=("t",), draws=500, seed=0):
    return compare_rows(predictions, task_type, names, given or sizes(), draws=draws, seed=seed)


@pytest.fixture
def labels():
    return np.arange(100) % 2


def noisy(labels, strength: float, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return 1 / (1 + np.exp(-strength * (labels - 0.5) - rng.normal(0, 1, len(labels))))


def test_columns_are_the_formats() -> None:
    fields = [field.name for field in COMPARISONS.fields]
    assert list(COLUMNS) == fields[fields.index("target") :]


def test_difference_is_of_the_headlines_and_pairs_are_all(labels) -> None:
    scores = {
        name: noisy(labels, s, i) for i, (name, s) in enumerate({"a": 3, "b": 1, "c": 0}.items())
    }
    rows = [make_row(name, score, labels, repeats=2) for name, score in scores.items()]
    control = make_row("tile-count", scores["c"], labels, control="tile-count")
    found = compare(pd.concat([*rows, control]), sizes(2))
    assert tuple(found.columns) == COLUMNS
    assert list(found[["a", "b"]].itertuples(index=False, name=None)) == [
        ("a on uni", "b on uni"),
        ("a on uni", "c on uni"),
        ("b on uni", "c on uni"),
    ]
    headline = {
        row["model"].iloc[0]: row_metrics(
            row, "binary", ("t",), draws=100, seed=0, missing={}
        ).iloc[0]["estimate"]
        for row in rows
    }
    assert found["difference"].tolist() == pytest.approx(
        [
            headline["a"] - headline["b"],
            headline["a"] - headline["c"],
            headline["b"] - headline["c"],
        ]
    )
    assert (found["low"] < found["difference"]).all()
    assert (found["difference"] < found["high"]).all()
    assert found.loc[1, "low"] > 0
    assert (found["folds"] == 10).all()
    assert (found["metric"] == "auroc").all()
    assert found.loc[1, "p"] < 0.05
    assert (found["p_holm"] >= found["p"]).all()


def test_fold_differences_are_what_is_tested(labels) -> None:
    a, b = (
        make_row(name, noisy(labels, s, i), labels)
        for i, (name, s) in enumerate((("a", 2), ("b", 1)))
    )
    by_fold = [
        roc_auc_score(a["label"][a["fold"] == k], a["score"][a["fold"] == k])
        - roc_auc_score(b["label"][b["fold"] == k], b["score"][b["fold"] == k])
        for k in range(FOLDS)
    ]
    found = compare(pd.concat([a, b]))
    assert found.loc[0, "p"] == pytest.approx(corrected_t_test(by_fold, 0.25))


def test_pairing_makes_the_interval_of_like_rows_narrow(labels) -> None:
    """Two rows with nearly the same scores differ little on any draw of patients."""
    score = noisy(labels, 1, 0)
    near = np.clip(score + np.random.default_rng(1).normal(0, 0.01, 100), 0, 1)
    found = compare(pd.concat([make_row("a", score, labels), make_row("b", near, labels)]))
    assert found.loc[0, "high"] - found.loc[0, "low"] < 0.03


def test_a_row_against_its_copy(labels) -> None:
    score = noisy(labels, 1, 0)
    found = compare(pd.concat([make_row("a", score, labels), make_row("b", score, labels)]))
    assert found.loc[0, ["difference", "low", "high"]].tolist() == pytest.approx([0, 0, 0])
    assert found.loc[0, "p"] == found.loc[0, "p_holm"] == 1


def test_one_row_has_nothing_to_compare(labels) -> None:
    found = compare(make_row("a", noisy(labels, 1, 0), labels))
    assert found.empty
    assert tuple(found.columns) == COLUMNS
    assert found["p"].dtype == np.float64


def test_rows_of_other_patients_or_folds_are_refused(labels) -> None:
    a, b = (make_row(name, noisy(labels, 1, 0), labels) for name in "ab")
    with pytest.raises(ValueError, match="same patients"):
        compare(pd.concat([a, b[1:]]))
    with pytest.raises(ValueError, match="same patients"):
        compare(pd.concat([a, b.assign(fold=(b["fold"] + 1) % FOLDS)]))


def test_folds_without_sizes_are_refused(labels) -> None:
    rows = pd.concat([make_row(name, noisy(labels, 1, 0), labels) for name in "ab"])
    with pytest.raises(ValueError, match="no sizes"):
        compare(rows, {(0, 0, 0): (20, 80)})


def test_a_fixed_split_has_an_interval_but_no_test(labels) -> None:
    rows = pd.concat(
        [make_row(n, noisy(labels, s, 0), labels, fold=0) for n, s in (("a", 2), ("b", 1))]
    )
    found = compare(rows, {(0, 0, 0): (100, 400)})
    assert found.loc[0, "folds"] == 1
    assert math.isnan(found.loc[0, "p"])
    assert math.isnan(found.loc[0, "p_holm"])
    assert not math.isnan(found.loc[0, "low"])


def test_multilabel_compares_each_label_and_their_mean(labels) -> None:
    rows = [
        make_row(model, noisy(labels, strength, seed), labels, target=target)
        for seed, (model, target, strength) in enumerate(
            [("a", "x", 2), ("a", "y", 1), ("b", "x", 1), ("b", "y", 1)]
        )
    ]
    found = compare(pd.concat(rows), task_type="multilabel", names=("x", "y")).set_index("target")
    assert list(found.index) == ["x", "y", "macro"]
    mean = found.loc[["x", "y"], "difference"].mean()
    assert found.loc["macro", "difference"] == pytest.approx(mean)


def test_corrected_t_by_hand() -> None:
    """Differences 1, 2, 3 at n_test / n_train of 1/2: 2 / sqrt((1/3 + 1/2) * 1)."""
    expected = 2 * stats.t.sf(2 / math.sqrt(5 / 6), 2)
    assert corrected_t_test([1, 2, 3], 0.5) == pytest.approx(expected)
    assert corrected_t_test([-1, -2, -3], 0.5) == pytest.approx(expected)
    plain = stats.ttest_1samp([1, 2, 3], 0).pvalue
    assert corrected_t_test([1, 2, 3], 0.0) == pytest.approx(plain)


def test_corrected_t_without_variance() -> None:
    assert math.isnan(corrected_t_test([0.1], 0.5))
    assert math.isnan(corrected_t_test([0.1, 0.1], 0.5))
    assert corrected_t_test([0.0, 0.0], 0.5) == 1


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, math.nan, 0.6])[::2] == [1.0, 1.0]
    assert math.isnan(holm([0.6, math.nan, 0.6])[1])
    assert holm([]) == []


def centroid_auroc(x, y, train, test) -> float:
    direction = x[train][y[train] == 1].mean(axis=0) - x[train][y[train] == 0].mean(axis=0)
    return roc_auc(y[test], x[test] @ direction)


def roc_auc(y, scores) -> float:
    above = scores[y == 1][:, None] - scores[y == 0]
    return float((above > 0).mean())


def test_without_a_difference_the_corrected_test_is_right_and_the_plain_one_is_not() -> None:
    """Two models on equally good features, 5 folds 5 times: no difference is there to find."""
    wrong = {"corrected": 0, "plain": 0}
    cohorts, patients = 300, 120
    y = np.arange(patients) % 2
    for seed in range(cohorts):
        rng = np.random.default_rng(seed)
        features = [rng.normal(0, 1, (patients, 4)) + 0.4 * y[:, None] for _ in range(2)]
        differences = []
        for _ in range(5):
            fold = np.empty(patients, dtype=np.int64)
            for k in (0, 1):
                fold[y == k] = rng.permutation(patients // 2) % FOLDS
            for k in range(FOLDS):
                a, b = (centroid_auroc(x, y, fold != k, fold == k) for x in features)
                differences.append(a - b)
        wrong["corrected"] += corrected_t_test(differences, 24 / 96) < 0.05
        wrong["plain"] += stats.ttest_1samp(differences, 0).pvalue < 0.05
    assert wrong["corrected"] / cohorts < 0.075
    assert wrong["plain"] / cohorts > 0.25


def test_pairs_that_are_asked_for_are_compared_and_no_others(labels) -> None:
    rows = [
        make_row("probe", noisy(labels, 3, 0), labels),
        make_row("probe", noisy(labels, 1, 1), labels, control="random-init"),
        make_row("probe", noisy(labels, 0, 2), labels, control="shuffled-labels"),
    ]
    result, control = RowKey("probe", "uni", ""), RowKey("probe", "uni", "random-init")
    pairs = [(result, control)]
    found = compare_rows(pd.concat(rows), "binary", ("t",), sizes(), draws=200, seed=0, pairs=pairs)
    assert found[["a", "b"]].to_numpy().tolist() == [["probe on uni", "probe on uni (random-init)"]]
    renamed = pd.concat([rows[0], rows[1].assign(model="other", control="")])
    plain = compare(renamed, draws=200)
    columns = ["difference", "low", "high", "p", "p_holm"]
    assert found[columns].to_numpy().tolist() == plain[columns].to_numpy().tolist()
    none = compare_rows(pd.concat(rows), "binary", ("t",), sizes(), draws=200, seed=0, pairs=[])
    assert none.empty and tuple(none.columns) == COLUMNS
