"""What a user does with a finished run; in the order of one session."""

import json
import re
import subprocess
import sys

import h5py
import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml

from slidemill.pretrain.checkpoint import read_trained_on

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
    assert not list(results.glob("pretrain/*/state.safetensors"))
    metrics = pd.read_parquet(finished.one("evaluate/grade-??????????/metrics.parquet"))
    overall = metrics[metrics["fold"] < 0]
    assert set(zip(overall["model"], overall["input"], overall["control"], strict=True)) == {
        ("abmil", "rgb-mean", ""),
        ("linear-probe", "rgb-mean", ""),
        ("linear-probe", "rgb-mean/dinov2", ""),
        ("linear-probe", "rgb-mean", "shuffled-labels"),
        ("linear-probe", "number of tiles", "tile-count"),
    }
    with_interval = overall[overall["metric"] != "ece"]
    assert (with_interval["low"] <= with_interval["estimate"]).all()
    assert (with_interval["estimate"] <= with_interval["high"]).all()
    assert (overall["n_patients"] == 6).all()
    comparison = finished.one("evaluate/grade-??????????")
    predictions = pd.read_parquet(comparison / "predictions.parquet")
    assert (predictions.groupby(["model", "input", "control"]).size() == good).all()
    differences = pd.read_parquet(comparison / "comparisons.parquet")
    assert len(differences) == 3
    for name in ("roc", "pr", "calibration", "confusion", "forest"):
        assert (comparison / f"{name}.svg").read_bytes().startswith(b"<?xml")
        assert (comparison / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert len(list(results.glob("evaluate/grade-abmil-*/slides/*.h5"))) == good
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
        trained = set(read_trained_on(folder / "checkpoint.safetensors").patients)
        here = splits["fold"] == fold
        tested = set(splits.loc[here & (splits["part"] == "test"), "patient_id"])
        assert tested
        bad = {"P-glass", "P-torn"}
        assert trained == set(splits["patient_id"]) - tested - bad


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
        "feature-summary", "feature-moments", "comparisons", "run-results", "catalog",
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
    assert "rgb-mean/dinov2" in text
    assert "2 of 10 slides failed" in text
    assert "report.html" in text
    code, text = say("status")
    assert code == 3
    assert "torn-1 (cohort, truncated" in text
    code, text = say("verify")
    assert code == 0
    assert text.startswith("0 problem(s); checked: ")
    path = sorted(finished.results.glob("features/*/slides/*.h5"))[0]
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    code, text = say("verify")
    path.write_bytes(whole)
    assert code == 1
    assert "sha256 is not the manifest's" in text


def test_splits_can_be_given_back(finished):
    config = yaml.safe_load((finished.folder / "config.yaml").read_text())
    given = finished.one("evaluate/grade-??????????/splits.json")
    config["evaluate"]["splits"] = str(given.relative_to(finished.folder))
    (finished.folder / "given.yaml").write_text(yaml.safe_dump(config | {"results": "given"}))
    for stage in ("cohort", "splits"):
        command = [sys.executable, "-c", "from slidemill.cli import main; main()", stage]
        subprocess.run([*command, "--config", "given.yaml"], cwd=finished.folder, check=True)
    (again,) = (finished.folder / "given").glob("splits/*/splits.parquet")
    keys = ["repeat", "fold", "part", "patient_id"]
    tables = [pd.read_parquet(path)[keys].sort_values(keys).to_numpy().tolist()
              for path in (given.with_name("splits.parquet"), again)]  # fmt: skip
    assert tables[0] == tables[1]


def test_attention_is_exported(finished):
    command = [sys.executable, "-c", "from slidemill.cli import main; main()", "export"]
    out = finished.folder / "exported"
    subprocess.run([*command, "attention", "--out", str(out)], cwd=finished.folder, check=True)
    assert len(list(out.glob("*/*.png"))) == 8
    for path in out.glob("*/*.geojson"):
        tiles = json.loads(path.read_text())["features"]
        shares = [tile["properties"]["measurements"]["attention"] for tile in tiles]
        assert sum(shares) == pytest.approx(1, abs=1e-4)


def test_a_second_run_has_nothing_to_do(finished):
    assert "Nothing to be done" in finished.run()


def test_recompute_shows_in_a_dry_run_and_changes_nothing(finished):
    shown = jobs(finished.run("-n", "--config", "recompute=features"))
    assert shown == {
        "handcrafted_bucket": 2,
        "features_manifest": 1,
        "pretrain_run": 2,
        "evaluate_summary": 1,
        "evaluate_run": 6,
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
    metrics = pd.read_parquet(newest)
    results = metrics[metrics["control"] == ""]
    assert set(results["input"]) == {"rgb-mean", "hed-texture"}


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
