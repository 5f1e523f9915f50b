import pytest

from slidemill.cohort.table import read_table
from slidemill.errors import SheetError

KNOWN = ("slide_id", "path", "patient_id")
ROWS = [["slide_id", "path", "patient_id", "who"], ["a", "x, y.svs", "p;1", "Müller"]]


def quoted(separator):
    return "".join(separator.join(f'"{cell}"' for cell in row) + "\r\n" for row in ROWS)


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("ending", [".csv", ".tsv", ".txt"])
def test_the_separator_is_what_the_file_has(tmp_path, separator, ending):
    path = tmp_path / f"s{ending}"
    path.write_text(quoted(separator), encoding="utf-8", newline="")
    found = read_table(path, KNOWN)
    assert (found.header, found.lines) == (ROWS[0], [(2, ROWS[1])])
    name = {",": "comma", ";": "semicolon", "\t": "tab"}[separator]
    assert found.form == f"separator {name}, UTF-8"


@pytest.mark.parametrize(
    ("codec", "name"),
    [
        ("utf-8-sig", "UTF-8"),
        ("utf-16", "UTF-16"),
        ("utf-32", "UTF-32"),
        ("cp1252", "Windows-1252 (Latin-1)"),
        ("latin-1", "Windows-1252 (Latin-1)"),
    ],
)
def test_encodings(tmp_path, codec, name):
    path = tmp_path / "s.csv"
    path.write_bytes(quoted(";").encode(codec))
    found = read_table(path, KNOWN)
    assert found.lines[0][1][3] == "Müller"
    assert found.form.endswith(name)
    assert ("Müller" in " ".join(found.remarks)) == ("1252" in name)


def test_excels_own_line_names_the_separator_and_counts_as_a_row(tmp_path):
    path = tmp_path / "s.csv"
    path.write_text("sep=;\n" + quoted(";"), encoding="utf-8")
    assert read_table(path, KNOWN).lines[0][0] == 3


@pytest.mark.parametrize("data", ["slide_id,path\n".encode("utf-16-le"), b"\xff\xfea\x00b", b""])
def test_what_is_no_table_is_refused(tmp_path, data):
    path = tmp_path / "s.csv"
    path.write_bytes(data)
    with pytest.raises(SheetError):
        read_table(path, KNOWN)
