"""Files that are really damaged, and what is said of them."""

import json
import shutil

import h5py
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runs.small_run import GOOD
from slidemill import jobs
from slidemill.runs.printing import print_verdict
from slidemill.runs.verify import verify

SLIDE = GOOD[0]


def the_problem(run):
    """The only problem that there is."""
    (found,) = verify(run.plan).problems
    assert found.todo
    return found


def flip(path, where):
    data = bytearray(path.read_bytes())
    data[where] ^= 0xFF
    path.write_bytes(data)


def test_a_whole_run_has_no_problems(whole, capsys):
    found = verify(whole.plan)
    assert found.ok, found.problems
    assert found.notes == []
    assert found.checked == {
        "dataset": 6, "manifest": 5, "bucket": 10, "slide file": 20, "report": 1,
    }  # fmt: skip
    said = json.loads(found.as_json())
    assert said == {"ok": True, "checked": dict(found.checked), "problems": [], "notes": []}
    print_verdict(found)
    assert capsys.readouterr().out.startswith("0 problem(s); checked: 6 dataset, ")


def test_a_run_that_has_not_begun_says_what_to_run(run):
    run.configure(results="others")
    found = verify(run.plan)
    assert not found.ok
    assert all("Run snakemake" in one.todo or "--gather" in one.todo for one in found.problems)


@pytest.mark.parametrize("stage", ["tissue", "features"])
def test_a_truncated_hdf5_file(run, stage):
    identity = getattr(run.plan, stage, None) or run.features
    path = run.slide(identity, SLIDE)
    path.write_bytes(path.read_bytes()[:-100])
    found = the_problem(run)
    assert found.where == str(path)
    assert "not readable as HDF5" in found.what
    assert "its sha256 is not the manifest's" in found.what
    bucket = run.plan.bucket_path(identity, run.bucket_of(SLIDE))
    assert found.todo == f"Delete it, then run snakemake with --forcerun {bucket}"


def test_a_flipped_byte(run):
    path = run.slide(run.features, SLIDE)
    with h5py.File(path) as file:
        where = file["features"].id.get_chunk_info(0).byte_offset + 40
    flip(path, where)
    assert the_problem(run).what == "its sha256 is not the manifest's, its bytes have changed"


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    where=st.floats(0, 1, exclude_max=True), stage=st.sampled_from(["tissue", "tiles", "features"])
)
def test_no_flipped_byte_is_overlooked(run, where, stage):
    path = run.slide(run.plan.tissue if stage == "tissue" else getattr(run, stage), SLIDE)
    whole = path.read_bytes()
    flip(path, int(where * len(whole)))
    found = verify(run.plan).problems
    path.write_bytes(whole)
    assert [one.where for one in found] == [str(path)]


def test_damage_on_which_the_library_never_ends(run, monkeypatch):
    monkeypatch.setattr("slidemill.runs.verify.FILE_SECONDS", 5.0)
    path = run.slide(run.features, SLIDE)
    # The length of an attribute's text in the heap of texts.
    flip(path, path.read_bytes().index(b"\x08\0\0\0\0\0\0\0rgb-mean"))
    found = the_problem(run)
    assert found.where == str(path)
    assert found.what == "not readable (it was stopped after 5 s)"


def test_a_file_that_is_missing(run):
    run.slide(run.tiles, SLIDE).unlink()
    found = the_problem(run)
    assert found.what == "the file is missing"
    assert found.todo.startswith("Run snakemake with --forcerun ")


def test_another_slides_file_under_this_name(run):
    shutil.copy(run.slide(run.features, GOOD[1]), run.slide(run.features, SLIDE))
    assert f"it is the file of slide {GOOD[1]}" in the_problem(run).what


def test_another_stages_file_under_this_name(run):
    (candidates,) = run.plan.candidates.values()
    shutil.copy(run.slide(candidates, SLIDE), run.slide(run.tiles, SLIDE))
    assert "it is a candidates file, not a tiles file" in the_problem(run).what


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("artifact_version", 1, "it has format version 1, not 2"),
        ("artifact_version", 99, "it is a 'features' of version 99, but this installation reads"),
        ("digest", "0" * 64, "written by another run (0000000000)"),
        ("item_digest", "0" * 64, "made from other inputs"),
    ],
)
def test_a_file_of_another_version_or_run(run, key, value, words):
    with h5py.File(run.slide(run.features, SLIDE), "r+") as file:
        file.attrs[key] = value
    assert words in the_problem(run).what


def test_a_row_that_was_removed_from_a_file(run):
    path = run.slide(run.tiles, SLIDE)
    table = pq.read_table(path)
    kept = table["keep"].to_pylist().index(True)
    rows = [i for i in range(table.num_rows) if i != kept]
    pq.write_table(table.take(rows), path)
    assert "it counts " in the_problem(run).what


def test_a_row_that_was_removed_from_a_manifest(run):
    plan = run.plan
    path = plan.manifest_path(run.features)
    run.change_rows(path, run.features, lambda rows: [r for r in rows if r["slide_id"] != SLIDE])
    found = verify(plan)
    (problem,) = found.problems
    assert problem.what == f"slides of the sheet are lacking: {SLIDE}"
    # Its file is there, and nothing is about it.
    (note,) = found.notes
    assert note.where == str(run.slide(run.features, SLIDE))


def test_a_row_that_was_removed_from_a_bucket(run):
    path = run.plan.bucket_path(run.features, run.bucket_of(SLIDE))
    run.change_rows(path, run.features, lambda rows: [r for r in rows if r["slide_id"] != SLIDE])
    found = the_problem(run)
    assert (found.where, found.what) == (
        str(path),
        f"slides of the sheet are lacking: {SLIDE}",
    )


