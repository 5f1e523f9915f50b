"""What tests share: real slides where they are, and small slides that are made here."""

import os
from pathlib import Path

import numpy as np
import pytest

from slidemill.slides.pyramid import write_pyramid

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of real slides and of other tools' outputs."""
    folder = Path(os.environ.get("SLIDEMILL_SHARED", ROOT.parent / "shared"))
    if not (folder / "slides").is_dir():
        pytest.skip(f"no real slides at {folder}; set SLIDEMILL_SHARED")
    return folder


@pytest.fixture(scope="session")
def brightfield_ndpi(shared, tmp_path_factory) -> Path:
    """An NDPI that names no filters: the one among the real slides is fluorescence."""
    path = tmp_path_factory.mktemp("ndpi") / "brightfield.ndpi"
    data = (shared / "slides" / "fluorescence-dapi.ndpi").read_bytes()
    path.write_bytes(data.replace(b"DAPI 2 (387)", bytes(12)))
    return path


@pytest.fixture(scope="session")
def disc_pixels() -> np.ndarray:
    """A pink disc of 300 px radius on glass, (800, 1000, 3): 0.5 um a pixel makes it 0.07 mm2."""
    y, x = np.mgrid[:800, :1000]
    pixels = np.full((800, 1000, 3), 242, np.uint8)
    pixels[(x - 500) ** 2 + (y - 400) ** 2 < 300**2] = (200, 120, 180)
    return pixels


@pytest.fixture(scope="session")
def disc_slide(tmp_path_factory, disc_pixels) -> Path:
    """The disc as a pyramidal slide of 0.5 x 0.5 um."""
    path = tmp_path_factory.mktemp("disc") / "disc.tif"
    write_pyramid(path, disc_pixels, mpp_x=0.5, mpp_y=0.5)
    return path


@pytest.fixture
def slurm(tmp_path_factory):
    """A real Slurm of two nodes, fresh for a test; other tests that want one wait."""
    from cluster.slurm import alone, install, running

    with alone():
        reason = install()
        if reason:
            pytest.skip(f"no Slurm: {reason}")
        with running(tmp_path_factory.mktemp("slurm")) as cluster:
            yield cluster
