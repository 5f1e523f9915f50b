import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from slidemill.evaluate.probes.inner import STRENGTHS, choose, deal, deal_patients


def test_strengths_are_powers_of_ten() -> None:
    assert STRENGTHS.tolist() == [float(f"1e{k}") for k in range(-6, 5)]


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(0, 11), st.integers(0, 2)), min_size=2, max_size=60),
    seed=st.integers(0, 2**32 - 1),
)
def test_no_patient_is_split_and_every_row_is_held_out_once(
    rows: list[tuple[int, int]], seed: int
) -> None:
    """Patients may have rows of several classes."""
    patients = [f"p{patient}" for patient, _ in rows]
    strata = np.array([stratum for _, stratum in rows], dtype=np.int64)
    for folds in (deal(strata, patients, 5, seed), deal_patients(patients, 5, seed)):
        held_out = [row for _, held in folds for row in held]
        assert len(held_out) == len(set(held_out))
        for train, held in folds:
            assert not {patients[i] for i in train} & {patients[i] for i in held}
            assert sorted([*train, *held]) == list(range(len(rows)))


def test_every_fold_trains_on_every_class() -> None:
    strata = np.array([0] * 20 + [1] * 2)
    folds = deal(strata, [f"p{i}" for i in range(22)], 5, 0)
    assert len(folds) == 2
    assert all(set(strata[train]) == {0, 1} for train, _ in folds)


def test_the_rarest_class_counts_patients_not_rows() -> None:
    strata = np.array([0] * 20 + [1] * 6)
    patients = [f"n{i}" for i in range(20)] + ["a", "a", "a", "a", "b", "c"]
    assert len(deal(strata, patients, 5, 0)) == 3
    assert deal(strata, patients[:20] + ["a"] * 6, 5, 0) == []


def test_folds_depend_on_patients_and_not_on_the_order_of_rows() -> None:
    rng = np.random.default_rng(0)
    patients = [f"p{i}" for i in rng.integers(0, 15, 40)]
    strata = rng.integers(0, 2, 40)
    order = rng.permutation(40)
    for folds, moved in (
        (deal(strata, patients, 4, 7), deal(strata[order], [patients[i] for i in order], 4, 7)),
        (deal_patients(patients, 4, 7), deal_patients([patients[i] for i in order], 4, 7)),
    ):
        assert len(folds) == 4
        assert [set(held) for _, held in folds] == [set(order[held]) for _, held in moved]


def test_other_seeds_are_other_folds() -> None:
    patients = [f"p{i}" for i in range(30)]
    strata = np.arange(30) % 2
    assert [a[1].tolist() for a in deal(strata, patients, 5, 0)] != [
        b[1].tolist() for b in deal(strata, patients, 5, 1)
    ]


def test_the_lowest_summed_loss_is_chosen_and_the_stronger_of_equals() -> None:
    fold = (np.array([0]), np.array([1]))
    losses = iter([np.array([5.0, 1, 1, 9, 9, 9, 9, 9, 9, 9, 9]), np.full(11, 2.0)])
    choice = choose("inner", [fold, fold], lambda train, held: next(losses))
    assert choice.strength == STRENGTHS[1]
    assert choice.record == {"strength": STRENGTHS[1], "inner_folds": 2.0}


def test_without_folds_the_strength_is_one_and_the_record_says_so() -> None:
    choice = choose("inner", [], lambda train, held: np.zeros(11), " of TP53")
    assert choice.record == {"strength of TP53": 1.0, "inner_folds of TP53": 0.0}


def test_a_given_strength_is_taken() -> None:
    choice = choose(0.5, [], lambda train, held: np.zeros(11))
    assert (choice.strength, choice.record) == (0.5, {"strength": 0.5})
