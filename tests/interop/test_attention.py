import json
import logging
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import typer
from PIL import Image
from scipy.stats import percentileofscore
from shapely.geometry import shape
from typer.testing import CliRunner

from interop.runs import row_of, stamp_of
from slidemill.artifacts.formats import ATTENTION, COHORT, TILES
from slidemill.artifacts.hdf5 import write_hdf5
from slidemill.artifacts.parquet import write_parquet
from slidemill.config import parse_config
from slidemill.errors import ArtifactError, UserError
from slidemill.interop.attention import export_attention
from slidemill.interop.commands import export_app
from slidemill.interop.read import ExportError
from slidemill.plan import CellPlan, Plan
from slidemill.planner import make_plan
from slidemill.slides.overview import Picture
from slidemill.slides.pyramid import write_pyramid
from slidemill.tiles.grid import exact_grid, tile_geometry

MODELS = ("abmil", "mean-pool")
SIZE = (1000, 800)


@dataclass
class AttentionRun:
    """A run with attention of made-up models over small real slides."""

    folder: Path
    plan: Plan

    def cell(self, model: str = "abmil") -> CellPlan:
        return next(c for c in self.plan.cells if c.model == model and not c.control)

    def attention_path(self, slide_id: str, model: str = "abmil") -> Path:
        folder = self.cell(model).stage.folder(self.plan.results)
        return folder / "slides" / f"{slide_id}.h5"

    def write_cohort(self) -> None:
        rows = [
            row_of(
                COHORT,
                slide_id=slide.slide_id,
                patient_id=slide.patient_id,
                path=str(slide.path),
                width=SIZE[0],
                height=SIZE[1],
                mpp_x=0.5,
                mpp_y=0.5,
                reader="auto",
                status="ok",
            )
            for slide in self.plan.sheet.rows
        ]
        path, stage = self.plan.manifest_path(self.plan.cohort), self.plan.cohort
        write_parquet(path, pd.DataFrame(rows), COHORT, stamp_of(stage))

    def write_slide(self, slide_id: str, *, overlap_px: int = 0) -> np.ndarray:
        """The slide's pixels, its tiles, and attention of every model; returns the corners."""
        pixels = np.full((SIZE[1], SIZE[0], 3), 225, np.uint8)
        pixels[200:600, 200:800] = (200, 120, 180)
        write_pyramid(self.folder / f"{slide_id}.tif", pixels, mpp_x=0.5, mpp_y=0.5)
        geometry = tile_geometry(256, 0.5, overlap_px, 0.5, 0.5)
        coords = exact_grid(geometry, *SIZE)
        stage = self.plan.encoders[0].tiles
        rows = [row_of(TILES, x=x, y=y, tissue_fraction=1.0, keep=True) for x, y in coords]
        write_parquet(
            stage.folder(self.plan.results) / "slides" / f"{slide_id}.parquet",
            pd.DataFrame(rows).astype({"focus": "Float32"}),
            TILES,
            stamp_of(stage),
            {"geometry": geometry.as_dict()},
        )
        for number, model in enumerate(MODELS):
            weights = np.random.default_rng(number).dirichlet(np.ones(len(coords)))
            self.write_attention(slide_id, weights.astype(np.float32), coords, model)
        return coords

    def write_attention(self, slide_id, weights, coords, model: str = "abmil") -> None:
        cell = self.cell(model)
        write_hdf5(
            self.attention_path(slide_id, model),
            {"attention": weights, "coords": coords},
            ATTENTION,
            stamp_of(cell.stage),
            {"repeat": 0, "fold": 0, "model": model, "input": cell.source},
        )

    def weights(self, slide_id: str) -> np.ndarray:
        with h5py.File(self.attention_path(slide_id)) as file:
            return file["attention"][:]


@pytest.fixture
def make_run(tmp_path):
    def make(*slide_ids: str) -> AttentionRun:
        root = tmp_path / "run"
        root.mkdir()
        lines = ["slide_id\tpath\tpatient_id\tlabel"]
        lines += [f"{s}\t{s}.tif\tpatient-{s}\t{'ab'[i % 2]}" for i, s in enumerate(slide_ids)]
        (root / "slides.tsv").write_text("\n".join(lines) + "\n")
        config = {
            "cohort": {"sheet": "slides.tsv"},
            "features": {"encoders": ["rgb-mean"]},
            "evaluate": {
                "tasks": [{"name": "t", "column": "label"}],
                "models": list(MODELS),
                "inputs": ["tiles"],
                "controls": [],
            },
        }
        (root / "config.yaml").write_text(json.dumps(config))
        run = AttentionRun(root, make_plan(parse_config(config, "test"), root))
        run.write_cohort()
        return run

    return make


def features_of(path: Path) -> list[dict]:
    return json.loads(path.read_text())["features"]


def test_every_tile_has_its_rectangle_and_three_measures(make_run, tmp_path):
    run = make_run("a")
    coords = run.write_slide("a")
    assert export_attention(run.plan, tmp_path / "out") == 2
    features = features_of(tmp_path / "out" / run.cell().stage.name / "a.geojson")
    weights = run.weights("a").astype(np.float64)
    assert len(features) == len(coords) == len(weights)
    percent = [percentileofscore(np.delete(weights, i), w) for i, w in enumerate(weights)]
    for i, (feature, (x, y), weight) in enumerate(zip(features, coords, weights, strict=True)):
        polygon = shape(feature["geometry"])
        assert polygon.is_valid
        assert polygon.bounds == (x, y, x + 256, y + 256)
        assert feature["properties"]["objectType"] == "tile"
        measured = feature["properties"]["measurements"]
        assert measured == {
            "attention": pytest.approx(weight),
            "attention_percentile": pytest.approx(percent[i]),
            "attention_times_n": pytest.approx(weight * len(weights)),
        }
    measures = [f["properties"]["measurements"]["attention_times_n"] for f in features]
    assert np.mean(measures) == pytest.approx(1.0, abs=1e-6)


