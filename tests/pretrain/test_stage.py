"""The stage on a small project: who is trained on, what is written, and what is done again."""

import logging
import os
import sys

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from pretrain.project import PRETRAINED, SLIDES, make_project
from pretrain.tiny import make_bags
from slidemill.artifacts.formats import EMBEDDING, SPLITS
from slidemill.artifacts.hdf5 import read_attributes
from slidemill.artifacts.manifest import read_manifest, records, write_manifest
from slidemill.artifacts.parquet import read_parquet, write_parquet
from slidemill.errors import (
    ArtifactError,
    CohortError,
    CollapseError,
    ConfigError,
    LeakError,
    SlideCode,
    SlideError,
)
from slidemill.pretrain import embedding_files, stage
from slidemill.pretrain.checkpoint import (
    load_checkpoint,
    read_facts,
    read_trained_on,
    save_checkpoint,
)
from slidemill.pretrain.distributed import Ranks
from slidemill.pretrain.embedding import embed_slide
from slidemill.pretrain.train import initial_encoder, train
from slidemill.runs.verify import verify


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def project(tmp_path):
    return make_project(tmp_path)


def ages(project):
    """When every file of a training was written, but for the manifest."""
    return {
        path.name: path.stat().st_mtime_ns
        for path in project.output.rglob("*")
        if path.is_file() and path.name != "manifest.parquet"
    }


# --- who is trained on --------------------------------------------------------------------------


def test_per_fold_keeps_all_slides_of_tested_patients_out(tmp_path):
    project = make_project(tmp_path, {"patients": "per-fold", "epochs": 1})
    plan = project.plan
    splits = read_parquet(plan.splits_path("t"), "splits")
    assert len(plan.pretrain) == 3
    tested_slides = []
    for number, unit in enumerate(plan.pretrain):
        folder = project.run(number).parent
        here = (splits["fold"] == unit.fold) & (splits["part"] == "test")
        tested = set(splits.loc[here, "patient_id"])
        assert tested
        found = read_trained_on(folder / "checkpoint.safetensors")
        assert set(found.patients) == set(SLIDES.values()) - tested
        assert set(found.slides) == {s for s, who in SLIDES.items() if who not in tested}
        tested_slides += [slide for slide, who in SLIDES.items() if who in tested]
        # All slides are embedded, those of tested patients too.
        assert len(list((folder / "slides").glob("*.h5"))) == len(SLIDES)
    assert sorted(tested_slides) == sorted(SLIDES)


def test_features_of_tested_patients_do_not_enter_the_training(tmp_path):
    """Not even by the moments: with other features of theirs the weights are the same bits."""
    project = make_project(tmp_path, {"patients": "per-fold", "epochs": 1})
    first = load_checkpoint(project.run().with_name("checkpoint.safetensors")).state_dict()
    seen = set(read_trained_on(project.output / "checkpoint.safetensors").slides)
    other = {slide: np.full((9, 3), 50, np.float32) for slide in SLIDES if slide not in seen}
    assert other
    project.write_features(other)
    (project.output / "checkpoint.safetensors").unlink()
    again = load_checkpoint(project.run().with_name("checkpoint.safetensors")).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_split_takes_the_pretraining_cohort_and_all_takes_everybody(tmp_path):
    for patients, slides in (("split", set(PRETRAINED)), ("all", set(SLIDES))):
        project = make_project(tmp_path / patients, {"patients": patients, "epochs": 1})
        found = read_trained_on(project.run().with_name("checkpoint.safetensors"))
        assert set(found.slides) == slides
        assert set(found.patients) == {SLIDES[slide] for slide in slides}
        attributes = read_attributes(project.output / "slides" / "s0.h5")
        assert attributes["patients"] == patients


def test_a_fold_that_tests_nobody_is_refused(tmp_path):
    """The encoder would be trained on everybody, under a name that promises otherwise."""
    project = make_project(tmp_path, {"patients": "per-fold"})
    plan = project.plan
    splits = read_parquet(plan.splits_path("t"), "splits")
    splits = splits[splits["fold"] != 0]
    write_parquet(plan.splits_path("t"), splits, SPLITS, plan.splits["t"].stamp("", {}))
    with pytest.raises(LeakError, match="no test patients of repeat 0, fold 0"):
        project.run()


