"""Stains that have colours of ink are tissue; ink is found on them and over tissue all the same."""

import cv2
import numpy as np
import pytest

from slidemill.slides.overview import read_overview
from slidemill.slides.reader import Slide
from slidemill.tissue.classes import TissueClass
from slidemill.tissue.exclude import find_excluded
from slidemill.tissue.find import find_tissue, optical_densities

GLASS = (242, 242, 242)
STAINS = {
    "toluidine blue": (1.4, 1.05, 0.48),
    "light green": (1.0, 0.45, 0.6),
    "melanin": (1.6, 1.8, 2.0),
}


def painted(density, roughness, stroke=None):
    """A piece of stained tissue of 3 mm at 16 um, and a stroke of blue ink."""
    rng = np.random.default_rng(3)
    amount = np.clip(rng.normal(1, roughness, (300, 300)), 0.1, 3)
    shape = np.zeros((300, 300), np.uint8)
    cv2.circle(shape, (150, 130), 95, 1, -1)
    absorbed = (amount * shape)[..., None] * np.array(density)
    if stroke is not None:
        absorbed += (stroke > 0)[..., None] * np.array([1.6, 0.8, 0.25])
    return np.clip(np.array(GLASS) * np.exp(-absorbed), 0, 255).astype(np.uint8), shape > 0


def pen(pixels):
    return find_excluded(optical_densities(pixels, GLASS), 16.0) == TissueClass.PEN


@pytest.mark.parametrize("stain", STAINS)
def test_rough_is_tissue_and_even_is_ink_of_the_same_colour(stain):
    pixels, shape = painted(STAINS[stain], 0.25)
    assert pen(pixels)[shape].mean() < 0.02
    pixels, shape = painted(np.array(STAINS[stain]) * 1.2, 0.02)
    assert pen(pixels)[shape].mean() > 0.95


def test_a_stroke_beside_and_into_stained_tissue_is_found():
    stroke = np.zeros((300, 300), np.uint8)
    cv2.line(stroke, (20, 270), (280, 260), 1, 36)
    pixels, shape = painted(STAINS["toluidine blue"], 0.25, stroke)
    found = pen(pixels)
    assert found[stroke > 0].mean() > 0.9
    assert found[shape & (stroke == 0)].mean() < 0.05
    assert not pen(painted(STAINS["toluidine blue"], 0.25)[0]).any()


@pytest.mark.parametrize("name", ["dab-methyl-green", "giemsa", "melanin-2.5", "toluidine"])
@pytest.mark.parametrize("method", ["otsu", "entropy"])
def test_stained_slides_keep_their_tissue(shared, name, method):
    path = shared / "cases" / "stains" / f"{name}.tif"
    if not path.is_file():
        pytest.skip("no stained slides")
    with Slide(path) as slide:
        pixels = read_overview(slide, 16.0, 16.0).pixels
    limits = {"min_area_mm2": 0.02, "min_hole_mm2": 0.005}
    classes = find_tissue(pixels, 8.0, method=method, **limits).classes
    stained = pixels.min(axis=2) < 200
    excluded = (classes != TissueClass.TISSUE) & (classes != TissueClass.GLASS)
    assert (excluded & stained).sum() < 0.05 * stained.sum()
    assert (classes == TissueClass.TISSUE)[stained].mean() > 0.95
