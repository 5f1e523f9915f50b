"""Outputs of every stage on a fixed slide: they change only with the stage's version.

After a change that is meant, raise the version in `slidemill/versions.py` (or the encoder's
`algorithm_version`) and renew the record: `SLIDEMILL_UPDATE_GOLDEN=1 pytest tests/test_golden.py`.
"""

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from features.conftest import run_engine
from slidemill import versions
from slidemill.config import AbmilConfig, LinearProbeConfig, PretrainRun, TissueConfig
from slidemill.evaluate.abmil import fit_abmil
from slidemill.evaluate.linear_probe import fit_linear_probe
from slidemill.features import hed_texture, rgb_mean
from slidemill.features.build import HostEncoder
from slidemill.features.chunks import Source
from slidemill.features.engine import Work
from slidemill.features.registry import ENCODERS
from slidemill.features.runners import HostRunner
from slidemill.pretrain.bags import ArrayBags, grid_positions
from slidemill.pretrain.encoder import embed
from slidemill.pretrain.train import train
from slidemill.slides.overview import read_overview
from slidemill.slides.pyramid import write_pyramid
from slidemill.slides.reader import Slide
from slidemill.slides.synthetic import SlideSpec, paint_slide
from slidemill.splits.folds import make_folds
from slidemill.tiles.coverage import mask_fraction
from slidemill.tiles.grid import exact_grid, tile_geometry
from slidemill.tiles.reading import read_qualities
from slidemill.tissue.find import find_tissue

RECORD = Path(__file__).with_name("golden.json")
TOLERANCE = 2e-3
"""Relative; other processors and libraries round otherwise."""


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """Summary numbers and version of every stage."""
    path = tmp_path_factory.mktemp("golden") / "slide.tif"
    spec = SlideSpec(width_px=1536, height_px=1152, mpp_x=0.5, mpp_y=0.5, positive=True)
    write_pyramid(path, paint_slide(spec, 0).pixels, mpp_x=0.5, mpp_y=0.5)
    found = {}

    def record(name, version, values):
        found[name] = {"version": version, "values": np.asarray(values, float).ravel().tolist()}

    config = TissueConfig()
    geometry = tile_geometry(128, 0.5, 0, 0.5, 0.5)
    with Slide(path) as slide:
        overview = read_overview(slide, config.mpp / 0.5, config.mpp / 0.5).pixels
        areas = {"min_area_mm2": config.min_area_mm2, "min_hole_mm2": config.min_hole_mm2}
        found_by = {
            method: find_tissue(overview, config.mpp, method=method, **areas)
            for method in ("otsu", "hsv", "entropy")
        }
        for method, tissue in found_by.items():
            values = [tissue.mask.mean(), np.nan_to_num(tissue.threshold), tissue.pieces]
            record(f"tissue-{method}", versions.TISSUE, values)
        tissue = found_by["otsu"]
        coords = exact_grid(geometry, *slide.dimensions)
        fraction = mask_fraction(tissue.mask, config.mpp / 0.5, config.mpp / 0.5, coords, geometry)
        record("tiles", versions.TILES, [len(coords), *coords.mean(axis=0), fraction.mean()])
        kept = coords[fraction >= 0.5]
        measured = read_qualities(slide, kept, geometry, 2)
        values = [measured.white, measured.black, np.log1p(measured.focus)]
        record("candidates", versions.CANDIDATES, np.mean(values, axis=1))
        for name, encoder in (("hed-texture", hed_texture), ("rgb-mean", rgb_mean)):
            features = _features(Source(path, "auto", geometry), kept, encoder.encode)
            version = versions.FEATURES * 1000 + ENCODERS[name].algorithm_version
            record(name, version, features.mean(axis=0))
    ids = [f"p{i:02d}" for i in range(20)]
    labels = ["ab"[i % 2] for i in range(20)]
    patients = pd.DataFrame({"slide_id": ids, "patient_id": ids, "label": labels})
    record("splits", versions.SPLITS, make_folds(patients, folds=4, repeats=2, seed=0)["fold"])
    record("pretrain", versions.PRETRAIN, _pretrain())
    record("evaluate", versions.EVALUATE, _evaluate())
    return found


def _features(source, coords, encode):
    runner = HostRunner(HostEncoder(encode, 0), "float32")
    return run_engine([Work(0, source, coords)], runner=runner, tile_px=128).of(0)


def _pretrain():
    rng = np.random.default_rng(0)
    coords = [np.stack(np.meshgrid(np.arange(5), np.arange(4)), -1).reshape(-1, 2) * 64] * 6
    features = [rng.standard_normal((20, 8)).astype(np.float32) for _ in range(6)]
    bags = ArrayBags([f"s{i}" for i in range(6)], coords, [(64.0, 64.0)] * 6, features)
    run = PretrainRun(width=16, depth=1, heads=2, prototypes=16, epochs=2, batch_slides=3)
    trained = train(bags, run, device="cpu", seed=0)
    vector = embed(trained.encoder, features[0], grid_positions(coords[0], (64.0, 64.0)), "cpu")
    return [*trained.metrics["loss"], np.abs(vector).mean()]


def _evaluate():
    rng = np.random.default_rng(0)
    labels = np.arange(12, dtype=np.int64) % 2
    bags = [(rng.standard_normal((9, 4)) + y).astype(np.float32) for y in labels]
    abmil = fit_abmil(bags, labels, AbmilConfig(epochs=3, width=8, attention_width=4), seed=0)
    means = np.stack([bag.mean(axis=0) for bag in bags])
    probe = fit_linear_probe(means, labels, LinearProbeConfig(), seed=0)
    return [*abmil.predict(bags)[0], *probe.predict(means)]


def test_results_change_only_with_their_version(outputs):
    if os.environ.get("SLIDEMILL_UPDATE_GOLDEN"):
        RECORD.write_text(json.dumps(outputs, indent=1) + "\n")
    recorded = json.loads(RECORD.read_text())
    assert outputs.keys() == recorded.keys()
    for name, now in outputs.items():
        before = recorded[name]
        same = len(now["values"]) == len(before["values"]) and np.allclose(
            now["values"], before["values"], rtol=TOLERANCE, atol=TOLERANCE
        )
        assert same or now["version"] != before["version"], f"{name}: raise its version"
        assert now["version"] == before["version"], f"{name}: renew tests/golden.json"
