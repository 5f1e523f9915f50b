"""Damaged tiles of real slides: sound pixels or an error, as far as it can be known.

The table in docs/slides.md was measured with the same functions.
"""

import warnings
from collections import Counter

import numpy as np
import pytest
import tifffile

from slidemill.slides.reader import Slide
from slides.readers import damage

COUNT = 12
FLIPS = 40

STRICT = [
    ("CMU-1-Small-Region.svs", "tiff"),
    ("CMU-1-Small-Region.svs", "openslide"),
    ("OS-2-ndpi-Ki67.ome.tif", "tiff"),
    ("TCGA-CR-7395-01A-01-TS1.svs", "tiff"),
    ("camelyon_jpeg.dcm", "openslide"),
    ("camelyon_jpeg.dcm", "wsidicom"),
    ("camelyon_jpeg2000.dcm", "wsidicom"),
]


@pytest.fixture(autouse=True)
def _quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's, of odd values
        yield


@pytest.mark.parametrize("kind", damage.HOLES, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize(("name", "reader"), STRICT)
def test_holes_cuts_and_lost_heads_are_errors(shared, tmp_path, name, reader, kind):
    found = damage.outcomes(shared / "slides" / name, tmp_path, reader, kind, COUNT)
    assert found["wrong"] == 0, found
    assert found["error"] > COUNT // 2, found


@pytest.mark.parametrize(
    ("name", "reader", "least"),
    [("CMU-1-Small-Region.svs", "tiff", 6), ("OS-2-ndpi-Ki67.ome.tif", "tiff", 1)],
)
def test_of_flipped_bits_those_are_seen_that_break_the_stream(
    shared, tmp_path, name, reader, least
):
    found = damage.outcomes(shared / "slides" / name, tmp_path, reader, damage.flipped, FLIPS)
    assert found["error"] >= least, found


@pytest.mark.parametrize("name", ["CMU-1-Small-Region.svs", "camelyon_jpeg2000.dcm"])
def test_auto_chooses_a_reader_that_sees_holes(shared, tmp_path, name):
    found = damage.outcomes(shared / "slides" / name, tmp_path, "auto", damage.zeroed, COUNT)
    assert found == Counter(error=COUNT)


@pytest.mark.parametrize("compression", ["deflate", "jpeg2000", "jpeg"])
def test_codecs_of_tiff(shared, tmp_path, compression):
    source = tmp_path / "sound.tif"
    with Slide(shared / "slides" / "TCGA-CR-7395-01A-01-TS1.svs") as slide:
        pixels = slide.read(0, 1024, 1024, 1024, 1024)
    tifffile.imwrite(source, pixels, tile=(256, 256), photometric="rgb", compression=compression)
    for kind in damage.HOLES:
        folder = tmp_path / kind.__name__
        folder.mkdir()
        found = damage.outcomes(source, folder, "tiff", kind, 6)
        assert found == Counter(error=6), (kind, found)


def test_a_damaged_tile_costs_only_what_touches_it(shared, tmp_path):
    source = shared / "slides" / "TCGA-CR-7395-01A-01-TS1.svs"
    path = tmp_path / source.name
    path.write_bytes(source.read_bytes())
    piece = next(p for p in damage.stored_pieces(path) if p.box[:2] == (1024, 1024))
    with (
        damage.damaged(path, piece, damage.zeroed, np.random.default_rng(0)),
        Slide(path) as slide,
        Slide(source) as sound,
    ):
        for x, y in ((768, 1024), (1280, 1024), (1024, 768), (1024, 1280)):
            assert (slide.read(0, x, y, 256, 256) == sound.read(0, x, y, 256, 256)).all()
