import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedKFold

from slidemill.errors import CohortError
from slidemill.splits.checks import check_classes, check_units
from slidemill.splits.k_fold import deal_labels, k_fold_units
from slidemill.splits.targets import EVENT, Targets
from splits.cohorts import KINDS, names, some_targets


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(KINDS), st.integers(2, 6), st.integers(36, 60), st.integers(0, 1000),
    st.integers(1, 3),
)  # fmt: skip
def test_every_patient_is_tested_once_and_every_training_part_has_every_class(
    kind, folds, count, seed, repeats
) -> None:
    patients, targets = names(count), some_targets(kind, count, seed)
    units = k_fold_units(patients, targets, folds=folds, repeats=repeats, seed=seed)
    assert [(unit.repeat, unit.fold) for unit in units] == [
        (repeat, fold) for repeat in range(repeats) for fold in range(folds)
    ]
    for unit in units:
        assert tuple(sorted(unit.train + unit.test)) == patients
        assert unit.test == tuple(sorted(unit.test))
    check_units(units, patients)
    check_classes(units, patients, targets)
    sizes = [len(unit.test) for unit in units]
    # Labels in several combinations are dealt one combination at a time.
    assert max(sizes) - min(sizes) <= (5 if kind == "multilabel" else 3)


def test_folds_of_a_binary_task_are_scikit_learns() -> None:
    patients = names(37)
    targets = some_targets("binary", 37)
    units = k_fold_units(patients, targets, folds=4, repeats=2, seed=7)
    labels = np.where(targets.values[:, 0] == 1, "zebra", "ant")
    for repeat in range(2):
        splitter = StratifiedKFold(4, shuffle=True, random_state=7 + repeat)
        for fold, (_, tested) in enumerate(splitter.split(patients, labels)):
            assert units[4 * repeat + fold].test == tuple(patients[i] for i in tested)


def test_folds_of_the_first_release_stay_what_they_were() -> None:
    """Folds of the golden cohort of 20 patients, written down before units were there."""
    targets = Targets("binary", ("b",), np.array([[i % 2] for i in range(20)], float), "a")
    units = k_fold_units([f"p{i:02d}" for i in range(20)], targets, folds=4, repeats=1, seed=0)
    fold_of = {patient: unit.fold for unit in units for patient in unit.test}
    golden = [0, 1, 3, 2, 1, 0, 3, 1, 0, 3, 2, 3, 2, 0, 1, 2, 0, 3, 1, 2]
    assert [fold_of[f"p{i:02d}"] for i in range(20)] == golden


@pytest.mark.parametrize("kind", KINDS)
def test_repeats_and_seeds_differ_and_nothing_else_does(kind) -> None:
    patients, targets = names(40), some_targets(kind, 40)
    units = k_fold_units(patients, targets, folds=3, repeats=2, seed=0)
    first, second = ([u.test for u in units if u.repeat == repeat] for repeat in (0, 1))
    assert first != second
    again = k_fold_units(patients, targets, folds=3, repeats=1, seed=1)
    assert [unit.test for unit in again] == second


def test_numbers_and_times_are_spread_over_folds() -> None:
    patients, targets = names(60), some_targets("survival", 60)
    events = targets.values[:, EVENT]
    units = k_fold_units(patients, targets, folds=5, repeats=1, seed=0)
    tested = [[patients.index(patient) for patient in unit.test] for unit in units]
    seen = [events[rows].sum() for rows in tested]
    assert max(seen) - min(seen) <= 2
    late = targets.values[:, 0] > np.median(targets.values[:, 0])
    spread = [late[rows].sum() for rows in tested]
    assert max(spread) - min(spread) <= 4

    targets = some_targets("regression", 60)
    units = k_fold_units(patients, targets, folds=5, repeats=1, seed=0)
    quarters = targets.strata()
    for unit in units:
        counts = np.bincount(quarters[[patients.index(p) for p in unit.test]], minlength=4)
        assert counts.tolist() == [3, 3, 3, 3]


