"""Rows of the registry against networks built without weights, and against published figures."""

import dataclasses
import json

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from slidemill.features.builders import builder_of
from slidemill.features.registry import ENCODERS, FAMILIES, handcrafted, unavailable
from slidemill.features.spec import HubFile, UrlFile

BUILT = sorted(n for n, s in ENCODERS.items() if s.builder in ("timm", "torchvision"))
WITH_WEIGHTS = sorted(n for n, s in ENCODERS.items() if s.needs_weights)

PUBLISHED = {
    "resnet50-trunc": ("8.5", "3.3"),
    "resnet50": ("23.5", "4.1"),
    "lunit-bt": ("23.5", "4.1"),
    "lunit-mocov2": ("23.5", "4.1"),
    "lunit-swav": ("23.5", "4.1"),
    "lunit-dino-s16": ("21.7", "4.6"),
    "lunit-dino-s8": ("21.7", "22.4"),
    "uni": ("303.4", "61.6"),
    "uni2-h": ("681.4", "185.5"),
    "virchow": ("631.2", "167.4"),
    "virchow2": ("631.2", "170.1"),
    "h-optimus-0": ("1134.8", "304.2"),
    "h-optimus-1": ("1134.8", "304.2"),
    "h0-mini": ("85.7", "23.5"),
    "prov-gigapath": ("1135.0", "228.1"),
    "kaiko-s16": ("21.7", "4.6"),
    "kaiko-s8": ("21.7", "22.4"),
    "kaiko-b16": ("85.8", "17.6"),
    "kaiko-b8": ("85.8", "78.1"),
    "kaiko-l14": ("303.2", "82.3"),
    "openmidnight": ("1135", "304"),
    "gpfm": ("303.2", "81.0"),
    "stainnet-s": ("21.7", "4.6"),
    "stainnet-b": ("85.8", "17.6"),
    "dinov2-s": ("21.6", "6.1"),
    "dinov2-g-reg": ("1135", "304"),
    "dinov3-s": ("21.6", "4.7"),
    "dinov3-b": ("85.6", "17.9"),
    "dinov3-l": ("303", "62.8"),
}
"""Parameters, 10^6, and multiply-accumulates, 10^9, to the digits in which they are published."""

DIMENSIONS = {
    "hed-texture": 64, "rgb-mean": 3, "resnet50-trunc": 1024, "resnet50": 2048, "lunit-bt": 2048,
    "lunit-dino-s16": 384, "lunit-dino-s8": 384, "uni": 1024, "uni2-h": 1536, "virchow": 2560,
    "virchow2": 2560, "h-optimus-0": 1536, "h-optimus-1": 1536, "h0-mini": 768,
    "prov-gigapath": 1536, "kaiko-s16": 384, "kaiko-b8": 768, "kaiko-l14": 1024,
    "openmidnight": 1536, "gpfm": 1024, "stainnet-s": 384, "stainnet-b": 768,
    "pathorchestra": 1024, "dinov2-s": 384, "dinov2-b-reg": 768, "dinov2-l": 1024,
    "dinov2-g": 1536, "dinov3-s": 384, "dinov3-b": 768, "dinov3-l": 1024,
}  # fmt: skip
"""Of the default output."""

PREFIXES = {
    "uni": 1, "uni2-h": 9, "virchow": 1, "virchow2": 5, "h-optimus-0": 5, "h0-mini": 5,
    "prov-gigapath": 1, "gpfm": 1, "openmidnight": 5, "kaiko-l14": 5, "dinov2-s": 1,
    "dinov2-s-reg": 5, "dinov3-s": 5, "lunit-dino-s8": 1, "stainnet-s": 1,
}  # fmt: skip


def rounded(value, published):
    decimals = len(published.partition(".")[2])
    return f"{value:.{decimals}f}"


@pytest.fixture(scope="module")
def networks():
    found = {}

    def build(name):
        if name not in found:
            with torch.device("meta"):
                found[name] = builder_of(ENCODERS[name]).build(ENCODERS[name]).eval()
        return found[name]

    return build


