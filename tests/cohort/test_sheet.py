import unicodedata

import pytest

from slidemill.cohort.sheet import read_sheet
from slidemill.errors import SheetError


def sheet(tmp_path, text, name="slides.tsv"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def faults(path):
    with pytest.raises(SheetError) as caught:
        read_sheet(path)
    return {problem.where: problem.what for problem in caught.value.problems}


def test_a_good_sheet(tmp_path):
    text = (
        "slide_id\tpath\tpatient_id\tmpp\tsplit\tgrade\tnote\n"
        "a\tx/a.svs\tp1\t0.5\tpretrain\thigh\t\n"
        "\t\t\t\t\t\t\n"
        "b-2.x\t/abs/b.svs\tp1\t\t\tlow\tä\n"
    )
    found = read_sheet(sheet(tmp_path, "\ufeff" + text))
    first, second = found.rows
    assert found.label_columns == ("grade", "note")
    assert first.path == str(tmp_path / "x/a.svs")
    assert second.path == "/abs/b.svs"
    assert (first.mpp, second.mpp) == (0.5, None)
    assert (first.split, second.split) == ("pretrain", None)
    assert first.labels == {"grade": "high"}
    assert second.labels == {"grade": "low", "note": "ä"}


def test_csv_with_quotes(tmp_path):
    text = 'slide_id,path,patient_id\na,"x, y.svs",p1\n'
    assert read_sheet(sheet(tmp_path, text, "s.csv")).rows[0].path == str(tmp_path / "x, y.svs")


def test_every_fault_at_once_with_row_and_column(tmp_path):
    text = (
        "slide_id\tpath\tpatient_id\tmpp\n"
        "a\ta.svs\tp1\t0.5\n"
        "a\tb.svs\tp2\t\n"
        "../c\tc.svs\tp3\t\n"
        "d\t\t\t1000\n"
        "e\te.svs\tp5\n"
        "\tf.svs\tp6\tabc\n"
    )
    found = faults(sheet(tmp_path, text))
    assert set(found) == {
        "row 3, column slide_id",
        "row 4, column slide_id",
        "row 5, column path",
        "row 5, column patient_id",
        "row 5, column mpp",
        "row 6",
        "row 7, column slide_id",
        "row 7, column mpp",
    }
    assert "row 2" in found["row 3, column slide_id"]


@pytest.mark.parametrize(
    "bad", ["a/b", "a\\b", "..", ".hidden", "-x", "a b", "a\x00b", "x" * 201, "ä"]
)
def test_ids_that_are_no_file_names_are_refused(tmp_path, bad):
    found = faults(sheet(tmp_path, f"slide_id\tpath\tpatient_id\n{bad}\ta.svs\tp\n"))
    assert "cannot be the name of a file" in found["row 2, column slide_id"]


@pytest.mark.parametrize(
    ("header", "what"),
    [
        ("slide_id\tpatient_id", "path is missing"),
        ("slide_id\tpath\tpatient_id\tpath", "path is there twice"),
        ("slide_id\tpath\tpatient_id\t", "no name"),
        ("slide_id\tpath\tpatient_id\twidth", "slidemill writes itself"),
    ],
)
def test_faults_of_the_header(tmp_path, header, what):
    assert any(what in text for text in faults(sheet(tmp_path, header + "\n")).values())


def test_missing_empty_and_foreign_files(tmp_path):
    assert "no such file" in str(faults(tmp_path / "none.tsv"))
    assert "empty" in str(faults(sheet(tmp_path, "", "e.tsv")))
    assert "no slides" in str(faults(sheet(tmp_path, "slide_id\tpath\tpatient_id\n", "h.tsv")))
    assert "none of .csv, .tsv, .txt and .xlsx" in str(faults(sheet(tmp_path, "x", "s.ods")))
    (tmp_path / "odd.tsv").write_bytes(b"slide_id\tpath\tpatient_id\n\xe4\t\x81\t\n")
    assert "neither UTF-8 nor Windows-1252" in str(faults(tmp_path / "odd.tsv"))


HEADER = ["slide_id", "path", "patient_id", "grade"]


def written(tmp_path, *rows, name="s.csv", separator=","):
    text = "".join(separator.join(row) + "\n" for row in (HEADER, *rows))
    return sheet(tmp_path, text, name)


@pytest.mark.parametrize("marker", ["NA", "n/a", "nan", "NULL", "[not available]", "-", "", "x9"])
def test_a_missing_patient_is_no_patient(tmp_path, marker):
    path = written(tmp_path, ["a", "a.svs", marker, "1"])
    with pytest.raises(SheetError, match="row 2, column patient_id"):
        read_sheet(path, ["X9"])


def test_missing_cells_are_missing_in_every_column_and_counted(tmp_path):
    text = (
        "slide_id,path,patient_id,mpp,split,grade\n"
        "a,a.svs,p,NA,-,NA\nb,b.svs,q,,,n/a\nc,c.svs,r,0.5,test,1\nd,d.svs,s,,,\n"
    )
    found = read_sheet(sheet(tmp_path, text, "s.csv"))
    first = found.rows[0]
    assert (first.mpp, first.split, dict(first.labels)) == (None, None, {})
    assert "missing in grade: 3 of 4 slides (NA: 1, n/a: 1, empty: 1)" in found.notes
    assert any(note.startswith("missing in mpp: 3 of 4 slides (empty: 2, NA: 1)")
               for note in found.notes)  # fmt: skip


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("7", "007"),
        ("7", "7.0"),
        ("P1", "p1"),
        ("P1", "P1\u200b"),
        ("Müller", unicodedata.normalize("NFD", "Müller")),
    ],
)
def test_twins_of_patients_are_refused_joined_or_kept(tmp_path, first, second):
    path = written(tmp_path, ["a", "a.svs", first, "1"], ["b", "b.svs", second, "0"])
    with pytest.raises(SheetError) as caught:
        read_sheet(path)
    said = str(caught.value)
    assert "row 2" in said
    assert "row 3" in said
    assert "cohort.twins: join" in said
    assert "cohort.twins: keep" in said
    # What cannot be seen is written out.
    assert said.isascii() or "\\u" in said
    joined = read_sheet(path, twins="join")
    assert [row.patient_id for row in joined.rows] == [first, first]
    assert any("joined" in note for note in joined.notes)
    assert [row.patient_id for row in read_sheet(path, twins="keep").rows] == [first, second]


