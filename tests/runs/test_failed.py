import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from runs.small_run import GOOD
from slidemill import workflow
from slidemill.artifacts.manifest import failure
from slidemill.errors import SlideCode, SlideError
from slidemill.runs.failed import RetryError, all_flags, as_json, choose, retry_failed
from slidemill.runs.printing import print_retry
from slidemill.runs.status import read_status

ROOT = Path(__file__).resolve().parents[2]


def failures_of(plan):
    return read_status(plan).failures


def test_slides_are_chosen_by_name_and_stage(whole):
    found = failures_of(whole.plan)
    assert [one.slide_id for one in choose(found, [], None)] == ["torn-1", "glass-1"]
    assert [one.slide_id for one in choose(found, [], "tissue")] == ["glass-1"]
    assert [one.slide_id for one in choose(found, ["torn-1"], None)] == ["torn-1"]
    with pytest.raises(RetryError) as caught:
        choose(found, ["torn-1", "nobody"], "tisue")
    assert [problem.where for problem in caught.value.problems] == ["--stage", "torn-1", "nobody"]


def test_a_flag_is_of_the_stage_in_which_the_slide_failed_and_of_no_other(run, capsys):
    plan = run.plan
    flagged = retry_failed(plan, choose(failures_of(plan), ["glass-1"], None))
    root = plan.results / "recompute"
    bucket = run.bucket_of("glass-1")
    expected = root / "failed" / "tissue" / plan.tissue.name / bucket
    assert [path for path in root.rglob("*") if path.is_file()] == [expected]
    assert [(one.stage, one.bucket, one.slides) for one in flagged] == [
        ("tissue", bucket, ("glass-1",))
    ]
    print_retry(flagged)
    shown = capsys.readouterr().out
    assert f"flagged: tissue {plan.tissue.name}, bucket {bucket}: glass-1" in shown
    assert "`snakemake ...`" in shown
    said = json.loads(as_json(failures_of(plan)[1:], flagged))
    assert said["flagged"][0]["flag"] == str(expected)


def test_who_failed_in_the_same_bucket_is_computed_too_and_said(run):
    plan, stage = run.plan, run.features
    one = GOOD[0]
    bucket = run.bucket_of(one)
    others = [row.slide_id for row in plan.buckets[bucket] if row.slide_id in GOOD[1:]]

    def fail(rows):
        error = SlideError(SlideCode.NOT_FINITE, "nan")
        names = {one, *others}
        return [
            failure(row["slide_id"], "features", error, 1.0) if row["slide_id"] in names else row
            for row in rows
        ]

    run.change_rows(plan.bucket_path(stage, bucket), stage, fail)
    (found,) = retry_failed(plan, choose(failures_of(plan), [one], "features"))
    assert (found.slides, found.beside) == ((one,), tuple(others))


@pytest.fixture
def fresh(monkeypatch):
    """A process that has not been asked for anything yet."""
    monkeypatch.setattr(workflow, "_asked", set())
    monkeypatch.setattr(workflow, "_renewed", {})


def flags_of(plan, slide_bucket, asks, dry):
    return workflow.recompute_flags(plan, "tissue", plan.tissue.name, slide_bucket, asks, dry)


def test_recompute_failed_flags_the_buckets_with_failed_slides_only(run, fresh):
    run.configure(recompute=["failed"])
    plan = run.plan
    bucket = run.bucket_of("glass-1")
    (other,) = set(plan.buckets) - {bucket}
    assert flags_of(plan, bucket, asks=False, dry=False) == []
    (flag,) = flags_of(plan, bucket, asks=True, dry=False)
    assert flag == plan.retry_flag("tissue", plan.tissue.name, bucket)
    assert flags_of(plan, other, asks=True, dry=False) == []
    assert set(all_flags(plan)) == {
        path for path in (plan.results / "recompute").rglob("*") if path.is_file()
    }


def test_a_dry_run_writes_nothing_and_shows_a_passing_file(run, fresh):
    run.configure(recompute=["failed", "tissue"])
    plan = run.plan
    found = flags_of(plan, run.bucket_of("glass-1"), asks=True, dry=True)
    assert len(found) == 2
    assert not any(path.is_relative_to(plan.results) for path in found)
    assert not (plan.results / "recompute").exists()


