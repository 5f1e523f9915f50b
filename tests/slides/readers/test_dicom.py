"""DICOM: which files are levels, how large their pixels are, and how frames are put together."""

import shutil

import imagecodecs
import numpy as np
import pydicom
import pytest

from slidemill.errors import SlideCode, SlideError
from slidemill.slides.identity import files_beside
from slidemill.slides.reader import Slide
from slidemill.slides.readers.dicom_colour import colour_of
from slidemill.slides.resolution import objective_power, resolve_mpp
from slides.readers import dicom_files as dicom
from slides.readers.dicom_files import JPEG, JPEG_2000, PLAIN, picture, reduced

READERS = ("openslide", "wsidicom")


def refused(path, *parts, readers=("auto", *READERS)):
    for reader in readers:
        with pytest.raises(SlideError) as caught:
            Slide(path, reader)
        for part in parts:
            assert part in caught.value.message
    return caught.value.code


def whole(slide, level=0):
    return slide.read(level, 0, 0, *slide.level_dimensions[level])


def write_series(folder, syntax=PLAIN, names=("IM0", "IM1", "IM2")):
    folder.mkdir(exist_ok=True)
    pixels = picture(512, 384)
    for number, name in enumerate(names):
        small = reduced(pixels, 2**number) if number else pixels
        dicom.write(folder / name, small, um=0.5 * 2**number, syntax=syntax)
    extra = {"tile": 48, "um": 4.0, "syntax": syntax, "NumberOfOpticalPaths": None}
    dicom.write(folder / "thumb", picture(48, 48), flavour="THUMBNAIL", **extra)
    dicom.write(folder / "label", picture(48, 48, 3), flavour="LABEL", **extra)
    dicom.write(folder / "overview.dcm", picture(48, 48, 5), flavour="OVERVIEW", **extra)
    (folder / "notes.txt").write_text("not DICOM")
    return pixels


def test_a_series_without_names_is_one_slide(shared):
    folder = shared / "cases" / "dicom-names" / "noext"
    for name in ("IM0", "IM1"):
        for reader in ("auto", *READERS):
            with Slide(folder / name, reader) as slide:
                assert slide.level_dimensions == ((2048, 2048), (512, 512))
                assert slide.level_downsamples == (1.0, 4.0)
                assert resolve_mpp(slide.properties, None, "refuse").mpp_x == 0.5
                assert objective_power(slide.properties) == 20
    assert files_beside(folder / "IM0") == (folder / "IM1",)


@pytest.mark.parametrize("syntax", [PLAIN, JPEG, JPEG_2000])
def test_any_file_of_a_series_opens_its_levels_and_no_label(tmp_path, syntax):
    pixels = write_series(tmp_path / "s", syntax)
    for name in ("IM0", "IM2", "thumb", "label", "overview.dcm"):
        for reader in ("auto", *READERS):
            with Slide(tmp_path / "s" / name, reader) as slide:
                assert slide.level_dimensions == ((512, 384), (256, 192), (128, 96))
                assert [scale.source for scale in slide.level_scales] == ["stated"] * 3
                assert slide.level_downsamples == (1.0, 2.0, 4.0)
                assert np.abs(whole(slide).astype(int) - pixels).mean() < 3


def test_a_series_in_jpeg_2000_goes_to_the_strict_reader_by_any_of_its_names(tmp_path):
    write_series(tmp_path / "s", JPEG_2000)
    dicom.write(tmp_path / "s" / "thumb", picture(48, 48), tile=48, um=4.0, flavour="THUMBNAIL")
    with Slide(tmp_path / "s" / "thumb") as slide:
        assert slide.reader.startswith("wsidicom")


def test_a_series_of_labels_is_no_slide(tmp_path):
    path = dicom.write(tmp_path / "a", picture(64, 64), flavour="LABEL")
    assert refused(path, "no level (VOLUME)") == SlideCode.UNSUPPORTED


def test_a_copy_of_a_level_is_that_level(tmp_path):
    write_series(tmp_path / "s")
    shutil.copy(tmp_path / "s" / "IM1", tmp_path / "s" / "IM1 (copy)")
    with Slide(tmp_path / "s" / "IM0") as slide:
        assert len(slide.level_dimensions) == 3


