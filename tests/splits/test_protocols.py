from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slidemill.config import EvaluateConfig
from slidemill.errors import CohortError, LeakError
from slidemill.splits.labels import read_targets
from slidemill.splits.protocols import make_units
from slidemill.splits.units import ALL, Unit
from splits.cohorts import cohort, names, slides_of, task

PATIENTS = names(40)


def _cohort(seed=0):
    """Every kind of label, a site and a split for 40 patients of several slides."""
    rng = np.random.default_rng(seed)
    owners = slides_of(PATIENTS)
    number = [PATIENTS.index(owner) for owner in owners]
    columns = {
        "y": [f"{value:.3f}" for value in rng.exponential(size=40)],
        "event": [str(i % 2) for i in rng.permutation(40)],
        "class2": ["lo" if i % 2 else "hi" for i in rng.permutation(40)],
        "class3": ["abc"[i % 3] for i in rng.permutation(40)],
        "gene": [None if i % 7 == 0 else str(i % 2) for i in rng.permutation(40)],
        "site": ["KLM"[i % 3] for i in range(40)],
        "split": [("train", "val", "test", "train", None)[i % 5] for i in range(40)],
    }
    return cohort(owners, **{name: [cells[i] for i in number] for name, cells in columns.items()})


TASKS = {
    "binary": task(column="class2"),
    "multiclass": task("multiclass", column="class3"),
    "multilabel": task("multilabel", column=("class2", "gene")),
    "regression": task("regression"),
    "survival": task("survival"),
}
PROTOCOLS = {
    "k-fold": {"folds": 4, "repeats": 2},
    "split": {"protocol": "split", "repeats": 2},
    "leave-one-site-out": {"protocol": "leave-one-site-out", "site": "site"},
}


def _units(table, kind, protocol, given=None, **settings_):
    config = EvaluateConfig(**PROTOCOLS[protocol], **settings_)
    return make_units(table, *read_targets(table, TASKS[kind]), config, given)


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(sorted(TASKS)), st.sampled_from(sorted(PROTOCOLS)), st.integers(0, 50),
    st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_units_are_disjoint_validated_and_independent_of_the_order_of_rows(
    kind, protocol, seed, order_seed
) -> None:
    table = _cohort(seed)
    sizes = {"few_ratio": (0.1, 0.5, 1.0), "draws": 2, "seed": seed}
    units = _units(table, kind, protocol, **sizes)
    order = np.random.default_rng(order_seed).permutation(len(table))
    assert units == _units(table.iloc[order].reset_index(drop=True), kind, protocol, **sizes)
    assert len({unit.key for unit in units}) == len(units)
    whole = {unit.key[2:]: unit for unit in units if unit.sample == ALL}
    assert Counter(unit.sample for unit in units) == {
        ALL: len(whole), "10%": 2 * len(whole), "50%": 2 * len(whole), "100%": len(whole),
    }  # fmt: skip
    for unit in units:
        everyone = (*unit.train, *unit.validate, *unit.test)
        assert len(set(everyone)) == len(everyone)
        assert unit.train
        full = whole[unit.key[2:]]
        assert unit.test == full.test
        assert set(unit.train + unit.validate) <= set(full.train + full.validate)
        if unit.sample in (ALL, "50%"):
            assert unit.validate
        if unit.sample == "100%":
            assert (unit.train, unit.validate) == (full.train, full.validate)
    if protocol != "split":
        tested = Counter((u.key[:3], patient) for u in units for patient in u.test)
        assert set(tested.values()) == {1}
        assert {patient for _, patient in tested} == set(PATIENTS)


def test_given_units_are_taken_as_they_are_and_come_out_the_same() -> None:
    table = _cohort()
    units = _units(table, "binary", "k-fold", few_shot=(1, 3), few_ratio=(0.5,), draws=2)
    again = _units(
        table, "binary", "k-fold", given=units, few_shot=(1, 3), few_ratio=(0.5,), draws=2
    )
    assert again == units
    more = _units(table, "binary", "k-fold", given=units, few_shot=(2,), draws=1)
    assert more[: len(units)] == units
    assert {unit.sample for unit in more[len(units) :]} == {"2-shot"}
    thinned = [unit for unit in units if unit.sample == "1-shot"]
    assert _units(table, "binary", "k-fold", given=thinned) == thinned
    with pytest.raises(CohortError, match="neither '2-shot' nor units of the sample 'all'"):
        _units(table, "binary", "k-fold", given=thinned, few_shot=(2,))


def test_given_units_are_checked() -> None:
    table = _cohort()
    units = _units(table, "binary", "k-fold")
    first = units[0]
    leaking = Unit(0, 0, (*first.train, first.test[0]), first.validate, first.test)
    with pytest.raises(LeakError, match=first.test[0]):
        _units(table, "binary", "k-fold", given=[leaking, *units[1:]])


def test_a_fixed_validation_part_is_kept_and_thinned_units_get_their_own() -> None:
    table = _cohort()
    units = _units(table, "binary", "split", few_ratio=(0.5, 1.0), draws=1)
    whole = units[0]
    assert whole.validate == tuple(PATIENTS[i] for i in range(40) if i % 5 == 1)
    assert whole.test == tuple(PATIENTS[i] for i in range(40) if i % 5 == 2)
    half = next(unit for unit in units if unit.sample == "50%")
    assert len(half.train) + len(half.validate) == 12
    assert len(half.validate) == 2


def test_a_site_without_which_a_class_is_lost_is_named() -> None:
    table = _cohort()
    table["class2"] = np.where(table["site"] == "L", "hi", "lo")
    with pytest.raises(CohortError, match=r"'hi' is left to train on .*tests 'L'"):
        _units(table, "binary", "leave-one-site-out")
    # A site of one class can be tested: what is measured is over all sites.
    table["class2"] = _cohort()["class2"].where(table["site"] != "L", "hi")
    assert _units(table, "binary", "leave-one-site-out")


def test_the_seed_changes_folds_and_validation() -> None:
    table = _cohort()
    one, other = (_units(table, "binary", "k-fold", seed=seed) for seed in (0, 5))
    assert [unit.test for unit in one] != [unit.test for unit in other]
    one, other = (_units(table, "binary", "leave-one-site-out", seed=seed) for seed in (0, 5))
    assert [unit.test for unit in one] == [unit.test for unit in other]
    assert [unit.validate for unit in one] != [unit.validate for unit in other]


def test_the_share_of_validation_is_the_configs() -> None:
    for unit in _units(_cohort(), "binary", "k-fold", validation=0.4):
        assert (len(unit.train), len(unit.validate)) == (18, 12)
