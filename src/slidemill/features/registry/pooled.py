"""Encoders that were trained with text, or whose network is none of the usual libraries'."""

from typing import Any

from slidemill.features.registry.presets import (
    CC_BY_NC_ND,
    CLIP,
    CLS_FIRST,
    HALF,
    IMAGENET,
    prepared,
)
from slidemill.features.spec import RGB3, EncoderSpec, HubFile

_GENBIO: tuple[RGB3, RGB3] = ((0.697, 0.575, 0.728), (0.188, 0.240, 0.187))
_OPEN_CLIP = "open_clip_pytorch_model.bin"
_QUILT_DATA = "CLIP, 1 million pairs of images and texts of Quilt-1M"
_QUILT_CITATION = (
    "Ikezogwo et al., Quilt-1M: One million image-text pairs for histopathology, NeurIPS 2023"
)


def _clip_config(patch_px: int, activation: str) -> dict[str, Any]:
    return {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "image_size": 224,
        "patch_size": patch_px,
        "projection_dim": 512,
        "hidden_act": activation,
    }


_PLIP = EncoderSpec(
    name="plip",
    builder="transformers",
    arguments={
        "model": "CLIPVisionModelWithProjection",
        "config": _clip_config(32, "quick_gelu"),
    },
    weights=HubFile("vinid/plip", "pytorch_model.bin"),
    preprocessing=prepared(CLIP, "bicubic"),
    outputs=("pooled",),
    width=512,
    tile_px=224,
    mpp=0.5,
    precision="fp32",
    licence="non-commercial",
    page="https://huggingface.co/vinid/plip",
    parameters=87_849_216,
    gmacs=4.4,
    data="CLIP, 208,414 pairs of images and texts of medical Twitter",
    citation="Huang et al., A visual-language foundation model for pathology image analysis using "
    "medical Twitter, Nat. Med. 2023",
)

_QUILTNET_B32 = EncoderSpec(
    name="quiltnet-b32",
    builder="transformers",
    arguments={
        "model": "CLIPVisionModelWithProjection",
        "config": _clip_config(32, "gelu"),
        "naming": "open_clip",
    },
    weights=HubFile("wisdomik/QuiltNet-B-32", _OPEN_CLIP),
    preprocessing=prepared(CLIP, "bicubic"),
    outputs=("pooled",),
    width=512,
    tile_px=224,
    mpp=0.5,
    precision="fp32",
    licence="MIT",
    page="https://huggingface.co/wisdomik/QuiltNet-B-32",
    parameters=87_849_216,
    gmacs=4.4,
    data=_QUILT_DATA,
    citation=_QUILT_CITATION,
    notes="GELU as its configuration says, not the faster one of OpenAI's CLIP.",
)

_QUILTNET_B16 = EncoderSpec(
    name="quiltnet-b16",
    builder="transformers",
    arguments={
        "model": "CLIPVisionModelWithProjection",
        "config": _clip_config(16, "gelu"),
        "naming": "open_clip",
    },
    weights=HubFile("wisdomik/QuiltNet-B-16", _OPEN_CLIP),
    preprocessing=prepared(CLIP, "bicubic"),
    outputs=("pooled",),
    width=512,
    tile_px=224,
    mpp=0.5,
    precision="fp32",
    licence="MIT",
    page="https://huggingface.co/wisdomik/QuiltNet-B-16",
    parameters=86_192_640,
    gmacs=17.6,
    data=_QUILT_DATA,
    citation=_QUILT_CITATION,
    notes="GELU as its configuration says, not the faster one of OpenAI's CLIP.",
)

_QUILTNET_B16_PMB = EncoderSpec(
    name="quiltnet-b16-pmb",
    builder="coca",
    arguments={"model": "vit_base_patch16_224", "head": "linear"},
    weights=HubFile("wisdomik/QuiltNet-B-16-PMB", _OPEN_CLIP),
    preprocessing=prepared(CLIP, "bicubic"),
    outputs=("pooled",),
    width=512,
    tile_px=224,
    mpp=0.5,
    precision="fp32",
    licence="MIT",
    page="https://huggingface.co/wisdomik/QuiltNet-B-16-PMB",
    parameters=86_191_872,
    gmacs=17.6,
    data=_QUILT_DATA + ", texts by PubMedBERT",
    citation=_QUILT_CITATION,
    notes="Its configuration could not be seen here: taken to be timm's ViT-B/16 and a projection, "
    "as in the checkpoint that it continues.",
)

_KEEP = EncoderSpec(
    name="keep",
    builder="coca",
    arguments={
        "model": "vit_large_patch16_224",
        "options": {"init_values": 1e-5},
        "head": "mlp",
        "unit": True,
    },
    weights=HubFile("Astaxanthin/KEEP"),
    preprocessing=prepared(IMAGENET, "bicubic"),
    outputs=("pooled",),
    width=768,
    tile_px=256,
    mpp=0.5,
    precision="fp16",
    licence="MIT",
    page="https://huggingface.co/Astaxanthin/KEEP",
    parameters=304_728_576,
    gmacs=61.6,
    data="CLIP with a knowledge graph of diseases, from UNI's weights",
    citation="Zhou et al., A knowledge-enhanced pathology vision-language foundation model for "
    "cancer diagnosis, arXiv 2412.13126",
    notes="Features have length 1, as its authors' encode_image gives them. None of the "
    "repository's code is run: it would change timm for every other encoder.",
)

