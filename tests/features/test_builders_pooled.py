"""Rows on meta, and the networks of CoCa and BEiT-3 against written-out formulas."""

from dataclasses import replace

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional

from slidemill.errors import WeightsError
from slidemill.features.builders import beit3, builder_of, coca
from slidemill.features.loading import load_strictly
from slidemill.features.network import select
from slidemill.features.registry import hugging, pooled

ROWS = {spec.name: spec for spec in (*hugging.ROWS, *pooled.ROWS)}
BUILT = [name for name, spec in ROWS.items() if not spec.runs_foreign_code]
REFERENCE_GMACS = {"phikon": 17.6, "hibou-b": 23.5, "midnight-12k": 299.4}
"""Counted elsewhere on networks of the same geometry."""

TINY_VIT = {"img_size": 32, "embed_dim": 24, "depth": 2, "num_heads": 2}
GENERATOR = torch.Generator().manual_seed(3)
IMAGES = torch.randn(2, 3, 32, 32, generator=GENERATOR)


@pytest.mark.parametrize("name", BUILT)
def test_rows_are_what_is_built(name):
    spec = ROWS[name]
    with torch.device("meta"):
        network = builder_of(spec).build(spec).eval()
        edge = spec.preprocessing.crop_px
        tokens = network(torch.empty(2, 3, edge, edge))
    assert sum(parameter.numel() for parameter in network.parameters()) == spec.parameters
    assert (network.width, network.prefix_tokens) == (spec.width, spec.prefix_tokens)
    for output in spec.outputs:
        assert select(tokens, output).shape == (2, spec.dim(output))
    if spec.patch_px is None:
        assert tokens.patches is None
    else:
        grid = edge // spec.patch_px
        assert tokens.patches.shape == (2, grid, grid, spec.width)


@pytest.mark.parametrize("name", sorted(ROWS))
def test_rows_say_what_a_user_has_to_know(name):
    spec = ROWS[name]
    assert spec.weights.page.startswith("https://huggingface.co/")
    assert spec.licence
    assert spec.citation
    assert spec.data
    assert spec.mpp in (0.5, 1.0)
    assert spec.preprocessing.resize_px == spec.preprocessing.crop_px
    assert spec.runs_foreign_code == (name in ("genbio-pathfm", "ctranspath"))
    assert spec.gmacs == pytest.approx(REFERENCE_GMACS.get(name, spec.gmacs), rel=0.01)


def tiny(name, **arguments):
    """A row with a small transformer; its head stays what it is."""
    spec = ROWS[name]
    options = {**spec.arguments.get("options", {}), **TINY_VIT, **arguments.pop("options", {})}
    changed = {**spec.arguments, "options": options, "heads": 4, **arguments}
    return replace(spec, width=16, arguments=changed)


def random_network(spec, builder=coca):
    torch.manual_seed(0)
    network = builder.build(spec).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(std=0.3)
    return network


def conch_state(context=24, width=16):
    """The head of CONCH as its checkpoint names it, and what is left out of it."""
    attention = nn.MultiheadAttention(width, 4, kdim=context, vdim=context, batch_first=True)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in attention.parameters():
            parameter.normal_(generator=generator)
    rest = {
        "query": (1, width),
        "ln_q.weight": (width,),
        "ln_q.bias": (width,),
        "ln_k.weight": (context,),
        "ln_k.bias": (context,),
    }
    state = {f"visual.attn_pool_contrast.attn.{k}": v for k, v in attention.state_dict().items()}
    for key, shape in rest.items():
        state[f"visual.attn_pool_contrast.{key}"] = torch.randn(shape, generator=generator)
    for key in ("weight", "bias"):
        state[f"visual.ln_contrast.{key}"] = torch.randn(width, generator=generator)
    for key in (
        "visual.proj_contrast",
        "visual.attn_pool_caption.query",
        "visual.ln_caption.bias",
        "text.cls_emb",
        "text_decoder.ln_final.weight",
        "logit_scale",
    ):
        state[key] = torch.zeros(3)
    return attention, state


def test_conch_pools_as_torchs_own_attention_does():
    spec = tiny("conch")
    network = random_network(spec)
    attention, state = conch_state()
    trunk = network.body.trunk
    state |= {f"visual.trunk.{key}": value for key, value in trunk.state_dict().items()}
    load_strictly(network.body, coca.convert(spec, network, state), "conch")

    def norm(x, name):
        weight, bias = (state[f"visual.{name}.{part}"] for part in ("weight", "bias"))
        return functional.layer_norm(x, weight.shape, weight, bias)

    with torch.inference_mode():
        tokens = norm(trunk.forward_features(IMAGES), "attn_pool_contrast.ln_k")
        query = norm(state["visual.attn_pool_contrast.query"], "attn_pool_contrast.ln_q")
        found, _ = attention.eval()(query.expand(2, 1, -1), tokens, tokens)
        expected = norm(found[:, 0], "ln_contrast")
        assert tokens.shape == (2, 1 + 4, 24)
        assert torch.allclose(network(IMAGES).pooled, expected, atol=1e-5)
    with pytest.raises(WeightsError, match=r"unexpected \(extra\)"):
        state["visual.extra"] = torch.zeros(1)
        load_strictly(network.body, coca.convert(spec, network, state), "conch")