def test_too_few_slides_are_said_with_what_to_do(tmp_path):
    project = make_project(tmp_path, {"patients": "split"})
    plan = project.plan
    path = plan.manifest_path(plan.encoders[0].features)
    rows = read_manifest(path)
    rows["status"] = ["ok" if s in ("s0", "s1") else "failed" for s in rows["slide_id"]]
    write_manifest(path, records(rows), plan.encoders[0].features)
    with pytest.raises(CohortError, match=r"1 slides are left.*pretrain.runs.patients"):
        project.run()


# --- what is written ----------------------------------------------------------------------------


def test_a_run_leaves_all_its_artifacts(project):
    manifest = read_manifest(project.run())
    folder, plan = project.output, project.plan
    assert sorted(path.name for path in folder.iterdir()) == [
        "checkpoint.safetensors", "dataset.json", "manifest.parquet", "metrics.parquet", "slides",
    ]  # fmt: skip
    assert manifest["slide_id"].tolist() == [*SLIDES, "glass"]
    assert manifest["status"].tolist() == ["ok"] * 8 + ["failed"]
    lost = manifest.iloc[-1]
    assert (lost["failed_stage"], lost["error_code"]) == ("tissue", "no-tissue")
    assert len(read_parquet(folder / "metrics.parquet", "pretrain-metrics")) == 4
    problems = [p for p in verify(plan).problems if "/pretrain/" in p.where]
    assert problems == []


def checkpoint_problem(project):
    path = str(project.output / "checkpoint.safetensors")
    return next(str(p) for p in verify(project.plan).problems if p.where == path)


def test_verify_tells_a_checkpoint_of_another_run_and_a_damaged_one(project):
    project.run()
    path = project.output / "checkpoint.safetensors"
    whole = path.read_bytes()
    facts = {"digest": "0" * 64}
    save_checkpoint(path, load_checkpoint(path), facts, read_trained_on(path))
    assert "written by another run (0000000000)" in checkpoint_problem(project)
    path.write_bytes(whole[:-100])
    assert "not readable as a checkpoint" in checkpoint_problem(project)
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert "not those of the encoder that made the embeddings" in checkpoint_problem(project)
    path.write_bytes(whole)


def test_embeddings_are_those_of_the_checkpoint_and_of_its_controls(project):
    project.run()
    encoder = load_checkpoint(project.output / "checkpoint.safetensors")
    bags = make_bags(8, dim=3)
    with h5py.File(project.output / "slides" / "s3.h5") as file:
        found = {name: data[()] for name, data in file.items()}
    assert set(found) == {field.name for field in EMBEDDING.fields}
    assert len(found) == 9
    grid = bags.coords(3) // 256
    wanted = embed_slide(encoder, bags.features(3), grid, "cpu")
    for name, array in wanted.arrays().items():
        np.testing.assert_array_equal(found[name], array)
    initial = initial_encoder(project.unit.run, 3, 0)
    initial.set_moments(encoder.feature_mean.numpy(), encoder.feature_std.numpy())
    for name, array in embed_slide(initial, bags.features(3), grid, "cpu").arrays().items():
        np.testing.assert_array_equal(found[f"random_init_{name}"], array)
        assert not np.allclose(found[f"shuffled_{name}"], found[name]) or name == "layers"


def test_training_by_the_stage_is_training_on_its_bags(project):
    project.run()
    plan = project.plan
    store = stage.FeatureStore(
        plan.encoders[0].features.folder(plan.results),
        read_manifest(plan.manifest_path(plan.encoders[0].features)),
    )
    trained = train(stage.Subset(store, range(8)), project.unit.run, seed=project.unit.run.seed)
    table = read_parquet(project.output / "metrics.parquet", "pretrain-metrics")
    times = ["seconds", "tokens_per_s"]
    ours = trained.metrics.drop(columns=times)
    pd.testing.assert_frame_equal(table[[*ours]], ours, check_exact=True)


