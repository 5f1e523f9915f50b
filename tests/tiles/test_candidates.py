"""The tiles stage on real slides and on slides with a known truth."""

import shutil
from dataclasses import replace

import h5py
import numpy as np
import pandas as pd
import pytest
import tifffile

from slidemill.artifacts import formats
from slidemill.artifacts.folder import StageId
from slidemill.artifacts.manifest import SlideTask
from slidemill.artifacts.parquet import read_footer, read_parquet, write_parquet
from slidemill.config import TissueConfig
from slidemill.errors import SlideCode, SlideError
from slidemill.slides.identity import slide_fingerprint
from slidemill.slides.pyramid import write_pyramid
from slidemill.slides.reader import Slide
from slidemill.tiles import candidates, stage
from slidemill.tiles.candidates import GridSettings
from slidemill.tiles.keep import Limits
from slidemill.tiles.reading import read_qualities
from slidemill.tissue import stage as tissue

STAGE = StageId("tiles", "t", formats.TILES, 1, {})
EXACT = GridSettings(128, 0.5, 0, "exact", "pixels")


def facts(path, mpp, tissue_file=None):
    with Slide(path) as slide:
        width, height = slide.dimensions
        return {
            "slide_id": "s",
            "path": str(path),
            "fingerprint": slide_fingerprint(path),
            "reader": slide.reader,
            "width": width,
            "height": height,
            "mpp_x": mpp,
            "mpp_y": mpp,
            "tissue": tissue_file,
        }


def task(known, upstream, path):
    return SlideTask("s", known, upstream, path, STAGE.stamp("s", {}), threads=2)


def run(folder, known, settings, config=None, limits=None, coordinates=None):
    """Tissue, candidates and tiles of one slide; the table of tiles."""
    folder.mkdir(exist_ok=True)
    mask, measured, kept = (folder / name for name in ("m.h5", "c.parquet", "t.parquet"))
    tissue.compute(task(known, None, mask), config or TissueConfig())
    candidates.compute(task(known, mask, measured), settings, coordinates)
    stage.compute(task(known, measured, kept), limits or Limits())
    return stage.read_tiles(kept)


def test_the_disc_has_the_tiles_that_it_covers(disc_slide, tmp_path):
    frame, geometry = run(tmp_path, facts(disc_slide, 0.5), EXACT)
    centre = frame[["x", "y"]].to_numpy() + geometry.width / 2
    distance = np.hypot(*(centre - [500, 400]).T)
    assert (frame.loc[distance < 180, "tissue_fraction"] > 0.95).all()
    # The mask's smoothing moves a hard edge by up to a pixel of the mask, 16 px of 300 here.
    assert frame["tissue_fraction"].sum() * 128**2 == pytest.approx(np.pi * 300**2, rel=0.12)
    inside = frame[distance < 180]
    assert (inside["white_fraction"] < 0.01).all()
    assert not frame["read_error"].any()
    assert (frame["focus"] >= 0).all()
    order = frame[["y", "x"]].to_numpy().tolist()
    assert order == sorted(order)


def test_the_overview_alone_gives_the_same_tiles_and_reads_none(disc_slide, tmp_path):
    known = facts(disc_slide, 0.5)
    by_pixels, _ = run(tmp_path / "a", known, EXACT)
    by_overview, _ = run(tmp_path / "b", known, GridSettings(128, 0.5, 0, "exact", "overview"))
    same = ["x", "y", "tissue_fraction", "padded_fraction", "pen_fraction", "keep"]
    pd.testing.assert_frame_equal(by_pixels[same], by_overview[same])
    assert by_overview["focus"].isna().all()
    assert np.abs(by_pixels["white_fraction"] - by_overview["white_fraction"]).max() < 0.2


def test_threads_change_nothing(disc_slide, tmp_path):
    known = facts(disc_slide, 0.5)
    one, _ = run(tmp_path / "a", known, EXACT)
    tissue_mask, path = tmp_path / "a" / "m.h5", tmp_path / "b.parquet"
    alone = SlideTask("s", known, tissue_mask, path, STAGE.stamp("s", {}), threads=1)
    candidates.compute(alone, EXACT, None)
    pd.testing.assert_frame_equal(one.drop(columns="keep"), read_parquet(path, "candidates"))


def test_a_damaged_region_marks_its_tiles_and_keeps_the_others(disc_pixels, tmp_path):
    path = tmp_path / "damaged.tif"
    write_pyramid(path, disc_pixels, mpp_x=0.5, mpp_y=0.5)
    sound, _ = run(tmp_path / "a", facts(path, 0.5), EXACT)
    with tifffile.TiffFile(path) as file:
        damaged = file.pages[0].dataoffsets[5]  # x 256 to 512, y 256 to 512
    with path.open("r+b") as stream:
        stream.seek(damaged)
        stream.write(b"\0" * 64)
    frame, _ = run(tmp_path / "b", facts(path, 0.5), EXACT)
    lost = {tuple(c) for c in frame.loc[frame["read_error"], ["x", "y"]].to_numpy().tolist()}
    assert lost == {(256, 256), (384, 256), (256, 384), (384, 384)}
    assert not frame.loc[frame["read_error"], "keep"].any()
    others = ~frame["read_error"].to_numpy()
    pd.testing.assert_frame_equal(
        frame[others].reset_index(drop=True), sound[others].reset_index(drop=True)
    )


