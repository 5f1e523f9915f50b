"""The slide sheet: read, and validated whole.

Reads a TSV or CSV file and no slide. Every fault is reported at once, with its row (the header is
row 1, as a spreadsheet counts), its column and what to do. All values stay text.
"""

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from slidemill.artifacts.formats import COHORT
from slidemill.config import NAME_PATTERN
from slidemill.errors import Problem, SheetError
from slidemill.slides.resolution import MPP_RANGE, is_plausible
from slidemill.tissue.classes import KINDS, parse_kinds

REQUIRED = ("slide_id", "path", "patient_id")
OPTIONAL = ("mpp", "tissue", "split", "scene", "exclude")
MAX_ID_LENGTH = 200
_RESERVED = {item.name for item in COHORT.fields} - {*REQUIRED, *OPTIONAL}
_DELIMITERS = {".tsv": "\t", ".txt": "\t", ".csv": ","}


@dataclass(frozen=True, slots=True)
class SheetRow:
    """One slide of the sheet.

    Paths are text, as in the cohort's table: a job of one bucket reads all rows, and a hundred
    thousand `Path`s take longer than all else in them.

    Attributes:
        slide_id: Name of the slide, safe as the name of a file.
        path: Absolute path of the slide file.
        patient_id: The patient.
        mpp: um per level-0 pixel, which overrides the metadata; None where the sheet has none.
        tissue: Absolute path of a GeoJSON of tissue; None where the sheet has none.
        split: The sheet's own split; None where the sheet has none.
        scene: Scene of the file to read; None for the largest.
        exclude: What of this slide is no tissue, as in `tissue.exclude`, separated by blanks; None
            where the sheet says nothing.
        labels: The other columns; missing values are left out.
    """

    slide_id: str
    path: str
    patient_id: str
    mpp: float | None
    tissue: str | None
    split: str | None
    labels: Mapping[str, str]
    scene: str | None = None
    exclude: str | None = None


@dataclass(frozen=True)
class Sheet:
    """The whole sheet.

    Attributes:
        path: Where it was read from.
        label_columns: Columns that are labels, in order.
        rows: One a slide, in the order of the sheet.
    """

    path: Path
    label_columns: tuple[str, ...]
    rows: tuple[SheetRow, ...]


def read_sheet(path: Path) -> Sheet:
    """Read and validate a slide sheet.

    Relative paths in the sheet start at the sheet's own folder.

    Raises:
        SheetError: With every fault at once.
    """
    header, lines = _read_cells(path)
    _check_header(path, header)
    problems: list[Problem] = []
    rows: list[SheetRow] = []
    first_row: dict[str, int] = {}
    folder = str(path.parent.resolve())
    labels = tuple(name for name in header if name not in REQUIRED + OPTIONAL)
    for number, cells in lines:
        if len(cells) != len(header):
            what = f"{len(cells)} cells where the header has {len(header)}"
            problems.append(
                Problem(
                    f"row {number}", what, "Mend the row; empty cells count, quotes may be open"
                )
            )
            continue
        values = dict(zip(header, map(str.strip, cells), strict=True))
        found = _check_row(number, values, first_row)
        problems += found
        first_row.setdefault(values["slide_id"], number)
        if not found:
            rows.append(_to_row(folder, labels, values))
    if not lines:
        problems.append(Problem("row 2", "the sheet has no slides", "Add one row a slide"))
    if problems:
        raise SheetError(str(path), problems)
    return Sheet(path, labels, tuple(rows))


def _read_cells(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    delimiter = _DELIMITERS.get(path.suffix.lower())
    if delimiter is None:
        raise _refused(path, "the name ends in neither .tsv nor .csv", "Name it by what it is")
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            # A row that is blank throughout is a spreadsheet's leftover, not a slide.
            lines = [
                (number, cells)
                for number, cells in enumerate(csv.reader(stream, delimiter=delimiter), start=1)
                if "".join(cells).strip()
            ]
    except FileNotFoundError:
        todo = "Set cohort.sheet, or write the demo's with `slidemill demo demo`"
        raise _refused(path, "there is no such file", todo) from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise _refused(path, f"not a UTF-8 table ({error})", "Save it as UTF-8 text") from None
    except OSError as error:
        raise _refused(
            path, f"not readable ({error.strerror})", "Mend the path or rights"
        ) from None
    if not lines:
        raise _refused(path, "the file is empty", f"Begin with a header: {', '.join(REQUIRED)}")
    return [cell.strip() for cell in lines[0][1]], lines[1:]


def _refused(path: Path, what: str, todo: str) -> SheetError:
    return SheetError(str(path), [Problem(str(path), what, todo)])


def _check_header(path: Path, header: Sequence[str]) -> None:
    problems = [
        Problem("row 1", f"the column {name} is missing", "Add it, or rename the column that is it")
        for name in REQUIRED
        if name not in header
    ]
    for number, name in enumerate(header, start=1):
        where = f"row 1, column {number}"
        if not name:
            problems.append(Problem(where, "the column has no name", "Name it or remove it"))
        elif name in header[: number - 1]:
            problems.append(Problem(where, f"{name} is there twice", "Remove one of them"))
        elif name in _RESERVED:
            what = f"{name} is a column that slidemill writes itself"
            problems.append(Problem(where, what, "Rename the label"))
    if problems:
        raise SheetError(str(path), problems)


def _check_row(
    number: int, values: Mapping[str, str], first_row: Mapping[str, int]
) -> list[Problem]:
    """Faults of one row."""
    problems = []

    def add(column: str, what: str, todo: str) -> None:
        problems.append(Problem(f"row {number}, column {column}", what, todo))

    slide_id = values["slide_id"]
    if not slide_id:
        add("slide_id", "empty", "Name the slide")
    elif slide_id in first_row:
        add("slide_id", f"{slide_id!r} is in row {first_row[slide_id]} already", "Rename one slide")
    elif not re.match(NAME_PATTERN, slide_id) or len(slide_id) > MAX_ID_LENGTH:
        add(
            "slide_id",
            f"{slide_id[:80]!r} cannot be the name of a file",
            f"Use letters, digits, '_', '-' and '.' only, at most {MAX_ID_LENGTH}, "
            "and begin with a letter or a digit",
        )
    for column in ("path", "patient_id"):
        if not values[column]:
            add(column, "empty", "Every slide needs one")
    if values.get("mpp"):
        try:
            plausible = is_plausible(float(values["mpp"]))
        except ValueError:
            plausible = False
        if not plausible:
            low, high = MPP_RANGE
            add(
                "mpp",
                f"{values['mpp']!r} is no plausible resolution",
                f"Give um per level-0 pixel, between {low} and {high}, or leave it empty",
            )
    if values.get("exclude"):
        try:
            parse_kinds(values["exclude"])
        except ValueError as error:
            add("exclude", str(error), f"Use words of {', '.join(KINDS)}, or none, or leave empty")
    return problems


def _to_row(folder: str, labels: Sequence[str], values: Mapping[str, str]) -> SheetRow:
    return SheetRow(
        slide_id=values["slide_id"],
        path=_absolute(folder, values["path"]),
        patient_id=values["patient_id"],
        mpp=float(values["mpp"]) if values.get("mpp") else None,
        tissue=_absolute(folder, values["tissue"]) if values.get("tissue") else None,
        split=values.get("split") or None,
        scene=values.get("scene") or None,
        exclude=values.get("exclude") or None,
        labels={name: values[name] for name in labels if values[name]},
    )


def _absolute(folder: str, path: str) -> str:
    return path if path.startswith("/") else f"{folder}/{path}"
