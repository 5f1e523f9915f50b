"""Looking encoders up, their weights, outputs and consent; on a hub cache that the test makes."""

import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from slidemill.config import EncoderEntry
from slidemill.errors import ConfigError, WeightsError
from slidemill.features.build import HostEncoder, build
from slidemill.features.encoders import Encoder, check_fit, find_spec, misfit, resolve
from slidemill.features.registry import ENCODERS
from slidemill.features.spec import HubFile
from slidemill.features.weights import Weights, weights_of_file

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


@pytest.fixture
def bare(tmp_path, monkeypatch):
    """A machine without any weights."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "none"))
    monkeypatch.setenv("SLIDEMILL_WEIGHTS", str(tmp_path / "none"))


def entry(name, checkpoint=None, **settings):
    return EncoderEntry(name=name, checkpoint=str(checkpoint) if checkpoint else None, **settings)


def found(name, output=None, own=False):
    spec = find_spec(name)
    weights = Weights("x", "1f00aa" + 58 * "0") if own else None
    return Encoder(spec, weights, own, output or spec.outputs[0])


def test_unknown_names_are_refused_with_a_hint(tmp_path):
    with pytest.raises(ConfigError, match="Did you mean hed-texture"):
        resolve(entry("hed-textur"), tmp_path)
    with pytest.raises(ConfigError, match="Did you mean uni2-h"):
        resolve(entry("UNI2-H"), tmp_path)
    with pytest.raises(ConfigError, match="slidemill encoders"):
        resolve(entry("zzzzzz"), tmp_path)
    with pytest.raises(ConfigError, match="no weights to load"):
        resolve(entry("rgb-mean", "x.safetensors"), tmp_path)


def test_systems_without_public_weights_say_so_and_what_instead(tmp_path):
    with pytest.raises(
        ConfigError, match=r"pluto-4g has no public weights: PathAI.*uni2-h"
    ) as told:
        resolve(entry("pluto-4g"), tmp_path)
    assert "virchow2" in str(told.value)


def test_an_output_that_is_not_offered_is_refused_and_those_that_are_named(tmp_path, checkpoint):
    with pytest.raises(ConfigError, match=r"uni has no output 'pooled'.*cls, mean, cls\+mean"):
        resolve(entry("uni", checkpoint, output="pooled"), tmp_path)
    with pytest.raises(ConfigError, match="resnet50 has no output 'cls'"):
        resolve(entry("resnet50", checkpoint, output="cls"), tmp_path)
    assert resolve(entry("virchow2", checkpoint), tmp_path).output == "cls+mean"
    assert resolve(entry("virchow2", checkpoint, output="cls"), tmp_path).dim == 1280


@pytest.mark.parametrize(("builder", "what"), [("remote", "Python code"), ("exported", "program")])
def test_foreign_code_needs_consent(tmp_path, monkeypatch, checkpoint, builder, what):
    spec = replace(
        find_spec("uni"), name="foreign", builder=builder, weights=HubFile("someone/foreign")
    )
    monkeypatch.setitem(ENCODERS, "foreign", spec)
    with pytest.raises(ConfigError, match=rf"{what}.*someone/foreign.*trust_remote_code: true"):
        resolve(entry("foreign", checkpoint), tmp_path)
    agreed = resolve(entry("foreign", checkpoint, trust_remote_code=True), tmp_path)
    assert agreed.spec is spec


@pytest.mark.parametrize("name", ["hed-texture", "rgb-mean"])
def test_handcrafted_encoders_need_nothing_and_have_their_dimension(name, tmp_path):
    encoder = build(resolve(entry(name), tmp_path))
    assert isinstance(encoder, HostEncoder)
    assert encoder.encode(TILES).shape == (5, encoder.dim) == (5, ENCODERS[name].width)


def test_rgb_mean_is_exact_and_alike_in_every_batch():
    encode = build(resolve(entry("rgb-mean"), None)).encode
    together = encode(TILES)
    assert together.dtype == np.float32
    assert np.abs(together - TILES.astype(np.float64).mean(axis=(1, 2))).max() < 1e-4
    assert all(np.array_equal(encode(TILES[i : i + 1])[0], together[i]) for i in range(5))
    assert np.array_equal(encode(TILES[:, ::-1, ::-1]), together)
    assert encode(TILES[:0]).shape == (0, 3)


def test_missing_weights_are_an_error_that_says_how_to_get_them(tmp_path, bare):
    with pytest.raises(WeightsError, match=r"slidemill encoders download timm:resnet50\.a1_in1k"):
        resolve(entry("timm:resnet50.a1_in1k"), tmp_path)
    with pytest.raises(WeightsError, match="slidemill encoders download uni2-h"):
        resolve(entry("uni2-h"), tmp_path)
    with pytest.raises(WeightsError, match="no such checkpoint"):
        resolve(entry("timm:test_vit", "none.pt"), tmp_path)


def test_published_weights_are_found_in_the_hub_cache(hub, checkpoint):
    encoder = resolve(entry(f"timm:{TAG}"), None)
    assert encoder.weights_sha256 == weights_of_file(checkpoint).sha256
    assert encoder.label == f"timm-{TAG}"
    assert encoder.dim is None
    built = build(encoder)
    assert built.dim == 64
    assert built(torch.from_numpy(TILES)).features.shape == (5, 64)


def test_features_are_the_models_pooled_output(checkpoint, model):
    encoder = resolve(entry(f"timm:{ARCH}", checkpoint.name), checkpoint.parent)
    assert encoder.own_weights
    built = build(encoder, tokens=True)
    result = built(torch.from_numpy(TILES))
    data = timm.data.resolve_model_data_config(model)
    assert built.input_px == data["input_size"][-1]
    with torch.inference_mode():
        raw = model.forward_features(built.preprocess(torch.from_numpy(TILES)))
        expected = model.forward_head(raw, pre_logits=True)
    assert torch.allclose(result.features, expected, atol=1e-5)
    assert result.tokens.shape == (5, 10, 10, 64)
    assert not any(parameter.requires_grad for parameter in built.parameters())
    assert not built.training


def test_weights_that_do_not_fit_are_refused(tmp_path, model):
    state = dict(model.state_dict())
    kept = state.pop("norm.weight")
    save_file(state, tmp_path / "missing.safetensors")
    save_file(state | {"norm.weight": kept, "extra": kept.clone()}, tmp_path / "extra.safetensors")
    for name, told in (("missing", "1 key is missing"), ("extra", "1 key is unexpected")):
        encoder = resolve(entry(f"timm:{ARCH}", f"{name}.safetensors"), tmp_path)
        with pytest.raises(WeightsError, match=rf"{name}\.safetensors: .*{told}"):
            build(encoder)
    with pytest.raises(ConfigError, match="timm:no_such_model"):
        build(resolve(entry("timm:no_such_model", "extra.safetensors"), tmp_path))


def test_a_registered_encoder_is_built_from_a_checkpoint(tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        source = timm.create_model("resnet50", num_classes=10).eval()
    torch.save({"model": source.state_dict()}, tmp_path / "own.pt")
    for name in ("resnet50", "lunit-bt", "resnet50-trunc"):
        built = build(resolve(entry(name, "own.pt"), tmp_path), tokens=True)
        result = built(torch.from_numpy(TILES[:2]))
        assert result.features.shape == (2, ENCODERS[name].width)
        assert torch.allclose(result.features, result.tokens.mean((1, 2)), atol=1e-5)


def test_tables_that_are_not_stored_are_made_anew(tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        source = timm.create_model("vit_small_patch16_dinov3", num_classes=0).eval()
    torch.save(source.state_dict(), tmp_path / "own.pt")
    built = build(resolve(entry("dinov3-s", "own.pt"), tmp_path))
    tiles = torch.from_numpy(RNG.integers(0, 256, (1, 224, 224, 3), dtype=np.uint8))
    with torch.inference_mode():
        expected = source.forward_features(built.preprocess(tiles))[:, 0]
        assert torch.allclose(built(tiles).features, expected, atol=1e-4)


def test_what_an_encoder_cannot_do_is_refused_before_anything_is_computed():
    def chosen(name):
        return Encoder(find_spec(name), None, own_weights=False, output=find_spec(name).outputs[0])

    with pytest.raises(ConfigError, match="plip has no patch tokens"):
        check_fit(chosen("plip"), 224, tokens=True)
    with pytest.raises(
        ConfigError, match=r"exactly 224 px, not of 256 px\. Set tiles\.tile_px to 224"
    ):
        check_fit(chosen("h-optimus-1"), 256, tokens=False)
    for name, tile_px in (("plip", 256), ("h-optimus-1", 224), ("uni", 256), ("timm:a", 99)):
        check_fit(chosen(name), tile_px, tokens=name != "plip")


def test_plain_timm_names_are_specs():
    spec = find_spec("timm:anything.at_all")
    assert spec.needs_weights
    assert spec.dim() is None
    assert spec.weights.repository == "timm/anything.at_all"


def test_labels_tell_outputs_and_weights_apart():
    assert found("virchow2").label == "virchow2"
    assert found("virchow2", "cls").label == "virchow2-cls"
    assert found("uni", "cls+mean").label == "uni-cls-mean"
    assert found("uni", "cls+mean", own=True).label == "uni-cls-mean-1f00aa"
    assert found("timm:a/b.c", own=True).label == "timm-a-b.c-1f00aa"


def test_tiles_that_an_encoder_was_not_made_for_are_told():
    told = misfit(found("uni"), 512, 0.25)
    assert "256 px, not 512 px" in told
    assert "0.5 um per pixel, not 0.25" in told
    assert "px" not in misfit(found("uni"), 256, 1.0).split(" um ")[0]
    assert misfit(found("uni"), 224, None) == (
        "uni was made for tiles of 256 px, not 224 px: its features may be worse for it."
    )
    for encoder, tile_px, mpp in (
        ("uni", 256, 0.5021),
        ("uni", 256, None),
        ("virchow2", 224, 1.0),
        ("timm:resnet50.a1_in1k", 300, 2.0),
        ("rgb-mean", 64, 4.0),
    ):
        assert misfit(found(encoder), tile_px, mpp) is None


def test_resolving_imports_no_torch():
    code = (
        "import sys; from slidemill.features.encoders import resolve, find_spec, misfit;"
        "from slidemill.config import EncoderEntry; from pathlib import Path;"
        "e = resolve(EncoderEntry(name='rgb-mean'), Path()); misfit(e, 256, 0.5);"
        "print(sorted(m for m in ('torch', 'timm', 'transformers') if m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