def test_a_slide_that_cannot_be_embedded_is_a_failed_row_and_the_others_go_on(project, monkeypatch):
    project.run()
    old = project.output / "slides" / "s4.h5"
    assert old.exists()
    (project.output / "checkpoint.safetensors").unlink()
    real = embedding_files.embed_with_controls

    def fail(*arguments, slide_id, **named):
        if slide_id == "s4":
            raise SlideError(SlideCode.NOT_FINITE, "features are nan")
        return real(*arguments, slide_id=slide_id, **named)

    monkeypatch.setattr(embedding_files, "embed_with_controls", fail)
    os.utime(old, (0, 0))
    ask_again(project)
    manifest = read_manifest(project.run()).set_index("slide_id")
    assert manifest["status"].to_dict() == {
        **dict.fromkeys(SLIDES, "ok"), "s4": "failed", "glass": "failed",
    }  # fmt: skip
    row = manifest.loc["s4"]
    assert (row["failed_stage"], row["error_code"]) == ("pretrain", "not-finite")
    assert row["message"] == "features are nan"
    assert not old.exists()
    assert (project.output / "slides" / "s5.h5").exists()


def ask_again(project):
    """Ask for the stage again."""
    flag = project.plan.recompute_flag("pretrain")
    flag.parent.mkdir(parents=True, exist_ok=True)
    flag.touch()


# --- what is done again -------------------------------------------------------------------------


def test_a_second_run_computes_nothing(project):
    project.run()
    before, first = ages(project), read_manifest(project.output / "manifest.parquet")
    second = read_manifest(project.run())
    assert ages(project) == before
    done = second["status"] == "ok"
    assert second.loc[done, "reused"].all()
    assert not first["reused"].any()
    keys = ["slide_id", "status", "item_digest", "sha256", "path", "count"]
    pd.testing.assert_frame_equal(first[keys], second[keys])


def test_a_job_killed_while_embedding_goes_on_with_the_next_slide(project):
    project.run()
    (project.output / "slides" / "s2.h5").unlink()
    before = ages(project)
    rows = read_manifest(project.run()).set_index("slide_id")
    after = ages(project)
    assert {name: after[name] for name in before} == before
    assert rows.loc[rows["status"] == "ok", "reused"].to_dict() == {
        slide: slide != "s2" for slide in SLIDES
    }


def test_recompute_trains_and_embeds_again_to_the_same_bytes(project):
    project.run()
    before = ages(project)
    files = {name: (project.output / name).read_bytes() for name in ("slides/s0.h5",)}
    weights = (project.output / "checkpoint.safetensors").read_bytes()
    ask_again(project)
    project.run()
    after = ages(project)
    assert all(after[name] > before[name] for name in before if name != "dataset.json")
    assert (project.output / "checkpoint.safetensors").read_bytes() == weights
    assert {name: (project.output / name).read_bytes() for name in files} == files


def test_changed_features_of_one_slide_train_again(project):
    project.run()
    before, digest = ages(project), read_facts(project.output / "checkpoint.safetensors")
    changed = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    project.write_features({"s3": changed})
    rows = read_manifest(project.run())
    after = ages(project)
    assert all(after[name] > before[name] for name in before if name != "dataset.json")
    found = read_facts(project.output / "checkpoint.safetensors")
    assert found["item_digest"] != digest["item_digest"]
    assert not rows["reused"].any()


def test_changed_features_of_a_slide_that_was_not_trained_on_only_embed_it_again(tmp_path):
    project = make_project(tmp_path, {"patients": "split", "epochs": 1})
    project.run()
    before = ages(project)
    project.write_features({"s0": np.ones((20, 3), np.float32)})
    project.run()
    after = ages(project)
    assert {name for name in before if after[name] != before[name]} == {"s0.h5"}


@pytest.mark.parametrize("damage", [lambda data: data[:-7], lambda data: b"", None])
def test_a_checkpoint_that_is_damaged_or_without_its_table_is_made_again(project, damage):
    project.run()
    path = project.output / "checkpoint.safetensors"
    whole = path.read_bytes()
    if damage is None:
        (project.output / "metrics.parquet").unlink()
    else:
        path.write_bytes(damage(whole))
    project.run()
    assert path.read_bytes() == whole
    assert (project.output / "metrics.parquet").exists()


def stop_after(project, monkeypatch, steps):
    """Run a training that is stopped after some steps; its state stays."""
    real = stage.TrainingProgress.update

    def stop(self, step, of, row):
        real(self, step, of, row)
        if step > steps:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(stage.TrainingProgress, "update", stop)
        project.run()
    assert (project.output / "state.safetensors").exists()
    assert not (project.output / "checkpoint.safetensors").exists()


