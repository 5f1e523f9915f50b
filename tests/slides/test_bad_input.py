"""Every kind of bad file: its own code, and one line with the file, the cause and the remedy."""

import os
import shutil

import numpy as np
import pytest
import tifffile

from slidemill.errors import SlideCode, SlideError
from slidemill.slides.overview import read_overview
from slidemill.slides.reader import Slide


def empty(folder, slide):
    (folder / "x.svs").touch()


def text(folder, slide):
    (folder / "x.svs").write_text("slide_id\tpath\nnot a slide, but a table of slides\n" * 50)


def noise(folder, slide):
    (folder / "x.svs").write_bytes(np.random.default_rng(0).bytes(20_000))


def without_head(folder, slide):
    (folder / "x.svs").write_bytes(slide.read_bytes()[4096:])


def without_tail(folder, slide):
    # The directories of this slide lie at its end, as those of most scanners do.
    (folder / "x.svs").write_bytes(slide.read_bytes()[:-60_000])


def cut_in_level_0(folder, slide):
    pixels = np.random.default_rng(0).integers(0, 256, (512, 512, 3), dtype=np.uint8)
    tifffile.imwrite(folder / "x.svs", pixels, tile=(64, 64), photometric="rgb")
    with (folder / "x.svs").open("r+b") as stream:
        stream.truncate(400_000)


def only_the_first_bytes(folder, slide):
    (folder / "x.svs").write_bytes(slide.read_bytes()[:8])


def wrong_compression(folder, slide):
    shutil.copy(slide, folder / "x.svs")
    with tifffile.TiffFile(folder / "x.svs", mode="r+b") as file:
        file.pages[0].tags["Compression"].overwrite(52479)


def folder_of_files(folder, slide):
    (folder / "x.svs").mkdir()


def symlink_loop(folder, slide):
    (folder / "x.svs").symlink_to(folder / "y.svs")
    (folder / "y.svs").symlink_to(folder / "x.svs")


def nothing(folder, slide):
    pass


BAD = {
    nothing: (SlideCode.FILE_MISSING, "no such file", "fix the path"),
    empty: (SlideCode.EMPTY, "empty", "copy it again"),
    text: (SlideCode.NOT_A_SLIDE, "no slide of a known format", "remove the row"),
    noise: (SlideCode.NOT_A_SLIDE, "no slide of a known format", "remove the row"),
    without_head: (SlideCode.TRUNCATED, "part of the file is missing", "copy it again"),
    without_tail: (SlideCode.TRUNCATED, "part of the file is missing", "copy it again"),
    cut_in_level_0: (SlideCode.TRUNCATED, "part of the file is missing", "copy it again"),
    only_the_first_bytes: (SlideCode.TRUNCATED, "part of the file is missing", "copy it again"),
    wrong_compression: (SlideCode.UNSUPPORTED, "compressed", "convert it"),
    folder_of_files: (SlideCode.NOT_A_FILE, "folder", "path of the slide's file"),
    symlink_loop: (SlideCode.SYMLINK_LOOP, "circle", "fix them"),
}


@pytest.mark.parametrize("make", BAD, ids=lambda make: make.__name__)
def test_every_fault_has_a_code_a_cause_and_a_remedy(shared, tmp_path, make):
    make(tmp_path, shared / "slides" / "CMU-1-Small-Region.svs")
    code, cause, remedy = BAD[make]
    path = tmp_path / "x.svs"
    with pytest.raises(SlideError) as caught, Slide(path):
        pass
    message = caught.value.message
    assert caught.value.code == code, message
    assert message.startswith(f"{path}: ")
    assert cause in message
    assert remedy in message
    assert "\n" not in message


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_file_that_may_not_be_read(disc_slide, tmp_path):
    path = tmp_path / "x.svs"
    shutil.copy(disc_slide, path)
    path.chmod(0)
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    os.seteuid(65534)
    try:
        with pytest.raises(SlideError, match="permissions") as caught, Slide(path):
            pass
    finally:
        os.seteuid(0)
    assert caught.value.code == SlideCode.NO_PERMISSION


