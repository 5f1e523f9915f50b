"""Networks of transformers, of a repository's own code, and stored programs; all tiny."""

import re

import pytest
import torch
import transformers
from safetensors.torch import save_file
from torch import nn

from slidemill.errors import ConfigError, WeightsError
from slidemill.features.builders import exported, remote
from slidemill.features.builders import transformers as builder
from slidemill.features.loading import load_strictly, read_state
from slidemill.features.network import select
from slidemill.features.spec import EncoderSpec, HubFile

TINY = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "image_size": 28,
    "patch_size": 14,
}
DINO = {key: value for key, value in TINY.items() if key != "intermediate_size"}
CLIP = {**TINY, "projection_dim": 6}


def row(model, config, builder="transformers", outputs=("cls", "mean", "cls+mean"), **arguments):
    return EncoderSpec(
        name="tiny",
        builder=builder,
        outputs=outputs,
        width=16,
        tile_px=28,
        mpp=0.5,
        precision="fp32",
        licence="MIT",
        page="https://example.org",
        arguments={"model": model, "config": config, **arguments},
    )


VIT = row("ViTModel", TINY)
GATED = row("Dinov2Model", {**DINO, "use_swiglu_ffn": True})
REGISTERS = row("Dinov2WithRegistersModel", {**DINO, "num_register_tokens": 3})
CLIPPED = row("CLIPVisionModelWithProjection", CLIP, outputs=("pooled",))
IMAGES = torch.randn(3, 3, 28, 28, generator=torch.Generator().manual_seed(0))


def random_network(spec):
    torch.manual_seed(0)
    network = builder.build(spec).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(std=0.3)
    return network


@pytest.mark.parametrize(
    ("spec", "prefix"), [(VIT, 1), (GATED, 1), (REGISTERS, 4)], ids=["vit", "dinov2", "registers"]
)
def test_tokens_are_those_of_the_library(spec, prefix):
    network = random_network(spec)
    with torch.inference_mode():
        tokens = network(IMAGES)
        hidden = network.body(pixel_values=IMAGES).last_hidden_state
    assert network.prefix_tokens == prefix
    assert hidden.shape == (3, prefix + 4, 16)
    assert torch.equal(tokens.cls, hidden[:, 0])
    assert torch.equal(tokens.patches.flatten(1, 2), hidden[:, prefix:])
    both = select(tokens, "cls+mean")
    assert torch.allclose(both, torch.cat([hidden[:, 0], hidden[:, prefix:].mean(1)], 1), atol=1e-6)
    # The grid is row after row: the second token is right of the first.
    assert torch.equal(tokens.patches[:, 0, 1], hidden[:, prefix + 1])


def test_the_pooler_of_dinov2_is_its_class_token():
    network = random_network(REGISTERS)
    with torch.inference_mode():
        expected = network.body(pixel_values=IMAGES).pooler_output
        assert torch.equal(network(IMAGES).cls, expected)


