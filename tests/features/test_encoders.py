"""Looking encoders up, finding weights, and loading them; on a hub cache that the test makes."""

import shutil

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from slidemill.config import EncoderEntry
from slidemill.errors import ConfigError, WeightsError
from slidemill.features.build import build
from slidemill.features.encoders import ENCODERS, find_spec, resolve
from slidemill.features.timm_encoder import TimmEncoder, read_state
from slidemill.features.weights import weights_of_file

ARCH, TAG = "test_vit", "test_vit.r160_in1k"
RNG = np.random.default_rng(0)
TILES = RNG.integers(0, 256, (5, 96, 96, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def model():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return timm.create_model(ARCH, pretrained=False).eval()


@pytest.fixture
def checkpoint(tmp_path, model):
    path = tmp_path / "weights.safetensors"
    save_file(model.state_dict(), path)
    return path


@pytest.fixture
def hub(tmp_path, monkeypatch, checkpoint):
    """A Hugging Face cache that holds the checkpoint as timm's published weights."""
    home = tmp_path / "hub"
    snapshot = home / f"models--timm--{TAG}" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    shutil.copy(checkpoint, snapshot / "model.safetensors")
    refs = snapshot.parents[1] / "refs"
    refs.mkdir()
    (refs / "main").write_text("abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(home))
    monkeypatch.setattr("huggingface_hub.file_download.HF_HUB_CACHE", str(home), raising=False)
    return home


def entry(name, checkpoint=None):
    return EncoderEntry(name=name, checkpoint=str(checkpoint) if checkpoint else None)


def test_unknown_names_are_refused_with_a_hint(tmp_path):
    with pytest.raises(ConfigError, match="Did you mean hed-texture"):
        resolve(entry("hed-textur"), tmp_path)
    with pytest.raises(ConfigError, match="slidemill encoders"):
        resolve(entry("zzz"), tmp_path)
    with pytest.raises(ConfigError, match="no weights to load"):
        resolve(entry("rgb-mean", "x.safetensors"), tmp_path)


@pytest.mark.parametrize("name", sorted(ENCODERS))
def test_handcrafted_encoders_need_nothing_and_have_their_dimension(name, tmp_path):
    encode = build(resolve(entry(name), tmp_path), "cpu", "auto")
    assert encode(TILES).shape == (5, ENCODERS[name].dim)


def test_rgb_mean():
    encode = build(resolve(entry("rgb-mean"), None), "cpu", "auto")
    assert np.allclose(encode(TILES), TILES.mean(axis=(1, 2)), atol=1e-4)


def test_missing_weights_are_an_error_that_says_how_to_get_them(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(WeightsError, match=r"slidemill encoders download timm:resnet50\.a1_in1k"):
        resolve(entry("timm:resnet50.a1_in1k"), tmp_path)
    with pytest.raises(WeightsError, match="no such checkpoint"):
        resolve(entry("timm:test_vit", "none.pt"), tmp_path)


def test_published_weights_are_found_in_the_hub_cache(hub, checkpoint):
    encoder = resolve(entry(f"timm:{TAG}"), None)
    assert encoder.weights_sha256 == weights_of_file(checkpoint).sha256
    assert encoder.label == f"timm-{TAG}"
    assert build(encoder, "cpu", "auto")(TILES).shape == (5, 64)


def test_features_are_the_models_pooled_output(checkpoint, model):
    encoder = resolve(entry(f"timm:{ARCH}", checkpoint.name), checkpoint.parent)
    assert encoder.own_weights
    found = build(encoder, "cpu", "fp32")(TILES)
    data = timm.data.resolve_model_data_config(model)
    edge = round(data["input_size"][-1] / data["crop_pct"])
    images = torch.from_numpy(TILES).permute(0, 3, 1, 2)
    resized = (
        torch.nn.functional.interpolate(
            images.float(), (edge, edge), mode="bicubic", antialias=True
        )
        .clamp(0, 255)
        .round()
    )
    margin = (edge - data["input_size"][-1]) // 2
    size = data["input_size"][-1]
    cropped = resized[..., margin : margin + size, margin : margin + size] / 255
    mean, std = (torch.tensor(data[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    with torch.inference_mode():
        expected = model.forward_head(
            model.forward_features((cropped - mean) / std), pre_logits=True
        )
    assert np.abs(found - expected.numpy()).max() < 2e-2


def test_a_feature_does_not_depend_on_its_batch(checkpoint):
    encoder = TimmEncoder(ARCH, weights_of_file(checkpoint), "cpu", "fp32")
    together = encoder.encode(TILES)
    assert encoder.dim == together.shape[1]
    assert np.abs(together[3] - encoder.encode(TILES[3:4])[0]).max() < 1e-5


def test_state_dicts_load_without_running_code(tmp_path, model):
    torch.save({"state_dict": model.state_dict()}, tmp_path / "good.pt")
    assert set(read_state(tmp_path / "good.pt")) == set(model.state_dict())
    torch.save(model, tmp_path / "pickled.pt")
    with pytest.raises(WeightsError, match="safe weights"):
        read_state(tmp_path / "pickled.pt")
    (tmp_path / "rubbish.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(WeightsError, match="safe weights"):
        read_state(tmp_path / "rubbish.safetensors")


def test_missing_and_unexpected_keys_are_errors(tmp_path, model):
    state = dict(model.state_dict())
    kept = state.pop("norm.weight")
    save_file(state, tmp_path / "missing.safetensors")
    save_file(state | {"norm.weight": kept, "extra": kept.clone()}, tmp_path / "extra.safetensors")
    for name in ("missing", "extra"):
        with pytest.raises(WeightsError, match=r"1 (keys are missing|are unexpected)"):
            TimmEncoder(ARCH, weights_of_file(tmp_path / f"{name}.safetensors"), "cpu", "fp32")
    with pytest.raises(ConfigError, match="timm:no_such_model"):
        TimmEncoder("no_such_model", weights_of_file(tmp_path / "extra.safetensors"), "cpu", "fp32")


def test_plain_timm_names_are_specs():
    spec = find_spec("timm:anything.at_all")
    assert spec.needs_weights
    assert spec.dim is None
