import json
import os

import pytest

from runs.written import make, write
from slidemill.artifacts.parquet import read_rows
from slidemill.errors import ArtifactError
from slidemill.runs import catalog
from slidemill.runs.record import begin


@pytest.fixture
def plan(tmp_path):
    made = make(tmp_path)
    write(made, failed=["s2"])
    return made


def by_key(rows):
    return {(row["stage"], row["run"]): row for row in rows}


def test_there_is_a_row_a_dataset_with_what_it_is(plan):
    begin(plan, "abc")
    rows = catalog.update(plan.results)
    assert read_rows(catalog.catalog_path(plan.results), "catalog") == rows
    stages = {(stage.stage, stage.name): stage for stage in plan.all_stages()}
    assert set(by_key(rows)) == set(stages)
    features = plan.encoders[0].features
    row = by_key(rows)["features", features.name]
    assert row["digest"] == features.digest
    assert row["label"] == "rgb-mean"
    assert (row["artifact_type"], row["artifact_version"]) == ("features", 2)
    assert json.loads(row["parameters"]) == json.loads(json.dumps(features.parameters))
    assert json.loads(row["upstream"]) == [f"tiles/{plan.encoders[0].tiles.name}"]
    assert row["producer"].startswith("slidemill ")
    assert (row["slides_ok"], row["slides_failed"], row["rows"]) == (3, 1, 15)
    folder = features.folder(plan.results)
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert row["files"] == len(files) == 5
    assert row["size_bytes"] == sum(path.stat().st_size for path in files)
    assert row["created"] <= row["updated"]
    assert row["updated"].endswith("+00:00")
    assert row["configs"] == '["abc"]'
    assert row["problem"] is None
    splits = by_key(rows)["splits", plan.splits["t"].name]
    assert (splits["slides_ok"], splits["rows"]) == (None, 4)


def test_stages_are_all_known(plan):
    assert {stage.stage for stage in plan.all_stages()} <= set(catalog.STAGE_FOLDERS)
    assert set(catalog.STAGE_FOLDERS) - {"pretrain"} == {s.stage for s in plan.all_stages()}


def test_a_folder_that_has_not_changed_is_not_walked_again(plan, monkeypatch):
    before = catalog.update(plan.results)
    walked = []
    row = catalog._row
    monkeypatch.setattr(catalog, "_row", lambda folder: walked.append(folder.name) or row(folder))
    assert catalog.update(plan.results) == before
    assert walked == []
    slides = plan.tissue.folder(plan.results) / "slides"
    (slides / "new.h5").write_bytes(b"12345")
    after = by_key(catalog.update(plan.results))
    assert walked == [plan.tissue.name]
    assert after["tissue", plan.tissue.name]["files"] == 6


def test_folders_of_other_configurations_are_there_too(tmp_path, plan):
    other = make(tmp_path, tiles={"mpp": 1.0})
    write(other)
    rows = by_key(catalog.update(plan.results))
    assert ("tiles", plan.encoders[0].tiles.name) in rows
    assert ("tiles", other.encoders[0].tiles.name) in rows


def damage_json(folder):
    (folder / "dataset.json").write_text('{"Stage"')


def remove_json(folder):
    (folder / "dataset.json").unlink()


def change_maker(folder):
    facts = json.loads((folder / "dataset.json").read_text())
    facts["GeneratedBy"] = [{"Name": "fmriprep", "Version": "1"}]
    (folder / "dataset.json").write_text(json.dumps(facts))


def change_digest(folder):
    facts = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps(facts | {"Digest": "0" * 64}))


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (damage_json, "damaged or not of slidemill"),
        (remove_json, "no dataset.json"),
        (change_maker, "not of slidemill"),
        (change_digest, "is of tissue 0000000000"),
    ],
)
def test_a_folder_that_is_not_what_it_says_gets_a_row_and_stops_nothing(plan, harm, words):
    folder = plan.tissue.folder(plan.results)
    harm(folder)
    with pytest.raises(ArtifactError, match=words):
        catalog.identify(folder)
    rows = by_key(catalog.update(plan.results))
    row = rows["tissue", plan.tissue.name]
    assert words in row["problem"]
    assert row["digest"] is None
    assert row["files"] > 0
    assert len(rows) == len(plan.all_stages())


def test_a_damaged_manifest_leaves_what_dataset_json_says(plan):
    plan.manifest_path(plan.tissue).write_bytes(b"no Parquet")
    row = by_key(catalog.update(plan.results))["tissue", plan.tissue.name]
    assert row["digest"] == plan.tissue.digest
    assert row["slides_ok"] is None
    assert "not readable as Parquet" in row["problem"]


def test_a_damaged_catalogue_is_made_anew(plan):
    before = catalog.update(plan.results)
    catalog.catalog_path(plan.results).write_bytes(b"no Parquet")
    assert catalog.update(plan.results) == before


def test_hidden_folders_and_files_beside_datasets_are_left_out(plan):
    (plan.results / "tissue" / ".trash-x").mkdir()
    (plan.results / "tissue" / "notes.txt").write_text("mine")
    rows = catalog.update(plan.results)
    assert len(rows) == len(plan.all_stages())


def test_links_in_a_dataset_are_not_followed(plan, tmp_path):
    far = tmp_path / "far"
    far.mkdir()
    (far / "big").write_bytes(b"0" * 10_000)
    folder = plan.tissue.folder(plan.results)
    before = by_key(catalog.update(plan.results))["tissue", plan.tissue.name]
    (folder / "link").symlink_to(far)
    after = by_key(catalog.update(plan.results))["tissue", plan.tissue.name]
    assert after["size_bytes"] - before["size_bytes"] < 1000


def test_no_results_are_an_empty_catalogue(tmp_path):
    (tmp_path / "results").mkdir()
    assert catalog.update(tmp_path / "results") == []
    assert os.listdir(tmp_path / "results") == ["catalog.parquet"]  # noqa: PTH208
