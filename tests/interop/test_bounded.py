"""A bounded slide (a synthetic MIRAX) through the stages and out again: who counts from where."""

import json

import h5py
import numpy as np
import pandas as pd
import pytest
import shapely
from shapely.affinity import translate
from shapely.geometry import box, mapping, shape

from interop.runs import stamp_of
from slidemill import jobs
from slidemill.artifacts.formats import ATTENTION
from slidemill.artifacts.hdf5 import write_hdf5
from slidemill.config import parse_config
from slidemill.interop.attention import export_attention
from slidemill.interop.stage import export
from slidemill.planner import make_plan
from slidemill.slides.reader import Slide
from slidemill.tissue.geojson import read_polygons
from slides.mirax import TILE, write_mirax

CORNER = np.array([5 * TILE, 3 * TILE])
DISC = shapely.Point(5 * TILE + 625, 3 * TILE + 500).buffer(300)
"""Tissue, level-0 pixels of the canvas."""


@pytest.fixture(scope="module")
def pixels():
    y, x = np.mgrid[:1000, :1250]
    found = np.full((1000, 1250, 3), 242, np.uint8)
    found[(x - 625) ** 2 + (y - 500) ** 2 < 300**2] = (200, 120, 180)
    return found


def planned(folder, sheet="", **more):
    (folder / "slides.tsv").write_text(
        f"slide_id\tpath\tpatient_id\tlabel\ttissue\ns\ts.mrxs\tp\ta\t{sheet}\nt\tt.mrxs\tq\tb\t\n"
    )
    config = {"cohort": {"sheet": "slides.tsv", "max_failed": 0.9}, "buckets": 1, **more}
    config.setdefault("features", {"encoders": ["rgb-mean"]})
    return make_plan(parse_config(config, "test"), folder)


def work(plan):
    buckets = list(plan.buckets)
    jobs.cohort(plan, buckets, 1)
    jobs.gather_cohort(plan)
    jobs.tissue(plan, buckets, 1)
    jobs.gather(plan, plan.tissue)
    for stage in plan.tiles.values():
        jobs.tiles(plan, stage, buckets, 1)
        jobs.gather_tiles(plan, stage)


@pytest.fixture
def folder(tmp_path, pixels):
    write_mirax(tmp_path / "s.mrxs", pixels, at=(5, 3), canvas=(16, 12))
    return tmp_path


def test_openslide_reads_the_synthetic_mirax_and_states_its_bounds(folder, pixels):
    with Slide(folder / "s.mrxs") as slide:
        assert slide.reader.startswith("openslide")
        assert slide.bounds == (*CORNER, 1250, 1000)
        assert slide.level_downsamples == (1.0, 2.0, 4.0)
        found = slide.read(0, *map(int, CORNER), 1250, 1000)
    assert np.abs(found.astype(int) - pixels).mean() < 1


def test_tissue_and_tiles_keep_to_what_was_scanned(folder):
    plan = planned(folder)
    work(plan)
    outlines = plan.tissue.folder(plan.results) / "slides" / "s.geojson"
    united = shapely.union_all(read_polygons(outlines))
    assert united.intersection(DISC).area / united.union(DISC).area > 0.85
    (tiles,) = plan.tiles.values()
    table = pd.read_parquet(tiles.folder(plan.results) / "slides" / "s.parquet")
    assert ((table[["x", "y"]] - CORNER) % 256 == 0).all(axis=None)
    # The last row hangs over what was scanned; the disc does not reach the last column.
    over = (table["y"] + 256 - CORNER[1] - 1000).clip(lower=0) / 256
    np.testing.assert_allclose(table["padded_fraction"], over)
    assert 0 < over.max() < 1
    assert table["keep"].any()


def test_each_tool_counts_from_its_own_corner(folder, tmp_path):
    tasks = [{"name": "t", "column": "label"}]
    plan = planned(
        folder, evaluate={"tasks": tasks, "models": ["abmil"], "inputs": ["tiles"], "controls": []}
    )
    work(plan)
    (tiles,) = plan.tiles.values()
    table = pd.read_parquet(tiles.folder(plan.results) / "slides" / "s.parquet")
    kept = table.loc[table["keep"], ["x", "y"]].to_numpy()
    for tool in ("qupath", "trident", "clam"):
        export(plan, tool, tmp_path / tool)
    features = json.loads((tmp_path / "qupath" / "s.geojson").read_text())["features"]
    corners = [
        shape(one["geometry"]).bounds[:2]
        for one in features
        if one["properties"]["objectType"] == "tile"
    ]
    np.testing.assert_array_equal(corners, kept - CORNER)
    drawn = [shape(f["geometry"]) for f in features if f["properties"]["objectType"] != "tile"]
    assert box(0, 0, 1250, 1000).contains(shapely.union_all(drawn))
    for tool in ("trident", "clam"):
        (path,) = (tmp_path / tool).rglob("patches/s*.h5")
        with h5py.File(path) as file:
            np.testing.assert_array_equal(file["coords"][:], kept)
    (contours,) = (tmp_path / "trident").rglob("contours_geojson/s.geojson")
    there = shapely.union_all(
        [shape(one["geometry"]) for one in json.loads(contours.read_text())["features"]]
    )
    assert there.intersection(DISC).area / there.union(DISC).area > 0.85

    cell = plan.cells[0]
    weights = np.full(len(kept), 1 / len(kept), np.float32)
    write_hdf5(
        cell.stage.folder(plan.results) / "slides" / "s.h5",
        {"attention": weights, "coords": kept},
        ATTENTION,
        stamp_of(cell.stage),
        {"repeat": 0, "fold": 0, "model": cell.model, "input": cell.source},
    )
    assert export_attention(plan, tmp_path / "attention") == 1
    (path,) = (tmp_path / "attention").rglob("s.geojson")
    corners = [shape(f["geometry"]).bounds[:2] for f in json.loads(path.read_text())["features"]]
    np.testing.assert_array_equal(corners, kept - CORNER)


def test_what_qupath_draws_lands_where_it_was_drawn_and_a_second_run_says_so_too(folder):
    drawn = {"type": "Feature", "geometry": mapping(box(340, 212, 940, 812)), "properties": {}}
    (folder / "drawn.geojson").write_text(json.dumps(drawn))
    plan = planned(folder, sheet="drawn.geojson", tissue={"method": "import"})
    for _ in range(2):
        work(plan)
        rows = pd.read_parquet(plan.manifest_path(plan.tissue)).set_index("slide_id")
        assert "QuPath" in rows.loc["s", "remark"]
    assert rows.loc["s", "reused"]
    outlines = plan.tissue.folder(plan.results) / "slides" / "s.geojson"
    (polygon,) = read_polygons(outlines)
    assert polygon.equals(translate(box(340, 212, 940, 812), *CORNER))