def test_twins_of_slides_can_be_kept_and_not_joined(tmp_path):
    path = written(tmp_path, ["s1", "a.svs", "p", "1"], ["S1", "b.svs", "q", "0"])
    for twins in ("refuse", "join"):
        with pytest.raises(SheetError, match="look like one slide"):
            read_sheet(path, twins=twins)
    assert [row.slide_id for row in read_sheet(path, twins="keep").rows] == ["s1", "S1"]


def test_blanks_around_ids_part_nobody_and_are_said(tmp_path):
    found = read_sheet(written(tmp_path, ["a", "a.svs", "p ", "1"], ["b", "b.svs", "p", "1"]))
    assert {row.patient_id for row in found.rows} == {"p"}
    assert "patient_id: blanks around 1 ids were cut off" in found.notes


def test_without_patients_every_slide_is_one_and_it_is_said(tmp_path):
    found = read_sheet(sheet(tmp_path, "slide_id,path\na,a.svs\nA2,b.svs\n", "s.csv"))
    assert [row.patient_id for row in found.rows] == ["a", "A2"]
    assert not found.has_patients
    assert any("no column patient_id" in note for note in found.notes)


def test_errors_name_separator_and_columns(tmp_path):
    path = sheet(tmp_path, "slide_id;file;patient\na;a.svs;p\n", "s.csv")
    with pytest.raises(SheetError, match=r"semicolon.*columns slide_id, file, patient"):
        read_sheet(path)


def test_a_good_sheet_has_one_note(tmp_path):
    path = written(tmp_path, ["a", "a.svs", "p", "1"], name="s.txt", separator=";")
    assert read_sheet(path).notes == ("sheet s.txt: 1 slides, separator semicolon, UTF-8",)


@pytest.mark.parametrize("cell", ["pen", "pen, bubble;edge", "NONE", "border"])
def test_what_is_excluded_of_a_slide_is_taken_as_it_is(tmp_path, cell):
    text = f"slide_id\tpath\tpatient_id\texclude\na\ta.svs\tp\t{cell}\nb\tb.svs\tp\t\n"
    first, second = read_sheet(sheet(tmp_path, text)).rows
    assert (first.exclude, second.exclude) == (cell, None)


@pytest.mark.parametrize("cell", ["ink", "none pen", "pen|edge", ";"])
def test_what_cannot_be_excluded_is_a_fault_of_the_sheet(tmp_path, cell):
    text = f"slide_id\tpath\tpatient_id\texclude\na\ta.svs\tp\t{cell}\n"
    assert set(faults(sheet(tmp_path, text))) == {"row 2, column exclude"}