def test_a_non_ascii_path_with_spaces_is_no_fault(shared, brightfield_ndpi, tmp_path):
    folder = tmp_path / "Präparat 7, 病理 切片"
    folder.mkdir()
    names = ("CMU-1-Small-Region.svs", "camelyon_jpeg.dcm")
    for source in (*(shared / "slides" / name for name in names), brightfield_ndpi):
        path = folder / f"scan é {source.name}"
        shutil.copy(source, path)
        for reader in ("auto", "openslide"):
            with Slide(path, reader) as slide:
                assert slide.read(0, 0, 0, 50, 40).shape == (40, 50, 3)


def test_a_folder_of_dicom_says_which_file_to_give(shared):
    with (
        pytest.raises(SlideError, match=r"boxes_\d\.dcm"),
        Slide(shared / "slides" / "openslide-boxes-dcm"),
    ):
        pass


def test_a_forced_reader_that_does_not_fit_is_said(shared):
    path = shared / "slides" / "CMU-1-Small-Region.svs"
    for reader in ("image", "wsidicom"):
        with pytest.raises(SlideError, match=r"cohort\.reader"), Slide(path, reader):
            pass
    with (
        pytest.raises(SlideError, match="OpenSlide knows no such format"),
        Slide(shared / "slides" / "OS-1-detail.ome.tif", "openslide"),
    ):
        pass


@pytest.mark.parametrize("reader", ["tiff", "openslide"])
def test_a_hole_in_level_0_costs_itself_alone(shared, tmp_path, reader):
    """Bytes zeroed in the middle: what decodes is kept, with either reader."""
    whole = shared / "slides" / "CMU-1-Small-Region.svs"
    path = tmp_path / "torn.svs"
    shutil.copy(whole, path)
    with tifffile.TiffFile(path) as file:
        start, end = file.pages[0].dataoffsets[50], file.pages[0].dataoffsets[61]
    with path.open("r+b") as stream:
        stream.seek(start)
        stream.write(b"\0" * (end - start))
    with Slide(whole, reader) as sound, Slide(path, reader) as torn:
        with pytest.raises(SlideError) as caught:
            torn.read(0, 0, 240 * 5, 2220, 240)
        assert caught.value.code == SlideCode.READ_ERROR
        assert (torn.read(0, 0, 0, 2220, 700) == sound.read(0, 0, 0, 2220, 700)).all()
        before, after = (read_overview(slide, 8.0, 8.0) for slide in (sound, torn))
    lost = after.unreadable
    assert 0.04 < lost.mean() < 0.15
    assert not before.unreadable.any()
    difference = np.abs(before.pixels.astype(int) - after.pixels).max(axis=2)
    assert difference[~lost].max() <= 2
    assert (after.pixels[lost] == 255).all()


def test_metadata_that_are_no_text_cost_no_slide(brightfield_ndpi, tmp_path):
    """OpenSlide lists the name of such a property and then does not know it."""
    path = tmp_path / "odd.ndpi"
    data = brightfield_ndpi.read_bytes()
    found = data.find(b"Macro.S/N")
    assert found > 0
    path.write_bytes(data[:found] + b"\xff\xfe" + data[found + 2 :])
    with Slide(path) as slide:
        assert slide.reader.startswith("openslide")
        assert slide.vendor == "hamamatsu"
        assert slide.read(0, 0, 0, 10, 10).shape == (10, 10, 3)


def test_a_slide_of_which_most_is_lost_has_failed(shared):
    path = shared / "slides" / "openslide-unreadable.svs"
    with Slide(path) as slide, pytest.raises(SlideError, match="does not decode") as caught:
        read_overview(slide, 1.0, 1.0)
    assert caught.value.code == SlideCode.READ_ERROR
