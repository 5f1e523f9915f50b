import numpy as np
import pytest

from slidemill.tissue.otsu import CEILING, FLOOR, otsu_threshold, otsu_tissue


def two_classes(low, high, share=0.5, size=40_000):
    """Saturation of glass and stain, thousandths, with a tenth of deviation."""
    rng = np.random.default_rng(0)
    count = round(size * share)
    values = np.concatenate(
        [rng.normal(low, 0.1 * low, size - count), rng.normal(high, 0.1 * high, count)]
    )
    return np.clip(values, 0, None).astype(np.int16).reshape(200, -1)


def everywhere(values):
    return np.ones(values.shape, bool)


@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
@pytest.mark.parametrize("high", [60, 200, 700])
def test_stain_of_any_strength_and_amount_is_parted_from_glass(share, high):
    values = two_classes(6, high, share)
    found, threshold = otsu_tissue(values, everywhere(values))
    assert FLOOR <= threshold <= CEILING
    assert found.mean() == pytest.approx(share, rel=0.05)


def test_weak_stain_beside_strong_stain_is_found():
    values = np.concatenate([two_classes(6, 80), two_classes(600, 700)])
    found, _ = otsu_tissue(values, everywhere(values))
    assert found[200:].all()
    assert found[:200].mean() == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize("level", [0, 5, 12])
def test_bare_glass_gives_nothing(level):
    rng = np.random.default_rng(1)
    noise = np.ptp(rng.normal(0, level / 1.7, (3, 200, 200)), axis=0).astype(np.int16)
    found, threshold = otsu_tissue(noise, everywhere(noise))
    assert found.mean() < 0.004
    assert threshold >= FLOOR


def test_noise_raises_the_floor():
    rng = np.random.default_rng(2)
    quiet, loud = (
        np.ptp(rng.normal(0, s, (3, 200, 200)), axis=0).astype(np.int16) for s in (2, 10)
    )
    assert otsu_threshold(quiet, everywhere(quiet)) == FLOOR
    assert FLOOR < otsu_threshold(loud, everywhere(loud)) <= CEILING


def test_excluded_pixels_do_not_count():
    values = two_classes(6, 50)
    ink = np.full_like(values, 900)
    both = np.concatenate([values, ink])
    usable = np.concatenate([everywhere(values), ~everywhere(ink)])
    assert otsu_threshold(both, usable) == otsu_threshold(values, everywhere(values))


def test_degenerate_histograms():
    flat = np.full((5, 5), 8, np.int16)
    assert otsu_threshold(flat, everywhere(flat)) == FLOOR
    assert otsu_threshold(flat, ~everywhere(flat)) == FLOOR