_CONCH = EncoderSpec(
    name="conch",
    builder="coca",
    arguments={
        "model": "vit_base_patch16_224",
        "options": {"img_size": 448},
        "head": "attention",
        "heads": 8,
        "bias": True,
    },
    weights=HubFile("MahmoodLab/conch", "pytorch_model.bin", gated=True),
    preprocessing=prepared(CLIP, "bicubic", resize_px=448, crop_px=448),
    outputs=("pooled",),
    width=512,
    tile_px=512,
    mpp=0.5,
    precision="fp32",
    licence=CC_BY_NC_ND,
    page="https://huggingface.co/MahmoodLab/conch",
    parameters=87_567_104,
    gmacs=79.1,
    data="iBOT, then CoCa on 1.17 million pairs of images and captions",
    citation="Lu et al., A visual-language foundation model for computational pathology, "
    "Nat. Med. 2024",
    notes="What slides are analysed with: before the projection into the space of texts, and not "
    "normalised.",
)

_CONCH_V1_5 = EncoderSpec(
    name="conch-v1.5",
    builder="coca",
    arguments={
        "model": "vit_large_patch16_224",
        "options": {"img_size": 448, "init_values": 1.0},
        "head": "attention",
        "heads": 8,
        "bias": False,
        "positions": 14,
    },
    weights=HubFile("MahmoodLab/conchv1_5", "pytorch_model_vision.bin", gated=True),
    preprocessing=prepared(IMAGENET, resize_px=448, crop_px=448),
    outputs=("pooled",),
    width=768,
    tile_px=512,
    mpp=0.5,
    precision="fp16",
    licence=CC_BY_NC_ND,
    page="https://huggingface.co/MahmoodLab/conchv1_5",
    parameters=306_711_296,
    gmacs=269.2,
    data="CoCa from UNI's weights; the tile encoder of TITAN",
    citation="Ding et al., A multimodal whole-slide foundation model for pathology, Nat. Med. 2025",
)

_MUSK = EncoderSpec(
    name="musk",
    builder="beit3",
    arguments={
        "image_px": 384,
        "patch_px": 16,
        "width": 1024,
        "layers": 24,
        "heads": 16,
        "hidden": 4096,
    },
    weights=HubFile("xiangjx/musk", gated=True),
    preprocessing=prepared(HALF, "bicubic", resize_px=384, crop_px=384),
    outputs=CLS_FIRST,
    width=1024,
    prefix_tokens=1,
    patch_px=16,
    tile_px=384,
    mpp=0.5,
    precision="fp16",
    licence=CC_BY_NC_ND,
    page="https://huggingface.co/xiangjx/musk",
    parameters=303_938_560,
    gmacs=191.1,
    data="masked modelling of 50 million images and 1 billion tokens, then CoCa on 1 million pairs",
    citation="Xiang et al., A vision-language foundation model for precision oncology, Nature 2025",
    notes="The class token of one scale; its authors' multi-scale augmentation gives 2,048 numbers "
    "for a tile, at several times the cost.",
)

_GENBIO_PATHFM = EncoderSpec(
    name="genbio-pathfm",
    builder="remote",
    arguments={
        "method": "_encode",
        "cls": "x_norm_clstoken",
        "patches": "x_norm_patchtokens",
        "planes": True,
        "prefix": "model.",
    },
    weights=HubFile("genbio-ai/genbio-pathfm", "model.pth"),
    preprocessing=prepared(_GENBIO),
    outputs=CLS_FIRST,
    width=3 * 1536,
    prefix_tokens=5,
    patch_px=16,
    tile_px=224,
    mpp=0.5,
    precision="bf16",
    licence="GenBio AI Community",
    page="https://huggingface.co/genbio-ai/genbio-pathfm",
    parameters=1_133_686_784,
    gmacs=698.0,
    data="JEDI (JEPA, then DINO) on public slides, three passes for a tile",
    citation="Kapse et al., GenBio-PathFM: A state-of-the-art foundation model for "
    "histopathology, bioRxiv 2026.03.17.712534",
    notes="Red, green and blue are encoded apart. The repository's code could not be run here.",
)

_CTRANSPATH = EncoderSpec(
    name="ctranspath",
    builder="exported",
    weights=HubFile("RendeiroLab/LazySlide-models-gpl", "CTransPath/CTransPath_exported.pt2"),
    preprocessing=prepared(IMAGENET),
    outputs=("pooled",),
    width=768,
    tile_px=224,
    mpp=1.0,
    precision="fp32",
    licence="GPL-3.0",
    page="https://huggingface.co/RendeiroLab/LazySlide-models-gpl",
    parameters=27_520_038,
    gmacs=4.5,
    data="contrastive (SRCL), TCGA and PAIP, 15 million tiles",
    citation="Wang et al., Transformer-based unsupervised contrastive learning for "
    "histopathological image classification, Med. Image Anal. 2022",
    notes="A program stored by LazySlide, since the network needs a fork of timm 0.5.4; it could "
    "not be run here.",
)

ROWS: tuple[EncoderSpec, ...] = (
    _PLIP,
    _QUILTNET_B32,
    _QUILTNET_B16,
    _QUILTNET_B16_PMB,
    _KEEP,
    _CONCH,
    _CONCH_V1_5,
    _MUSK,
    _GENBIO_PATHFM,
    _CTRANSPATH,
)
