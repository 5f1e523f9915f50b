"""Whether JPEG 2000 streams are all there is seen in the streams."""

import imagecodecs
import numpy as np
import pydicom
import pytest
import tifffile
from pydicom.encaps import generate_frames

from slidemill.slides.reader import Slide
from slidemill.slides.readers.base import ReadError
from slidemill.slides.readers.jpeg2000 import check

TEXTURE = np.random.default_rng(0).integers(90, 160, (256, 256, 3), dtype=np.uint8)
STREAMS = {
    "lossless": {"level": 0, "codecformat": "j2k"},
    "lossy": {"level": 40, "codecformat": "j2k"},
    "in a JP2 file": {"level": 40, "codecformat": "jp2"},
    "of one resolution": {"level": 40, "codecformat": "j2k", "resolutions": 1},
}


@pytest.mark.parametrize("kind", STREAMS)
def test_sound_streams_pass_and_torn_ones_do_not(kind):
    for pixels in (TEXTURE, np.full_like(TEXTURE, 240), np.zeros_like(TEXTURE)):
        check(imagecodecs.jpeg2k_encode(pixels, **STREAMS[kind]))
    data = imagecodecs.jpeg2k_encode(TEXTURE, **STREAMS[kind])
    middle = len(data) // 2
    hole = data[:middle] + bytes(512) + data[middle + 512 :]
    for torn in (hole, data[:middle], data[:middle] + bytes(middle), data[:60], b"", data[2:40]):
        with pytest.raises(ReadError):
            check(torn)


def test_every_tile_of_real_slides_passes(shared):
    folder = shared / "slides"
    with tifffile.TiffFile(folder / "TCGA-CR-7395-01A-01-TS1.svs") as file:
        for page in (file.pages[0], file.pages[2]):
            tiles = [
                data
                for data, _ in file.filehandle.read_segments(page.dataoffsets, page.databytecounts)
            ]
            assert len(tiles) > 60
            for data in tiles:
                check(data)
    dataset = pydicom.dcmread(folder / "camelyon_jpeg2000.dcm")
    for data in generate_frames(dataset.PixelData, number_of_frames=dataset.NumberOfFrames):
        check(data)


def test_no_bytes_at_all_end_in_another_error():
    data = imagecodecs.jpeg2k_encode(TEXTURE, level=40, codecformat="j2k")
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(500):
        torn = bytearray(data[: int(rng.integers(1, len(data)))] if rng.integers(2) else data)
        for at in rng.integers(0, min(len(torn), 200), 5):
            torn[at] = rng.integers(256)
        try:
            check(bytes(torn))
        except ReadError:
            refused += 1
    assert refused > 200


def test_dicom_in_jpeg_2000_is_read_by_the_strict_reader(shared):
    path = shared / "slides" / "camelyon_jpeg2000.dcm"
    with Slide(path) as ours, Slide(path, "openslide") as theirs:
        assert ours.reader.startswith("wsidicom")
        assert ours.level_dimensions[0] == theirs.level_dimensions[0]
        a, b = (slide.read(0, 600, 100, 500, 600).astype(int) for slide in (ours, theirs))
        assert np.abs(a - b).max() <= 2
