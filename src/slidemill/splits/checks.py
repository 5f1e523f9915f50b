"""Checks of splits: that nobody is on both sides, and that there is something to learn and measure.

All raise before anything is trained, and name who or what is wrong.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np

from slidemill.errors import CohortError
from slidemill.splits.strata import BoolArray, classes_of
from slidemill.splits.targets import Targets
from slidemill.splits.units import Unit, refuse
from slidemill.splits.words import counted, named


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
    refuse(
        set(train_patients) & set(test_patients),
        f"both trained on and tested on ({what})",
        "Train without them: fix the splits, or pretrain per fold.",
    )


def check_units(units: Sequence[Unit], patients: Collection[str]) -> None:
    """Check that no patient is on two sides of a unit, and who is tested how often.

    In each repetition (of each sample and draw) nobody is tested twice, and everybody once, unless
    the repetition has one fold only: that is a fixed split, which may leave patients out.

    Args:
        units: The units of one task.
        patients: All patients that have a label.

    Raises:
        LeakError: If a patient is in two parts of a unit, twice in one, tested twice in a
            repetition, or in none of its folds.
        CohortError: If there are no units, two are the same, or one trains or tests nobody.
    """
    if not units:
        raise CohortError("the splits have no rows. Give every patient a fold in every repeat.")
    repetitions: dict[tuple[str, int, int], list[Unit]] = {}
    for unit in units:
        _check_parts(unit)
        repetitions.setdefault(unit.key[:3], []).append(unit)
    for repetition in repetitions.values():
        _check_repetition(repetition, patients)


def check_classes(
    units: Sequence[Unit],
    patients: Sequence[str],
    targets: Targets,
    fold_names: Mapping[int, str] | None = None,
) -> None:
    """Check that every unit can learn every class, and that what is tested can be measured.

    A test part may have one class: metrics are over all folds of a repetition. All the test parts
    of a repetition together need two.

    Args:
        units: The units of one task.
        patients: All patients that have a label, ascending.
        targets: Their targets.
        fold_names: What a fold tests, by its number, for messages, such as a site.

    Raises:
        CohortError: If a training part lacks a class (a value of a label, an event), or the tested
            patients of a repetition have one class only.
    """
    classes = classes_of(targets)
    number_of = {patient: number for number, patient in enumerate(patients)}
    tested: dict[tuple[str, int, int], list[int]] = {}
    for unit in units:
        train = [number_of[patient] for patient in (*unit.train, *unit.validate)]
        lacking = [name for name, rows in classes.items() if not rows[train].any()]
        if lacking:
            fold = "" if fold_names is None else f", which tests {fold_names[unit.fold]!r}"
            raise CohortError(
                f"nobody of {named(lacking)} is left to train on in {unit.name}{fold}: all "
                f"{counted(len(train), 'training patient')} are of other classes. Use another "
                "evaluate.protocol, fix the splits, or leave these classes out."
            )
        tested.setdefault(unit.key[:3], []).extend(number_of[patient] for patient in unit.test)
    for (sample, _, repeat), rows in tested.items():
        _check_tested(targets.type, classes, rows, f"{sample}, repeat {repeat}")


def _check_tested(kind: str, classes: Mapping[str, BoolArray], rows: list[int], where: str) -> None:
    """Refuse tested patients of whom nothing can be told apart."""
    present = [name for name, of_class in classes.items() if of_class[rows].any()]
    if kind == "multilabel":
        # A label has its two values beside each other.
        values = np.array([name in present for name in classes]).reshape(-1, 2)
        measurable = bool(values.all(axis=1).any())
    elif kind == "survival":
        measurable = bool(present)
    else:
        measurable = kind == "regression" or len(present) > 1
    if not measurable:
        raise CohortError(
            f"the tested patients ({where}) have nothing to tell apart: "
            f"{named(present) if present else 'no event'} only. Test patients of other classes too."
        )


def _check_parts(unit: Unit) -> None:
    where = f"in {unit.name} of the splits"
    fix = "They would be trained on and tested on: give each patient one part of a unit."
    for one, other in (("train", "test"), ("validate", "test"), ("train", "validate")):
        both = set(getattr(unit, one)) & set(getattr(unit, other))
        refuse(both, f"{where}, in both {one} and {other}", fix)
    for part in ("train", "validate", "test"):
        people: tuple[str, ...] = getattr(unit, part)
        twice = [patient for patient, times in Counter(people).items() if times > 1]
        refuse(twice, f"{where}, more than once in {part}", "Remove the duplicates.")
    if not unit.train:
        raise CohortError(
            f"{unit.name} of the splits trains nobody. Give patients other folds as well, or a "
            "column `part` with train and test."
        )
    if not unit.test:
        raise CohortError(
            f"{unit.name} of the splits tests nobody with a label. Remove it, or fill the labels."
        )


def _check_repetition(units: Sequence[Unit], patients: Collection[str]) -> None:
    sample, draw, repeat, _ = units[0].key
    where = f"repeat {repeat} of the splits" + ("" if sample == "all" else f" ({sample} {draw})")
    numbers = [unit.fold for unit in units]
    if len(set(numbers)) < len(numbers):
        raise CohortError(f"{where} has a fold twice. Number its folds from 0, each once.")
    seen: set[str] = set()
    for unit in units:
        refuse(
            seen & set(unit.test),
            f"in {where}, in more than one fold",
            "They would be trained on and tested on: give each patient one fold a repeat.",
        )
        seen |= set(unit.test)
    if len(units) > 1:
        refuse(
            set(patients) - seen,
            f"in the cohort, but in no fold of {where}",
            "Give them a fold, or leave their label empty.",
        )
