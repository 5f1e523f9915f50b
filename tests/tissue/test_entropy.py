import numpy as np
import pytest

from slidemill.tissue.entropy import entropy_tissue

MPP = 8.0


def planes(seed=0, noise=4.0, size=(240, 320)):
    """Densities of bare glass, (3, H, W), thousandths: camera noise of usual strength."""
    rng = np.random.default_rng(seed)
    return rng.normal(0, noise, (3, *size))


def judge(densities, glass=None, usable=None, mpp=MPP):
    shape = densities.shape[1:]
    red, green, blue = np.clip(densities, 0, None).astype(np.int16)
    glass = np.ones(shape, bool) if glass is None else glass
    usable = np.ones(shape, bool) if usable is None else usable
    return entropy_tissue((red, green, blue), green, glass, usable, mpp)


SQUARE = np.s_[80:160, 100:200]


@pytest.fixture
def truth():
    mask = np.zeros((240, 320), bool)
    mask[SQUARE] = True
    return mask


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


@pytest.mark.parametrize("noise", [0.0, 4.0, 8.0])
def test_bare_glass_gives_nothing(noise):
    assert not judge(planes(noise=noise)).any()


@pytest.mark.parametrize(
    "stain", [(65, 70, 29), (14, 90, 22), (40, 70, 80)], ids=["haematoxylin", "eosin", "DAB"]
)
def test_weak_stains_are_found(truth, stain):
    densities = planes()
    densities[:, truth] += np.array(stain)[:, None]
    assert iou(judge(densities, ~truth), truth) > 0.9


def test_a_shadow_is_no_tissue_but_texture_without_colour_is(truth):
    shadow = planes()
    shadow[:, truth] += 150
    assert judge(shadow, ~truth)[100:140, 120:180].mean() == 0
    grain = np.random.default_rng(3).normal(0, 100, truth.shape)
    textured = shadow + np.where(truth, grain, 0)
    assert judge(textured, ~truth)[100:140, 120:180].mean() > 0.95


def test_an_excluded_area_and_its_edge_are_none(truth):
    densities = planes()
    densities[:, truth] += np.array([[1500], [600], [900]])
    assert not judge(densities, ~truth, usable=~truth).any()


def test_a_straight_edge_is_found_where_it_is(truth):
    densities = planes()
    densities[:, truth] += np.array([[200], [400], [150]])
    rows, columns = np.nonzero(judge(densities, ~truth))
    assert abs(rows.min() - 80) <= 2
    assert abs(columns.max() - 199) <= 2