def test_the_pooler_is_a_softmax_over_tokens():
    pooler = coca.AttentionPooler(8, 12, 2, bias=True).eval()
    tokens = torch.randn(3, 5, 12, generator=GENERATOR)
    with torch.inference_mode():
        normed = functional.layer_norm(tokens, (12,))
        q = pooler.q(functional.layer_norm(pooler.query, (8,))).view(2, 4)
        k, v = (layer(normed).view(3, 5, 2, 4) for layer in (pooler.k, pooler.v))
        scores = torch.einsum("hd,nthd->nht", q, k) / 4**0.5
        expected = pooler.out(torch.einsum("nht,nthd->nhd", scores.softmax(-1), v).flatten(1))
        assert torch.allclose(pooler(tokens), expected, atol=1e-6)


def test_conch_v1_5_loads_its_packed_names_and_enlarges_its_positions():
    spec = tiny("conch-v1.5", options={"img_size": 64}, positions=2)
    network = random_network(spec)
    head = network.body.head
    state = {
        "attn_pool_contrast.query": head.pool.query,
        "attn_pool_contrast.to_q.weight": head.pool.q.weight,
        "attn_pool_contrast.to_kv.weight": torch.cat([head.pool.k.weight, head.pool.v.weight]),
        "attn_pool_contrast.to_out.weight": head.pool.out.weight,
    }
    for name in ("q", "k"):
        norm = getattr(head.pool, f"norm_{name}")
        state |= {f"attn_pool_contrast.ln_{name}.{k}": v for k, v in norm.state_dict().items()}
    state |= {f"ln_contrast.{key}": value for key, value in head.norm.state_dict().items()}
    state |= {f"trunk.{key}": value for key, value in network.body.trunk.state_dict().items()}
    state = {key: value.detach().clone() for key, value in state.items()}
    assert not any(key.endswith("bias") for key in state if "pool_contrast.to" in key)
    state["trunk.pos_embed"] = torch.randn(1, 1 + 4, 24, generator=GENERATOR)
    loaded = coca.build(spec).eval()
    load_strictly(loaded.body, coca.convert(spec, loaded, state), "conch-v1.5")
    assert torch.equal(loaded.body.head.pool.v.weight, head.pool.v.weight)
    with torch.no_grad():
        positions = coca.enlarge(state["trunk.pos_embed"], 2, 4)
        network.body.trunk.pos_embed.copy_(positions)
        images = torch.randn(1, 3, 64, 64, generator=GENERATOR)
        assert torch.equal(loaded(images).pooled, network(images).pooled)
    state["trunk.pos_embed"] = positions
    with pytest.raises(WeightsError, match="not of a grid of 2 x 2"):
        coca.convert(spec, loaded, state)


def test_positions_are_enlarged_at_the_places_of_dino():
    positions = torch.randn(1, 1 + 9, 2, generator=GENERATOR).double()
    found = coca.enlarge(positions, 3, 5)
    assert torch.equal(found[:, 0], positions[:, 0].float())
    # Cubic convolution with a = -0.75 at (i + 1/2) / scale - 1/2, edges repeated.
    grid = positions[0, 1:].view(3, 3, 2)
    weights = torch.zeros(5, 3, dtype=torch.float64)
    for i in range(5):
        place = (i + 0.5) * 3 / 5.1 - 0.5
        for j in range(-2, 6):
            x = abs(place - j)
            value = (
                1.25 * x**3 - 2.25 * x**2 + 1
                if x <= 1
                else -0.75 * (x**3 - 5 * x**2 + 8 * x - 4)
                if x < 2
                else 0.0
            )
            weights[i, min(max(j, 0), 2)] += value
    expected = torch.einsum("ij,kl,jld->ikd", weights, weights, grid).reshape(25, 2)
    assert torch.allclose(found[0, 1:].double(), expected, atol=1e-5)


def test_keep_projects_its_class_token_to_length_one():
    spec = tiny("keep")
    trunk = timm.create_model("vit_large_patch16_224", num_classes=0, init_values=1.0, **TINY_VIT)
    head = nn.Sequential(nn.Linear(24, 16), nn.GELU(), nn.Linear(16, 16))
    state = {
        "visual." + key.replace("ls1.gamma", "ls1.weight").replace("ls2.gamma", "ls2.weight"): value
        for key, value in trunk.state_dict().items()
    }
    state |= {f"visual_head.{key}": value for key, value in head.state_dict().items()}
    state |= {"logit_scale": torch.ones(()), "text.pooler.dense.bias": torch.zeros(1)}
    network = coca.build(spec).eval()
    load_strictly(network.body, coca.convert(spec, network, state), "keep")
    with torch.inference_mode():
        expected = functional.normalize(head(trunk.eval()(IMAGES)), dim=-1)
        found = network(IMAGES).pooled
    assert torch.allclose(found, expected, atol=1e-6)
    assert torch.allclose(found.norm(dim=1), torch.ones(2))