@pytest.mark.parametrize("syntax", [PLAIN, JPEG, JPEG_2000])
def test_levels_that_are_padded_have_the_scale_that_they_state(tmp_path, syntax):
    pixels = picture(570, 570)
    dicom.write(tmp_path / "0", pixels, syntax=syntax)
    for number in (1, 2, 3):
        level = dicom.padded(reduced(pixels, 2**number), 64, fill=0)
        dicom.write(tmp_path / str(number), level, um=0.5 * 2**number, syntax=syntax)
    halved = reduced(pixels, 2).astype(int)
    # OpenSlide would mix neighbours: it takes the padding for pixels.
    assert refused(tmp_path / "0", "padding", readers=["openslide"]) is SlideCode.UNREADABLE
    for reader in ("auto", "wsidicom"):
        with Slide(tmp_path / "0", reader) as slide:
            assert slide.level_dimensions == ((570, 570), (285, 285), (142, 142), (71, 71))
            assert slide.level_downsamples == (1.0, 2.0, 4.0, 8.0)
            off = np.abs(slide.read(1, 50, 100, 100, 100).astype(int) - halved[100:200, 50:150])
            assert off.max() == 0 if syntax == PLAIN else off.mean() < 4
            # What is beyond the slide is white, and not what pads the level.
            assert (slide.read(1, 285, 0, 20, 20) == 255).all()


def test_the_last_levels_of_a_padded_series_are_of_one_size(tmp_path):
    pixels = picture(250, 250)
    dicom.write(tmp_path / "0", pixels)
    for number in (1, 2, 3):
        level = dicom.padded(reduced(pixels, 2**number), 64)
        dicom.write(tmp_path / str(number), level, um=0.5 * 2**number)
    with Slide(tmp_path / "0") as slide:
        assert slide.level_dimensions == ((250, 250), (125, 125), (62, 62))
        assert slide.level_downsamples == (1.0, 2.0, 4.0)
        assert "2 times coarser" in slide.left_out[0]


def test_a_spacing_that_was_copied_from_level_0_is_not_believed(tmp_path):
    pixels = picture(512, 384)
    dicom.write(tmp_path / "0", pixels)
    dicom.write(tmp_path / "1", reduced(pixels, 4), um=0.5)
    with Slide(tmp_path / "0") as slide:
        assert slide.level_downsamples == (1.0, 4.0)
        assert [scale.source for scale in slide.level_scales] == ["stated", "whole"]


def test_frames_by_column_are_put_where_they_say(tmp_path):
    pixels = picture(300, 200)
    columns = sorted(dicom.tiles(pixels, 64))
    for organization in ("TILED_SPARSE", None):
        path = tmp_path / f"{organization}.dcm"
        dicom.write(
            path, pixels, frames=columns, placed=True, series=generated(organization),
            DimensionOrganizationType=organization,
        )  # fmt: skip
        for reader in ("auto", "wsidicom", "openslide") if organization else ("auto", "wsidicom"):
            with Slide(path, reader) as slide:
                assert np.array_equal(whole(slide), pixels)
    assert refused(path, "where the frames lie", readers=["openslide"]) == SlideCode.UNREADABLE


def generated(name):
    return {"TILED_SPARSE": "1.2.3.2", None: "1.2.3.3"}[name]


def test_frames_of_no_known_order_are_refused(shared, tmp_path):
    path = path_of_real = shared / "real" / "slides" / "small_dicom.dcm"
    assert refused(path, "ImageType", "42 frames", "scrambled") == SlideCode.UNSUPPORTED
    pixels = picture(300, 200)
    columns = sorted(dicom.tiles(pixels, 64))
    path = dicom.write(tmp_path / "a", pixels, frames=columns, DimensionOrganizationType=None)
    assert refused(path, "20 frames lie", "scrambled") == SlideCode.UNSUPPORTED
    dataset = pydicom.dcmread(path_of_real)
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    dataset.save_as(tmp_path / "b")
    assert refused(tmp_path / "b", "42 frames lie") == SlideCode.UNSUPPORTED


