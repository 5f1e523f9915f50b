"""Painted conditions: the picture shows what its name says, and the truth fits the picture."""

import cv2
import numpy as np
import pytest

from slidemill.slides.conditions import CONDITIONS, MPP, SMALLEST_HOLE_MM2, paint_condition

MM2 = (MPP / 1000) ** 2


@pytest.fixture(scope="module")
def painted():
    """Every condition once."""
    return {name: paint_condition(name, 1) for name in CONDITIONS}


def areas(mask, connectivity=8):
    """Areas of connected parts, square mm."""
    stats = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=connectivity)[2]
    return stats[1:, cv2.CC_STAT_AREA] * MM2


def inner(mask, pixels=4):
    return cv2.erode(mask.astype(np.uint8), np.ones((2 * pixels + 1,) * 2, np.uint8)) > 0


def saturation(pixels):
    return np.ptp(pixels.astype(int), axis=2)


@pytest.mark.parametrize("name", CONDITIONS)
def test_pictures_have_their_type_and_differ_from_the_plain_slide(painted, name):
    pixels, truth, mpp = painted[name]
    assert pixels.dtype == np.uint8
    assert pixels.shape == (*truth.shape, 3)
    assert truth.dtype == bool
    assert mpp == MPP
    assert truth.any() == (name != "glass")
    normal = painted["normal"][0]
    if name != "normal" and pixels.shape == normal.shape:
        assert (pixels != normal).mean() > 0.001
    if name != "holes":
        holes = areas(~truth, connectivity=4)
        assert holes.min() >= SMALLEST_HOLE_MM2 * 0.99 or truth[[0, -1]].any()


def test_the_same_seed_gives_the_same_picture(painted):
    for name in ("bubble", "holes", "pen"):
        again = paint_condition(name, 1)
        np.testing.assert_array_equal(painted[name][0], again[0])
        np.testing.assert_array_equal(painted[name][1], again[1])
    other = paint_condition("glass", 2)
    assert (painted["glass"][0] != other[0]).mean() > 0.2


def test_an_unknown_condition_is_named():
    with pytest.raises(ValueError, match="snow"):
        paint_condition("snow", 0)


def test_stains_have_their_colours(painted):
    def tissue(name):
        pixels, truth, _ = painted[name]
        return pixels[inner(truth)].astype(float)

    normal, faint, brown, blue = map(tissue, ("normal", "faint", "ihc-brown", "ihc-faint"))
    assert np.median(np.ptp(normal, axis=1)) > 60
    assert 5 < np.median(np.ptp(faint, axis=1)) < 20
    strong = brown[brown[:, 2] < 150]
    assert len(strong) > 0.2 * len(brown)
    assert (strong[:, 0] > strong[:, 2] + 20).mean() > 0.9  # brown: red over blue
    assert np.median(blue[:, 2] - blue[:, 0]) > 5  # blue over red, and weak
    assert np.median(blue) > 200


def test_glass_is_bare_or_dark(painted):
    pixels = painted["glass"][0]
    assert pixels.min() > 225
    assert saturation(pixels).max() < 12
    pixels, truth, _ = painted["dark-background"]
    glass = pixels[~cv2.dilate(truth.astype(np.uint8), np.ones((9, 9))).astype(bool)]
    assert np.median(glass) < 190
    assert np.percentile(glass, 2) < 0.85 * np.percentile(glass, 98)


def test_ink_is_no_tissue_and_hides_some(painted):
    pixels, truth, _ = painted["pen"]
    plain, whole, _ = painted["normal"]
    ink = (plain.astype(int) - pixels).max(axis=2) > 70
    assert (ink & whole).sum() * MM2 > 0.05
    assert (ink & truth).sum() < 0.15 * (ink & whole).sum()
    for channel in range(3):  # red, green and blue ink pass their own light best
        assert ((pixels.argmax(axis=2) == channel) & ink & (saturation(pixels) > 60)).any()
    assert (pixels[ink].max(axis=1) < 60).sum() * MM2 > 0.05  # black


def test_holes_fragments_and_cores_have_their_sizes(painted):
    holes = areas(~painted["holes"][1], connectivity=4)
    assert (holes[holes > SMALLEST_HOLE_MM2] > 0.07).sum() >= 2
    crumbs = areas(painted["fragments"][1])
    assert len(crumbs) >= 8
    assert 0.02 < crumbs.min() < crumbs.max() < 0.4
    core = painted["biopsy"][1]
    assert 5.0 < core.any(axis=0).sum() * MPP / 1000 < 9.5
    assert 0.6 < core[:, core.any(axis=0)].sum(axis=0).mean() * MPP / 1000 < 1.1
    tiny = painted["biopsy-tiny"][1]
    assert 0.15 < areas(tiny).sum() < 0.5
    rows, columns = np.nonzero(tiny)
    assert 0.5 < np.hypot(np.ptp(rows), np.ptp(columns)) * MPP / 1000 < 1.3


def test_borders_bubbles_and_edges_are_dark_and_grey(painted):
    pixels, truth, _ = painted["black-border"]
    dark = pixels.max(axis=2) < 40
    assert 0.03 < dark.mean() < 0.4
    assert not (dark & truth).any()
    for name in ("bubble", "coverslip-edge"):
        pixels, truth, _ = painted[name]
        plain = painted["normal"][0].astype(int)
        line = (plain - pixels).min(axis=2) > 40
        off = line & ~cv2.dilate(truth.astype(np.uint8), np.ones((9, 9))).astype(bool)
        assert 200 < off.sum() < 0.1 * off.size
        assert np.median(saturation(pixels)[off]) < 8
