"""Excel's own files as a table of text, through pandas and openpyxl."""

import datetime
import io
from importlib.util import find_spec
from pathlib import Path
from zipfile import BadZipFile

from slidemill.cohort.table import refused
from slidemill.errors import Problem, SheetError


def read_excel(path: Path, data: bytes) -> tuple[list[tuple[int, list[str]]], str, tuple[str, ...]]:
    """The rows of the first sheet of a workbook, what it is, and what should be looked at.

    Cells are what they hold, not what they show: a text 007 stays 007, and a number that is shown
    as 007 is 7.

    Raises:
        SheetError: If openpyxl is not there, the file is no workbook, or cells hold an error.
    """
    if find_spec("openpyxl") is None:
        todo = "pip install 'slidemill[xlsx]', or save the sheet as .csv"
        raise refused(path, "Excel's files need the package openpyxl", todo)
    import pandas as pd

    try:
        with pd.ExcelFile(io.BytesIO(data), engine="openpyxl") as book:
            names = [str(name) for name in book.sheet_names]
            frame = pd.read_excel(book, sheet_name=0, header=None, dtype=object, na_filter=False)
    except (BadZipFile, KeyError, ValueError, OSError) as error:
        todo = "Save it again as .xlsx, or as .csv"
        raise refused(path, f"not a workbook that openpyxl reads ({error})", todo) from None
    faults: list[Problem] = []
    lines = []
    for number, row in enumerate(frame.itertuples(index=False, name=None), start=1):
        for column, cell in enumerate(row, start=1):
            if isinstance(cell, float) and cell != cell:
                where = f"row {number}, column {column}"
                what = "the cell holds an error of Excel, such as #N/A or #REF!"
                faults.append(Problem(where, what, "Correct the formula, or empty the cell"))
        lines.append((number, [_text(cell) for cell in row]))
    if faults:
        raise SheetError(str(path), faults)
    more = f" (of {len(names)}; {', '.join(names[1:])} not read)" if len(names) > 1 else ""
    remarks = (f"{path.name}: the sheet {names[0]!r} is read{more}",) if more else ()
    return _trimmed(lines), f"sheet {names[0]!r} of an Excel workbook", remarks


def _text(cell: object) -> str:
    """A cell as text; whole numbers without a decimal point, which Excel does not keep apart."""
    if isinstance(cell, bool):
        return "TRUE" if cell else "FALSE"
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    if isinstance(cell, datetime.datetime) and cell.time() == datetime.time():
        return cell.date().isoformat()
    return str(cell)


def _trimmed(lines: list[tuple[int, list[str]]]) -> list[tuple[int, list[str]]]:
    """Without the empty columns at the end, which formats leave behind."""
    width = max(
        (i + 1 for _, row in lines for i, cell in enumerate(row) if cell.strip()), default=0
    )
    return [(number, row[:width]) for number, row in lines]