def test_each_row_of_the_comparison_has_a_folder_of_its_own(make_run, tmp_path):
    run = make_run("a", "b")
    for slide_id in ("a", "b"):
        run.write_slide(slide_id)
    assert export_attention(run.plan, tmp_path / "all") == 4
    names = {str(path.relative_to(tmp_path / "all")) for path in (tmp_path / "all").rglob("*.*g*")}
    folders = [run.cell(model).stage.name for model in MODELS]
    assert names == {f"{f}/{s}.{e}" for f in folders for s in "ab" for e in ("png", "geojson")}
    assert export_attention(run.plan, tmp_path / "one", folders[1]) == 2
    assert [path.name for path in (tmp_path / "one").iterdir()] == [folders[1]]


def test_the_picture_is_the_same_every_time(make_run, tmp_path):
    run = make_run("a")
    run.write_slide("a", overlap_px=128)
    for name in ("one", "two"):
        export_attention(run.plan, tmp_path / name, run.cell().stage.name)
    one, two = (tmp_path / name / run.cell().stage.name / "a.png" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()
    picture = Image.open(BytesIO(one.read_bytes()))
    assert picture.size[0] > 1000
    assert "Software" not in picture.info


def test_one_bad_slide_never_stops_others(make_run, tmp_path):
    names = ("cut", "far", "gone", "nonfinite", "ok", "short", "torn")
    run = make_run(*names)
    coords = {name: run.write_slide(name) for name in names}["ok"]
    for name in names:
        run.attention_path(name, "mean-pool").unlink()
    even = np.full(len(coords), 1 / len(coords), np.float32)
    run.write_attention("nonfinite", even * np.nan, coords)
    run.write_attention("far", even, coords + 1)
    run.write_attention("short", even[:-1], coords)
    run.attention_path("torn").write_bytes(b"no HDF5")
    (run.folder / "gone.tif").unlink()
    (run.plan.encoders[0].tiles.folder(run.plan.results) / "slides" / "cut.parquet").unlink()
    with pytest.raises(ExportError) as caught:
        export_attention(run.plan, tmp_path)
    folder = run.cell().stage.name
    assert (tmp_path / folder / "ok.png").is_file()
    wheres = [problem.where for problem in caught.value.problems]
    assert wheres == [f"{folder}/{name}" for name in names if name != "ok"]
    text = str(caught.value)
    for said in ("not finite", "kept now", "weights for", "HDF5", "gone.tif", "cut.parquet"):
        assert said in text
    assert "the other 1 are written" in text
    assert ".." not in text.replace("...", "")
    # What needs no pixels is there all the same.
    assert (tmp_path / folder / "gone.geojson").is_file()
    assert not list(tmp_path.rglob("*.tmp"))


def test_attention_over_a_slide_that_nobody_knows_is_refused(make_run, tmp_path):
    run = make_run("a")
    coords = run.write_slide("a")
    even = np.full(len(coords), 1 / len(coords), np.float32)
    run.write_attention(".hidden", even, coords)
    run.write_attention("stranger", even, coords)
    with pytest.raises(ExportError, match="no such slide") as caught:
        export_attention(run.plan, tmp_path)
    assert len(caught.value.problems) == 2
    assert {path.stem for path in tmp_path.rglob("*.png")} >= {"a"}
    assert not list(tmp_path.rglob("*hidden.*g*"))


def test_without_attention_it_says_what_to_run(make_run, tmp_path):
    run = make_run("a")
    with pytest.raises(UserError, match="Run `slidemill evaluate`"):
        export_attention(run.plan, tmp_path)
    run.write_slide("a")
    with pytest.raises(UserError, match="--run elsewhere") as caught:
        export_attention(run.plan, tmp_path, "elsewhere")
    assert run.cell().stage.name in str(caught.value)
    run.plan.manifest_path(run.plan.cohort).unlink()
    with pytest.raises(ArtifactError, match="Run the stage that makes it"):
        export_attention(run.plan, tmp_path)


def test_a_slide_is_read_once_for_all_rows(make_run, tmp_path, monkeypatch, caplog):
    run = make_run("a")
    run.write_slide("a")
    opened = []
    from slidemill.interop import attention

    def read(row):
        opened.append(row["slide_id"])
        return Picture(np.full((80, 100, 3), 200, np.uint8), 10.0, (0.0, 0.0))

    monkeypatch.setattr(attention, "_read_picture", read)
    with caplog.at_level(logging.INFO):
        assert export_attention(run.plan, tmp_path) == 2
    assert opened == ["a"]
    assert "slide 1/1" in caplog.text


def test_the_command_writes_and_says_what(make_run, monkeypatch):
    run = make_run("a")
    run.write_slide("a")
    monkeypatch.chdir(run.folder)
    app = typer.Typer()
    app.add_typer(export_app, name="export")
    name = run.cell().stage.name
    done = CliRunner().invoke(app, ["export", "attention", "--out", "out", "--run", name])
    assert done.exit_code == 0, done.output
    assert "out: 1 heat maps of attention" in done.output
    assert (run.folder / "out" / name / "a.png").is_file()
