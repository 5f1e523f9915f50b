import pytest
import torch

from slidemill.errors import WeightsError
from slidemill.pretrain.gigapath import segment_lengths, translate


def weights(width=64, dim=3, depth=2):
    def linear(name, into, out):
        return {f"{name}.weight": torch.randn(out, into), f"{name}.bias": torch.randn(out)}

    def norm(name, size):
        return {f"{name}.weight": torch.randn(size), f"{name}.bias": torch.randn(size)}

    made = {"cls_token": torch.randn(1, 1, width), **linear("patch_embed.proj", dim, width)}
    for i in range(depth):
        layer = f"encoder.layers.{i}"
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            made |= linear(f"{layer}.self_attn.{name}", width, width)
        made |= norm(f"{layer}.self_attn.inner_attn_ln", width)
        made |= norm(f"{layer}.self_attn_layer_norm", width)
        made |= linear(f"{layer}.ffn.fc1", width, 4 * width)
        made |= norm(f"{layer}.ffn.ffn_layernorm", 4 * width)
        made |= linear(f"{layer}.ffn.fc2", 4 * width, width)
        made |= norm(f"{layer}.final_layer_norm", width)
    return made | norm("encoder.layer_norm", width) | norm("norm", width)


@pytest.mark.parametrize(
    ("max_wsi_size", "wanted"),
    [
        (262144, (1024, 5792, 32768, 185363, 1048576)),
        (250000, (1024, 4870, 23170, 110217, 524288)),
        (32768, (1024, 2048, 4096, 8192, 16384)),
    ],
)
def test_segments_are_those_that_were_measured(max_wsi_size, wanted):
    assert segment_lengths(256, max_wsi_size) == wanted


@pytest.mark.parametrize(("tile_size", "max_wsi_size"), [(256, 255), (0, 256)])
def test_slides_below_a_tile_have_no_segments(tile_size, max_wsi_size):
    with pytest.raises(ValueError, match="px on slides"):
        segment_lengths(tile_size, max_wsi_size)


def test_every_weight_arrives_once():
    given = weights()
    made = translate(given)
    assert sum(x.numel() for x in made.values()) == sum(x.numel() for x in given.values())
    assert sum(x.sum() for x in made.values()).item() == pytest.approx(
        sum(x.sum() for x in given.values()).item(), rel=1e-3
    )
    fused = made["layers.1.query_key_value.bias"]
    assert torch.equal(fused[64:128], given["encoder.layers.1.self_attn.k_proj.bias"])


def test_weights_are_copies_in_single_precision():
    given = {key: value.half() for key, value in weights().items()}
    made = translate(given)
    assert {x.dtype for x in made.values()} == {torch.float32}
    given = weights()
    made = translate(given)
    made["norm.weight"].zero_()
    assert given["norm.weight"].abs().sum() > 0


def test_the_table_of_positions_is_not_needed():
    assert "pos_embed" not in translate(weights() | {"pos_embed": torch.zeros(1, 5, 64)})


def test_what_does_not_belong_is_named():
    given = weights()
    del given["encoder.layers.1.ffn.fc2.bias"]
    given["decoder.weight"] = torch.zeros(1)
    given["norm.bias"] = torch.zeros(65)
    with pytest.raises(WeightsError) as caught:
        translate(given)
    text = str(caught.value)
    assert "missing: encoder.layers.1.ffn.fc2.bias;" in text
    assert "unknown: decoder.weight;" in text
    assert "norm.bias (65,) instead of (64,)" in text


def test_a_missing_layer_is_noticed():
    given = weights(depth=3)
    given = {key: x for key, x in given.items() if not key.startswith("encoder.layers.1.")}
    with pytest.raises(WeightsError, match=r"missing: encoder\.layers\.1\.self_attn.* and 8 more"):
        translate(given)
    with pytest.raises(WeightsError, match=r"missing: encoder\.layers\.0"):
        translate({key: x for key, x in given.items() if "layers" not in key})


@pytest.mark.parametrize(
    "given",
    [{}, {"model": torch.zeros(1)}, {f"module.{key}": x for key, x in weights().items()}],
)
def test_other_names_are_refused(given):
    with pytest.raises(WeightsError, match=r"no patch_embed\.proj\.weight.*without prefixes"):
        translate(given)
