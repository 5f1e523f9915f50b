import math

import numpy as np
import pytest
import sklearn.metrics as sk
import torch
from torchmetrics.functional.classification import (
    binary_calibration_error,
    multiclass_calibration_error,
)

from slidemill.evaluate.metrics import metrics_of

BINARY, MULTICLASS = metrics_of("binary"), metrics_of("multiclass")


def column(values) -> np.ndarray:
    return np.asarray(values, dtype=np.float64)[:, None]


def binary_case(seed: int, n: int = 60) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 2
    return y.astype(np.float64), np.clip(rng.normal(0.4 + 0.2 * y, 0.2), 0, 1).round(2)


def multiclass_case(seed: int, n: int = 60, k: int = 4) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = np.arange(n) % k
    logits = rng.normal(0, 1, (n, k)) + 1.5 * (y[:, None] == np.arange(k))
    p = np.exp(logits)
    return y.astype(np.float64), p / p.sum(axis=1, keepdims=True)


def test_binary_metrics_are_the_libraries() -> None:
    y, p = binary_case(0)
    decided = (p >= 0.5).astype(int)
    expected = {
        "auroc": sk.roc_auc_score(y, p),
        "auprc": sk.average_precision_score(y, p),
        "balanced_accuracy": sk.balanced_accuracy_score(y, decided),
        "f1": sk.f1_score(y, decided),
        "kappa": sk.cohen_kappa_score(y, decided),
        "brier": sk.brier_score_loss(y, p),
    }
    for name, value in expected.items():
        assert BINARY[name].function(column(y), column(p)) == pytest.approx(value), name


def test_multiclass_metrics_are_the_libraries() -> None:
    y, p = multiclass_case(0)
    decided, one_hot = p.argmax(axis=1), np.eye(4)[y.astype(int)]
    expected = {
        "auroc": sk.roc_auc_score(y, p, multi_class="ovr", average="macro"),
        "auprc": sk.average_precision_score(one_hot, p, average="macro"),
        "balanced_accuracy": sk.balanced_accuracy_score(y, decided),
        "f1": sk.f1_score(y, decided, average="macro"),
        "kappa": sk.cohen_kappa_score(y, decided, weights="quadratic"),
        "brier": np.square(p - one_hot).sum(axis=1).mean(),
    }
    for name, value in expected.items():
        assert MULTICLASS[name].function(column(y), p) == pytest.approx(value), name


def test_calibration_error_is_torchmetrics_off_the_edges() -> None:
    rng = np.random.default_rng(0)
    y, p = rng.integers(0, 2, 80), rng.random(80)
    expected = binary_calibration_error(torch.tensor(p), torch.tensor(y), n_bins=10)
    assert BINARY["ece"].function(column(y), column(p)) == pytest.approx(float(expected))
    y, p = multiclass_case(1)
    expected = multiclass_calibration_error(
        torch.tensor(p), torch.tensor(y.astype(int)), num_classes=4, n_bins=10
    )
    assert MULTICLASS["ece"].function(column(y), p) == pytest.approx(float(expected))


def test_calibration_error_by_hand() -> None:
    """0.3 and 0.35 share a bin, 0.29 does not; 1 is in the last bin."""
    ece = BINARY["ece"].function
    y, p = column([0, 1, 1, 1]), column([0.29, 0.3, 0.35, 1.0])
    assert ece(y, p) == pytest.approx((0.29 + 2 * (1 - 0.325) + 0.0) / 4)
    # In one bin, errors of both signs cancel.
    assert ece(column([0, 1]), column([0.5, 0.5])) == 0.0


def test_closed_forms() -> None:
    y = column([0, 0, 1, 1])
    auroc = BINARY["auroc"].function
    assert auroc(y, column([0.1, 0.2, 0.3, 0.4])) == 1.0
    assert auroc(y, column([0.4, 0.3, 0.2, 0.1])) == 0.0
    assert auroc(y, np.full((4, 1), 0.5)) == 0.5
    assert BINARY["brier"].function(y, y) == 0.0
    # Half the positives and all negatives right: 2 TP / (2 TP + FN), and (0.75 - 0.5) / 0.5.
    decided = column([0, 0, 0, 1])
    assert BINARY["f1"].function(y, decided) == pytest.approx(2 / 3)
    assert BINARY["kappa"].function(y, decided) == pytest.approx(0.5)
    assert BINARY["balanced_accuracy"].function(y, decided) == pytest.approx(0.75)


def test_kappa_weighs_by_the_squared_distance_of_the_classes() -> None:
    """Three classes once each, two of them exchanged: sum of distances seen over expected."""
    y = column([0, 1, 2])
    near, far = np.eye(3)[[1, 0, 2]], np.eye(3)[[2, 1, 0]]
    assert MULTICLASS["kappa"].function(y, near) == pytest.approx(1 - 2 / 4)
    assert MULTICLASS["kappa"].function(y, far) == pytest.approx(1 - 8 / 4)


def test_a_class_without_a_row_is_nan() -> None:
    y, p = column([1, 1, 1]), column([0.2, 0.6, 0.7])
    for name in ("auroc", "auprc", "balanced_accuracy", "f1", "kappa"):
        assert math.isnan(BINARY[name].function(y, p)), name
        assert math.isnan(MULTICLASS[name].function(column([0, 1, 0]), np.eye(3))), name
    assert BINARY["brier"].function(y, p) == pytest.approx((0.64 + 0.16 + 0.09) / 3)


@pytest.mark.parametrize("name", ["brier", "ece"])
def test_scores_that_are_no_probabilities_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="probabilities"):
        BINARY[name].function(column([0, 1]), column([0.2, 1.2]))


def test_chance_is_what_guessing_gives() -> None:
    rng = np.random.default_rng(0)
    y = (rng.random(20_000) < 0.3).astype(float)
    guessed = {name: metric.chance(column(y)) for name, metric in BINARY.items()}
    random_ranks = column(rng.random(len(y)))
    for name in ("auroc", "auprc", "balanced_accuracy", "kappa"):
        found = BINARY[name].function(column(y), random_ranks)
        assert guessed[name] == pytest.approx(found, abs=0.02), name
    shares = np.full((len(y), 1), y.mean())
    assert guessed["brier"] == pytest.approx(BINARY["brier"].function(column(y), shares))
    assert guessed["f1"] is None
    assert guessed["ece"] is None


def test_chance_of_several_classes() -> None:
    y = column([0, 0, 1, 2])
    guessed = {name: metric.chance(y) for name, metric in MULTICLASS.items()}
    shares = np.tile([0.5, 0.25, 0.25], (4, 1))
    assert guessed["brier"] == pytest.approx(MULTICLASS["brier"].function(y, shares))
    assert guessed["balanced_accuracy"] == pytest.approx(1 / 3)
    assert guessed["auprc"] == pytest.approx(1 / 3)