def test_one_frame_needs_no_order(tmp_path):
    pixels = picture(64, 64)
    path = dicom.write(tmp_path / "a", pixels, DimensionOrganizationType=None)
    for reader in READERS:
        with Slide(path, reader) as slide:
            assert np.array_equal(whole(slide), pixels)


@pytest.mark.parametrize("syntax", [PLAIN, JPEG, JPEG_2000])
def test_where_no_frame_lies_it_is_white(tmp_path, syntax):
    pixels = picture(256, 192)
    some = [frame for number, frame in enumerate(dicom.tiles(pixels, 64)) if number % 3]
    path = dicom.write(
        tmp_path / "a", pixels, frames=some, organization="TILED_SPARSE", syntax=syntax
    )
    expected = np.full_like(pixels, 255)
    for x, y, tile in some:
        expected[y : y + 64, x : x + 64] = tile
    for reader in ("auto", *READERS):
        with Slide(path, reader) as slide:
            assert np.abs(whole(slide).astype(int) - expected).max(axis=2).mean() < 4
            assert (slide.read(0, 0, 0, 64, 64) == 255).all()


def test_frames_that_cannot_lie_so_are_refused(tmp_path):
    pixels = picture(256, 192)
    frames = list(dicom.tiles(pixels, 64))
    twice = [*frames, frames[0]]
    off = [(x + 5, y, tile) for x, y, tile in frames]
    for number, (frames_, text) in enumerate(((twice, "at one place"), (off, "off the grid"))):
        path = tmp_path / str(number)
        dicom.write(
            path, pixels, frames=frames_, organization="TILED_SPARSE", series=f"1.2.{number}"
        )
        assert refused(path, text) == SlideCode.UNSUPPORTED
    path = dicom.write(tmp_path / "c", pixels, frames=frames[1:], series="1.2.9")
    assert refused(path, "4 x 3 would fill it") == SlideCode.UNREADABLE


@pytest.mark.parametrize(
    ("attributes", "text"),
    [
        ({"SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2"}, "MONOCHROME2"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "PALETTE COLOR"),
        ({"BitsAllocated": 16, "BitsStored": 12, "HighBit": 11}, "12 of 16 bits"),
        ({"NumberOfOpticalPaths": 3}, "3 optical paths"),
        ({"TotalPixelMatrixFocalPlanes": 5}, "5 focal planes"),
        ({"PlanarConfiguration": 1}, "plane by plane"),
        ({"PhotometricInterpretation": "YBR_FULL"}, "uncompressed YBR_FULL"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, "Secondary Capture"),
        ({"DimensionOrganizationType": "3D"}, "organized as 3D"),
    ],
)
def test_other_kinds_are_refused_by_name(tmp_path, attributes, text):
    path = dicom.write(tmp_path / "a", picture(128, 128), **attributes)
    assert refused(path, text) == SlideCode.UNSUPPORTED


def test_attributes_that_are_missing_are_named(tmp_path):
    for number, name in enumerate(("SamplesPerPixel", "Rows", "TotalPixelMatrixColumns")):
        path = dicom.write(
            tmp_path / name, picture(128, 128), series=f"1.2.{number}", **{name: None}
        )
        assert refused(path, name) == SlideCode.UNREADABLE


def test_a_level_in_several_parts_is_whole_or_refused(tmp_path):
    pixels = picture(256, 192)
    frames = list(dicom.tiles(pixels, 64))
    for number, (start, end) in enumerate(((0, 5), (5, 9), (9, 12))):
        dicom.write(
            tmp_path / str(number), pixels, frames=frames[start:end],
            ConcatenationUID="1.2.3.7", InConcatenationNumber=number + 1,
            ConcatenationFrameOffsetNumber=start, SOPInstanceUIDOfConcatenationSource="1.2.3.8",
        )  # fmt: skip
    with Slide(tmp_path / "1") as slide:
        assert np.array_equal(whole(slide), pixels)
    (tmp_path / "1").unlink()
    assert refused(tmp_path / "0", "concatenation") == SlideCode.UNREADABLE


