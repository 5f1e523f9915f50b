"""timm's networks: tokens told apart, and published names of weights."""

import pytest
import timm
import torch
from timm.layers import resample_abs_pos_embed
from timm.models.vision_transformer import checkpoint_filter_fn

from slidemill.errors import ConfigError, WeightsError
from slidemill.features.builders.timm import build, convert, preprocessing_of
from slidemill.features.builders.torchvision import build as build_torchvision
from slidemill.features.builders.torchvision import convert as convert_torchvision
from slidemill.features.encoders import find_spec
from slidemill.features.loading import load_strictly
from slidemill.features.network import select
from slidemill.features.registry import ENCODERS
from slidemill.features.spec import EncoderSpec

TINY = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3}


def row(model="vit_small_patch16_224", outputs=("cls", "mean", "cls+mean"), **arguments):
    return EncoderSpec(
        name="tiny", builder="timm", outputs=outputs, width=24, tile_px=32, mpp=None,
        precision="fp32", licence="", page="", arguments={"model": model, **arguments},
    )  # fmt: skip


def images(count=3, edge=32):
    return torch.randn(count, 3, edge, edge, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng(), torch.inference_mode():
        torch.manual_seed(0)
        yield


@pytest.mark.parametrize("registers", [0, 1, 4])
def test_registers_are_never_averaged_in(registers):
    network = build(row(options={**TINY, "reg_tokens": registers})).eval()
    tokens = network(images())
    raw = network.body.forward_features(images())
    assert network.prefix_tokens == 1 + registers
    assert raw.shape[1] == 1 + registers + 16
    assert torch.equal(select(tokens, "cls"), raw[:, 0])
    mean = raw[:, 1 + registers :].mean(1)
    assert torch.allclose(select(tokens, "mean"), mean, atol=1e-6)
    assert torch.allclose(select(tokens, "cls+mean"), torch.cat([raw[:, 0], mean], 1), atol=1e-6)
    if registers:
        assert not torch.allclose(select(tokens, "mean"), raw[:, 1:].mean(1), atol=1e-4)


def test_patches_lie_in_their_grid():
    network = build(row(options={**TINY, "dynamic_img_size": True})).eval()
    wide = torch.randn(2, 3, 32, 48)
    tokens = network(wide)
    assert tokens.patches.shape == (2, 4, 6, 24)
    raw = network.body.forward_features(wide)
    assert torch.equal(tokens.patches[:, 1, 2], raw[:, 1 + 6 + 2])


def test_convolutional_maps_are_patches_too():
    network = build(row("resnet10t", ("pooled",))).eval()
    tokens = network(images(edge=64))
    assert tokens.patches.shape == (3, 2, 2, 512)
    assert torch.allclose(tokens.pooled, tokens.patches.mean((1, 2)), atol=1e-5)
    trunk = build(
        row("resnet10t", ("pooled",), options={"features_only": True, "out_indices": [3]})
    ).eval()
    tokens = trunk(images(edge=64))
    assert tokens.patches.shape == (3, 4, 4, 256)
    assert torch.allclose(tokens.pooled, tokens.patches.mean((1, 2)), atol=1e-6)
    assert tokens.cls is None


def test_torchvision_resnets_pool_their_map_and_equal_timms():
    ours = build_torchvision(ENCODERS["lunit-bt"]).eval()
    same = build(ENCODERS["resnet50"]).eval()
    state = same.body.state_dict() | {"fc.weight": torch.zeros(9, 2048)}
    load_strictly(ours.body, convert_torchvision(ENCODERS["lunit-bt"], ours, state), "x")
    one, other = ours(images(1, 64)), same(images(1, 64))
    assert torch.allclose(one.pooled, other.pooled, atol=1e-4)
    assert torch.allclose(one.pooled, one.patches.mean((1, 2)), atol=1e-5)


def test_the_trunk_takes_the_published_weights_of_the_whole():
    spec = row(
        "resnet10t", ("pooled",), drop=["layer4.", "fc."],
        options={"features_only": True, "out_indices": [3]},
    )  # fmt: skip
    whole = timm.create_model("resnet10t", pretrained=False)
    trunk = build(spec)
    load_strictly(trunk.body, convert(spec, trunk, whole.state_dict()), "x")
    assert torch.equal(trunk.body.state_dict()["conv1.0.weight"], whole.conv1[0].weight)


def dinov2_names(network, *, chunked):
    """The weights of a timm network under the names of the DINOv2 code, with what it keeps else."""
    state = {}
    for key, value in network.body.state_dict().items():
        name = key.replace("mlp.fc1", "mlp.w12").replace("mlp.fc2", "mlp.w3")
        if chunked and name.startswith("blocks."):
            name = name.replace("blocks.", "blocks.0.", 1)
        state["register_tokens" if name == "reg_token" else name] = value.clone()
    state["mask_token"] = torch.zeros(1, 24)
    if "register_tokens" in state:
        position = torch.randn(1, 1, 24)
        state["pos_embed"] = torch.cat([position, state["pos_embed"]], 1)
        state["cls_token"] = state["cls_token"] - position
    return state


GATED = {"mlp_layer": "SwiGLUPacked", "act_layer": "SiLU", "init_values": 1e-5}


@pytest.mark.parametrize(
    "options",
    [{**TINY, **GATED}, {**TINY, **GATED, "reg_tokens": 4, "no_embed_class": True}],
    ids=["plain", "registers"],
)
def test_original_dinov2_names_load(options):
    spec = row(options=options, naming="dinov2")
    source, target = build(spec).eval(), build(spec).eval()
    source.body.cls_token.normal_()
    published = dinov2_names(source, chunked=False)
    converted = convert(spec, target, dict(published))
    by_timm = checkpoint_filter_fn(dict(published), target.body)
    assert converted.keys() == by_timm.keys()
    assert all(torch.equal(converted[key], by_timm[key]) for key in converted)
    load_strictly(target.body, converted, "x")
    assert torch.allclose(target(images()).cls, source(images()).cls, atol=1e-4)


def test_training_checkpoints_of_dinov2_lose_their_heads_and_chunks():
    spec = row(options={**TINY, "init_values": 1e-5}, naming="dinov2")
    source, target = build(spec), build(spec)
    names = dinov2_names(source, chunked=True)
    names = {
        k.replace("mlp.w12", "mlp.fc1").replace("mlp.w3", "mlp.fc2"): v for k, v in names.items()
    }
    published = {f"backbone.{key}": value for key, value in names.items()}
    published["dino_head.mlp.0.weight"] = torch.zeros(2, 2)
    load_strictly(target.body, convert(spec, target, published), "x")
    assert torch.equal(target.body.blocks[1].mlp.fc1.weight, source.body.blocks[1].mlp.fc1.weight)


def test_timms_own_names_pass_unchanged_through_the_dinov2_naming():
    spec = row(options={**TINY, "reg_tokens": 4, "no_embed_class": True}, naming="dinov2")
    network = build(spec)
    state = network.body.state_dict()
    converted = convert(spec, network, dict(state))
    assert converted.keys() == state.keys()
    assert all(torch.equal(converted[key], state[key]) for key in state)


def test_positions_are_resampled_only_where_the_row_says_so():
    large, small = row(options={**TINY, "img_size": 48}), row(options=TINY)
    published = build(large).body.state_dict()
    network = build(small)
    with pytest.raises(WeightsError, match=r"pos_embed is \(1, 37, 24\) instead of \(1, 17, 24\)"):
        load_strictly(network.body, convert(small, network, dict(published)), "x")
    told = row(options=TINY, positions=6)
    converted = convert(told, network, dict(published))
    load_strictly(network.body, converted, "x")
    expected = resample_abs_pos_embed(published["pos_embed"], [4, 4], num_prefix_tokens=1)
    assert torch.allclose(network.body.pos_embed, expected, atol=1e-6)
    other = row(options=TINY, positions=7)
    with pytest.raises(WeightsError, match="pos_embed"):
        load_strictly(network.body, convert(other, network, dict(published)), "x")


def test_only_the_classifier_is_left_out():
    spec = row(options=TINY)
    network = build(spec)
    state = timm.create_model("vit_small_patch16_224", num_classes=7, **TINY).state_dict()
    load_strictly(network.body, convert(spec, network, dict(state)), "x")
    with pytest.raises(WeightsError, match="extra"):
        extra = {**state, "extra": torch.zeros(1)}
        load_strictly(network.body, convert(spec, network, extra), "x")


def test_unknown_names_are_told():
    with pytest.raises(ConfigError, match="timm:no_such_model"):
        build(find_spec("timm:no_such_model"))


def test_timm_says_how_its_models_are_fed():
    spec = find_spec("timm:test_vit.r160_in1k")
    network = build(spec)
    settings = preprocessing_of(network)
    data = timm.data.resolve_model_data_config(network.body)
    assert settings.crop_px == data["input_size"][-1]
    assert settings.resize_px == int(settings.crop_px / data["crop_pct"])
    assert settings.interpolation == data["interpolation"]
    assert settings.mean == data["mean"]
    network.body.pretrained_cfg = {**network.body.pretrained_cfg, "interpolation": "lanczos"}
    with pytest.raises(ConfigError, match="lanczos"):
        preprocessing_of(network)


def test_dinov3_tokens_are_normalised_and_its_class_token_is_the_feature():
    spec = ENCODERS["dinov3-s"]
    network = build(spec).eval()
    small = torch.randn(1, 3, 64, 64)
    tokens = network(small)
    assert tokens.patches.shape == (1, 4, 4, 384)
    # Layer norm of unit weights: every token has mean 0 and variance 1.
    assert tokens.cls.mean().abs() < 1e-4
    assert (tokens.cls.var(unbiased=False) - 1).abs() < 0.1
    assert not torch.allclose(select(tokens, spec.outputs[0]), tokens.pooled, atol=1e-3)
