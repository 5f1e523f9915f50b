"""Labels: columns of the sheet, coded as the targets of a task.

Reads the cohort's label columns (text). A label belongs to a patient; the sheet repeats it on each
of the patient's slides. A slide without a label is left out, and every fault of the columns is
reported at once. Guarantees that all slides of a patient have the same targets.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pandas as pd

from slidemill.cohort.twins import number_key
from slidemill.config import TaskConfig
from slidemill.errors import CohortError, Problem, SheetError
from slidemill.splits.cells import (
    Coded,
    Column,
    code_classes,
    code_events,
    code_numbers,
    code_times,
    read_columns,
    two_classes,
)
from slidemill.splits.classes import CLASS_TASKS, chosen_by, class_faults, spellings
from slidemill.splits.targets import EVENT, Float64Array, Int64Array, Targets
from slidemill.splits.words import MAX_NAMED, counted, named

SEPARATOR = "|"
"""Between the labels of a patient in `label_text`."""


def read_targets(cohort: pd.DataFrame, task: TaskConfig) -> tuple[pd.DataFrame, Targets]:
    """The slides of a task and what is to be predicted for them.

    A slide whose cells are all missing is left out (of a survival task: one that lacks its time or
    its event). A multilabel slide that lacks some of its labels takes those that another slide of
    the patient has; labels that are missing on all of them stay nan.

    Args:
        cohort: One row a slide: `slide_id`, `patient_id` and the label columns, text with missing
            values.
        task: The task. Its positive class is, where it is not named, the later one in order, of
            numbers the larger; a multilabel task takes the named one in the columns that have it.

    Returns:
        `slide_id` and `patient_id` of n slides in the cohort's order, and their targets.

    Raises:
        CohortError: If a column is not there or is empty, or there are not enough classes.
        SheetError: If cells are not valid, or slides of one patient differ, with every such fault.
    """
    columns = _one_spelling(read_columns(cohort, task.columns), task)
    names, negative, coded = _code(columns, task)
    values = np.stack([one for one, _ in coded], axis=1)
    problems = [problem for _, found in coded for problem in found]
    known = ~np.isnan(values)
    used = known.any(axis=1) if task.type == "multilabel" else known.all(axis=1)
    rows = pd.DataFrame(
        {name: cohort[name].to_numpy()[used].astype(str) for name in ("slide_id", "patient_id")}
    )
    slides_of = _rows_of(rows["patient_id"])
    numbers = np.flatnonzero(used)
    for patient, own in slides_of.items():
        problems += _conflicts(patient, numbers[own], columns, values)
    if problems:
        raise SheetError(f"of the task {task.name}", problems)
    values = values[used]
    for own in slides_of.values():
        values[own] = _filled(values[own])
    targets = Targets(task.type, names, values, negative)
    _check_enough(targets, task)
    return rows, targets


def missing_counts(cohort: pd.DataFrame, task: TaskConfig) -> dict[str, int]:
    """Patients of the cohort whose label is not known, by the name of the target.

    Raises:
        CohortError: As `read_targets`.
        SheetError: As `read_targets`.
    """
    rows, targets = read_targets(cohort, task)
    _, by_patient = patient_targets(rows, targets)
    everyone = cohort["patient_id"].nunique()
    if targets.type != "multilabel":
        return dict.fromkeys(targets.names, everyone - len(by_patient))
    known = (~np.isnan(by_patient.values)).sum(axis=0)
    return {name: everyone - int(n) for name, n in zip(targets.names, known, strict=True)}


def patient_targets(rows: pd.DataFrame, targets: Targets) -> tuple[tuple[str, ...], Targets]:
    """The targets of patients.

    Args:
        rows: One row a slide: `patient_id`.
        targets: The targets of these slides.

    Returns:
        The patients, ascending, each once, and their targets in the same order.

    Raises:
        ValueError: If rows and targets are not of one length, or a patient's slides differ.
    """
    if len(rows) != len(targets):
        raise ValueError(f"{len(rows)} rows, but targets of {len(targets)}")
    slides_of = _rows_of(rows["patient_id"])
    for patient, own in slides_of.items():
        values = targets.values[own]
        if not np.array_equal(values, np.broadcast_to(values[0], values.shape), equal_nan=True):
            raise ValueError(f"the slides of patient {patient} have different targets")
    patients = tuple(sorted(slides_of))
    first = np.array([slides_of[patient][0] for patient in patients], dtype=np.int64)
    return patients, targets.take(first)


def shuffle_targets(
    rows: pd.DataFrame, targets: Targets, seed: int, within: Mapping[str, int] | None = None
) -> Targets:
    """Permute targets among patients: a control in which there is nothing to learn.

    All slides of a patient keep one target, what belongs together (the labels of a multilabel task,
    time and event) stays together, and the result does not depend on the order of the rows.

    Args:
        rows: One row a slide: `patient_id`.
        targets: The targets of these slides.
        seed: Seed of the permutation, not negative.
        within: Group of each patient, such as the fold that tests it: targets are permuted within
            groups, so that each keeps its numbers of patients of each class. Patients that are not
            in it are a group of their own. None permutes all.

    Returns:
        The permuted targets, in the order of the rows.
    """
    patients, by_patient = patient_targets(rows, targets)
    rng = np.random.default_rng(seed)
    source = np.arange(len(patients))
    for members in _groups(patients, within):
        source[members] = members[rng.permutation(len(members))]
    place = {patient: source[number] for number, patient in enumerate(patients)}
    return by_patient.take([place[patient] for patient in rows["patient_id"]])


def label_text(targets: Targets) -> list[str]:
    """Targets as text for tables.

    The class of a binary or multiclass row, the number of a regression, `time|event` of a survival
    task, and `1`, `0` or nothing for each label of a multilabel one, as in `1|0|`.
    """
    if targets.type == "binary":
        classes: Sequence[str] = (targets.negative, targets.names[0])
    elif targets.type == "multiclass":
        classes = targets.names
    else:
        return [SEPARATOR.join(_digits(value) for value in row) for row in targets.values]
    return [classes[int(code)] for code in targets.values[:, 0]]


def order_text(targets: Targets) -> str:
    """The order of the classes that was taken, for people; empty where there are none."""
    if targets.type == "binary":
        return f"positive class {targets.names[0]!r}, negative {targets.negative!r}"
    if targets.type == "multiclass":
        return f"classes in order {', '.join(map(repr, targets.names))}"
    return ""


def _code(columns: Sequence[Column], task: TaskConfig) -> tuple[tuple[str, ...], str, list[Coded]]:
    """Names of the targets, the negative class of a binary task, and the coded columns."""
    first = columns[0]
    if task.type == "binary":
        pair = two_classes(first, task.positive)
        return (pair[1],), pair[0], [code_classes(first, pair)]
    if task.type == "multilabel":
        pairs = _label_pairs(columns, task.positive)
        coded = [code_classes(one, pair) for one, pair in zip(columns, pairs, strict=True)]
        return tuple(column.name for column in columns), "", coded
    if task.type == "multiclass":
        if len({number_key(name) or name for name in task.classes}) != len(task.classes):
            raise CohortError(f"task {task.name}: `classes` names a class twice. Remove it once.")
        classes = task.classes or tuple(first.classes)
        return classes, "", [code_classes(first, classes)]
    if task.type == "regression":
        return (first.name,), "", [code_numbers(first)]
    return (first.name,), "", [code_times(first), code_events(columns[1])]


def _one_spelling(columns: Sequence[Column], task: TaskConfig) -> tuple[Column, ...]:
    """Columns in which each class has one spelling; nothing changes where there are no classes."""
    if task.type not in CLASS_TASKS:
        return tuple(columns)
    chosen = chosen_by(task)
    problems: list[Problem] = []
    found = []
    for column in columns:
        cells = [
            (slide, text)
            for slide, text in zip(column.slides, column.texts, strict=True)
            if text is not None
        ]
        problems += class_faults(f"column {column.name}", cells, task)
        other = spellings((text for _, text in cells), chosen)
        texts = tuple(None if text is None else other.get(text, text) for text in column.texts)
        found.append(replace(column, texts=texts))
    if problems:
        raise SheetError(f"of the task {task.name}", problems)
    return tuple(found)


def _label_pairs(columns: Sequence[Column], positive: str | None) -> list[tuple[str, str]]:
    """The two classes of each column of a multilabel task."""
    pairs, faults = [], []
    if positive is not None and not any(positive in column.classes for column in columns):
        faults.append(f"the positive class {positive!r} is in none of the columns.")
    for column in columns:
        here = positive if positive in column.classes else None
        try:
            pairs.append(two_classes(column, here))
        except CohortError as error:
            faults.append(str(error))
    if faults:
        raise CohortError(" ".join(faults))
    return pairs


def _conflicts(
    patient: str, rows: Int64Array, columns: Sequence[Column], values: Float64Array
) -> list[Problem]:
    """Columns in which the known labels of a patient's slides differ."""
    problems = []
    for column, here in zip(columns, values[rows].T, strict=True):
        known = rows[~np.isnan(here)]
        if len(np.unique(here[~np.isnan(here)])) < 2:
            continue
        said = [f"slide {column.slides[row]} has {column.texts[row]!r}" for row in known]
        more = f" and {len(said) - MAX_NAMED} more" if len(said) > MAX_NAMED else ""
        what = f"its slides differ in {column.name}: {'; '.join(said[:MAX_NAMED])}{more}"
        todo = "Give all slides of a patient the same label"
        problems.append(Problem(f"patient {patient}", what, todo))
    return problems