def bytes_of(project):
    return (project.output / "checkpoint.safetensors").read_bytes()


def test_a_stopped_training_goes_on_from_its_state(tmp_path, monkeypatch, caplog):
    whole, stopped = (make_project(tmp_path / n, save_minutes=1e-9) for n in ("whole", "stopped"))
    whole.run()
    stop_after(stopped, monkeypatch, 2)
    with caplog.at_level(logging.INFO):
        stopped.run()
    assert "going on from step 2" in caplog.text
    assert bytes_of(stopped) == bytes_of(whole)
    assert not (stopped.output / "state.safetensors").exists()


@pytest.mark.parametrize("why", ["of another training", "not readable"])
def test_a_state_of_other_features_or_a_torn_one_is_not_gone_on_from(
    tmp_path, monkeypatch, caplog, why
):
    whole, stopped = (make_project(tmp_path / n, save_minutes=1e-9) for n in ("whole", "stopped"))
    stop_after(stopped, monkeypatch, 2)
    if why == "not readable":
        path = stopped.output / "state.safetensors"
        path.write_bytes(path.read_bytes()[:-3])
    else:
        for project in (whole, stopped):
            project.write_features({"s3": np.ones((20, 3), np.float32)})
    whole.run()
    stopped.run()
    assert f"{why}" in caplog.text
    assert "starting from step 0" in caplog.text
    assert bytes_of(stopped) == bytes_of(whole)


def test_a_state_that_a_kill_left_beside_the_checkpoint_is_removed(project):
    project.run()
    state = project.output / "state.safetensors"
    state.write_bytes(b"left")
    project.run()
    assert not state.exists()


# --- bad input and settings ---------------------------------------------------------------------


def test_features_of_two_encoders_are_refused_before_training(project, monkeypatch):
    """Of another name, or of other weights; the message says to delete and compute again."""
    monkeypatch.setattr(stage, "train", lambda *_, **__: pytest.fail("training began"))
    bags = make_bags(8, dim=3)
    for facts in ({"encoder": "uni"}, {"weights_sha256": "ab" * 32}):
        project.write("s5", bags.tile_features[5], bags.tile_coords[5], **facts)
        with pytest.raises(CohortError, match=r"two encoders are mixed: slide s0.*slide s5"):
            project.run()


def test_features_that_are_not_finite_name_the_slide_and_leave_no_checkpoint(project):
    """The whole training stops: nothing is known of the encoder without that slide."""
    bad = make_bags(8, dim=3).tile_features[2].copy()
    bad[5, 1] = np.inf
    project.write_features({"s2": bad})
    with pytest.raises(CohortError, match=r"slide s2: .*not finite"):
        project.run()
    assert [path.name for path in project.output.iterdir()] == ["dataset.json"]


def test_a_training_that_diverges_writes_no_checkpoint(tmp_path):
    project = make_project(tmp_path, {"learning_rate": 1e30}, save_minutes=1e-9)
    with pytest.raises(CollapseError, match="Lower learning_rate"):
        project.run()
    assert {path.name for path in project.output.iterdir()} == {"dataset.json", "state.safetensors"}
    kept = load_file(project.output / "state.safetensors")
    kept.pop("metrics")
    assert all(tensor.isfinite().all() for tensor in kept.values())


def test_events_are_written_where_they_are_wanted(tmp_path):
    project = make_project(tmp_path, {"epochs": 1}, tensorboard=True)
    project.run()
    assert len(list((project.output / "tensorboard").glob("events*"))) == 1


def test_tensorboard_that_is_missing_is_said_before_training(tmp_path, monkeypatch):
    project = make_project(tmp_path, tensorboard=True)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    monkeypatch.setattr(stage, "train", lambda *_, **__: pytest.fail("training began"))
    with pytest.raises(ConfigError, match=r"pretrain.tensorboard.*pip install"):
        project.run()


def test_processes_that_find_different_states_are_refused(project, monkeypatch):
    """One would go on from a step that the other has not reached."""
    monkeypatch.setattr(Ranks, "count", lambda *_: 7)
    with pytest.raises(ArtifactError, match="file system that all nodes share"):
        project.run()