def test_a_changed_limit_reads_no_pixel(disc_pixels, tmp_path):
    """The slide is gone, and still the tiles stage can choose anew."""
    path = tmp_path / "a.tif"
    write_pyramid(path, disc_pixels, mpp_x=0.5, mpp_y=0.5)
    known = facts(path, 0.5)
    loose, _ = run(tmp_path, known, EXACT, limits=Limits(min_tissue=0.0))
    path.unlink()
    again = tmp_path / "again.parquet"
    stage.compute(task(known, tmp_path / "c.parquet", again), Limits(min_tissue=0.9))
    strict, _ = stage.read_tiles(again)
    assert loose["keep"].all()
    assert strict["keep"].tolist() == (loose["tissue_fraction"] >= 0.9).tolist()
    with pytest.raises(SlideError, match="min_focus = 1e\\+09 leaves out") as caught:
        stage.compute(task(known, tmp_path / "c.parquet", again), Limits(min_focus=1e9))
    assert caught.value.code == SlideCode.NO_TILES


def test_too_coarse_a_slide_is_refused_before_it_is_read(disc_slide, tmp_path):
    with pytest.raises(SlideError, match=r"2 um per pixel") as caught:
        run(tmp_path, facts(disc_slide, 2.0), EXACT)
    assert caught.value.code == SlideCode.TOO_COARSE


@pytest.mark.parametrize("qc", ["pixels", "overview"])
def test_tridents_58_coordinates(shared, tmp_path, qc):
    golden = shared / "golden"
    known = facts(
        shared / "slides" / "CMU-1-Small-Region.svs",
        0.499,
        str(golden / "trident_tissue_CMU-1-Small-Region.geojson"),
    )
    settings = GridSettings(256, 0.5, 0, "trident", qc)
    frame, geometry = run(tmp_path, known, settings, TissueConfig(method="import"))
    with h5py.File(golden / "trident_coords_CMU-1-Small-Region.h5") as file:
        theirs = file["coords"][:]
    assert frame.loc[frame["keep"], ["x", "y"]].to_numpy().tolist() == theirs.tolist()
    assert geometry.mpp == pytest.approx(0.499)


def test_imported_coordinates_are_taken_as_they_are(disc_slide, tmp_path):
    known = facts(disc_slide, 0.5)
    exact, geometry = run(tmp_path, known, EXACT)
    chosen = exact[["x", "y"]].iloc[[3, 1, 2]].reset_index(drop=True) + 7
    write_parquet(
        tmp_path / "s.parquet",
        chosen,
        formats.COORDINATES,
        STAGE.stamp("s", {}),
        {"geometry": geometry.as_dict()},
    )
    settings = GridSettings(128, 0.5, 0, "import", "pixels")
    frame, _ = run(tmp_path / "b", known, settings, coordinates=tmp_path)
    pd.testing.assert_frame_equal(frame[["x", "y"]], chosen)
    with pytest.raises(SlideError, match="no coordinates") as caught:
        run(tmp_path / "b", known, settings, coordinates=tmp_path / "b")
    assert caught.value.code == SlideCode.NO_COORDINATES


def test_what_is_written_says_what_it_is(disc_slide, tmp_path):
    run(tmp_path, facts(disc_slide, 0.5), EXACT)
    footer = read_footer(tmp_path / "c.parquet")
    assert footer["artifact_type"] == "candidates"
    assert footer["geometry"]["tile_px"] == 128
    count = candidates.read_stamp(tmp_path / "c.parquet")["count"]
    assert count == len(read_parquet(tmp_path / "c.parquet", "candidates"))
    assert stage.read_stamp(tmp_path / "t.parquet")["count"] == count


@pytest.mark.parametrize(("becomes", "code"), [("another", "changed"), ("gone", "file-missing")])
def test_a_slide_that_is_replaced_or_deleted_while_it_is_read_has_no_result(
    disc_slide, tmp_path, monkeypatch, becomes, code
):
    path = tmp_path / "slide.tif"
    shutil.copy(disc_slide, path)
    mask, measured = tmp_path / "m.h5", tmp_path / "c.parquet"
    tissue.compute(task(facts(path, 0.5), None, mask), TissueConfig())

    def read(*args):
        found = read_qualities(*args)
        path.unlink()
        if becomes == "another":
            path.write_bytes(b"another")
        return found

    monkeypatch.setattr(candidates, "read_qualities", read)
    with pytest.raises(SlideError) as caught:
        candidates.compute(task(facts(path, 0.5), mask, measured), EXACT, None)
    assert caught.value.code == code
    assert not measured.exists()


def test_a_slide_that_was_replaced_after_the_tissue_stage_is_refused(disc_slide, tmp_path):
    path = tmp_path / "slide.tif"
    shutil.copy(disc_slide, path)
    known, mask = facts(path, 0.5), tmp_path / "m.h5"
    tissue.compute(task(known, None, mask), TissueConfig())
    path.write_bytes(path.read_bytes() + b"more")
    with pytest.raises(SlideError) as caught:
        candidates.compute(task(known, mask, tmp_path / "c.parquet"), EXACT, None)
    assert caught.value.code == SlideCode.CHANGED


def test_a_copy_in_the_scratch_folder_changes_no_byte(disc_slide, tmp_path):
    known, mask, scratch = facts(disc_slide, 0.5), tmp_path / "m.h5", tmp_path / "scratch"
    scratch.mkdir()
    tissue.compute(task(known, None, mask), TissueConfig())
    results = []
    for folder in (None, scratch):
        one = replace(task(known, mask, tmp_path / f"{bool(folder)}.parquet"), scratch=folder)
        candidates.compute(one, EXACT, None)
        results.append(one.path.read_bytes())
    assert results[0] == results[1]
    assert list(scratch.iterdir()) == []
