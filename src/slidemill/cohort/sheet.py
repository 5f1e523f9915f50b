"""The slide sheet: read, and validated whole.

Reads a table and no slide. Every fault is reported at once, with its row (the header is row 1, as
a spreadsheet counts), its column and what to do. All values stay text.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from slidemill.artifacts.formats import COHORT
from slidemill.cohort.missing import Missing
from slidemill.cohort.table import Table, read_table
from slidemill.cohort.twins import twin_groups, visible
from slidemill.config import NAME_PATTERN, Twins
from slidemill.errors import Problem, SheetError
from slidemill.slides.measures import with_unit
from slidemill.slides.resolution import MPP_RANGE, is_plausible
from slidemill.tissue.classes import KINDS, parse_kinds

REQUIRED = ("slide_id", "path")
PATIENT = "patient_id"
OPTIONAL = ("mpp", "tissue", "split", "scene", "exclude")
KNOWN = (*REQUIRED, PATIENT, *OPTIONAL)
"""Columns that are no labels."""
MAX_ID_LENGTH = 200
MAX_TWINS = 20
"""So many groups of twins are named."""
MAX_LINES = 5
"""So many rows are named of a text."""
_RESERVED = {item.name for item in COHORT.fields} - set(KNOWN)


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
        has_patients: Whether it says who the patients are; if not, each slide is one of its own.
        notes: How it was read, and what was missing or joined: lines for people.
    """

    path: Path
    label_columns: tuple[str, ...]
    rows: tuple[SheetRow, ...]
    has_patients: bool = True
    notes: tuple[str, ...] = ()


def read_sheet(path: Path, missing_values: Sequence[str] = (), twins: Twins = "refuse") -> Sheet:
    """Read and validate a slide sheet.

    Relative paths in the sheet start at the sheet's own folder.

    Args:
        path: A .csv, .tsv, .txt or .xlsx.
        missing_values: Cells that are missing, besides those of every sheet.
        twins: What becomes of ids that differ by case, zeros or what cannot be seen.

    Raises:
        SheetError: With every fault at once.
    """
    table = read_table(path, KNOWN)
    header = table.header
    source = f"{path} ({table.form}; columns {', '.join(header[:40])})"
    _check_header(source, header)
    labels = tuple(name for name in header if name not in KNOWN)
    markers: dict[str, Counter[str]] = {name: Counter() for name in header}
    problems: list[Problem] = []
    rows: list[SheetRow] = []
    numbers: list[int] = []
    first_row: dict[str, int] = {}
    folder = str(path.parent.resolve())
    for number, raw, values in _values(table, Missing(missing_values), markers, problems):
        found = _check_row(number, values, raw, first_row)
        problems += found
        first_row.setdefault(values["slide_id"], number)
        if not found:
            rows.append(_to_row(folder, labels, values))
            numbers.append(number)
    if not table.lines:
        problems.append(Problem("row 2", "the sheet has no slides", "Add one row a slide"))
    has_patients = PATIENT in header
    patients = [row.patient_id for row in rows] if has_patients else []
    problems += _twins([row.slide_id for row in rows], numbers, "slide_id", twins)
    if has_patients:
        problems += _twins(patients, numbers, PATIENT, twins)
    if problems:
        raise SheetError(source, problems)
    joined = joins(patients) if twins == "join" else {}
    if joined:
        rows = [replace(row, patient_id=joined.get(row.patient_id, row.patient_id)) for row in rows]
    notes = (
        f"sheet {path.name}: {len(rows)} slides, {table.form}",
        *table.remarks,
        *_said(table, markers, labels, joined),
    )
    return Sheet(path, labels, tuple(rows), has_patients, notes)


def _values(
    table: Table, missing: Missing, markers: Mapping[str, Counter[str]], problems: list[Problem]
) -> Iterator[tuple[int, dict[str, str], dict[str, str]]]:
    """Each row's number, its cells as written, and with empty ones for those that are missing.

    Rows that have another number of cells than the header are left out and added to `problems`;
    what was missing is counted in `markers`, by column and by what was written.
    """
    header = table.header
    absent = {
        cell for cell in {c.strip() for _, cells in table.lines for c in cells} if missing(cell)
    }
    for number, cells in table.lines:
        if len(cells) != len(header):
            what = f"{len(cells)} cells where the header has {len(header)}"
            todo = "Correct the row; empty cells count, quotes may be open"
            problems.append(Problem(f"row {number}", what, todo))
            continue
        raw = values = dict(zip(header, map(str.strip, cells), strict=True))
        if not absent.isdisjoint(raw.values()):
            for name, cell in raw.items():
                if cell in absent:
                    markers[name][cell] += 1
            values = {name: "" if cell in absent else cell for name, cell in raw.items()}
        values.setdefault(PATIENT, values["slide_id"])
        yield number, raw, values


