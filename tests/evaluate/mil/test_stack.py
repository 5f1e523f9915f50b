from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from slidemill.config import AbmilConfig, MilConfig, SurvivalConfig
from slidemill.errors import CollapseError
from slidemill.evaluate.mil.bags import ListBags
from slidemill.evaluate.mil.loop import PlainAbmil, fit_loop
from slidemill.evaluate.mil.networks import Shape
from slidemill.evaluate.mil.stack import cohort_batch
from slidemill.evaluate.mil.train import cross_fit
from slidemill.evaluate.mil.units import BagUnit, Settings, UnitResult
from slidemill.splits.targets import Targets

MIL = MilConfig(width=16, epochs=25, batch_bags=6, learning_rate=5e-3, max_tiles=20)
SETTINGS = Settings(MIL, AbmilConfig(attention_width=8))


def change(**keys: object) -> Settings:
    return replace(SETTINGS, mil=MIL.model_copy(update=keys))


def pooled_auroc(results: list[UnitResult], units: list[BagUnit], targets: Targets) -> float:
    scores = np.concatenate([r.scores[:, 0] for r in results])
    truth = np.concatenate([targets.values[u.test, 0] for u in units])
    return float(roc_auc_score(truth, scores))


@pytest.mark.parametrize("network", ["abmil", "max-pool"])
def test_it_finds_planted_tiles(planted: Callable, k_fold: Callable, network: str) -> None:
    bags, targets, truth = planted(60, 0)
    units = k_fold(60)
    results = cross_fit(network, ListBags(bags), targets, units, change(epochs=60), seed=0)
    assert pooled_auroc(results, units, targets) > 0.95
    if network == "abmil":
        ratios = [
            weights[truth[i]].mean() / weights[~truth[i]].mean()
            for unit, result in zip(units, results, strict=True)
            for i, weights in zip(unit.test, result.attention, strict=True)
            if truth[i].any()
        ]
        assert np.median(ratios) > 3


@pytest.mark.parametrize("kind", ["binary", "multiclass", "multilabel", "regression", "cox",
                                  "discrete-time"])  # fmt: skip
@pytest.mark.parametrize("heads", [1, 3])
def test_the_plain_loop_gives_the_same_numbers(
    planted: Callable, k_fold: Callable, kind: str, heads: int
) -> None:
    bags, binary, _ = planted(24, 0)
    targets = of_kind(kind, binary)
    survival = SurvivalConfig(head="cox" if kind == "cox" else "discrete-time", batch_bags=8)
    settings = replace(
        change(epochs=6, hidden=(12,)),
        abmil=AbmilConfig(attention_width=8, heads=heads, gated=heads == 1),
        survival=survival,
    )
    units = [replace(unit, seed=unit.seed + i % 2) for i, unit in enumerate(k_fold(24))]
    source = ListBags(bags)
    stacked = cross_fit("abmil", source, targets, units, settings, seed=3)

    def plain(dim: int, outputs: int, unit: BagUnit) -> PlainAbmil:
        shape = Shape.of("abmil", dim, outputs, settings.mil, settings.abmil, offset=kind != "cox")
        return PlainAbmil(shape, unit.seed)

    for unit, result in zip(units[:2], stacked, strict=False):
        batch = cohort_batch(unit, 24, settings, targets.type == "survival")
        alone = fit_loop(plain, source, targets, unit, settings, batch, seed=3)
        assert np.abs(alone.scores - result.scores).max() < 1e-4
        for one, other in zip(alone.attention, result.attention, strict=True):
            assert np.abs(one - other).max() < 1e-4
            assert one.sum() == pytest.approx(1, abs=1e-5)


def of_kind(kind: str, binary: Targets) -> Targets:
    """Targets of another type that follow the same signal."""
    y, rng = binary.values[:, 0], np.random.default_rng(0)
    if kind == "multiclass":
        return Targets("multiclass", ("a", "b", "c"), (y + (rng.random(len(y)) < 0.3))[:, None])
    if kind == "multilabel":
        values = np.stack([y, np.where(rng.random(len(y)) < 0.2, np.nan, 1 - y)], axis=1)
        return Targets("multilabel", ("a", "b"), values)
    if kind == "regression":
        return Targets("regression", ("age",), (50 + 10 * y + rng.standard_normal(len(y)))[:, None])
    if kind in ("cox", "discrete-time"):
        times = np.exp(rng.standard_normal(len(y)) - 2 * y)
        events = (rng.random(len(y)) < 0.8).astype(np.float64)
        return Targets("survival", ("days",), np.stack([times, events], axis=1))
    return binary


