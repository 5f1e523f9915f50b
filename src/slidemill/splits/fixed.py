"""Split protocol: the sheet's own `split` column says who trains, validates and is tested.

A part holds for a patient, with all of the patient's slides. Rows that are empty or say `pretrain`
are not used; a patient in two parts is a leak.
"""

import pandas as pd

from slidemill.errors import CohortError, Problem, SheetError
from slidemill.splits.cells import read_texts
from slidemill.splits.units import Unit, refuse
from slidemill.splits.words import counted, named

PARTS = {
    "train": "train",
    "validate": "validate",
    "validation": "validate",
    "val": "validate",
    "valid": "validate",
    "test": "test",
    "pretrain": "pretrain",
}
"""Values of the column, in lower case, and the part that each means."""


def fixed_units(cohort: pd.DataFrame, rows: pd.DataFrame, *, repeats: int) -> list[Unit]:
    """One unit a repetition, all of the same patients: repetitions differ in their seed only.

    Args:
        cohort: One row a slide: `slide_id`, `split` (text with missing values).
        rows: The slides that have a label: `slide_id`, `patient_id`.
        repeats: Repetitions.

    Raises:
        SheetError: If the column has values that mean nothing.
        LeakError: If a patient is in two parts.
        CohortError: If nobody is trained on or tested.
    """
    split_of = dict(zip(cohort["slide_id"], read_texts(cohort["split"]), strict=True))
    said = [split_of[slide] for slide in rows["slide_id"]]
    _check_values(said)
    parts: dict[str, set[str]] = {part: set() for part in PARTS.values()}
    for patient, value in zip(rows["patient_id"], said, strict=True):
        if value is not None:
            parts[PARTS[value.lower()]].add(str(patient))
    _check_parts(parts)
    for part in ("train", "test"):
        if not parts[part]:
            found = sorted({value for value in said if value is not None})
            raise CohortError(
                f"no slide with a label is of the part {part!r}: the column split has "
                f"{named(found) if found else 'no value'}. Write train, validate or test, or "
                "choose another evaluate.protocol."
            )
    train, validate, test = (tuple(sorted(parts[part])) for part in ("train", "validate", "test"))
    return [Unit(repeat, 0, train, validate, test) for repeat in range(repeats)]


def _check_values(said: list[str | None]) -> None:
    unknown: dict[str, int] = {}
    for value in said:
        if value is not None and value.lower() not in PARTS:
            unknown[value] = unknown.get(value, 0) + 1
    if unknown:
        todo = "Write train, validate, test or pretrain, or leave the cell empty"
        problems = [
            Problem("column split", f"{value!r}, on {counted(number, 'slide')}, is no part", todo)
            for value, number in sorted(unknown.items())
        ]
        raise SheetError("of the split protocol", problems)


def _check_parts(parts: dict[str, set[str]]) -> None:
    # Pretraining on what trains is the usual thing; on what is tested it is a leak.
    for one, other in (
        ("train", "test"),
        ("train", "validate"),
        ("validate", "test"),
        ("pretrain", "test"),
    ):
        refuse(
            parts[one] & parts[other],
            f"in the sheet's split as both {one} and {other}",
            "Give all slides of a patient the same split.",
        )
