"""Folds of patients, and the checks that no patient is on both sides of one.

Folds are made before anything is trained. Patients, not slides, are dealt to folds, so that a
patient's slides are never both trained on and tested on; the checks hold for given folds as well.
"""

from collections.abc import Iterable

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedKFold

from slidemill.errors import CohortError, LeakError
from slidemill.splits.labels import MAX_NAMED, patient_labels


def make_folds(patients: pd.DataFrame, *, folds: int, repeats: int, seed: int) -> pd.DataFrame:
    """Deal patients to folds, grouped by patient and stratified by label.

    The result depends on patients, labels and seed, not on the order of the rows or on how many
    slides a patient has. Each class has patients in every fold.

    Args:
        patients: One row a slide: `slide_id`, `patient_id`, `label`, all str; rows without a label
            are already left out.
        folds: Number of folds, at least 2.
        repeats: Repetitions of the k-fold; repetition r is shuffled with seed + r.
        seed: Seed of the shuffles, not negative.

    Returns:
        One row a repetition and patient, in this order: `repeat` (int64, from 0), `fold` (int64,
        from 0: the fold in which the patient is tested), `patient_id` (str).

    Raises:
        SheetError: If slides of one patient have different labels.
        CohortError: If a class has fewer patients than there are folds.
    """
    labels = patient_labels(patients)
    _check_class_sizes(labels, folds)
    tables = []
    for repeat in range(repeats):
        splitter = StratifiedKFold(folds, shuffle=True, random_state=seed + repeat)
        fold = np.empty(len(labels), dtype=np.int64)
        for number, (_, tested) in enumerate(splitter.split(labels.index, labels)):
            fold[tested] = number
        tables.append(
            pd.DataFrame(
                {
                    "repeat": np.full(len(labels), repeat, dtype=np.int64),
                    "fold": fold,
                    "patient_id": labels.index,
                }
            )
        )
    return pd.concat(tables, ignore_index=True)


def check_folds(folds: pd.DataFrame, cohort: pd.DataFrame) -> None:
    """Check that every patient of the cohort is tested exactly once a repetition.

    Patients of the folds that the cohort does not have are no fault: their slides may have failed.

    Args:
        folds: `repeat`, `fold`, `patient_id`, made here or given.
        cohort: Anything with the `patient_id` of all who are to be evaluated.

    Raises:
        LeakError: If in a repetition a patient is in two folds, twice in one, or in none, or if
            there are no folds at all.
    """
    wanted = pd.Index(cohort["patient_id"].unique())
    if folds.empty:
        raise LeakError("the splits have no rows. Give every patient a fold in every repeat.")
    for repeat, rows in folds.groupby("repeat", sort=True):
        in_folds = rows.groupby("patient_id", sort=True)["fold"].nunique()
        _refuse(
            in_folds.index[in_folds > 1],
            f"in repeat {repeat} of the splits, in more than one fold",
            "They would be trained on and tested on: give each patient one fold a repeat.",
        )
        _refuse(
            rows.loc[rows["patient_id"].duplicated(), "patient_id"],
            f"in repeat {repeat} of the splits, in more than one row",
            "Remove the duplicated rows.",
        )
        _refuse(
            wanted.difference(in_folds.index),
            f"in the cohort, but in no fold of repeat {repeat} of the splits",
            "Give them a fold, or leave their label empty.",
        )


def check_training_patients(
    train_patients: Iterable[str], test_patients: Iterable[str], what: str
) -> None:
    """Check that no patient is both trained on and tested on.

    Args:
        train_patients: Patients that a model is, or was, trained on.
        test_patients: Patients that it is tested on.
        what: The model and the fold, for the message, such as `abmil, repeat 0, fold 3`.

    Raises:
        LeakError: If a patient is in both.
    """
    _refuse(
        set(train_patients) & set(test_patients),
        f"both trained on and tested on ({what})",
        "Train without them: mend the splits, or pretrain per fold.",
    )


def _check_class_sizes(labels: "pd.Series[str]", folds: int) -> None:
    counts = labels.value_counts().sort_index()
    if counts.empty:
        raise CohortError("no patient has a label. Name another column in the task.")
    if counts.min() < folds:
        said = ", ".join(f"{label!r} has {count}" for label, count in counts.items())
        todo = f"Lower evaluate.folds to {counts.min()}, or a" if counts.min() >= 2 else "A"
        raise CohortError(
            f"{folds} folds take at least {folds} patients of each class, but {said}. "
            f"{todo}dd patients of the rarer class."
        )


def _refuse(patients: Iterable[str], what: str, todo: str) -> None:
    """Raise `LeakError` with the names of patients, if there are any."""
    names = sorted({str(patient) for patient in patients})
    if names:
        more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
        who = f"{len(names)} patient{'s' if len(names) > 1 else ''}"
        raise LeakError(f"{who} {what}: {', '.join(names[:MAX_NAMED])}{more}. {todo}")