@pytest.mark.parametrize("kind", ["multiclass", "multilabel", "regression", "cox", "discrete-time"])
def test_every_type_of_task_is_learnt(planted: Callable, k_fold: Callable, kind: str) -> None:
    bags, binary, _ = planted(48, 1)
    targets = of_kind(kind, binary)
    settings = replace(
        change(epochs=150 if kind == "discrete-time" else 60),
        survival=SurvivalConfig(head="cox" if kind == "cox" else "discrete-time", batch_bags=24),
    )
    units = k_fold(48)
    results = cross_fit("abmil", ListBags(bags), targets, units, settings, seed=0)
    scores = np.concatenate([r.scores for r in results])
    positive = np.concatenate([binary.values[u.test, 0] for u in units])
    expected = 1 - scores[:, 0] if kind == "multiclass" else scores[:, 0]
    assert scores.shape == (48, targets.outputs)
    assert roc_auc_score(positive, expected) > 0.9
    if kind == "multiclass":
        assert np.allclose(scores.sum(axis=1), 1)
    if kind == "regression":
        assert 45 < scores.mean() < 65


def test_a_unit_does_not_depend_on_its_neighbours(planted: Callable, k_fold: Callable) -> None:
    bags, targets, _ = planted(24, 0)
    units = k_fold(24)
    together = cross_fit("abmil", ListBags(bags), targets, units, change(epochs=5), seed=0)
    apart = [
        cross_fit("abmil", ListBags(bags), targets, [unit], change(epochs=5), seed=0)[0]
        for unit in units
    ]
    for one, other in zip(together, apart, strict=True):
        assert np.abs(one.scores - other.scores).max() < 1e-5


def test_test_bags_never_enter_the_training(planted: Callable, k_fold: Callable) -> None:
    bags, targets, _ = planted(24, 0)
    unit = k_fold(24)[0]
    spoilt = [bag * 100 + 7 if i in unit.test else bag for i, bag in enumerate(bags)]
    settings = change(epochs=5, patience=2)
    other = Targets("binary", targets.names, targets.values.copy(), "no")
    other.values[unit.test] = 1 - other.values[unit.test]
    clean = replace(unit, test=unit.train[:3])
    before = cross_fit("abmil", ListBags(bags), targets, [clean], settings, seed=0)[0]
    after = cross_fit("abmil", ListBags(spoilt), other, [clean], settings, seed=0)[0]
    assert np.array_equal(before.scores, after.scores)


def test_scale_and_offset_of_features_do_not_matter(planted: Callable, k_fold: Callable) -> None:
    bags, targets, _ = planted(24, 0)
    moved = [bag * np.float32(1000) + np.float32(50) for bag in bags]
    found = [
        cross_fit("abmil", ListBags(b), targets, k_fold(24), change(epochs=8), seed=0)
        for b in (bags, moved)
    ]
    for one, other in zip(*found, strict=True):
        assert np.abs(one.scores - other.scores).max() < 0.01


def test_the_same_seed_gives_the_same_bits_and_leaves_torchs_own_alone(
    planted: Callable, k_fold: Callable
) -> None:
    bags, targets, _ = planted(16, 0)
    units = k_fold(16)
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    runs = [
        cross_fit("abmil", ListBags(bags), targets, units, change(epochs=3), seed=0)
        for _ in range(2)
    ]
    assert torch.equal(torch.rand(3), expected)
    assert all(np.array_equal(a.scores, b.scores) for a, b in zip(*runs, strict=True))
    reseeded = [replace(unit, seed=5) for unit in units]
    third = cross_fit("abmil", ListBags(bags), targets, reseeded, change(epochs=3), seed=0)
    assert not np.array_equal(runs[0][0].scores, third[0].scores)


def test_early_stopping_takes_the_best_epoch(planted: Callable, k_fold: Callable) -> None:
    bags, targets, _ = planted(24, 2)
    noisy = Targets(
        "binary", targets.names, np.random.default_rng(0).permutation(targets.values), "no"
    )
    settings = change(epochs=80, patience=4, learning_rate=0.02)
    results = cross_fit("abmil", ListBags(bags), noisy, k_fold(24), settings, seed=0)
    assert all(1 <= result.epochs < 80 for result in results)
    # What is found alone is what is found side by side, wherever each one stopped.
    alone = cross_fit("abmil", ListBags(bags), noisy, k_fold(24)[:1], settings, seed=0)[0]
    assert alone.epochs == results[0].epochs
    assert np.abs(alone.scores - results[0].scores).max() < 1e-4


def test_without_patience_validation_bags_train(planted: Callable, k_fold: Callable) -> None:
    bags, targets, _ = planted(16, 0)
    unit = k_fold(16)[0]
    joined = replace(
        unit,
        train=np.sort(np.concatenate([unit.train, unit.validate])),
        validate=np.zeros(0, dtype=np.int64),
    )
    found = [
        cross_fit("abmil", ListBags(bags), targets, [u], change(epochs=3), seed=0)[0].scores
        for u in (unit, joined)
    ]
    assert np.array_equal(*found)


def test_a_loss_that_is_not_finite_stops_the_run(planted: Callable, k_fold: Callable) -> None:
    bags, targets, _ = planted(16, 0)
    settings = change(epochs=40, learning_rate=1e6, optimizer="sgd", weight_decay=10.0)
    with pytest.raises(CollapseError, match=r"evaluate\.mil\.learning_rate"):
        cross_fit("mean-pool", ListBags(bags), targets, k_fold(16), settings, seed=0)
