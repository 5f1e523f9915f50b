import json
import os
import time

import pytest

from runs.small_run import GOOD
from slidemill.artifacts.digest import bucket_of
from slidemill.artifacts.manifest import failure, manifest_row, write_manifest
from slidemill.errors import ArtifactError, SlideCode, SlideError
from slidemill.runs.counts import Failure
from slidemill.runs.marks import working
from slidemill.runs.printing import failed_line, print_failures, print_status
from slidemill.runs.status import read_status


def stage_of(found, name):
    return next(one for one in found.stages if one.stage.stage == name)


def counts(stage):
    return stage.done, stage.failed, stage.missing


def test_a_finished_run(whole):
    found = read_status(whole.plan)
    assert found.slides == 7
    assert [counts(one) for one in found.stages] == [(6, 1, 0), *[(5, 2, 0)] * 3, (1, 0, 0)]
    assert {bucket.state for one in found.stages for bucket in one.buckets} == {"done"}
    assert [one[:4] for one in found.failures] == [
        ("torn-1", "cohort", whole.plan.cohort.name, "truncated"),
        ("glass-1", "tissue", whole.plan.tissue.name, "no-tissue"),
    ]
    assert failed_line(found) == ("2 of 7 slides failed (cohort: 1 truncated, tissue: 1 no-tissue)")


def test_nothing_is_there_yet(run):
    run.configure(results="others")
    found = read_status(run.plan)
    assert counts(stage_of(found, "features")) == (0, 0, 7)
    assert stage_of(found, "features").buckets[0].state == "missing"
    assert counts(stage_of(found, "report")) == (0, 0, 1)
    assert found.failures == ()


def test_a_killed_bucket_has_done_the_slides_whose_files_are_there(run):
    plan, stage = run.plan, run.features
    bucket = run.bucket_of(GOOD[0])
    plan.bucket_path(stage, bucket).unlink()
    run.slide(stage, GOOD[0]).unlink()
    run.slide(stage, "half").with_name(".P001-1.h5.1-2.tmp").touch()
    slides = {row.slide_id for row in plan.buckets[bucket]}
    found = next(b for b in stage_of(read_status(plan), "features").buckets if b.bucket == bucket)
    done = len(slides & set(GOOD)) - 1
    assert (found.state, found.done, found.failed) == ("missing", done, 0)
    assert found.missing == len(slides) - done
    # Files of before the stage was asked for again do not count.
    flag = plan.recompute_flag("features")
    flag.parent.mkdir()
    flag.touch()
    found = next(b for b in stage_of(read_status(plan), "features").buckets if b.bucket == bucket)
    assert found.done == 0


def test_a_younger_bucket_speaks_for_itself(run):
    plan, stage = run.plan, run.features
    bucket = run.bucket_of(GOOD[0])

    def fail(rows):
        error = SlideError(SlideCode.NOT_FINITE, "[bold]no[/bold] number")
        bad = failure(GOOD[0], "features", error, 1.0)
        return [bad if row["slide_id"] == GOOD[0] else row for row in rows]

    run.change_rows(plan.bucket_path(stage, bucket), stage, fail)
    found = read_status(plan)
    assert counts(stage_of(found, "features")) == (4, 3, 0)
    last = Failure(GOOD[0], "features", stage.name, "not-finite", "[bold]no[/bold] number")
    assert found.failures[-1] == last
    # The stage's manifest is younger again.
    os.utime(plan.manifest_path(stage), (time.time() + 5, time.time() + 5))
    assert counts(stage_of(read_status(plan), "features")) == (5, 2, 0)


def test_only_slides_of_the_sheet_count(run):
    sheet = run.folder / "demo" / "slides.tsv"
    lines = [line for line in sheet.read_text().splitlines() if not line.startswith("torn-1")]
    new = lines[1].replace(GOOD[0], "new-1")
    sheet.write_text("\n".join([*lines, new]) + "\n")
    found = read_status(run.plan)
    assert counts(stage_of(found, "cohort")) == (6, 0, 1)
    assert counts(stage_of(found, "features")) == (5, 1, 1)
    assert [failure.slide_id for failure in found.failures] == ["glass-1"]
    states = {b.bucket: b.state for b in stage_of(found, "cohort").buckets}
    assert states[run.bucket_of("new-1")] == "missing"