def _filled(values: Float64Array) -> Float64Array:
    """One patient's rows, each label on all of them where one has it."""
    best = np.array([next((v for v in column if not np.isnan(v)), np.nan) for column in values.T])
    return np.broadcast_to(best, values.shape)


def _check_enough(targets: Targets, task: TaskConfig) -> None:
    """Refuse targets in which nothing differs."""
    where = f"task {task.name}"
    if not len(targets):
        raise CohortError(
            f"{where}: no slide has a value in all of {named(task.columns)}. Fill both columns of "
            "the patients that were followed."
        )
    values = np.unique(targets.values[:, EVENT if task.type == "survival" else 0])
    if task.type == "multiclass" and len(values) < 2:
        raise CohortError(
            f"{where}: {task.columns[0]} has one class only, {targets.names[int(values[0])]!r}, so "
            "there is nothing to tell apart. Choose another column, or add other patients."
        )
    if task.type == "regression" and len(values) < 2:
        raise CohortError(
            f"{where}: {task.columns[0]} is {_digits(values[0])} for all "
            f"{counted(len(targets), 'slide')}, so there is nothing to predict. Choose another "
            "column."
        )
    if task.type == "survival" and values.max() == 0.0:
        raise CohortError(
            f"{where}: no event was seen in any of {counted(len(targets), 'slide')}, so there is "
            f"nothing to predict. See that {task.columns[-1]} is 1 where it was."
        )


def _rows_of(patients: "pd.Series[str]") -> dict[str, npt.NDArray[np.int64]]:
    """Numbers of the rows of each patient."""
    found: dict[str, list[int]] = {}
    for number, patient in enumerate(patients):
        found.setdefault(str(patient), []).append(number)
    return {patient: np.array(rows, dtype=np.int64) for patient, rows in found.items()}


def _groups(patients: Sequence[str], within: Mapping[str, int] | None) -> list[Int64Array]:
    """Numbers of the patients of each group; those of no group come last."""
    if within is None:
        return [np.arange(len(patients), dtype=np.int64)]
    found: dict[tuple[bool, int], list[int]] = {}
    for number, patient in enumerate(patients):
        found.setdefault((patient not in within, within.get(patient, 0)), []).append(number)
    return [np.array(found[key], dtype=np.int64) for key in sorted(found)]


def _digits(value: float) -> str:
    """A number so that it reads back the same; nothing for nan."""
    if np.isnan(value):
        return ""
    return repr(float(value)).removesuffix(".0")
