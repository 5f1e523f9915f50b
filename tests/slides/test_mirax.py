"""Slides with and without bounds through tissue and tiles: edges of the scanned part."""

from dataclasses import replace

import h5py
import numpy as np
import pytest

from slidemill.artifacts import formats
from slidemill.artifacts.folder import StageId
from slidemill.artifacts.manifest import SlideTask
from slidemill.config import TissueConfig
from slidemill.errors import SlideCode, SlideError
from slidemill.report.heatmap import tile_boxes
from slidemill.slides.identity import slide_fingerprint
from slidemill.slides.overview import read_picture
from slidemill.slides.reader import Slide
from slidemill.tiles import candidates
from slidemill.tiles.grid import tile_geometry
from slidemill.tissue import stage
from slides.mirax import TILE, write_mirax

STAGE = StageId("tissue", "t", formats.TISSUE, 1, {})
SETTINGS = candidates.GridSettings(224, 0.5, 0, "exact", "overview")


@pytest.fixture(scope="module")
def pixels():
    y, x = np.mgrid[: 4 * TILE, : 4 * TILE]
    found = np.full((4 * TILE, 4 * TILE, 3), 242, np.uint8)
    found[(x - 2 * TILE) ** 2 + (y - 2 * TILE) ** 2 < 300**2] = (200, 120, 180)
    return found


def task_of(path, output):
    with Slide(path) as slide:
        reader, (width, height) = slide.reader, slide.dimensions
    facts = {"slide_id": "s", "path": str(path), "fingerprint": slide_fingerprint(path)}
    facts |= {"reader": reader, "mpp_x": 0.5, "mpp_y": 0.5, "tissue": None}
    facts |= {"width": width, "height": height}
    return SlideTask("s", facts, None, output, STAGE.stamp("s", {}))


def tiles_of(task, output, **bounds):
    work = SlideTask("s", task.facts | bounds, task.path, output, STAGE.stamp("s", {}))
    candidates.compute(work, SETTINGS, None)
    return output.read_bytes()


def test_a_slide_that_is_all_scanned_has_no_bounds_and_the_same_bytes(tmp_path, pixels):
    write_mirax(tmp_path / "s.mrxs", pixels, at=(0, 0), canvas=(4, 4))
    with Slide(tmp_path / "s.mrxs") as slide:
        assert slide.bounds == (0, 0, 4 * TILE, 4 * TILE)
    task = task_of(tmp_path / "s.mrxs", tmp_path / "a.h5")
    stage.compute(task, TissueConfig())
    unknown = tiles_of(task, tmp_path / "a.parquet")
    known = {"bounds_x": 0, "bounds_y": 0, "bounds_width": 4 * TILE, "bounds_height": 4 * TILE}
    assert tiles_of(task, tmp_path / "b.parquet", **known) == unknown


def test_tissue_is_the_same_by_either_way_where_all_is_scanned(tmp_path, pixels, monkeypatch):
    write_mirax(tmp_path / "s.mrxs", pixels, at=(0, 0), canvas=(4, 4))
    made = []
    for name in ("whole", "part"):
        task = task_of(tmp_path / "s.mrxs", tmp_path / f"{name}.h5")
        stage.compute(task, TissueConfig())
        with h5py.File(task.path) as file:
            made.append((file["classes"][:], file["mask"][:]))
        monkeypatch.setattr(stage, "_part", lambda slide, scale: np.s_[: 4 * TILE, : 4 * TILE])
    np.testing.assert_array_equal(made[0], made[1])
    for suffix in (".geojson", ".jpg"):
        whole, part = (tmp_path / f"{name}{suffix}" for name in ("whole", "part"))
        assert whole.read_bytes() == part.read_bytes()


@pytest.mark.parametrize("bounds", [(1283, 771, 5, 5), (1900, 1200, 3, 600), (2999, 1999, 1, 1)])
def test_a_scanned_part_below_a_pixel_of_the_overview_has_no_tissue(
    tmp_path, pixels, monkeypatch, bounds
):
    write_mirax(tmp_path / "s.mrxs", pixels, at=(5, 3), canvas=(12, 8))
    monkeypatch.setattr("slidemill.slides.readers.openslide.stated_bounds", lambda *_: bounds)
    with pytest.raises(SlideError) as raised:
        stage.compute(task_of(tmp_path / "s.mrxs", tmp_path / "s.h5"), TissueConfig())
    assert raised.value.code is SlideCode.NO_TISSUE


def test_a_mirax_is_read_alike_from_a_copy(tmp_path, pixels, monkeypatch):
    write_mirax(tmp_path / "s.mrxs", pixels, at=(5, 3), canvas=(12, 8))
    made, read = [], []
    opened = Slide.of
    monkeypatch.setattr(Slide, "of", lambda facts, path: read.append(path) or opened(facts, path))
    for name, scratch in (("place", None), ("copy", tmp_path / "scratch")):
        task = replace(task_of(tmp_path / "s.mrxs", tmp_path / f"{name}.h5"), scratch=scratch)
        stage.compute(task, TissueConfig())
        made.append(task.path.with_suffix(".geojson").read_bytes())
    assert made[0] == made[1]
    assert read == [tmp_path / "s.mrxs", tmp_path / "scratch" / "s" / "s.mrxs"]


def test_a_picture_shows_the_scanned_part_where_tiles_lie_in_it(tmp_path, pixels):
    write_mirax(tmp_path / "s.mrxs", pixels, at=(5, 3), canvas=(16, 12))
    with Slide(tmp_path / "s.mrxs") as slide:
        seen = read_picture(slide, 500)
    assert seen.scale == 2.0
    assert seen.corner == (5 * TILE, 3 * TILE)
    assert seen.pixels.shape == (500, 500, 3)
    assert np.abs(seen.pixels[250, 250].astype(int) - (200, 120, 180)).max() < 8
    geometry = tile_geometry(100, 0.5, 0, 0.5, 0.5)
    boxes = tile_boxes(np.array([[5 * TILE, 3 * TILE]]), geometry, seen.scale, seen.corner)
    np.testing.assert_allclose(boxes[0], (0, 0, 50, 50), atol=1)
