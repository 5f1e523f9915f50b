"""Labels of patients: one a patient, coded for a model, or permuted as a control.

A label belongs to a patient; the sheet repeats it on each of the patient's slides. All functions
here take rows whose label is there: rows without one are left out by the caller.
"""

import numpy as np
import pandas as pd

from slidemill.errors import CohortError, Problem, SheetError

MAX_NAMED = 5
"""So many patients or values are named in a message."""


def patient_labels(slides: pd.DataFrame) -> pd.Series:
    """The label of each patient.

    Args:
        slides: One row a slide: `slide_id`, `patient_id`, `label`, all str.

    Returns:
        Labels (str), indexed by `patient_id` in ascending order, each patient once.

    Raises:
        SheetError: If slides of one patient have different labels, with every such patient.
    """
    grouped = slides.groupby("patient_id", sort=True)["label"]
    conflicting = grouped.nunique()
    problems = [
        _conflict(patient, slides[slides["patient_id"] == patient])
        for patient in conflicting.index[conflicting > 1]
    ]
    if problems:
        raise SheetError("label column", problems)
    return grouped.first()


def encode_binary(
    values: "pd.Series[str]", positive: str | None
) -> "tuple[pd.Series[int], tuple[str, str]]":
    """Code a label of two classes as 0 and 1.

    Args:
        values: Labels, none of them missing or empty.
        positive: The label that becomes 1; None takes the later one in alphabetical order.

    Returns:
        The codes, int64, with the index of `values`, and the classes as (negative, positive).

    Raises:
        CohortError: If there are not exactly two classes, or `positive` is neither.
        ValueError: If a label is missing or empty.
    """
    if values.isna().any() or (values == "").any():
        raise ValueError("rows without a label have to be left out before labels are coded")
    found = sorted(values.unique())
    if len(found) != 2:
        raise CohortError(
            f"a binary task takes exactly two classes, not {len(found)}: {_named(found)}. "
            "Choose another column, or leave the label of other classes' slides empty."
        )
    if positive is not None and positive not in found:
        raise CohortError(
            f"the positive class {positive!r} is not in the column, which has {_named(found)}. "
            "Set the task's `positive` to one of them."
        )
    chosen = found[1] if positive is None else positive
    other = found[0] if chosen == found[1] else found[1]
    return (values == chosen).astype(np.int64), (other, chosen)


def shuffle_patient_labels(slides: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Permute labels among patients: a control in which there is nothing to learn.

    All slides of a patient keep one label, and the number of patients of each class stays. The
    result does not depend on the order of the rows.

    Args:
        slides: One row a slide: `slide_id`, `patient_id`, `label`, all str.
        seed: Seed of the permutation, not negative.

    Returns:
        A copy with other labels; rows, their order and all other columns stay.

    Raises:
        SheetError: If slides of one patient have different labels.
    """
    labels = patient_labels(slides)
    order = np.random.default_rng(seed).permutation(len(labels))
    shuffled = pd.Series(labels.to_numpy()[order], index=labels.index, dtype=labels.dtype)
    return slides.assign(label=slides["patient_id"].map(shuffled))


def _conflict(patient: str, rows: pd.DataFrame) -> Problem:
    """Say which labels a patient's slides have."""
    slides = [
        f"slide {slide} has {label!r}"
        for slide, label in zip(rows["slide_id"], rows["label"], strict=True)
    ]
    what = f"its slides differ in their label: {'; '.join(slides[:MAX_NAMED])}"
    return Problem(f"patient {patient}", what, "Give all slides of a patient the same label")


def _named(values: list[str]) -> str:
    """Values for a message, quoted; a few of them where there are many."""
    more = f" and {len(values) - MAX_NAMED} more" if len(values) > MAX_NAMED else ""
    return ", ".join(repr(value) for value in values[:MAX_NAMED]) + more
