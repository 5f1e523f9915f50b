"""The stage on real files: a cohort of small slides through cohort, tissue, tiles and features."""

import logging
import os
import shutil
import signal
import subprocess
import tempfile

import h5py
import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from slidemill import jobs
from slidemill.artifacts.parquet import read_rows
from slidemill.config import parse_config
from slidemill.errors import ArtifactError
from slidemill.features import pool
from slidemill.features.copies import COPIES
from slidemill.planner import make_plan
from slidemill.slides import staging
from slidemill.slides.pyramid import write_pyramid
from slidemill.slides.synthetic import SlideSpec, paint_slide

SIZE = {"width_px": 1024, "height_px": 768, "mpp_x": 0.5, "mpp_y": 0.5}


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    """Three small slides and their sheet."""
    folder = tmp_path_factory.mktemp("slides")
    rows = ["slide_id\tpath\tpatient_id"]
    for number in range(3):
        painted = paint_slide(SlideSpec(**SIZE, positive=number == 1), number)
        write_pyramid(folder / f"{number}.tif", painted.pixels, mpp_x=0.5, mpp_y=0.5)
        rows.append(f"s{number}\t{folder / f'{number}.tif'}\tp{number}")
    (folder / "slides.tsv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture
def planned(slides, tmp_path):
    """A plan for features of these slides, with tiles made."""

    def make(buckets=1, sheet=None, stage_slides=False, results="results", **features):
        config = parse_config(
            {
                "results": str(tmp_path / results),
                "buckets": buckets,
                "cohort": {
                    "sheet": str(sheet or slides / "slides.tsv"),
                    "max_failed": 1.0,
                    "stage_slides": stage_slides,
                },
                "tiles": {"tile_px": 128, "mpp": 0.5},
                "features": {"encoders": ["rgb-mean"]} | features,
            },
            "a test",
        )
        plan = make_plan(config, tmp_path)
        jobs.cohort(plan, plan.buckets, 1)
        jobs.tissue(plan, plan.buckets, 1)
        for stage in plan.tiles.values():
            jobs.tiles(plan, stage, plan.buckets, 1)
        return plan

    return make


def run(plan):
    unit = plan.encoders[0]
    jobs.features(plan, unit, plan.buckets, 2)
    rows = [
        row
        for bucket in plan.buckets
        for row in read_rows(plan.bucket_path(unit.features, bucket), "manifest")
    ]
    return unit.features.folder(plan.results), {row["slide_id"]: row for row in rows}


def test_the_manifest_says_how_fast_each_slide_was(planned, caplog):
    with caplog.at_level(logging.INFO):
        folder, rows = run(planned())
    for row in rows.values():
        assert row["status"] == "ok"
        assert row["tiles_per_s"] == pytest.approx(row["count"] / row["seconds"])
        assert 0.0 <= row["waited"] <= 1.0
        with h5py.File(folder / row["path"]) as file:
            assert file["features"].shape == (row["count"], 3)
            assert len(file["coords"]) == row["count"] > 4
            assert (np.diff(file["coords"][:, 1]) >= 0).all(), "the order of the tiles"
    assert "features 3/3" in caplog.text
    assert "tiles/s, waited" in caplog.text


def test_finished_slides_are_not_encoded_again(planned):
    plan = planned(buckets=2)
    folder, before = run(plan)
    times = {path.name: path.stat().st_mtime_ns for path in (folder / "slides").iterdir()}
    (folder / "slides" / "s1.h5").unlink()
    _, after = run(plan)
    assert {name: row["reused"] for name, row in after.items()} == {
        "s0": True, "s1": False, "s2": True,
    }  # fmt: skip
    now = {path.name: path.stat().st_mtime_ns for path in (folder / "slides").iterdir()}
    assert {name for name in now if now[name] != times[name]} == {"s1.h5"}
    assert all(after[name]["sha256"] == before[name]["sha256"] for name in before)


def test_buckets_change_no_byte(planned, tmp_path):
    first = {name: row["sha256"] for name, row in run(planned(buckets=1))[1].items()}
    second = {name: row["sha256"] for name, row in run(planned(buckets=3))[1].items()}
    assert first == second
    assert len(set(first.values())) == 3


def test_a_folder_of_another_digest_is_refused(planned):
    plan = planned()
    folder = plan.encoders[0].features.folder(plan.results)
    folder.mkdir(parents=True)
    (folder / "dataset.json").write_text('{"Digest": "another"}')
    with pytest.raises(ArtifactError, match="of digest another"):
        run(plan)


def test_a_slide_that_lacks_more_tiles_than_a_new_limit_allows_is_looked_at_again(planned):
    plan = planned(max_unreadable=0.5)
    folder, rows = run(plan)
    with h5py.File(folder / rows["s0"]["path"], "r+") as file:
        file.attrs["tiles_left_out"] = int(0.3 * rows["s0"]["count"])
    assert all(row["reused"] for row in run(plan)[1].values())
    stricter = planned(max_unreadable=0.1)
    assert stricter.encoders[0].features.digest == plan.encoders[0].features.digest
    assert [row["reused"] for row in run(stricter)[1].values()] == [False, True, True]


def test_a_network_with_weights_of_the_users_own(planned, tmp_path, caplog):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = timm.create_model("test_vit", num_classes=0)
    save_file(model.state_dict(), tmp_path / "own.safetensors")
    entry = {"name": "timm:test_vit", "checkpoint": "own.safetensors", "output": "pooled"}
    plan = planned(encoders=[entry], dtype="float16", precision="bf16", device="cpu", batch_size=8)
    parameters = plan.encoders[0].features.parameters
    assert parameters["precision"] == "bf16"
    assert parameters["dtype"] == "float16"
    folder, rows = run(plan)
    with h5py.File(folder / rows["s2"]["path"]) as file:
        assert file["features"].dtype == np.float16
        assert file["features"].shape == (rows["s2"]["count"], 64)
        assert file.attrs["precision"] == "bf16"
        assert file.attrs["weights_sha256"] == plan.encoders[0].encoder.weights_sha256
        assert np.isfinite(file["features"][:]).all()
    again = planned(encoders=[entry], dtype="float32", precision="bf16", device="cpu")
    assert again.encoders[0].features.digest != plan.encoders[0].features.digest


def test_a_full_disk_fails_the_job_and_leaves_no_half_file(planned):
    plan = planned()
    folder = plan.encoders[0].features.folder(plan.results) / "slides"
    folder.mkdir(parents=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", str(folder)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if mounted.returncode:
        pytest.skip(f"needs the right to mount: {mounted.stderr.strip()}")
    try:
        with pytest.raises(OSError, match="No space left"):
            run(plan)
        assert list(folder.iterdir()) == []
        assert not plan.bucket_path(plan.encoders[0].features, "0-of-1").exists()
    finally:
        subprocess.run(["umount", str(folder)], check=True)
    assert all(row["status"] == "ok" for row in run(plan)[1].values())


def swap(path, becomes):
    """Another scan under the same name, or none."""
    if becomes == "gone":
        path.unlink()
    else:
        other = path.with_name("other.tif")
        painted = paint_slide(SlideSpec(**SIZE, positive=True), 99)
        write_pyramid(other, painted.pixels, mpp_x=0.5, mpp_y=0.5)
        other.replace(path)


@pytest.fixture
def own_slides(slides, tmp_path):
    """The slides, to be spoiled."""
    folder = tmp_path / "slides"
    folder.mkdir()
    for path in slides.glob("*.tif"):
        shutil.copy(path, folder)
    sheet = (slides / "slides.tsv").read_text().replace(str(slides), str(folder))
    (folder / "slides.tsv").write_text(sheet)
    return folder


@pytest.mark.parametrize("staged", [False, True])
@pytest.mark.parametrize(("becomes", "code"), [("another", "changed"), ("gone", "file-missing")])
def test_a_slide_that_was_replaced_or_deleted_before_is_refused(
    own_slides, planned, becomes, code, staged
):
    plan = planned(sheet=own_slides / "slides.tsv", stage_slides=staged)
    swap(own_slides / "1.tif", becomes)
    folder, rows = run(plan)
    assert {name: row["error_code"] for name, row in rows.items()} == {
        "s0": None, "s1": code, "s2": None,
    }  # fmt: skip
    assert str(own_slides / "1.tif") in rows["s1"]["message"]
    assert {path.name for path in (folder / "slides").iterdir()} == {"s0.h5", "s2.h5"}


@pytest.mark.parametrize(("becomes", "code"), [("another", "changed"), ("gone", "file-missing")])
def test_a_slide_that_is_replaced_or_deleted_while_it_is_read_has_no_result(
    own_slides, planned, monkeypatch, becomes, code
):
    plan = planned(sheet=own_slides / "slides.tsv")
    real = pool.answer

    def answer(chunk, slides, out):
        found = real(chunk, slides, out)
        if chunk.source.path.name == "1.tif" and 0 in chunk.rows:
            swap(own_slides / "1.tif", becomes)
        return found

    monkeypatch.setattr(pool, "answer", answer)
    folder, rows = run(plan)
    assert {name: row["error_code"] for name, row in rows.items()} == {
        "s0": None, "s1": code, "s2": None,
    }  # fmt: skip
    assert {path.name for path in (folder / "slides").iterdir()} == {"s0.h5", "s2.h5"}


def test_a_replaced_slide_is_computed_once_the_cohort_has_seen_it(own_slides, planned):
    before = run(planned(sheet=own_slides / "slides.tsv"))[1]
    swap(own_slides / "1.tif", "another")
    after = run(planned(sheet=own_slides / "slides.tsv"))[1]
    assert [row["status"] for row in after.values()] == ["ok"] * 3
    assert [row["reused"] for row in after.values()] == [True, False, True]
    assert after["s1"]["item_digest"] != before["s1"]["item_digest"]


def test_copies_in_the_scratch_folder_change_no_byte(planned, tmp_path, monkeypatch):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    read, most = set(), []
    real = pool.answer

    def answer(chunk, slides, out):
        (tmp_path / f"read-{chunk.source.file.parent.name}").touch()
        (job,) = scratch.iterdir()
        most.append(len(list(job.glob("s*"))))
        assert most[-1] <= COPIES
        return real(chunk, slides, out)

    first = run(planned(results="one"))[1]
    monkeypatch.setattr(pool, "answer", answer)
    plan = planned(stage_slides=True, results="two")
    second = run(plan)[1]
    read = {path.name for path in tmp_path.glob("read-*")}
    assert read == {"read-s0", "read-s1", "read-s2"}
    assert {n: r["sha256"] for n, r in first.items()} == {n: r["sha256"] for n, r in second.items()}
    assert list(scratch.iterdir()) == []


def test_more_slides_than_copies_without_end(planned, tmp_path, monkeypatch, slides):
    """Many small slides are asked for before the first is read: copies must not wait for them."""
    sheet = ["slide_id\tpath\tpatient_id"]
    sheet += [f"s{i}\t{slides / f'{i % 3}.tif'}\tp{i}" for i in range(9)]
    (tmp_path / "many.tsv").write_text("\n".join(sheet) + "\n")
    plan = planned(sheet=tmp_path / "many.tsv", stage_slides=True)
    rows = run(plan)[1]
    assert len(rows) == 9
    assert all(row["status"] == "ok" for row in rows.values())


def test_without_room_slides_are_read_in_place(planned, monkeypatch, caplog):
    monkeypatch.setattr(staging, "RESERVE_BYTES", 2**60)
    rows = run(planned(stage_slides=True))[1]
    assert all(row["status"] == "ok" for row in rows.values())
    assert caplog.text.count("read in place, since it cannot be copied") >= 3


def test_a_slide_whose_reader_is_killed_is_encoded_again_from_its_own_place(
    planned, monkeypatch, tmp_path
):
    plain = run(planned(results="one"))[1]
    real = pool.answer

    def answer(chunk, slides, out):
        found = real(chunk, slides, out)
        tried = tmp_path / "tried"
        if chunk.slide == 1 and chunk.source.copy is not None:
            tried.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return found

    monkeypatch.setattr(pool, "answer", answer)
    rows = run(planned(stage_slides=True, results="two"))[1]
    assert (tmp_path / "tried").exists()
    assert {n: r["sha256"] for n, r in rows.items()} == {n: r["sha256"] for n, r in plain.items()}


def test_nothing_is_built_where_nothing_is_to_do(planned, monkeypatch):
    plan = planned()
    run(plan)

    def build(*_, **__):
        raise AssertionError("an encoder was built")

    monkeypatch.setattr("slidemill.features.build.build", build)
    monkeypatch.setattr(os, "fork", build)
    assert all(row["reused"] for row in run(plan)[1].values())


def test_tiles_that_the_encoder_was_not_made_for_are_warned_of(planned, caplog):
    with caplog.at_level(logging.WARNING):
        run(planned(encoders=["hed-texture"]))
    assert "hed-texture" in caplog.text
    assert "128" in caplog.text
    assert "256" in caplog.text
