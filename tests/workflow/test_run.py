"""What a user does with a finished run; in the order of one session."""

import json
import re
import subprocess
import sys

import h5py
import pandas as pd
import pyarrow.parquet as pq
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("finished")]


def jobs(printed):
    """Jobs by rule that a dry run shows, targets left out."""
    table = printed.split("Job stats:")[1].split("\n\n")[0]
    counts = dict(re.findall(r"^(\w+) +(\d+)$", table, flags=re.MULTILINE))
    return {name: int(n) for name, n in counts.items() if name not in ("all", "total", "job")}


def stamps(project, stage):
    return {
        path.name: path.stat().st_mtime_ns
        for path in project.results.glob(f"{stage}/*/slides/*")
        if path.is_file()
    }


def test_every_stage_left_its_artifacts(finished):
    results = finished.results
    good = 8
    assert len(list(results.glob("tissue/*/slides/*.geojson"))) == good
    assert len(list(results.glob("tiles/*/slides/*.parquet"))) == good
    assert len(list(results.glob("features/rgb-mean-*/slides/*.h5"))) == good
    assert len(list(results.glob("pretrain/*/checkpoint.safetensors"))) == 2
    assert len(list(results.glob("pretrain/*/slides/*.h5"))) == 2 * good
    metrics = pd.read_parquet(finished.one("evaluate/grade-??????????/metrics.parquet"))
    overall = metrics[metrics["fold"] < 0]
    assert set(zip(overall["model"], overall["input"], strict=True)) == {
        ("abmil", "rgb-mean"),
        ("linear-probe", "rgb-mean"),
        ("linear-probe", "rgb-mean/dino"),
    }
    assert (overall["low"] <= overall["estimate"]).all()
    assert (overall["estimate"] <= overall["high"]).all()
    predictions = pd.read_parquet(finished.one("evaluate/grade-??????????/predictions.parquet"))
    assert (predictions.groupby(["model", "input"]).size() == good).all()
    assert finished.one("report/*/report.html").stat().st_size > 10_000


def test_bad_slides_are_rows_with_reasons(finished):
    rows = finished.manifest("features/*/manifest.parquet")
    failed = rows[rows["status"] == "failed"]
    assert failed["error_code"].to_dict() == {"glass-1": "no-tissue", "torn-1": "truncated"}
    assert failed["failed_stage"].to_dict() == {"glass-1": "tissue", "torn-1": "cohort"}


def test_no_encoder_saw_its_test_patients(finished):
    splits = pd.read_parquet(finished.one("splits/*/splits.parquet"))
    for folder in finished.results.glob("pretrain/*"):
        fold = json.loads((folder / "dataset.json").read_text())["Parameters"]["fold"]
        trained = set(json.loads((folder / "patients.json").read_text())["patients"])
        tested = set(
            splits.loc[(splits["fold"] == fold) & (splits["part"] == "test"), "patient_id"]
        )
        assert trained
        assert not trained & tested


def test_h5py_and_pandas_alone_read_every_artifact(finished):
    kinds = set()
    for path in finished.results.rglob("*.parquet"):
        assert pd.read_parquet(path) is not None
        kinds.add(json.loads(pq.read_metadata(path).metadata[b"slidemill"])["artifact_type"])
    for path in finished.results.rglob("*.h5"):
        with h5py.File(path) as file:
            kinds.add(file.attrs["artifact_type"])
            assert all(dataset[()] is not None for dataset in file.values())
    assert kinds == {
        "slides", "cohort", "manifest", "tissue-mask", "candidates", "tiles", "features", "splits",
        "pretrain-metrics", "slide-embedding", "predictions", "metrics", "attention",
        "feature-summary", "feature-moments", "comparisons",
    }  # fmt: skip


def test_commands_say_how_the_run_is(finished):
    def say(command):
        program = [sys.executable, "-c", "from slidemill.cli import main; main()", command]
        done = subprocess.run(
            program, cwd=finished.folder, capture_output=True, text=True, check=False
        )
        return done.returncode, done.stdout

    code, text = say("summary")
    assert code == 0
    assert "rgb-mean/dino" in text
    assert "2 of 10 slides failed" in text
    assert "report.html" in text
    code, text = say("status")
    assert code == 0
    assert "torn-1 (cohort, truncated" in text
    code, text = say("verify")
    assert (code, text.strip()) == (0, "0 problem(s)")
    path = sorted(finished.results.glob("features/*/slides/*.h5"))[0]
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    code, text = say("verify")
    path.write_bytes(whole)
    assert code == 1
    assert "sha256 is not the manifest's" in text


def test_a_second_run_has_nothing_to_do(finished):
    assert "Nothing to be done" in finished.run()


def test_recompute_shows_in_a_dry_run_and_changes_nothing(finished):
    shown = jobs(finished.run("-n", "--config", "recompute=features"))
    assert shown == {
        "features_bucket": 2,
        "features_manifest": 1,
        "pretrain_run": 2,
        "evaluate_run": 4,
        "write_report": 1,
    }
    assert not (finished.results / "recompute").exists()
    assert "Nothing to be done" in finished.run()


def test_recompute_computes_the_stage_again_and_nothing_before_it(finished):
    tiles, features = stamps(finished, "tiles"), stamps(finished, "features")
    digests = finished.manifest("features/*/manifest.parquet")["sha256"]
    finished.run("--config", "recompute=features")
    assert stamps(finished, "tiles") == tiles
    again = stamps(finished, "features")
    assert again.keys() == features.keys()
    assert all(again[name] > features[name] for name in features)
    assert finished.manifest("features/*/manifest.parquet")["sha256"].equals(digests)
    assert "Nothing to be done" in finished.run()


def test_a_second_encoder_makes_a_folder_beside_the_first(finished):
    tiles, features = stamps(finished, "tiles"), stamps(finished, "features")
    finished.configure(features={"encoders": ["rgb-mean", "hed-texture"]}, pretrain={"runs": []})
    finished.run()
    finished.configure()
    assert stamps(finished, "tiles") == tiles
    assert len(list(finished.results.glob("features/*"))) == 2
    (first,) = finished.results.glob("features/rgb-mean-*")
    kept = {path.name: path.stat().st_mtime_ns for path in first.glob("slides/*")}
    assert kept == features
    newest = max(
        finished.results.glob("evaluate/grade-??????????/metrics.parquet"),
        key=lambda path: path.stat().st_mtime,
    )
    assert set(pd.read_parquet(newest)["input"]) == {"rgb-mean", "hed-texture"}


def test_a_new_row_computes_one_slide(finished):
    sheet = finished.folder / "demo" / "slides.tsv"
    rows = pd.read_csv(sheet, sep="\t", dtype=str)
    before = sheet.read_text()
    features = stamps(finished, "features")
    added = rows.iloc[[0]].assign(slide_id="added-1", patient_id="P-added", label="0")
    pd.concat([rows, added]).to_csv(sheet, sep="\t", index=False)
    finished.run("features")
    after = stamps(finished, "features")
    sheet.write_text(before)
    assert {name for name in after if name not in features} == {"added-1.h5"}
    assert {name: after[name] for name in features} == features
    manifest = finished.manifest("features/rgb-mean-*/manifest.parquet")
    assert manifest.loc["added-1", "status"] == "ok"
    assert not manifest.loc["added-1", "reused"]