@pytest.mark.parametrize("name", BUILT)
def test_a_row_is_what_its_builder_builds(name, networks):
    spec, network = ENCODERS[name], networks(name)
    assert sum(p.numel() for p in network.parameters()) == spec.parameters
    assert network.width == spec.width
    assert network.prefix_tokens == spec.prefix_tokens
    edge = spec.preprocessing.crop_px
    with torch.inference_mode():
        tokens = network(torch.zeros(2, 3, edge, edge, device="meta"))
    grid = edge // spec.patch_px
    assert tokens.patches.shape == (2, grid, grid, spec.width)
    offered = {"cls", "mean", "cls+mean"} if tokens.cls is not None else {"pooled"}
    assert set(spec.outputs) == offered
    vector = tokens.cls if tokens.cls is not None else tokens.pooled
    assert vector.shape == (2, spec.width)


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_sizes_agree_with_the_published_ones(name):
    parameters, gmacs = PUBLISHED[name]
    spec = ENCODERS[name]
    assert rounded(spec.parameters / 1e6, parameters) == parameters
    assert rounded(spec.gmacs, gmacs) == gmacs


@pytest.mark.parametrize("name", BUILT)
def test_work_for_a_tile_is_what_the_row_says(name, networks):
    spec = ENCODERS[name]
    edge = spec.preprocessing.crop_px
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        networks(name)(torch.zeros(1, 3, edge, edge, device="meta"))
    assert counter.get_total_flops() / 2e9 == pytest.approx(spec.gmacs, rel=0.02)


def test_features_have_their_published_lengths_and_prefixes():
    assert {name: ENCODERS[name].dim() for name in DIMENSIONS} == DIMENSIONS
    assert {name: ENCODERS[name].prefix_tokens for name in PREFIXES} == PREFIXES


def test_the_registry_holds_every_family_once():
    names = [spec.name for rows in FAMILIES.values() for spec in rows]
    assert len(names) == len(set(names)) == len(ENCODERS)
    assert names == list(ENCODERS)
    assert len(BUILT) == 36


@pytest.mark.parametrize("name", list(ENCODERS))
def test_a_row_is_whole(name):
    spec = ENCODERS[name]
    assert name == name.lower()
    assert spec.outputs
    assert spec.licence
    assert spec.page
    # What changes features has to be plain, or their digest would depend on how it is printed.
    assert json.loads(json.dumps(spec.recipe()))["name"] == name
    if spec.builder == "handcrafted":
        assert spec.weights is None
        assert spec.outputs == ("pooled",)
    elif spec.needs_weights:
        assert isinstance(spec.weights, HubFile | UrlFile)
        assert spec.weights.page.startswith("https://")
        assert spec.width is not None
        assert spec.citation
        assert spec.missing == ""
        assert spec.preprocessing.resize_px is None or (
            spec.preprocessing.resize_px >= spec.preprocessing.crop_px
        )


def test_handcrafted_rows_come_first_and_those_without_weights_last():
    names = list(ENCODERS)
    assert names[:2] == [spec.name for spec in handcrafted.ROWS]
    assert names[-len(unavailable.ROWS) :] == [spec.name for spec in unavailable.ROWS]


@pytest.mark.parametrize("spec", unavailable.ROWS, ids=lambda spec: spec.name)
def test_systems_without_weights_say_why_and_what_instead(spec):
    assert spec.builder == "none"
    assert spec.weights is None
    assert spec.missing
    assert spec.alternatives
    assert set(spec.alternatives) <= set(WITH_WEIGHTS)


def test_a_row_with_another_argument_is_another_recipe():
    spec = ENCODERS["uni"]
    other = dataclasses.replace(spec, arguments={**spec.arguments, "positions": 16})
    assert other.recipe() != spec.recipe()
    assert dataclasses.replace(spec, notes="other").recipe() == spec.recipe()
