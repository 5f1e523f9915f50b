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
        ("slide_id\tpath", "patient_id is missing"),
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
    assert "neither .tsv nor .csv" in str(faults(sheet(tmp_path, "x", "s.xlsx")))
    (tmp_path / "latin.tsv").write_bytes(b"slide_id\tpath\tpatient_id\n\xe4\t\xff\t\n")
    assert "UTF-8" in str(faults(tmp_path / "latin.tsv"))


@pytest.mark.parametrize("cell", ["pen", "pen, bubble;edge", "NONE", "border"])
def test_what_is_excluded_of_a_slide_is_taken_as_it_is(tmp_path, cell):
    text = f"slide_id\tpath\tpatient_id\texclude\na\ta.svs\tp\t{cell}\nb\tb.svs\tp\t\n"
    first, second = read_sheet(sheet(tmp_path, text)).rows
    assert (first.exclude, second.exclude) == (cell, None)


@pytest.mark.parametrize("cell", ["ink", "none pen", "pen|edge", ";"])
def test_what_cannot_be_excluded_is_a_fault_of_the_sheet(tmp_path, cell):
    text = f"slide_id\tpath\tpatient_id\texclude\na\ta.svs\tp\t{cell}\n"
    assert set(faults(sheet(tmp_path, text))) == {"row 2, column exclude"}