def test_labels_are_spread_far_better_than_by_chance() -> None:
    """The mean absolute deviation of counts in folds, over cohorts of rare and common labels."""
    dealt, chance = [], []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        values = (rng.random((80, 5)) < np.array([0.05, 0.1, 0.3, 0.5, 0.9])).astype(float)
        values[rng.random(values.shape) < 0.15] = np.nan
        values = values[~np.isnan(values).all(axis=1)]
        fold = deal_labels(values, 4, seed)
        sizes = np.bincount(fold, minlength=4)
        assert sizes.max() - sizes.min() <= 6
        dealt.append(_deviation(values, fold))
        chance.append(_deviation(values, rng.permutation(len(values)) % 4))
    assert np.mean(dealt) < 0.5 * np.mean(chance)


def _deviation(values: np.ndarray, fold: np.ndarray) -> float:
    counts = [
        [(here == value)[fold == number].sum() for number in range(fold.max() + 1)]
        for here in values.T
        for value in (0.0, 1.0)
    ]
    table = np.array(counts, float)
    return float(np.abs(table - table.mean(axis=1, keepdims=True)).mean())


def test_the_rarest_label_is_spread_exactly_and_no_fold_is_empty() -> None:
    values = np.zeros((40, 2))
    values[:7, 0] = 1.0
    values[:20, 1] = 1.0
    fold = deal_labels(values, 5, 0)
    counts = np.bincount(fold[:7], minlength=5)
    assert sorted(counts.tolist()) == [1, 1, 1, 2, 2]
    one_each = np.where(np.eye(5) == 1.0, 1.0, np.nan)
    for seed in range(5):
        assert sorted(deal_labels(one_each, 5, seed).tolist()) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("kind", KINDS)
def test_fewer_patients_than_folds_are_refused(kind) -> None:
    targets = some_targets(kind, 36).take([0, 1, 2, 3])
    with pytest.raises(CohortError, match=r"4 patients with a label cannot be dealt to 5 folds"):
        k_fold_units(names(4), targets, folds=5, repeats=1, seed=0)


def test_rare_classes_are_refused_with_what_to_lower() -> None:
    targets = Targets(
        "multiclass", ("x", "y", "z"), np.array([[0.0]] * 5 + [[1.0]] * 3 + [[2.0]] * 9)
    )
    with pytest.raises(CohortError, match=r"'y' has 3.*Lower evaluate.folds to 3"):
        k_fold_units(names(17), targets, folds=5, repeats=1, seed=0)
    k_fold_units(names(17), targets, folds=3, repeats=1, seed=0)
    absent = Targets("multiclass", ("x", "y", "w"), targets.values[:8])
    with pytest.raises(CohortError, match=r"'w' has 0.* Add patients"):
        k_fold_units(names(8), absent, folds=2, repeats=1, seed=0)


def test_rare_labels_and_events_are_refused() -> None:
    values = np.zeros((12, 2))
    values[0, 0] = values[:11, 1] = 1.0
    with pytest.raises(CohortError, match="'a positive' has 1, 'b negative' has 1"):
        k_fold_units(
            names(12), Targets("multilabel", ("a", "b"), values), folds=3, repeats=1, seed=0
        )
    times = np.stack([np.arange(12.0), np.eye(12)[0]], axis=1)
    with pytest.raises(CohortError, match="at least 2 patients with an event"):
        k_fold_units(names(12), Targets("survival", ("t",), times), folds=3, repeats=1, seed=0)


def test_two_events_go_to_different_folds() -> None:
    times = np.stack([np.arange(12.0), np.arange(12) < 2], axis=1)
    targets = Targets("survival", ("t",), times)
    for seed in range(20):
        units = k_fold_units(names(12), targets, folds=5, repeats=1, seed=seed)
        check_classes(units, names(12), targets)


def test_few_numbers_are_dealt_without_quantiles() -> None:
    targets = Targets("regression", ("y",), np.array([[0.0]] * 6 + [[1.0]]))
    units = k_fold_units(names(7), targets, folds=7, repeats=1, seed=0)
    assert sorted(unit.test for unit in units) == [(name,) for name in names(7)]
