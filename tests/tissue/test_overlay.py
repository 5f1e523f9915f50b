import cv2
import numpy as np
import pytest
from shapely.geometry import Polygon

from slidemill.tissue.classes import TissueClass
from slidemill.tissue.overlay import HOLE, OUTLINE, TINT, TINTS, draw_overlay

GREY = 240
SHADED = 168


def decode(data):
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1].astype(int)


@pytest.fixture
def slide():
    return np.full((300, 400, 3), GREY, np.uint8)


@pytest.fixture
def ring():
    """A frame in level-0 pixels, of which 4 x 2 make a pixel of the picture."""
    outer = [(400, 100), (1200, 100), (1200, 500), (400, 500)]
    inner = [(700, 250), (900, 250), (900, 350), (700, 350)]
    return Polygon(outer, [inner])


def test_tissue_is_bright_and_glass_and_holes_are_shaded(slide, ring):
    data = draw_overlay(slide, [ring], 4.0, 2.0)
    assert data[:3] == b"\xff\xd8\xff"
    image = decode(data)
    assert image.shape == slide.shape
    for (x, y), level in {(130, 80): GREY, (200, 150): SHADED, (30, 30): SHADED}.items():
        assert np.abs(image[y - 5 : y + 5, x - 5 : x + 5] - level).max() <= 4


def test_outlines_lie_on_the_edges(slide, ring):
    image = decode(draw_overlay(slide, [ring], 4.0, 2.0))
    left = image[150, 90:110]
    # The edge at 100 lies between the pixels 99 and 100.
    assert np.abs(left - OUTLINE).sum(axis=1).argmin() + 90 in (99, 100)
    hole = image[150, 165:185]
    assert np.abs(hole - HOLE).sum(axis=1).argmin() + 165 in (174, 175)
    assert np.abs(left - OUTLINE).sum(axis=1).min() < 90
    assert np.abs(hole - HOLE).sum(axis=1).min() < 90


@pytest.mark.parametrize("kind", list(TINTS))
def test_what_was_excluded_is_tinted(slide, ring, kind):
    classes = np.full((75, 100), TissueClass.GLASS, np.uint8)  # coarser than the picture
    classes[:10, :20] = kind
    plain = decode(draw_overlay(slide, [ring], 4.0, 2.0))
    image = decode(draw_overlay(slide, [ring], 4.0, 2.0, classes))
    wanted = SHADED * (1 - TINT) + np.array(TINTS[kind]) * TINT
    assert np.abs(image[5:35, 5:75] - wanted).max() <= 8
    np.testing.assert_array_equal(image[100:], plain[100:])


def test_a_slide_without_tissue_is_all_shaded(slide):
    image = decode(draw_overlay(slide, [], 4.0, 4.0))
    assert np.abs(image - SHADED).max() <= 2


def test_the_slide_is_not_painted_over(slide, ring):
    before = slide.copy()
    draw_overlay(slide, [ring], 4.0, 2.0, np.full((3, 4), TissueClass.PEN, np.uint8))
    np.testing.assert_array_equal(slide, before)