def test_quiltnet_with_timms_tower():
    spec = tiny("quiltnet-b16-pmb")
    trunk = timm.create_model("vit_base_patch16_224", num_classes=0, **TINY_VIT).eval()
    projection = torch.randn(16, 24, generator=GENERATOR)
    state = {f"visual.trunk.{key}": value for key, value in trunk.state_dict().items()}
    state |= {"visual.head.proj.weight": projection, "logit_scale": torch.ones(())}
    state["text.transformer.embeddings.position_ids"] = torch.arange(4)
    network = coca.build(spec).eval()
    load_strictly(network.body, coca.convert(spec, network, state), "quiltnet")
    with torch.inference_mode():
        assert torch.allclose(network(IMAGES).pooled, trunk(IMAGES) @ projection.T, atol=1e-6)


TINY_BEIT = replace(
    ROWS["musk"],
    width=8,
    arguments={
        "image_px": 32,
        "patch_px": 16,
        "width": 8,
        "layers": 2,
        "heads": 2,
        "hidden": 12,
    },
)


def musk_state(network):
    """Both branches under MUSK's names; the one of texts holds other numbers."""
    state = {}
    for name, value in network.body.state_dict().items():
        parts = name.split(".")
        if name.startswith(("proj.", "cls_token")):
            state[f"beit3.vision_embed.{name}"] = value.clone()
            continue
        if name == "positions":
            parts = ["embed_positions", "weight"]
        # The branch is named before the layers of the feed-forward half, and after all others.
        place = parts.index("ffn") + 1 if "ffn" in parts else len(parts) - 1
        for branch in "AB":
            key = ".".join(["beit3", "encoder", *parts[:place], branch, *parts[place:]])
            state[key] = value.clone() if branch == "A" else value + 1
    for key in (
        "beit3.text_embed.weight",
        "beit3.vision_embed.mask_token",
        "vision_head.weight",
        "language_head.weight",
        "logit_scale",
    ):
        state[key] = torch.zeros(2)
    return state


def test_musk_loads_the_branch_of_images_strictly():
    source = random_network(TINY_BEIT, beit3)
    state = musk_state(source)
    for key in (
        "beit3.encoder.layers.1.self_attn.q_proj.A.weight",
        "beit3.encoder.layers.0.ffn.A.ffn_layernorm.bias",
        "beit3.encoder.layers.0.self_attn.inner_attn_ln.B.weight",
        "beit3.encoder.embed_positions.A.weight",
        "beit3.encoder.layer_norm.B.bias",
        "beit3.vision_embed.proj.weight",
    ):
        assert key in state
    network = beit3.build(TINY_BEIT).eval()
    load_strictly(network.body, beit3.convert(TINY_BEIT, network, state), "musk")
    with torch.inference_mode():
        assert torch.equal(network(IMAGES).cls, source(IMAGES).cls)
    with pytest.raises(WeightsError, match=r"unexpected \(extra\)"):
        state["extra"] = torch.zeros(1)
        load_strictly(network.body, beit3.convert(TINY_BEIT, network, state), "musk")


def test_beit3_is_its_formula():
    network = random_network(TINY_BEIT, beit3)
    w = network.body.state_dict()

    def linear(x, name):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(x, name):
        x = x - x.mean(-1, keepdim=True)
        x = x / (x.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()
        return x * w[f"{name}.weight"] + w[f"{name}.bias"]

    patches = IMAGES.unfold(2, 16, 16).unfold(3, 16, 16).permute(0, 2, 3, 1, 4, 5).flatten(3)
    patches = patches @ w["proj.weight"].flatten(1).T + w["proj.bias"]
    x = torch.cat([w["cls_token"].expand(2, 1, 8), patches.flatten(1, 2)], dim=1)
    x = x + w["positions"][2:7]
    for i in range(2):
        normed = norm(x, f"layers.{i}.self_attn_layer_norm")
        q, k, v = (
            linear(normed, f"layers.{i}.self_attn.{part}_proj").view(2, 5, 2, 4) for part in "qkv"
        )
        scores = torch.einsum("nqhd,nkhd->nhqk", q, k) / 2.0
        mixed = torch.einsum("nhqk,nkhd->nqhd", scores.softmax(-1), v).flatten(2)
        mixed = norm(mixed, f"layers.{i}.self_attn.inner_attn_ln")
        x = x + linear(mixed, f"layers.{i}.self_attn.out_proj")
        inner = linear(norm(x, f"layers.{i}.final_layer_norm"), f"layers.{i}.ffn.fc1")
        inner = 0.5 * inner * (1 + torch.erf(inner / 2**0.5))
        x = x + linear(norm(inner, f"layers.{i}.ffn.ffn_layernorm"), f"layers.{i}.ffn.fc2")
    x = norm(x, "layer_norm")
    with torch.inference_mode():
        tokens = network(IMAGES)
    assert torch.allclose(tokens.cls, x[:, 0], atol=1e-4)
    assert torch.allclose(tokens.patches.flatten(1, 2), x[:, 1:], atol=1e-4)
