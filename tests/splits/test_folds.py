import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slidemill.errors import CohortError, LeakError, SheetError
from slidemill.splits.folds import check_folds, check_training_patients, make_folds


def slides(per_class, slides_of=lambda i: 1 + i % 3):
    rows = [
        {"slide_id": f"{label}{i}-{k}", "patient_id": f"p{label}{i:03d}", "label": label}
        for label in ("a", "b")
        for i in range(per_class)
        for k in range(slides_of(i))
    ]
    return pd.DataFrame(rows)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 6), st.integers(6, 20), st.integers(0, 1000), st.integers(1, 3))
def test_every_patient_is_tested_once_a_repeat_and_no_class_is_lost(
    folds, per_class, seed, repeats
):
    rows = slides(per_class)
    made = make_folds(rows, folds=folds, repeats=repeats, seed=seed)
    assert len(made) == repeats * 2 * per_class
    assert not made.duplicated(["repeat", "patient_id"]).any()
    labels = made["patient_id"].str[1]
    counts = made.assign(label=labels).groupby(["repeat", "fold", "label"]).size()
    assert len(counts) == repeats * folds * 2
    assert counts.max() - counts.min() <= 1
    check_folds(made, rows)


@given(st.integers(0, 2**32 - 1))
def test_the_order_of_rows_does_not_matter(seed):
    rows = slides(8)
    shuffled = rows.sample(frac=1, random_state=np.random.default_rng(seed))
    pd.testing.assert_frame_equal(
        make_folds(rows, folds=4, repeats=2, seed=3),
        make_folds(shuffled, folds=4, repeats=2, seed=3),
    )


def test_repeats_and_seeds_differ():
    made = make_folds(slides(12), folds=3, repeats=2, seed=0)
    first, second = (made.loc[made["repeat"] == r, "fold"].tolist() for r in (0, 1))
    assert first != second
    assert make_folds(slides(12), folds=3, repeats=1, seed=1)["fold"].tolist() == second


def test_too_few_patients_and_conflicting_labels_are_refused():
    with pytest.raises(CohortError, match="3"):
        make_folds(slides(3), folds=5, repeats=1, seed=0)
    rows = slides(6)
    rows.loc[1, "label"] = "b"
    rows.loc[1, "patient_id"] = rows.loc[0, "patient_id"]
    with pytest.raises(SheetError, match="pa000"):
        make_folds(rows, folds=2, repeats=1, seed=0)


def test_a_patient_in_two_folds_is_a_leak_with_its_name():
    rows = slides(6)
    made = make_folds(rows, folds=2, repeats=1, seed=0)
    twice = pd.concat([made, made.iloc[[0]].assign(fold=1 - made.loc[0, "fold"])])
    with pytest.raises(LeakError, match=made.loc[0, "patient_id"]):
        check_folds(twice, rows)
    with pytest.raises(LeakError, match=made.loc[0, "patient_id"]):
        check_folds(made.iloc[1:], rows)


def test_training_on_a_tested_patient_is_a_leak():
    check_training_patients(["a", "b"], ["c"], "x")
    with pytest.raises(LeakError, match="b"):
        check_training_patients(["a", "b"], ["b", "c"], "x")
