"""PNG and JPEG of more than 8 bits, and Pillow's own limits."""

import cv2
import numpy as np
import pytest
from PIL import Image

from slidemill.errors import SlideCode, SlideError
from slidemill.slides.reader import Slide


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_png_of_16_bits_is_refused_by_name(tmp_path, channels):
    """Pillow opens the coloured ones as if they had 8, and drops half of each."""
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), np.full((20, 30, channels), 4095, np.uint16))
    with pytest.raises(SlideError, match="16 bits") as caught, Slide(path):
        pass
    assert caught.value.code == SlideCode.UNSUPPORTED


def test_the_case_of_16_bits(shared):
    path = shared / "cases" / "sixteen-bit" / "png-grey-12.png"
    with pytest.raises(SlideError, match="16 bits") as caught, Slide(path):
        pass
    assert caught.value.code == SlideCode.UNSUPPORTED


@pytest.mark.parametrize("kind", ["png", "jpg"])
def test_pillows_own_limit_calls_no_sound_image_damaged(tmp_path, monkeypatch, kind):
    path = tmp_path / f"a.{kind}"
    Image.fromarray(np.full((100, 100, 3), 9, np.uint8)).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with Slide(path) as slide:
        assert (slide.read(0, 0, 0, 100, 100) == 9).all()
    assert Image.MAX_IMAGE_PIXELS == 100
