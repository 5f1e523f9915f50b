import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kstest

from slidemill.config.pretrain import IbotConfig
from slidemill.pretrain.masking import mask_crop, mask_ratios

KINDS = ["random", "block"]
FULL = np.stack(np.meshgrid(np.arange(9), np.arange(9)), axis=-1).reshape(-1, 2)
seeds = st.integers(0, 2**32)


@given(st.integers(1, 70), st.floats(0.0, 1.0), seeds)
def test_a_fixed_share_of_crops_is_masked_by_one_ratio_a_stratum(crops, share, seed):
    config = IbotConfig(masked_crops=share, ratio=(0.1, 0.5))
    ratios = mask_ratios(crops, config, np.random.default_rng(seed))
    assert ratios.shape == (crops,) and ratios.dtype == np.float64
    masked = np.sort(ratios[ratios > 0])
    assert len(masked) == max(1, round(share * crops))
    edges = np.linspace(0.1, 0.5, len(masked) + 1)
    assert np.all((edges[:-1] - 1e-12 <= masked) & (masked <= edges[1:] + 1e-12))


def test_any_crop_may_get_any_ratio():
    config = IbotConfig(masked_crops=0.5, ratio=(0.1, 0.5))
    rng = np.random.default_rng(0)
    drawn = np.array([mask_ratios(8, config, rng) for _ in range(2000)])
    assert np.abs((drawn > 0).mean(axis=0) - 0.5).max() < 0.05
    first = drawn[drawn[:, 0] > 0, 0]
    assert kstest(first, "uniform", (0.1, 0.4)).pvalue > 1e-3


@given(st.integers(1, 60), st.floats(0.01, 0.99), st.sampled_from(KINDS), seeds)
def test_a_mask_hides_the_share_but_never_nothing_or_all(tiles, ratio, kind, seed):
    rng = np.random.default_rng(seed)
    positions = rng.integers(0, 20, size=(tiles, 2))
    hidden = mask_crop(positions, ratio, kind, rng)
    assert hidden.shape == (tiles,) and hidden.dtype == np.bool_
    expected = 0 if tiles == 1 else min(max(1, round(ratio * tiles)), tiles - 1)
    assert hidden.sum() == expected


@pytest.mark.parametrize("kind", KINDS)
def test_a_crop_of_ratio_0_is_shown_whole(kind):
    assert not mask_crop(FULL, 0.0, kind, np.random.default_rng(0)).any()


@pytest.mark.parametrize("kind", KINDS)
def test_every_tile_is_hidden_at_times(kind):
    rng = np.random.default_rng(0)
    share = np.mean([mask_crop(FULL, 0.2, kind, rng) for _ in range(3000)], axis=0)
    assert share.mean() == pytest.approx(16 / 81)
    assert share.min() > 0.05
    if kind == "random":
        assert np.abs(share - 16 / 81).max() < 0.04


@given(st.floats(0.05, 0.9), seeds)
def test_a_block_is_a_square_but_for_its_outermost_tiles(ratio, seed):
    hidden = mask_crop(FULL, ratio, "block", np.random.default_rng(seed))
    block = FULL[hidden]

    def far(centre):
        return np.abs(FULL - centre).max(axis=1)

    # Around one tile, all nearer ones are hidden and all farther ones shown.
    assert any(far(c)[hidden].max() <= far(c)[~hidden].min() for c in block)


def test_equally_far_tiles_of_a_block_are_drawn():
    centre_of_9 = FULL[(FULL.max(axis=1) < 3)]
    seen = set()
    rng = np.random.default_rng(0)
    for _ in range(500):
        hidden = mask_crop(centre_of_9, 2 / 9, "block", rng)
        if hidden[4]:
            seen.update(np.flatnonzero(hidden).tolist())
    assert seen == set(range(9))


def test_masks_follow_the_seed():
    masks = [mask_crop(FULL, 0.3, "random", np.random.default_rng(s)) for s in (1, 1, 2)]
    assert np.array_equal(masks[0], masks[1])
    assert not np.array_equal(masks[0], masks[2])
