"""DICOM that OpenSlide refuses, images, and the readers that are never or not always chosen."""

import numpy as np
import openslide
import pydicom
import pytest
from PIL import Image

from slidemill.errors import SlideCode, SlideError
from slidemill.slides.reader import Slide
from slidemill.slides.readers import image
from slidemill.slides.resolution import resolve_mpp


def test_dicom_that_openslide_refuses_goes_to_wsidicom(shared, tmp_path):
    source = shared / "slides" / "camelyon_jpeg.dcm"
    dataset = pydicom.dcmread(source)
    dataset.PhotometricInterpretation = "YBR_FULL"
    path = tmp_path / "ybr.dcm"
    dataset.save_as(path)
    with pytest.raises(openslide.OpenSlideError):
        openslide.OpenSlide(path)
    with Slide(path) as slide, Slide(source) as sound:
        assert slide.reader.startswith("wsidicom")
        assert sound.reader.startswith("openslide")
        a, b = (s.read(0, 300, 200, 256, 200).astype(int) for s in (slide, sound))
        assert np.abs(a - b).max() <= 24
        found = resolve_mpp(slide.properties, None, "refuse")
    assert found.mpp_x == pytest.approx(28.97, rel=1e-3)


def test_levels_of_a_dicom_series_lie_beside_each_other(shared, tmp_path):
    """Files of another series, and files that are none, are left alone."""
    source = shared / "slides" / "openslide-boxes-dcm"
    for name in ("boxes_0.dcm", "boxes_1.dcm"):
        (tmp_path / name).write_bytes((source / name).read_bytes())
    (tmp_path / "other.dcm").write_bytes((shared / "slides" / "camelyon_jpeg.dcm").read_bytes())
    (tmp_path / "rubbish.dcm").write_bytes(b"rubbish")
    with Slide(tmp_path / "boxes_0.dcm", "wsidicom") as slide:
        assert slide.dimensions == (16, 16)


@pytest.mark.parametrize("kind", ["png", "jpg"])
def test_images_are_regions_of_interest_without_a_resolution(tmp_path, disc_pixels, kind):
    path = tmp_path / f"roi.{kind}"
    Image.fromarray(disc_pixels).save(path, dpi=(300, 300), quality=95)
    with Slide(path) as slide:
        assert slide.reader.startswith("image")
        assert slide.dimensions == (1000, 800)
        found = slide.read(0, -10, 390, 400, 20).astype(int)
        with pytest.raises(SlideError) as caught:
            resolve_mpp(slide.properties, None, "objective")
        assert resolve_mpp(slide.properties, 0.5, "refuse").source == "sheet"
    assert caught.value.code == SlideCode.MPP_MISSING
    assert (found[:, :10] == 255).all()
    assert np.abs(found[:, 10:] - disc_pixels[390:410, :390]).mean() < 2


def test_transparent_images_are_composited_on_white(tmp_path):
    rgba = np.zeros((20, 30, 4), np.uint8)
    rgba[:, :10] = (200, 100, 50, 255)
    Image.fromarray(rgba).save(tmp_path / "a.png")
    with Slide(tmp_path / "a.png") as slide:
        found = slide.read(0, 0, 0, 30, 20)
    assert (found[:, :10] == (200, 100, 50)).all()
    assert (found[:, 10:] == 255).all()


def test_an_image_that_is_too_large_or_torn_says_so(tmp_path, disc_pixels, monkeypatch):
    path = tmp_path / "a.png"
    Image.fromarray(disc_pixels).save(path)
    torn = tmp_path / "torn.png"
    torn.write_bytes(path.read_bytes()[:2000])
    with Slide(torn) as slide, pytest.raises(SlideError) as caught:
        slide.read(0, 0, 0, 10, 10)
    assert caught.value.code == SlideCode.READ_ERROR
    monkeypatch.setattr(image, "MAX_PIXELS", 1000)
    with pytest.raises(SlideError, match="tiled TIFF"), Slide(path):
        pass


def test_cucim_that_is_not_installed_says_how_to_install_it(disc_slide):
    try:
        import cucim  # noqa: F401
    except ImportError:
        with pytest.raises(SlideError, match=r"slidemill\[cucim\]"), Slide(disc_slide, "cucim"):
            pass
    else:
        with Slide(disc_slide, "cucim") as slide:
            assert slide.reader.startswith("cucim")
