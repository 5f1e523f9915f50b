import h5py
import numpy as np
import pytest

from interop.runs import Given
from slidemill.errors import UserError
from slidemill.interop.read import ExportError
from slidemill.interop.stage import export


def test_features_are_halves_and_coordinates_micrometres(make_run, tmp_path):
    run = make_run(Given("a", mpp_x=0.25, mpp_y=0.26, kept=((0, 0), (512, 1024))))
    run.write()
    assert export(run.plan, "stamp", tmp_path) == 1
    with h5py.File(tmp_path / "rgb-mean" / "a.h5") as file:
        assert sorted(file) == ["coords", "feats"]
        assert file["coords"].dtype == np.float32
        assert np.allclose(file["coords"][:], [[0, 0], [128.0, 266.24]])
        assert file["feats"].dtype == np.float16
        assert np.allclose(file["feats"][:], run.features_of(run.slides[0], 3), atol=1e-3)
        attributes = dict(file.attrs)
    digest = run.plan.encoders[0].features.digest
    assert attributes == {
        "stamp_version": "2.1.0",
        "extractor": "rgb-mean",
        "unit": "um",
        "tile_size_um": 128.0,
        "tile_size_px": 256,
        "code_hash": digest[:8],
        "feat_type": "tile",
    }


def test_without_features_it_says_what_to_run(make_run, tmp_path):
    run = make_run(Given("a"))
    run.write_cohort()
    run.write_tissue()
    run.write_tiles(next(iter(run.plan.tiles.values())))
    with pytest.raises(UserError, match="Run `slidemill features`"):
        export(run.plan, "stamp", tmp_path)


def test_numbers_beyond_half_precision_are_refused(make_run, tmp_path):
    run = make_run(Given("a"))
    run.write()
    run.write_features(run.plan.encoders[0], 3, scale=1e6)
    with pytest.raises(ExportError, match="beyond 65504"):
        export(run.plan, "stamp", tmp_path)
    assert not (tmp_path / "rgb-mean").exists()