def test_images_of_one_size_are_refused(tmp_path):
    for number in (0, 1):
        dicom.write(tmp_path / str(number), picture(128, 128, number))
    assert refused(tmp_path / "0", "several images of one size") == SlideCode.UNSUPPORTED
    for number in (2, 3):
        attributes = {"series": "1.2.8", "PyramidUID": f"1.2.8.{number}"}
        dicom.write(tmp_path / str(number), picture(128, 64 * number), **attributes)
    assert refused(tmp_path / "2", "several pyramids") == SlideCode.UNSUPPORTED


def test_a_slide_without_spacing_has_no_mpp(tmp_path):
    path = dicom.write(tmp_path / "a", picture(128, 128), SharedFunctionalGroupsSequence=None)
    for reader in ("auto", *READERS):
        try:
            with Slide(path, reader) as slide, pytest.raises(SlideError) as caught:
                resolve_mpp(slide.properties, None, "refuse")
            assert caught.value.code == SlideCode.MPP_MISSING
        except SlideError as error:
            assert reader != "auto", error


def test_colours_are_those_of_the_frames_and_not_of_a_wrong_attribute(shared, tmp_path):
    source = shared / "slides" / "camelyon_jpeg.dcm"
    with Slide(source) as slide:
        expected = whole(slide)
    dataset = pydicom.dcmread(source)
    dataset.PhotometricInterpretation = "RGB"
    dataset.save_as(tmp_path / "a")
    for reader in ("auto", "wsidicom"):
        with Slide(tmp_path / "a", reader) as slide:
            assert np.array_equal(whole(slide), expected)
    assert refused(tmp_path / "a", "other colours", readers=["openslide"])


def test_what_a_stream_says_of_its_colours():
    pixels = picture(32, 32)
    assert colour_of(imagecodecs.jpeg8_encode(pixels)) == "YCbCr"
    stored = imagecodecs.jpeg8_encode(pixels, colorspace="RGB", outcolorspace="RGB")
    assert colour_of(stored) == "RGB"
    assert colour_of(imagecodecs.jpeg8_encode(pixels[..., 0].copy())) is None
    for end in range(40):
        assert colour_of(stored[:end]) is None
    assert colour_of(b"not JPEG") is None


def mutations(dataset):
    """Attributes that say something else than is so, one at a time."""
    edges = ("TotalPixelMatrixColumns", "TotalPixelMatrixRows", "Rows", "Columns")
    for name in (*edges, "NumberOfFrames"):
        value = int(dataset[name].value)
        for other in (value - 1, value + 1, value // 2, value * 2, 1, 0):
            yield name, other
    for other in ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT", "MONOCHROME2", None):
        yield "PhotometricInterpretation", other
    for name, others in (
        ("SamplesPerPixel", (1, 4, None)),
        ("BitsAllocated", (16, None)),
        ("BitsStored", (12,)),
        ("HighBit", (11,)),
        ("PlanarConfiguration", (1,)),
        ("PixelRepresentation", (1,)),
        ("DimensionOrganizationType", (None, "TILED_SPARSE", "3D")),
        ("ImageType", (None, ["ORIGINAL"], ["DERIVED", "PRIMARY", "LABEL", "NONE"])),
        ("SOPClassUID", (None,)),
    ):
        for other in others:
            yield name, other


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "name", ["camelyon_jpeg.dcm", "camelyon_jpeg2000.dcm", "highdicom-sm_image.dcm"]
)
def test_a_wrong_attribute_is_refused_or_changes_no_pixel(shared, tmp_path, name):
    source = shared / "slides" / name
    with Slide(source) as slide:
        expected = whole(slide).astype(int)
    for attribute, value in mutations(pydicom.dcmread(source)):
        dataset = pydicom.dcmread(source)
        if value is None:
            delattr(dataset, attribute)
        else:
            setattr(dataset, attribute, value)
        dataset.save_as(tmp_path / "m")
        try:
            with Slide(tmp_path / "m") as slide:
                found = whole(slide)
        except SlideError:
            continue
        height, width = np.minimum(found.shape, expected.shape)[:2]
        assert np.array_equal(found[:height, :width], expected[:height, :width]), (attribute, value)
        assert abs(height - len(expected)) <= 1
        assert abs(width - len(expected[0])) <= 1