def test_clip_projects_its_class_token():
    torch.manual_seed(1)
    config = transformers.CLIPConfig(
        text_config={"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
        vision_config=CLIP,
        projection_dim=6,
    )
    whole = transformers.CLIPModel(config).eval()
    network = builder.build(CLIPPED).eval()
    state = {**whole.state_dict(), "vision_model.embeddings.position_ids": torch.arange(5)[None]}
    load_strictly(network.body, builder.convert(CLIPPED, network, state), "clip")
    assert network.width == 6
    with torch.inference_mode():
        vision = whole.vision_model(pixel_values=IMAGES)
        expected = whole.visual_projection(vision.pooler_output)
        assert torch.allclose(network(IMAGES).pooled, expected, atol=1e-6)


def published(network):
    """A state dict under the names that checkpoints have."""
    state = {}
    for name, value in network.body.state_dict().items():
        name = re.sub(r"^layers\.", "encoder.layer.", name)
        name = re.sub(r"attention\.q_proj", "attention.attention.query", name)
        name = re.sub(r"attention\.k_proj", "attention.attention.key", name)
        name = re.sub(r"attention\.v_proj", "attention.attention.value", name)
        name = re.sub(r"attention\.o_proj", "attention.output.dense", name)
        name = name.replace("mlp.down_proj", "mlp.weights_out")
        if "position" not in name and "norm1" not in name and isinstance(network.body, VIT_MODEL):
            name = name.replace("mlp.fc1", "intermediate.dense").replace("mlp.fc2", "output.dense")
        state[name] = value.clone()
    for name in [name for name in state if "mlp.gate_proj" in name]:
        gate, up = state.pop(name), state.pop(name.replace("gate", "up"))
        state[name.replace("gate_proj", "weights_in")] = torch.cat([gate, up])
    return state


VIT_MODEL = transformers.ViTModel


@pytest.mark.parametrize("spec", [VIT, GATED, REGISTERS], ids=["vit", "dinov2", "registers"])
def test_published_names_load_strictly_into_the_installed_library(spec, tmp_path):
    source = random_network(spec)
    state = published(source)
    assert set(state) != set(source.body.state_dict())
    state["embeddings.mask_token"] = torch.zeros(1, 16)
    state["pooler.dense.weight"] = torch.zeros(16, 16)
    with torch.device("meta"):
        network = builder.build(spec)
    converted = builder.convert(spec, network, state)
    load_strictly(network.body, converted, tmp_path)
    with torch.inference_mode():
        assert torch.equal(network.eval()(IMAGES).cls, source(IMAGES).cls)
    with pytest.raises(WeightsError, match=r"1 key is unexpected \(extra\)"):
        extra = builder.convert(spec, network, state | {"extra": torch.zeros(1)})
        load_strictly(network.body, extra, tmp_path)
    with pytest.raises(WeightsError, match="1 key is missing"):
        converted.pop("layernorm.weight")
        load_strictly(network.body, converted, tmp_path)


def test_the_librarys_own_loading_of_old_names_agrees(tmp_path):
    source = random_network(GATED)
    save_file(published(source), tmp_path / "model.safetensors", metadata={"format": "pt"})
    source.body.config.save_pretrained(tmp_path)
    theirs = transformers.Dinov2Model.from_pretrained(tmp_path).eval()
    network = builder.build(GATED)
    state = read_state(tmp_path / "model.safetensors")
    load_strictly(network.body, builder.convert(GATED, network, state), tmp_path)
    with torch.inference_mode():
        expected = theirs(pixel_values=IMAGES).last_hidden_state[:, 0]
        assert torch.allclose(network.eval()(IMAGES).cls, expected, atol=1e-6)


def test_positions_of_another_grid_are_interpolated_by_the_model(tmp_path):
    larger = row("Dinov2Model", {**DINO, "use_swiglu_ffn": True, "image_size": 70})
    source = random_network(larger)
    with torch.device("meta"):
        network = builder.build(GATED)
    converted = builder.convert(GATED, network, published(source))
    load_strictly(network.body, converted, tmp_path)
    with torch.inference_mode():
        assert torch.equal(network.eval()(IMAGES).cls, source(IMAGES).cls)
    oblong = published(source)
    oblong["embeddings.position_embeddings"] = torch.zeros(1, 7, 16)
    with pytest.raises(WeightsError, match="another shape"):
        fresh = builder.build(GATED)
        load_strictly(fresh.body, builder.convert(GATED, fresh, oblong), tmp_path)


def open_clip_state(network):
    """The tower of open_clip's naming, with a text tower beside it."""
    state = {
        "logit_scale": torch.ones(()),
        "text_projection": torch.zeros(4, 4),
        "positional_embedding": torch.zeros(7, 4),
        "token_embedding.weight": torch.zeros(9, 4),
        "ln_final.weight": torch.zeros(4),
        "transformer.resblocks.0.attn.in_proj_weight": torch.zeros(12, 4),
    }
    body = network.body.state_dict()
    for name, value in body.items():
        new = name.replace("vision_model.embeddings.class_embedding", "class_embedding")
        new = new.replace(
            "vision_model.embeddings.position_embedding.weight", "positional_embedding"
        )
        new = new.replace("vision_model.embeddings.patch_embedding", "conv1")
        new = new.replace("vision_model.pre_layrnorm", "ln_pre")
        new = new.replace("vision_model.post_layernorm", "ln_post")
        new = new.replace("vision_model.encoder.layers", "transformer.resblocks")
        new = re.sub(r"layer_norm(\d)", r"ln_\1", new).replace("fc1", "c_fc")
        new = new.replace("fc2", "c_proj").replace("self_attn.out_proj", "attn.out_proj")
        if name == "visual_projection.weight":
            state["visual.proj"] = value.t().clone()
        elif "q_proj" in name:
            parts = [body[name.replace("q_proj", f"{part}_proj")] for part in "qkv"]
            packed = new.replace("self_attn.q_proj.", "attn.in_proj_")
            state[f"visual.{packed}"] = torch.cat(parts)
        elif not re.search(r"[kv]_proj", name):
            state[f"visual.{new}"] = value.clone()
    return state


def test_open_clip_names_load_strictly(tmp_path):
    spec = row("CLIPVisionModelWithProjection", CLIP, outputs=("pooled",), naming="open_clip")
    source = random_network(spec)
    state = open_clip_state(source)
    network = builder.build(spec).eval()
    load_strictly(network.body, builder.convert(spec, network, state), tmp_path)
    with torch.inference_mode():
        assert torch.equal(network(IMAGES).pooled, source(IMAGES).pooled)
    with pytest.raises(WeightsError, match=r"unexpected \(extra\)"):
        state["visual.extra"] = torch.zeros(1)
        load_strictly(network.body, builder.convert(spec, network, state), tmp_path)


def test_without_the_library_a_row_says_what_to_install(monkeypatch):
    monkeypatch.setattr(builder, "transformers", None)
    with pytest.raises(ConfigError, match=r"pip install 'slidemill\[transformers\]'"):
        builder.build(VIT)


MODELING = """
import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel


class TinyConfig(PretrainedConfig):
    model_type = "tiny-of-the-test"

    def __init__(self, size=4, broken=False, **fields):
        super().__init__(**fields)
        self.size = size
        self.broken = broken


class TinyModel(PreTrainedModel):
    config_class = TinyConfig

    def __init__(self, config):
        super().__init__(config)
        if config.broken:
            raise AttributeError("this needs a library of 2019")
        self.inner = nn.Conv2d(1, config.size, 14, stride=14)
        self.post_init()

    def _encode(self, images):
        patches = self.inner(images).flatten(2).transpose(1, 2)
        return {"first": patches.sum(1), "all": patches}

    def encode_image(self, images):
        return self.inner(images[:, :1]).mean((2, 3))
"""
CONFIG = """{"model_type": "tiny-of-the-test", "size": 4, "broken": %s, "auto_map": {
"AutoConfig": "modeling_tiny.TinyConfig", "AutoModel": "%smodeling_tiny.TinyModel"}}"""


def remote_row(name="owner/tiny", **arguments):
    return EncoderSpec(
        name="foreign",
        builder="remote",
        outputs=("cls",),
        width=12,
        prefix_tokens=1,
        patch_px=14,
        tile_px=28,
        mpp=0.5,
        precision="fp32",
        licence="MIT",
        page="https://example.org",
        weights=HubFile(name, "model.pth"),
        arguments=arguments,
    )


PLANES = remote_row(method="_encode", cls="first", patches="all", planes=True, prefix="inner.")


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A function that puts a repository with code of its own into a hub cache."""
    cache, modules = tmp_path / "hub", tmp_path / "modules"
    for name in ("constants.HF_HUB_CACHE", "file_download.HF_HUB_CACHE"):
        monkeypatch.setattr(f"huggingface_hub.{name}", str(cache), raising=False)
    # Whoever asked for the network would be refused by this address.
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(modules))

    def put(name="owner/tiny", broken="false", own=""):
        snapshot = cache / f"models--{name.replace('/', '--')}" / "snapshots" / "abc"
        snapshot.mkdir(parents=True)
        (snapshot / "modeling_tiny.py").write_text(MODELING)
        (snapshot / "config.json").write_text(CONFIG % (broken, own))
        refs = snapshot.parents[1] / "refs"
        refs.mkdir()
        (refs / "main").write_text("abc")

    return put


def test_foreign_code_is_run_from_the_local_cache(repository):
    repository()
    network = remote.build(PLANES).eval()
    state = {"weight": torch.randn(4, 1, 14, 14), "bias": torch.randn(4)}
    load_strictly(network.body, remote.convert(PLANES, network, state), "foreign")
    with torch.inference_mode():
        tokens = network(IMAGES)
        apart = [
            nn.functional.conv2d(IMAGES[:, i : i + 1], state["weight"], state["bias"], stride=14)
            for i in range(3)
        ]
    expected = torch.cat(apart, dim=1).permute(0, 2, 3, 1)
    assert tokens.patches.shape == (3, 2, 2, 12)
    assert torch.allclose(tokens.patches, expected, atol=1e-5)
    assert torch.allclose(tokens.cls, expected.sum((1, 2)), atol=1e-4)
    with pytest.raises(WeightsError, match=r"unexpected \(extra\)"):
        extra = remote.convert(PLANES, network, state | {"extra": torch.zeros(1)})
        load_strictly(network.body, extra, "foreign")


def test_foreign_code_that_returns_one_vector(repository):
    repository()
    with torch.device("meta"):
        network = remote.build(remote_row(method="encode_image")).eval()
    with torch.inference_mode():
        pooled = network(IMAGES).pooled
    # Its own random weights: foreign code is never built on meta.
    assert pooled.shape == (3, 4)
    assert pooled.isfinite().all()


def test_foreign_code_that_is_missing_or_breaks_is_said_in_words(repository):
    with pytest.raises(WeightsError, match=r"code of foreign is not on this machine") as caught:
        remote.build(PLANES)
    assert "slidemill encoders download foreign" in str(caught.value)
    repository("owner/old", "true")
    with pytest.raises(WeightsError, match=r"does not run.*AttributeError.*library of 2019"):
        remote.build(remote_row("owner/old", method="_encode"))
    repository("owner/sly", own="someone/else--")
    with pytest.raises(WeightsError, match="code of another repository: someone/else"):
        remote.build(remote_row("owner/sly", method="_encode"))


class Halved(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(3, 12)

    def forward(self, images):
        return self.inner(images.mean((2, 3))).relu()


def test_a_stored_program_gives_what_its_module_gave(tmp_path):
    module = Halved().eval()
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(module, (IMAGES,), dynamic_shapes=({0: batch},))
    torch.export.save(program, tmp_path / "tiny.pt2")
    spec = remote_row()
    network = exported.load(spec, tmp_path / "tiny.pt2").float().eval().requires_grad_(False)
    assert network.width == 12
    with torch.inference_mode():
        for images in (IMAGES, IMAGES[:1]):
            assert torch.equal(network(images).pooled, module(images))


def test_what_is_no_program_is_refused(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "a.pt2")
    with pytest.raises(WeightsError, match="not a program that torch"):
        exported.load(remote_row(), tmp_path / "a.pt2")
