"""Reading a table of text as people save it: the separator, the encoding, Excel's own files.

Takes a file's path and gives its cells as text; knows nothing of slides. What was found is part of
the result, so that it can be said.
"""

import codecs
import csv
import io
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from slidemill.errors import Problem, SheetError

SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab"}
_USUAL = {".csv": ",", ".tsv": "\t", ".txt": "\t"}
_EXCEL = ".xlsx"
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig", "UTF-8"),
    # Before UTF-16, which begins alike.
    (codecs.BOM_UTF32_LE, "utf-32", "UTF-32"),
    (codecs.BOM_UTF32_BE, "utf-32", "UTF-32"),
    (codecs.BOM_UTF16_LE, "utf-16", "UTF-16"),
    (codecs.BOM_UTF16_BE, "utf-16", "UTF-16"),
)
_SAID = re.compile(r'"?sep=([,;\t])"?\r?\n?')
"""Excel's own first line that names the separator."""

Line = tuple[int, list[str]]
"""A row's number as a spreadsheet counts, and its cells."""


@dataclass(frozen=True, slots=True)
class Table:
    """Cells of a table.

    Attributes:
        header: Names of the columns, without blanks around them.
        lines: The other rows that are not blank throughout.
        form: What the file was found to be, in words.
        remarks: What should be looked at, in words.
    """

    header: list[str]
    lines: list[Line]
    form: str
    remarks: tuple[str, ...] = ()


def read_table(path: Path, known: Collection[str]) -> Table:
    """Read a table.

    Args:
        path: A file of text (.csv, .tsv, .txt) or of Excel (.xlsx).
        known: Names of columns, by which the separator is found.

    Raises:
        SheetError: If it cannot be read.
    """
    ending = path.suffix.lower()
    if ending not in (*_USUAL, _EXCEL):
        what = "the name ends in none of .csv, .tsv, .txt and .xlsx"
        raise refused(path, what, "Save it as one of them")
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        todo = "Set cohort.sheet, or write the demo's with `slidemill demo demo`"
        raise refused(path, "there is no such file", todo) from None
    except OSError as error:
        todo = "Correct the path or its rights"
        raise refused(path, f"not readable ({error.strerror})", todo) from None
    if ending == _EXCEL:
        from slidemill.cohort.excel import read_excel

        lines, form, remarks = read_excel(path, data)
    else:
        lines, form, remarks = _read_text(path, data, known)
    lines = [line for line in lines if "".join(line[1]).strip()]
    if not lines:
        raise refused(path, "the file is empty", f"Begin with a header: {', '.join(known)}")
    # A byte order mark of its own is left where files were joined.
    header = [cell.strip().strip("\ufeff\u200b").strip() for cell in lines[0][1]]
    return Table(header, lines[1:], form, remarks)


def refused(path: Path, what: str, todo: str) -> SheetError:
    """The error of a file that cannot be read at all."""
    return SheetError(str(path), [Problem(str(path), what, todo)])


def _read_text(
    path: Path, data: bytes, known: Collection[str]
) -> tuple[list[Line], str, tuple[str, ...]]:
    text, encoding = _decoded(path, data)
    first = 1
    if said := _SAID.match(text):
        separator, text, first = said[1], text[said.end() :], 2
    else:
        separator = _separator(text, known, _USUAL[path.suffix.lower()])
    try:
        rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
        lines = list(enumerate(rows, start=first))
    except csv.Error as error:
        todo = "Save it anew, and see that every quote is closed"
        raise refused(path, f"not a table of text ({error})", todo) from None
    if lines and any("\0" in cell for cell in lines[0][1]):
        raise refused(path, "not text: it has bytes of zero", "Save it as UTF-8 text")
    remarks: tuple[str, ...] = ()
    if encoding == _WINDOWS:
        # The header too: whoever reads this should see a word with the letters in question.
        words = (cell for _, row in lines for cell in row if not cell.isascii())
        remarks = (
            f"{path.name} is not UTF-8 and was read as {_WINDOWS}; see that it is "
            f"{next(words, '')!r}, or save it as UTF-8",
        )
    return lines, f"separator {SEPARATORS[separator]}, {encoding}", remarks


_WINDOWS = "Windows-1252 (Latin-1)"


def _decoded(path: Path, data: bytes) -> tuple[str, str]:
    """Text and the name of its encoding: by its mark, else UTF-8, else the Western one."""
    for mark, codec, name in _MARKS:
        if data.startswith(mark):
            try:
                return data.decode(codec), name
            except UnicodeDecodeError as error:
                what = f"it begins as {name} and is not ({error.reason})"
                raise refused(path, what, "Save it as UTF-8 text") from None
    try:
        return data.decode("utf-8"), "UTF-8"
    except UnicodeDecodeError:
        pass
    try:
        # Latin-1 has the same letters; where the two differ, it has controls that no sheet has.
        text = data.decode("cp1252")
    except UnicodeDecodeError as error:
        what = f"neither UTF-8 nor Windows-1252 ({error.reason})"
        raise refused(path, what, "Save it as UTF-8 text") from None
    return text, _WINDOWS


def _separator(text: str, known: Collection[str], usual: str) -> str:
    """The separator by which the header has most known columns; then most columns."""

    def fit(separator: str) -> tuple[int, int, bool]:
        header = [cell.strip() for cell in _first(text, separator)]
        return len(set(header) & set(known)), len(header), separator == usual

    return max(SEPARATORS, key=fit)


def _first(text: str, separator: str) -> Sequence[str]:
    """Cells of the first row that is not blank, were this the separator."""
    try:
        rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
        return next((row for row in rows if "".join(row).strip()), [])
    except csv.Error:
        return []
