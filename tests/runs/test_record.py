import json
import os
import time

import pandas as pd
import pytest

from runs.written import SLIDES, make, write
from slidemill.artifacts.manifest import manifest_row, write_manifest
from slidemill.artifacts.parquet import read_parquet
from slidemill.errors import ArtifactError, UserError
from slidemill.runs import record


def run(plan, status="success", name="abc"):
    path = record.begin(plan, name)
    record.end(plan, path, status)
    return path


def results(path):
    return read_parquet(record.results_path(path), "run-results").set_index(["stage", "slide_id"])


def test_a_record_has_the_identity_of_every_stage_and_the_sheet(tmp_path):
    plan = make(tmp_path)
    found = record.read_record(record.begin(plan, "abc"))
    assert [(one.stage, one.run, one.digest) for one in found.stages] == [
        (one.stage, one.name, one.digest) for one in plan.all_stages()
    ]
    features = next(one for one in found.stages if one.stage == "features")
    assert features.upstream == (f"tiles/{plan.encoders[0].tiles.name}",)
    assert found.sheet.digest == plan.sheet_digest()
    assert found.sheet.slides == 4
    assert found.configuration == "abc"
    assert found.config["features"]["encoders"] == ["rgb-mean"]


def test_a_killed_run_has_no_end(tmp_path):
    path = record.begin(make(tmp_path), "abc")
    found = record.read_record(path)
    assert (found.status, found.finished, found.counts) == (None, None, ())
    assert not record.results_path(path).exists()


def test_the_end_has_a_row_a_slide_and_stage_and_counts(tmp_path):
    plan = make(tmp_path)
    write(plan, failed=["s2"])
    path = run(plan)
    rows = results(path)
    assert len(rows) == 5 * len(SLIDES)
    manifest = pd.read_parquet(plan.manifest_path(plan.tissue)).set_index("slide_id")
    assert rows.loc[("tissue", "s1"), "item_digest"] == manifest.loc["s1", "item_digest"][:16]
    assert rows.loc[("tissue", "s1"), "sha256"] == manifest.loc["s1", "sha256"][:16]
    assert rows.loc[("tissue", "s1"), "count"] == 5
    assert rows.loc[("features", "s2"), "failed_stage"] == "tissue"
    assert pd.isna(rows.loc[("cohort", "s1"), "sha256"])
    found = record.read_record(path)
    counts = {one.stage: one for one in found.counts}
    assert found.status == "success"
    assert found.finished is not None
    assert (counts["features"].ok, counts["features"].failed) == (3, 1)
    assert counts["features"].codes == {"tissue: no-tissue": 1}
    assert counts["cohort"].failed == 0
    assert counts["splits"].ok is None
    assert counts["report"].done


def test_metrics_over_all_folds_are_kept(tmp_path):
    plan = make(tmp_path)
    write(plan, auroc=0.875)
    metrics = read_parquet(record.metrics_path(run(plan)), "metrics")
    assert metrics["estimate"].tolist() == [0.875]
    assert metrics["fold"].tolist() == [-1]


def test_a_stage_that_was_not_joined_speaks_by_its_buckets(tmp_path):
    plan = make(tmp_path)
    write(plan)
    old = time.time() - 60
    os.utime(plan.manifest_path(plan.tissue), (old, old))
    bucket, slides = next(iter(plan.buckets.items()))
    name = slides[0].slide_id
    newer = [manifest_row(name, status="failed", failed_stage="tissue", error_code="crashed")]
    write_manifest(plan.bucket_path(plan.tissue, bucket), newer, plan.tissue)
    plan.manifest_path(plan.encoders[0].features).unlink()
    path = run(plan, "error")
    rows = results(path)
    assert rows.loc[("tissue", name), "error_code"] == "crashed"
    assert (rows.loc["tissue", "status"] == "ok").sum() == 3
    assert "features" not in rows.index
    counts = {one.stage: one for one in record.read_record(path).counts}
    assert (counts["features"].done, counts["features"].missing) == (False, 4)


def test_a_damaged_manifest_does_not_stop_the_end(tmp_path):
    plan = make(tmp_path)
    write(plan)
    plan.manifest_path(plan.tissue).write_bytes(b"PAR1 no more")
    path = run(plan)
    assert "tissue" not in results(path).index
    assert record.read_record(path).status == "success"


def test_slides_that_left_the_sheet_are_not_of_the_run(tmp_path):
    write(make(tmp_path))
    path = run(make(tmp_path, SLIDES[:2]))
    assert set(results(path).loc["tissue"].index) == {"s0", "s1"}


def test_ten_thousand_slides_in_five_stages_end_within_a_second(tmp_path):
    plan = make(tmp_path, [f"TCGA-{i:06}" for i in range(10_000)], evaluate={})
    for stage in plan.all_stages()[1:5]:
        rows = [
            manifest_row(name, status="ok", item_digest="a" * 64, sha256="b" * 64, count=9)
            for name in plan.slide_ids
        ]
        write_manifest(plan.manifest_path(stage), rows, stage)
    path = record.begin(plan, "abc")
    started = time.process_time()
    record.end(plan, path, "success")
    assert time.process_time() - started < 1.0
    assert len(results(path)) == 40_000


@pytest.fixture
def three(tmp_path):
    folder = tmp_path / "runs"
    folder.mkdir()
    for name in ("20260101T000000Z-1", "20260102T000000Z-2", "20260102T000000Z-3"):
        (folder / f"{name}.json").write_text("{}")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("last", "20260102T000000Z-3"),
        ("last~0", "20260102T000000Z-3"),
        ("last~2", "20260101T000000Z-1"),
        ("20260101", "20260101T000000Z-1"),
        ("20260102T000000Z-2", "20260102T000000Z-2"),
    ],
)
def test_a_run_is_named_by_its_time_or_from_the_end(three, name, stem):
    assert record.find_record(name, three).stem == stem


@pytest.mark.parametrize(
    ("name", "words"),
    [("last~3", "has 3 runs"), ("2027", "no run begins"), ("20260102", "several runs")],
)
def test_a_name_of_no_run_or_of_several_is_refused(three, name, words):
    with pytest.raises(UserError, match=words):
        record.find_record(name, three)


def test_a_record_that_is_damaged_or_old_is_refused_with_its_place(tmp_path):
    path = record.begin(make(tmp_path), "abc")
    facts = json.loads(path.read_text())
    del facts["stages"]
    path.write_text(json.dumps(facts))
    with pytest.raises(ArtifactError, match="stages is not valid"):
        record.read_record(path)
    path.write_text('{"started"')
    with pytest.raises(ArtifactError, match="damaged"):
        record.read_record(path)
    with pytest.raises(ArtifactError, match="no such run"):
        record.read_record(tmp_path / "none.json")


def test_the_last_run_of_every_configuration(tmp_path):
    plan = make(tmp_path)
    record.begin(plan, "a").rename(tmp_path / "results/runs/20260101T000000Z-1.json")
    other = record.begin(plan, "b").rename(tmp_path / "results/runs/20260102T000000Z-2.json")
    last = record.begin(plan, "a")
    last.with_name("20260103T000000Z-3.json").write_text("damaged")
    found = record.latest_by_configuration(plan.results)
    assert {name: path for name, (path, _) in found.items()} == {"a": last, "b": other}
