"""Sizes, colours and resizing of what networks are given."""

import numpy as np
import pytest
import torch
from PIL import Image

from slidemill.errors import ConfigError
from slidemill.features.preprocess import (
    Preprocess,
    check_tile_px,
    filter_matrix,
    resize,
    resize_by_products,
)
from slidemill.features.registry import ENCODERS
from slidemill.features.spec import Preprocessing

RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (2, 256, 256, 3), dtype=np.uint8)
PREPARED = sorted({spec.preprocessing for spec in ENCODERS.values() if spec.preprocessing}, key=str)
FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def smooth():
    """Tiles with edges and slopes, as tissue has them."""
    small = Image.fromarray(RNG.integers(0, 256, (16, 16, 3), dtype=np.uint8))
    large = small.resize((256, 256), Image.Resampling.BICUBIC)
    return np.stack([np.asarray(large), NOISE[0]])


def pillow(tiles, edge, interpolation):
    images = [Image.fromarray(tile).resize((edge, edge), FILTERS[interpolation]) for tile in tiles]
    return torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2)


@pytest.mark.parametrize("settings", PREPARED, ids=str)
def test_a_constant_colour_is_normalised_exactly(settings):
    colour = (200, 120, 7)
    edge = settings.crop_px if settings.resize_px is None else 256
    tiles = torch.tensor(colour, dtype=torch.uint8).expand(2, edge, edge, 3)
    found = Preprocess(settings)(tiles)
    assert found.shape == (2, 3, settings.crop_px, settings.crop_px)
    assert found.dtype == torch.float32
    for channel in range(3):
        expected = (colour[channel] / 255 - settings.mean[channel]) / settings.std[channel]
        assert (found[:, channel] - expected).abs().max() < 1e-5


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("edge", [64, 224, 248, 448])
def test_resizing_on_a_cpu_agrees_with_pillow(interpolation, edge):
    tiles = smooth()
    found = resize(torch.from_numpy(tiles).permute(0, 3, 1, 2), edge, interpolation)
    assert found.dtype == torch.uint8
    off = (found.int() - pillow(tiles, edge, interpolation)).abs()
    assert off.max() <= 2
    assert (off > 1).float().mean() < 1e-2
    assert off.float().mean() < 0.1


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("edge", [64, 224, 248, 448])
def test_resizing_elsewhere_agrees_with_pillow(interpolation, edge):
    tiles = smooth()
    images = torch.from_numpy(tiles).permute(0, 3, 1, 2)
    found = resize_by_products(images, edge, interpolation)
    assert torch.equal(found, found.round())
    assert 0 <= found.min() <= found.max() <= 255
    off = (found.int() - pillow(tiles, edge, interpolation)).abs()
    assert off.max() <= 2
    assert off.float().mean() < 0.1


def test_autocast_does_not_touch_resizing():
    images = torch.from_numpy(NOISE).permute(0, 3, 1, 2)
    with torch.autocast("cpu", torch.bfloat16):
        found = resize_by_products(images, 224, "bicubic")
    assert found.dtype == torch.float32
    assert torch.equal(found, resize_by_products(images, 224, "bicubic"))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_filters_add_to_one_and_are_symmetric(interpolation):
    weights = filter_matrix(512, 224, interpolation, torch.device("cpu"))
    assert weights.shape == (224, 512)
    assert torch.allclose(weights.sum(1), torch.ones(224), atol=1e-6)
    assert torch.allclose(weights, weights.flip(0, 1), atol=1e-6)
    same = filter_matrix(64, 64, interpolation, torch.device("cpu"))
    assert torch.equal(same, torch.eye(64))


def test_tiles_of_the_right_size_are_not_resampled():
    tiles = torch.from_numpy(NOISE[:, :224, :224])
    settings = Preprocessing(224, 224, "bicubic", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    found = Preprocess(settings)(tiles)
    assert torch.allclose(found * 255, tiles.permute(0, 3, 1, 2).float(), atol=1e-3)


def test_the_crop_is_the_centre():
    settings = Preprocessing(256, 224, "bicubic", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    found = Preprocess(settings)(torch.from_numpy(NOISE))
    expected = torch.from_numpy(NOISE[:, 16:240, 16:240]).permute(0, 3, 1, 2).float()
    assert torch.allclose(found * 255, expected, atol=1e-3)


def test_an_encoder_of_one_size_refuses_others_and_names_both():
    settings = ENCODERS["h-optimus-0"].preprocessing
    with pytest.raises(ConfigError, match=r"256 px.* exactly 224 px"):
        Preprocess(settings)(torch.from_numpy(NOISE))
    with pytest.raises(ConfigError, match=r"tiles\.tile_px"):
        check_tile_px(settings, 512)
    assert check_tile_px(settings, 224) is None
    assert check_tile_px(ENCODERS["uni"].preprocessing, 512) is None


def test_a_crop_larger_than_the_image_is_refused():
    with pytest.raises(ValueError, match="256 px cannot be cut from 224 px"):
        Preprocess(Preprocessing(224, 256, "bicubic", (0.0,) * 3, (1.0,) * 3))


@pytest.mark.parametrize(
    ("name", "resize_px", "interpolation", "mean"),
    [
        ("uni", 224, "bilinear", 0.485),
        ("virchow2", 224, "bicubic", 0.485),
        ("prov-gigapath", 256, "bicubic", 0.485),
        ("h-optimus-1", None, "bicubic", 0.707223),
        ("h0-mini", 224, "bicubic", 0.707223),
        ("kaiko-b8", 224, "bilinear", 0.5),
        ("stainnet-s", 224, "bicubic", 0.5),
        ("lunit-swav", 224, "bilinear", 0.70322989),
        ("gpfm", 224, "bicubic", 0.485),
        ("openmidnight", 224, "bilinear", 0.485),
    ],
)
def test_rows_prepare_tiles_as_published(name, resize_px, interpolation, mean):
    settings = ENCODERS[name].preprocessing
    assert (settings.resize_px, settings.interpolation) == (resize_px, interpolation)
    assert settings.crop_px == 224
    assert settings.mean[0] == mean
