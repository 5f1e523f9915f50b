"""Outputs of every stage on a fixed slide: they change only with the stage's version.

After a change that is meant, raise the version in `slidemill/versions.py` (or the encoder's
`algorithm_version`) and renew the record: `SLIDEMILL_UPDATE_GOLDEN=1 pytest tests/test_golden.py`.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from features.conftest import run_engine
from slidemill import versions
from slidemill.config import AbmilConfig, MilConfig, PretrainRun, TissueConfig
from slidemill.evaluate.mil.bags import ListBags
from slidemill.evaluate.mil.train import cross_fit
from slidemill.evaluate.mil.units import BagUnit, Settings
from slidemill.evaluate.probes import PROBES
from slidemill.evaluate.probes.base import Settings as ProbeSettings
from slidemill.features import hed_texture, rgb_mean
from slidemill.features.build import HostEncoder
from slidemill.features.chunks import Source
from slidemill.features.engine import Work
from slidemill.features.registry import ENCODERS
from slidemill.features.runners import HostRunner
from slidemill.pretrain.bags import ArrayBags, grid_positions
from slidemill.pretrain.embedding import embed_slide
from slidemill.pretrain.train import train
from slidemill.slides.overview import read_overview
from slidemill.slides.pyramid import write_pyramid
from slidemill.slides.reader import Slide
from slidemill.slides.synthetic import SlideSpec, paint_slide
from slidemill.splits.k_fold import k_fold_units
from slidemill.splits.targets import Targets
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
    targets = Targets("binary", ("b",), np.arange(20.0)[:, None] % 2, "a")
    units = k_fold_units(ids, targets, folds=4, repeats=2, seed=0)
    fold_of = {(unit.repeat, patient): unit.fold for unit in units for patient in unit.test}
    record("splits", versions.SPLITS, [fold_of[r, p] for r in (0, 1) for p in ids])
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
    found = []
    for more in (
        {"method": "dino", "targets": "centring", "regulariser": "kde"},
        {"method": "dinov2"},
        {"method": "dinov2-compact", "attention": "longnet", "accumulate": 2},
    ):
        run = PretrainRun(
            size="1x16", heads=2, head={"prototypes": 16, "hidden": 16, "bottleneck": 8}, epochs=2,
            batch_slides=3, **more,
        )  # fmt: skip
        trained = train(bags, run, seed=0)
        grid = grid_positions(coords[0], (64.0, 64.0))
        embedded = embed_slide(trained.encoder, features[0], grid, "cpu")
        found += [*trained.metrics["loss"], np.abs(embedded.cls).mean(), embedded.layers.std()]
    return found


def _evaluate():
    rng = np.random.default_rng(0)
    targets = Targets("binary", ("b",), np.arange(12.0)[:, None] % 2, "a")
    bags = [(rng.standard_normal((9, 4)) + y).astype(np.float32) for y in targets.values[:, 0]]
    none, everyone = np.zeros(0, np.int64), np.arange(12)
    units = [BagUnit("one", everyone, none, everyone, 0)]
    settings = Settings(MilConfig(epochs=3, width=8), AbmilConfig(attention_width=4))
    found = [
        cross_fit(name, ListBags(bags), targets, units, settings, seed=0)[0].scores[:, 0]
        for name in ("abmil", "mean-pool", "max-pool")
    ]
    means = np.stack([bag.mean(axis=0) for bag in bags]).astype(np.float64)
    patients = [f"p{i:02d}" for i in range(12)]
    for name in ("linear-probe", "knn", "simpleshot"):
        probe = PROBES[name].fit(means, targets, patients, ProbeSettings(), inner_folds=3, seed=0)
        found.append(probe.predict(means)[:, 0])
    return np.concatenate(found)


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
