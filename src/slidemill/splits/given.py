"""Given splits: a `splits.json` or a table of the user's, read as units.

Reads .json (`slidemill.splits.document`), .parquet (a splits artifact of any version, or a plain
table) and .csv. Every fault of a file is reported at once. Who leaks or is missing is for
`slidemill.splits.checks`.
"""

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from slidemill.artifacts.parquet import FOOTER_KEY, read_parquet
from slidemill.errors import Problem, SheetError
from slidemill.splits.document import read_json
from slidemill.splits.units import ALL, Unit

PARTS = ("train", "validate", "test")
_NEEDED = ("task", "repeat", "fold", "patient_id")
_WHOLE = ("draw", "repeat", "fold")


def read_given(path: Path, task: str, patients: Collection[str]) -> list[Unit]:
    """Read the units of a task.

    Tables have the columns `task`, `repeat`, `fold`, `patient_id`; a row is of the fold in which
    the patient is tested, and the patients of the other folds of its repeat train. With a column
    `part` (train, validate, test) a row is of the part that the patient has in that fold. Columns
    `sample` and `draw` tell thinned units apart.

    Args:
        path: The file; its name ends in .json, .parquet or .csv.
        task: Name of the task.
        patients: Patients that have a label; others in the file are passed over.

    Returns:
        The units, in the order of the file (tables: of the first row of each), with those patients.

    Raises:
        SheetError: With every fault of the file at once.
        ArtifactError: If it is a splits artifact that cannot be read.
    """
    if path.suffix.lower() == ".json":
        document = read_json(path)
        if document.task != task:
            what = f"the splits are of the task {document.task!r}, not of {task!r}"
            todo = "Give each task its own file with its `splits`, or fix the name in the file"
            raise SheetError(str(path), [Problem("task", what, todo)])
        units = [unit.to_unit() for unit in document.units]
    else:
        units = read_units(_of_task(path, _checked(path, _read_table(path)), task))
    known = frozenset(patients)
    return [_of(unit, known) for unit in units]


def read_units(splits: pd.DataFrame) -> list[Unit]:
    """The units of a splits table, in the order of their first rows.

    Args:
        splits: `repeat`, `fold` (whole numbers), `patient_id`, and, if they are there, `sample`,
            `draw` and `part`; of one task. Without `part` a row is of the fold in which the patient
            is tested.
    """
    frame = splits.assign(
        **{
            name: value
            for name, value in (("sample", ALL), ("draw", 0), ("part", "test"))
            if name not in splits.columns
        }
    )
    columns = [frame[name].tolist() for name in ("sample", "draw", "repeat", "fold", "part")]
    found: dict[tuple[str, int, int, int], dict[str, list[str]]] = {}
    for *key, part, patient in zip(*columns, frame["patient_id"].tolist(), strict=True):
        sample, draw, repeat, fold = key
        parts = found.setdefault((sample, draw, repeat, fold), {name: [] for name in PARTS})
        parts[part].append(patient)
    if "part" not in splits.columns:
        _train_on_the_others(found)
    units = []
    for (sample, draw, repeat, fold), parts in found.items():
        train, validate, test = (tuple(sorted(parts[part])) for part in PARTS)
        units.append(Unit(repeat, fold, train, validate, test, sample, draw))
    return units


def _train_on_the_others(found: dict[tuple[str, int, int, int], dict[str, list[str]]]) -> None:
    everyone: dict[tuple[str, int, int], set[str]] = {}
    for key, parts in found.items():
        everyone.setdefault(key[:3], set()).update(parts["test"])
    for key, parts in found.items():
        parts["train"] = list(everyone[key[:3]] - set(parts["test"]))


def _of(unit: Unit, known: frozenset[str]) -> Unit:
    """A unit without unknown patients."""
    train, validate, test = (
        tuple(patient for patient in part if patient in known)
        for part in (unit.train, unit.validate, unit.test)
    )
    return replace(unit, train=train, validate=validate, test=test)


def _read_table(path: Path) -> pd.DataFrame:
    suffix = path.suffix.lower()
    todo = "Give a .json, .parquet or .csv file of splits"
    try:
        if suffix == ".csv":
            # As text: an id such as 007 is no number, and NA may be somebody.
            return pd.read_csv(path, dtype=str, keep_default_na=False, skipinitialspace=True)
        if suffix == ".parquet":
            metadata = pq.read_schema(path).metadata or {}
            if FOOTER_KEY in metadata:
                return read_parquet(path, "splits")
            frame: pd.DataFrame = pq.read_table(path, use_threads=False).to_pandas()
            return frame
        what = f"splits are not read from {suffix or 'a file without an ending'}"
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        what = f"not readable as a table ({error})".replace("\n", " ")
    except (pa.ArrowInvalid, OSError) as error:
        what = f"not readable ({error})"
    raise SheetError(str(path), [Problem(str(path), what, todo)])


def _checked(path: Path, frame: pd.DataFrame) -> pd.DataFrame:
    """The table with its columns as text and whole numbers."""
    problems = [
        Problem("header", f"the column {name} is missing", "Add it")
        for name in _NEEDED
        if name not in frame.columns
    ]
    if problems:
        raise SheetError(str(path), problems)
    names = [name for name in (*_NEEDED, "sample", "draw", "part") if name in frame.columns]
    columns: dict[str, list[str | int]] = {}
    for name in names:
        cells = frame[name].tolist()
        columns[name] = []
        for number, cell in enumerate(cells, start=2):
            value = _whole(cell) if name in _WHOLE else _word(cell)
            fault = _fault(name, value)
            if fault:
                said = "an empty cell" if value is None and _word(cell) is None else repr(cell)
                problems.append(
                    Problem(f"row {number}, column {name}", f"{said} {fault}", "Fix it")
                )
            columns[name].append(value if value is not None else "")
    if problems:
        raise SheetError(str(path), problems)
    return pd.DataFrame(columns)


def _fault(name: str, value: str | int | None) -> str:
    if name in _WHOLE:
        return "" if isinstance(value, int) and value >= 0 else "is no whole number from 0 up"
    if value is None:
        return "says nothing"
    return "is none of train, validate, test" if name == "part" and value not in PARTS else ""


def _word(cell: object) -> str | None:
    """A cell as text; None where it is missing or blank."""
    if cell is None or cell != cell or cell is pd.NA:
        return None
    return str(cell).strip() or None


def _whole(cell: object) -> int | None:
    try:
        number = float(str(cell))
    except ValueError:
        return None
    return int(number) if number.is_integer() else None


def _of_task(path: Path, frame: pd.DataFrame, task: str) -> pd.DataFrame:
    rows = frame[frame["task"] == task]
    if rows.empty:
        problem = Problem("column task", f"no row is of the task {task!r}", "Add its folds")
        raise SheetError(str(path), [problem])
    return rows