def joins(texts: Iterable[str]) -> dict[str, str]:
    """The first spelling of every text that is a twin of an earlier one."""
    return {twin: group[0] for group in twin_groups(texts) for twin in group[1:]}


def _twins(
    texts: Sequence[str], numbers: Sequence[int], column: str, twins: Twins
) -> Iterator[Problem]:
    """Twins that are not to be there, with their rows."""
    slides = column == "slide_id"
    if twins == "keep" or (twins == "join" and not slides):
        return
    groups = twin_groups(texts)
    wanted = {text for group in groups for text in group}
    rows: dict[str, list[int]] = {}
    for text, number in zip(texts, numbers, strict=True):
        if text in wanted:
            rows.setdefault(text, []).append(number)
    for group in groups[:MAX_TWINS]:
        said = " and ".join(f"{visible(text)} (row{_rows(rows[text])})" for text in group)
        if slides:
            what, todo = "slide", "Rename one, or set cohort.twins: keep, if they are two slides"
        else:
            what = "patient"
            todo = (
                f"Write them alike, or set cohort.twins: join (one patient, {visible(group[0])}) "
                "or cohort.twins: keep (they are different patients)"
            )
        yield Problem(f"column {column}", f"{said} look like one {what}", todo)
    if len(groups) > MAX_TWINS:
        more = f"{len(groups) - MAX_TWINS} more groups of twins"
        yield Problem(f"column {column}", more, "See cohort.twins")


def _rows(numbers: Sequence[int]) -> str:
    more = f" and {len(numbers) - MAX_LINES} more" if len(numbers) > MAX_LINES else ""
    return f"{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers[:MAX_LINES]))}{more}"


def _said(
    table: Table,
    markers: Mapping[str, Counter[str]],
    labels: Sequence[str],
    joined: Mapping[str, str],
) -> Iterator[str]:
    """What a run should say of a sheet that is in order."""
    if PATIENT not in table.header:
        yield f"no column {PATIENT}: every slide counts as a patient of its own"
    for name, found in markers.items():
        # That mpp or tissue is left empty is how they are meant; a written marker is looked at.
        if found and (name in labels or set(found) != {""}):
            words = ", ".join(f"{text or 'empty'}: {n}" for text, n in found.most_common())
            yield f"missing in {name}: {found.total()} of {len(table.lines)} slides ({words})"
    for name in ("slide_id", PATIENT):
        if name in table.header:
            place = table.header.index(name)
            cut = sum(cells[place] != cells[place].strip() for _, cells in table.lines)
            if cut:
                yield f"{name}: blanks around {cut} ids were cut off"
    if joined:
        words = ", ".join(f"{visible(a)} is {visible(b)}" for a, b in list(joined.items())[:5])
        yield f"{len(joined)} spellings of patients joined with others: {words}"


def _check_header(source: str, header: Sequence[str]) -> None:
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
        raise SheetError(source, problems)


def _check_row(
    number: int, values: Mapping[str, str], raw: Mapping[str, str], first_row: Mapping[str, int]
) -> list[Problem]:
    """Faults of one row, of which `raw` has missing values as they are written."""
    problems = []

    def add(column: str, what: str, todo: str) -> None:
        problems.append(Problem(f"row {number}, column {column}", what, todo))

    slide_id = values["slide_id"]
    if not slide_id:
        add("slide_id", _absent(raw["slide_id"]), "Name the slide")
    elif slide_id in first_row:
        add("slide_id", f"{slide_id!r} is in row {first_row[slide_id]} already", "Rename one slide")
    elif not re.match(NAME_PATTERN, slide_id) or len(slide_id) > MAX_ID_LENGTH:
        add(
            "slide_id",
            f"{visible(slide_id[:80])} cannot be the name of a file",
            f"Use letters, digits, '_', '-' and '.' only, at most {MAX_ID_LENGTH}, "
            "and begin with a letter or a digit",
        )
    for column in ("path", PATIENT):
        if not values[column]:
            add(column, _absent(raw.get(column, "")), "Every slide needs one")
    if values.get("mpp"):
        mpp = with_unit(values["mpp"])
        if mpp is None or not is_plausible(mpp):
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


def _absent(cell: str) -> str:
    return f"{cell!r} stands for a missing value" if cell else "empty"


def _to_row(folder: str, labels: Sequence[str], values: Mapping[str, str]) -> SheetRow:
    return SheetRow(
        slide_id=values["slide_id"],
        path=_absolute(folder, values["path"]),
        patient_id=values["patient_id"],
        mpp=with_unit(values.get("mpp")),
        tissue=_absolute(folder, values["tissue"]) if values.get("tissue") else None,
        split=values.get("split") or None,
        scene=values.get("scene") or None,
        exclude=values.get("exclude") or None,
        labels={name: values[name] for name in labels if values[name]},
    )


def _absolute(folder: str, path: str) -> str:
    return path if path.startswith("/") else f"{folder}/{path}"