def test_a_manifest_that_does_not_say_what_its_bucket_says(run):
    path = run.plan.manifest_path(run.features)

    def count_more(rows):
        return [r | {"count": r["count"] + 1} if r["slide_id"] == SLIDE else r for r in rows]

    run.change_rows(path, run.features, count_more)
    found = {problem.where: problem.what for problem in verify(run.plan).problems}
    bucket = run.plan.bucket_path(run.features, run.bucket_of(SLIDE))
    assert found[str(bucket)] == f"it does not say the same as manifest.parquet of {SLIDE}"
    assert "and the manifest" in found[str(run.slide(run.features, SLIDE))]


@pytest.mark.parametrize("name", ["manifest.parquet", "buckets/0-of-2.parquet", "dataset.json"])
def test_damaged_tables_and_descriptions(run, name):
    path = run.plan.tissue.folder(run.plan.results) / name
    path.write_bytes(path.read_bytes()[:-30])
    found = the_problem(run)
    assert found.where == str(path)
    assert found.what.startswith("not ")
    assert found.todo.startswith("Delete it, then run snakemake with --forcerun ")


def test_a_folder_of_another_run(run):
    path = run.features.folder(run.plan.results) / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"Digest": "f" * 64}))
    found = the_problem(run)
    assert found.what == "the folder holds results of another run (ffffffffff)"
    assert found.todo.startswith("Move ")


@pytest.mark.parametrize("suffix", [".geojson", ".jpg"])
def test_what_lies_beside_a_mask(run, suffix):
    path = run.slide(run.plan.tissue, SLIDE, suffix)
    path.write_bytes(path.read_bytes()[:-20])
    assert f"{SLIDE}{suffix} beside it is not" in the_problem(run).what


def test_orphans_are_notes(run):
    run.slide(run.features, "gone-1").write_bytes(b"x")
    half = run.slide(run.features, SLIDE).with_name(f".{SLIDE}.h5.7-abc.tmp")
    half.touch()
    found = verify(run.plan)
    assert found.ok
    assert [note.where for note in found.notes] == [
        str(half),
        str(run.slide(run.features, "gone-1")),
    ]


def test_slides_that_left_the_sheet_are_a_note(run):
    sheet = run.folder / "demo" / "slides.tsv"
    lines = [line for line in sheet.read_text().splitlines() if not line.startswith(SLIDE)]
    sheet.write_text("\n".join(lines) + "\n")
    notes = verify(run.plan).notes
    assert any(note.what.endswith(f"the sheet no longer has: {SLIDE}") for note in notes)


def test_a_report_that_is_cut_off(run):
    path = run.plan.report_path()
    path.write_bytes(path.read_bytes()[:-30])
    assert the_problem(run).what == "the report is cut off"


def test_all_faults_are_found_at_once_and_printed_with_what_to_do(run, capsys):
    run.slide(run.tiles, SLIDE).unlink()
    run.slide(run.features, GOOD[1]).write_bytes(b"")
    run.plan.report_path().unlink()
    found = verify(run.plan)
    print_verdict(found)
    lines = capsys.readouterr().out.splitlines()
    assert len(found.problems) == 3
    assert lines[:3] == [str(problem) for problem in found.problems]
    assert lines[-1].startswith("3 problem(s); checked: ")


def test_a_result_of_an_older_result_of_the_stage_before(run):
    plan = run.plan
    slides = run.folder / "demo" / "slides"
    shutil.copyfile(slides / f"{GOOD[1]}.tif", slides / f"{SLIDE}.tif")
    jobs.cohort(plan, plan.buckets, 0)
    jobs.gather_cohort(plan)
    jobs.tissue(plan, plan.buckets, 0)
    jobs.gather(plan, plan.tissue)
    found = the_problem(run)
    (candidates,) = plan.candidates.values()
    assert found.where == str(run.slide(candidates, SLIDE))
    assert found.what == "it was made from another result of tissue than is there now"
    bucket = plan.bucket_path(run.tiles, run.bucket_of(SLIDE))
    assert found.todo == f"Run snakemake again; if it finds nothing to do, with --forcerun {bucket}"


def test_a_result_of_a_slide_that_has_failed_before(run):
    plan = run.plan
    (run.folder / "demo" / "slides" / f"{SLIDE}.tif").write_bytes(b"no slide")
    jobs.cohort(plan, plan.buckets, 0)
    jobs.gather_cohort(plan)
    found = the_problem(run)
    assert found.where == str(run.slide(plan.tissue, SLIDE))
    assert found.what == "it was made from another result of cohort than is there now"


def test_a_summary_of_older_features(run):
    task = {"name": "grade", "column": "label"}
    run.configure(evaluate={"tasks": [task], "models": ["linear-probe"], "controls": []})
    plan = run.plan
    (summary,) = plan.summaries.values()
    path = plan.summary_path(summary)
    jobs.evaluate(plan, summary.name, 1)

    def said():
        return [one for one in verify(plan).problems if one.where == str(path)]

    assert said() == []
    manifest = plan.manifest_path(run.features)
    run.change_rows(
        manifest, run.features, lambda rows: [rows[0] | {"item_digest": "x"}, *rows[1:]]
    )
    (found,) = said()
    assert found.what == f"it was made from other features than are there now, of {SLIDE}"
    assert found.todo == f"Run snakemake again; if it finds nothing to do, with --forcerun {path}"
