"""Painted slides: the signal is where it is said to be, and nothing else is a sign of it."""

import dataclasses

import numpy as np
import pytest
from scipy import ndimage
from shapely.geometry import box
from shapely.ops import unary_union
from skimage.color import rgb_from_hed
from skimage.draw import polygon2mask

from slidemill.slides.synthetic import SlideSpec, paint_slide

SPEC = SlideSpec(width_px=1200, height_px=900, mpp_x=0.5, mpp_y=0.5, positive=True)
NEGATIVE = dataclasses.replace(SPEC, positive=False)
GLASS = dataclasses.replace(NEGATIVE, tissue=False)


def full_mask(painted):
    """The tissue mask at level 0."""
    height, width = painted.pixels.shape[:2]
    d = painted.tissue_downsample
    return painted.tissue_mask.repeat(d, 0).repeat(d, 1)[:height, :width]


def nuclei_of(pixels):
    """Pixels of nuclei: haematoxylin takes the red, eosin does not."""
    return pixels[..., 0] < 140


def focus_mask(painted):
    masks = [
        polygon2mask(painted.pixels.shape[:2], np.asarray(p.exterior.coords)[:, ::-1])
        for p in painted.signal_regions
    ]
    return np.any(masks, axis=0)


def test_same_seed_same_pixels_another_seed_others():
    a, b, c = (paint_slide(SPEC, seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(a.pixels, b.pixels)
    np.testing.assert_array_equal(a.tissue_mask, b.tissue_mask)
    assert a.signal_regions == b.signal_regions
    assert (a.pixels != c.pixels).mean() > 0.5


@pytest.mark.parametrize("seed", range(5))
def test_foci_are_a_tenth_to_a_quarter_of_the_tissue_and_dense(seed):
    painted = paint_slide(SPEC, seed)
    assert painted.pixels.shape == (900, 1200, 3)
    assert painted.pixels.dtype == np.uint8
    tissue, focus = full_mask(painted), focus_mask(painted)
    region = unary_union(painted.signal_regions)
    assert region.within(box(0, 0, 1200, 900))
    assert 0.10 < (tissue & focus).sum() / tissue.sum() < 0.25
    assert (tissue & focus).sum() / focus.sum() > 0.7  # lumina take some
    nuclei = nuclei_of(painted.pixels)
    ratio = nuclei[tissue & focus].mean() / nuclei[tissue & ~focus].mean()
    assert 2.0 < ratio < 6.0


def test_negative_slides_have_no_signal():
    assert paint_slide(NEGATIVE, 0).signal_regions == ()


def test_colour_of_the_classes_overlaps():
    def greens(spec):
        painted = [paint_slide(spec, seed) for seed in range(5)]
        return [p.pixels[full_mask(p)][:, 1].mean() for p in painted]

    positive, negative = greens(SPEC), greens(NEGATIVE)
    assert min(positive) < max(negative)
    assert min(negative) < max(positive)


def test_mask_is_where_the_colour_is():
    painted = paint_slide(SPEC, 1)
    tissue = full_mask(painted)
    inside = ndimage.binary_erosion(tissue, iterations=16)
    outside = ~ndimage.binary_dilation(tissue, iterations=16)
    chroma = np.ptp(painted.pixels.astype(int), axis=2)
    assert 0.2 < tissue.mean() < 0.8
    assert np.median(chroma[inside]) > 30
    assert np.percentile(chroma[outside], 99) < 15
    assert painted.pixels[outside].mean() > 230


def test_bare_glass_is_bright_grey_and_has_no_tissue():
    painted = paint_slide(GLASS, 0)
    assert not painted.tissue_mask.any()
    assert painted.signal_regions == ()
    assert painted.pixels.min() > 220
    channels = painted.pixels.reshape(-1, 3).mean(axis=0)
    assert np.ptp(channels) < 4
    assert painted.pixels.std(axis=(0, 1)).min() > 0.5  # a camera's noise


@pytest.mark.parametrize("mpp", [0.25, 0.5, 1.0])
def test_nuclei_have_their_size_in_um_at_every_resolution(mpp):
    size = {"width_px": round(500 / mpp), "height_px": round(400 / mpp)}
    spec = dataclasses.replace(NEGATIVE, mpp_x=mpp, mpp_y=mpp, **size)
    labels, count = ndimage.label(nuclei_of(paint_slide(spec, 7).pixels))
    areas = np.bincount(labels.ravel())[1:] * mpp**2
    areas = areas[areas > 10]  # less is noise at an edge
    # Ellipses of 8 to 10 um by 0.4 to 0.9 of that: 20 to 71 square um.
    assert count > 30
    assert 28 < np.median(areas) < 62


@pytest.mark.parametrize(
    ("stain", "vector"),
    [("haematoxylin", rgb_from_hed[0]), ("eosin", rgb_from_hed[1] + 0.7 * rgb_from_hed[2])],
)
def test_more_stain_adds_density_along_its_vector(stain, vector):
    usual = paint_slide(NEGATIVE, 2)
    strong = paint_slide(dataclasses.replace(NEGATIVE, **{stain: 1.3}), 2)
    tissue = full_mask(usual)
    before, after = (np.maximum(p.pixels[tissue].astype(float), 1) for p in (usual, strong))
    added = np.log10(before / after).mean(axis=0)
    assert added.min() > 0
    np.testing.assert_allclose(added / added.sum(), vector / vector.sum(), atol=0.02)


def test_blur_softens_one_patch_and_leaves_the_rest():
    sharp = paint_slide(SPEC, 5)
    soft = paint_slide(dataclasses.replace(SPEC, blurred=True), 5)
    changed = (sharp.pixels != soft.pixels).any(axis=2)
    assert 0.005 < changed.mean() < 0.3
    rows, columns = np.nonzero(changed)
    y, x = rows.mean(), columns.mean()
    middle = np.s_[int(y) - 25 : int(y) + 25, int(x) - 25 : int(x) + 25]
    detail = [ndimage.laplace(p.pixels[middle][..., 1].astype(float)).std() for p in (sharp, soft)]
    assert detail[1] < 0.3 * detail[0]


@pytest.mark.parametrize("base", [SPEC, GLASS])
@pytest.mark.parametrize(("pen", "strongest"), [("blue", 2), ("green", 1), ("black", None)])
def test_pen_darkens_strokes_in_its_colour(base, pen, strongest):
    clean = paint_slide(base, 6).pixels.astype(int)
    marked = paint_slide(dataclasses.replace(base, pen=pen), 6).pixels.astype(int)
    ink = (clean - marked).max(axis=2) > 60
    assert 0.002 < ink.mean() < 0.25
    assert (marked <= clean + 1).all()
    glass_ink = ink & (clean.min(axis=2) > 225)
    colour = marked[glass_ink].mean(axis=0)
    if strongest is None:
        assert colour.max() < 90
    else:
        assert colour.argmax() == strongest


@pytest.mark.parametrize("change", [{"positive": True}, {"blurred": True}])
def test_glass_can_be_neither_positive_nor_blurred(change):
    with pytest.raises(ValueError, match="without tissue"):
        dataclasses.replace(GLASS, **change)