def test_a_bucket_at_work_is_running_and_a_killed_one_is_lost(run, capsys):
    plan, bucket = run.plan, run.bucket_of(GOOD[0])
    plan.bucket_path(plan.tissue, bucket).unlink()
    with working(plan, plan.tissue, bucket), working(plan, plan.report):
        found = read_status(plan)
        assert stage_of(found, "tissue").count("running") == 1
        assert stage_of(found, "report").count("running") == 1
        print_status(found, buckets=True)
        shown = capsys.readouterr().out
        assert f"running: tissue {plan.tissue.name}, bucket {bucket}: since 20" in shown
        assert f"process {os.getpid()}" in shown
        (mark,) = (run.folder / "results" / "running").glob("tissue-*")
        os.utime(mark, (time.time() - 500, time.time() - 500))
        found = read_status(plan)
        states = [b.state for b in stage_of(found, "tissue").buckets if b.bucket == bucket]
        assert states == ["lost"]
        print_status(found, buckets=False)
        assert "lost (last seen 20" in capsys.readouterr().out
        said = json.loads(found.as_json())["stages"][1]["buckets"]
        assert [one["running"]["lost"] for one in said if one["running"]] == [True]


def test_a_mark_of_a_killed_job_says_nothing_of_a_bucket_that_was_finished_since(run):
    plan, bucket = run.plan, run.bucket_of(GOOD[0])
    with working(plan, plan.tissue, bucket):
        (mark,) = (run.folder / "results" / "running").glob("tissue-*")
        os.utime(mark, (1, 1))
        assert {b.state for b in stage_of(read_status(plan), "tissue").buckets} == {"done"}


def test_json_has_the_documented_shape(whole):
    found = json.loads(read_status(whole.plan).as_json())
    assert list(found) == ["results", "slides", "failed_slides", "stages", "failed"]
    assert (found["slides"], found["failed_slides"]) == (7, 2)
    for stage in found["stages"]:
        assert list(stage) == [
            "stage", "run", "digest", "unit", "done", "running", "failed", "missing", "buckets",
        ]  # fmt: skip
        for bucket in stage["buckets"]:
            assert list(bucket) == ["bucket", "state", "done", "failed", "missing", "running"]
        for name in ("done", "failed", "missing"):
            assert stage[name] == sum(bucket[name] for bucket in stage["buckets"])
    keys = ["slide_id", "stage", "run", "error_code", "message"]
    assert [list(failure) for failure in found["failed"]] == [keys, keys]


def test_a_damaged_manifest_is_named(run):
    path = run.plan.manifest_path(run.plan.tissue)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ArtifactError, match=r"manifest.parquet: not readable"):
        read_status(run.plan)


def test_many_failures_are_cut_and_markup_is_shown_as_it_is(capsys):
    found = [Failure(f"s{i}", "tissue", "r", "no-tissue", f"[bold]{i}[/bold]") for i in range(25)]
    print_failures(found)
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "failed: s0 (tissue, no-tissue: [bold]0[/bold])"
    assert shown[20:] == ["and 5 more; --json has all"]


def test_it_is_quick_with_ten_thousand_slides(run):
    slides = [f"s{i}" for i in range(10_000)]
    sheet = run.folder / "demo" / "slides.tsv"
    sheet.write_text("slide_id\tpath\tpatient_id\n" + "".join(f"{s}\tx\t{s}\n" for s in slides))
    run.configure(buckets=500)
    plan, stage = run.plan, run.features
    rows = [manifest_row(s, status="ok", path=f"slides/{s}.h5", count=1) for s in slides]
    write_manifest(plan.manifest_path(stage), rows, stage)
    for bucket in plan.buckets:
        path = plan.bucket_path(stage, bucket)
        path.touch()
        os.utime(path, (1, 1))
    for slide in slides[:5000]:
        (plan.tissue.folder(plan.results) / "slides" / f"{slide}.h5").touch()
    began = time.monotonic()
    found = read_status(plan)
    assert time.monotonic() - began < 5
    assert counts(stage_of(found, "features")) == (10_000, 0, 0)
    assert counts(stage_of(found, "tissue")) == (5000, 0, 5000)
    first = stage_of(found, "features").buckets[0]
    assert first.done == sum(bucket_of(s, 500) == 0 for s in slides)
