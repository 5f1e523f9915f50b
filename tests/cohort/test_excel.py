import datetime
import importlib.util

import pytest

from slidemill.cohort.sheet import read_sheet
from slidemill.errors import SheetError

HEADER = ["slide_id", "path", "patient_id", "grade", "age", "seen", "on"]


def test_without_openpyxl_it_says_what_to_install(tmp_path, monkeypatch):
    path = tmp_path / "s.xlsx"
    path.write_bytes(b"PK")
    monkeypatch.setattr("slidemill.cohort.excel.find_spec", lambda name: None)
    with pytest.raises(SheetError, match=r"slidemill\[xlsx\]"):
        read_sheet(path)


@pytest.fixture
def workbook(tmp_path):
    """Writes rows as the first sheet of a workbook."""
    openpyxl = pytest.importorskip("openpyxl")

    def write(*rows, more=False):
        book = openpyxl.Workbook()
        for row in (HEADER, *rows):
            book.active.append(row)
        if more:
            book.create_sheet("other")
        path = tmp_path / "s.xlsx"
        book.save(path)
        return path

    return write


def test_cells_are_what_they_hold(workbook):
    day = datetime.datetime(2020, 3, 1)
    found = read_sheet(workbook(["a", "a.svs", "007", 1.0, 61.5, True, day], ["b", "b.svs", 8]))
    first, second = found.rows
    assert (first.patient_id, second.patient_id) == ("007", "8")
    assert first.labels == {"grade": "1", "age": "61.5", "seen": "TRUE", "on": "2020-03-01"}
    assert second.labels == {}
    assert "Excel" in found.notes[0]


def test_other_sheets_are_said_and_errors_of_excel_are_faults(workbook):
    found = read_sheet(workbook(["a", "a.svs", "p"], more=True))
    assert any("other not read" in note for note in found.notes)
    with pytest.raises(SheetError, match="row 2, column 4: the cell holds an error"):
        read_sheet(workbook(["a", "a.svs", "p", "#REF!"]))


def test_a_file_that_is_no_workbook(tmp_path):
    if importlib.util.find_spec("openpyxl") is None:
        pytest.skip("openpyxl is not installed")
    (tmp_path / "s.xlsx").write_text("slide_id,path\n")
    with pytest.raises(SheetError, match="not a workbook"):
        read_sheet(tmp_path / "s.xlsx")