def test_a_flag_that_is_raised_again_is_another_file_to_snakemake(run, fresh):
    run.configure(recompute=["tissue"])
    plan = run.plan
    (flag,) = flags_of(plan, "0-of-2", asks=True, dry=False)
    before = flag.read_text()
    workflow._asked.clear()
    flags_of(plan, "0-of-2", asks=True, dry=False)
    assert flag.read_text() != before


def snakemake(run, *arguments):
    """Run the real workflow up to features; returns what it printed."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [
            Path(sys.executable).with_name("snakemake"), "features", "--cores", "1", *arguments,
            "--snakefile", ROOT / "Snakefile", "--directory", run.folder,
        ],
        cwd=ROOT,
        env=os.environ | {"PATH": path, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    return done.stdout


def jobs_of(printed):
    """Jobs by rule that a run does, targets left out."""
    if "Job stats:" not in printed:
        return {}
    table = printed.split("Job stats:")[1].split("\n\n")[0]
    found = {name: int(n) for name, n in re.findall(r"^(\w+) +(\d+)$", table, flags=re.MULTILINE)}
    return {name: n for name, n in found.items() if name not in ("features", "total")}


def times_of(run):
    """When files of slides that are done were written; the picture of one that failed is not."""
    found = [
        path
        for path in (run.folder / "results").glob("*/*/slides/*")
        if path.suffix != ".jpg" or path.with_suffix(".h5").exists()
    ]
    return {path: path.stat().st_mtime_ns for path in found}


def slidemill(run, *arguments):
    code = "from slidemill.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=run.folder,
        capture_output=True,
        text=True,
        check=False,
    )


ONE_BUCKET = {
    "tissue_bucket": 1,
    "tissue_manifest": 1,
    "tiles_bucket": 1,
    "tiles_manifest": 1,
    "handcrafted_bucket": 1,
    "features_manifest": 1,
}


@pytest.mark.slow
def test_a_retry_runs_the_bucket_and_what_hangs_on_it_and_no_more(run):
    # The paths of slides are those of this folder only after the cohort was read here.
    shutil.rmtree(run.folder / "results")
    run.configure(cohort={"sheet": "demo/slides.tsv", "max_failed": 0.5}, evaluate={"tasks": []})
    printed = snakemake(run)
    assert "2 of 7 slides failed (cohort: 1 truncated, tissue: 1 no-tissue)" in printed
    assert jobs_of(snakemake(run, "-n")) == {}
    before = times_of(run)

    done = slidemill(run, "failed", "--retry", "--stage", "tissue")
    assert done.returncode == 0, done.stderr
    assert jobs_of(snakemake(run, "-n")) == ONE_BUCKET
    # Who asks for the failed slides of all stages gets those of the cohort as well.
    both = jobs_of(snakemake(run, "-n", "--config", "recompute=failed"))
    assert both["cohort_bucket"] == 1
    assert jobs_of(snakemake(run)) == ONE_BUCKET
    assert times_of(run) == before
    assert jobs_of(snakemake(run, "-n")) == {}
    # Asking once more counts once more, although Snakemake compares what is in small files.
    slidemill(run, "failed", "--retry", "glass-1")
    assert jobs_of(snakemake(run, "-n")) == ONE_BUCKET


@pytest.mark.slow
def test_recompute_failed_computes_a_slide_that_was_mended(run):
    shutil.rmtree(run.folder / "results")
    snakemake(run)
    before = times_of(run)
    slides = run.folder / "demo" / "slides"
    shutil.copy(slides / f"{GOOD[0]}.tif", slides / "torn-1.tif")
    snakemake(run, "--config", "recompute=failed")
    assert [one.slide_id for one in failures_of(run.plan)] == ["glass-1"]
    after = times_of(run)
    assert {path.stem for path in after if path not in before} == {"torn-1"}
    assert {path: after[path] for path in before} == before
    assert jobs_of(snakemake(run, "-n")) == {}
