"""Vision transformers of pathology that the transformers library builds from its own classes."""

from typing import Any

from slidemill.features.registry.presets import (
    BOTH_FIRST,
    CLS_FIRST,
    HALF,
    IMAGENET,
    prepared,
)
from slidemill.features.spec import RGB3, EncoderSpec, HubFile

_HIBOU: tuple[RGB3, RGB3] = ((0.7068, 0.5755, 0.722), (0.195, 0.2316, 0.1816))
_LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16}
_HIBOU_CITATION = (
    "Nechaev et al., Hibou: A family of foundational vision transformers for pathology, "
    "arXiv 2406.05074"
)
_HIBOU_CONFIG: dict[str, Any] = {
    "image_size": 224,
    "patch_size": 14,
    "num_register_tokens": 4,
    "use_swiglu_ffn": True,
}

_PHIKON = EncoderSpec(
    name="phikon",
    builder="transformers",
    arguments={
        "model": "ViTModel",
        "config": {
            "hidden_size": 768,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "intermediate_size": 3072,
            "image_size": 224,
            "patch_size": 16,
            "layer_norm_eps": 1e-12,
        },
    },
    weights=HubFile("owkin/phikon"),
    preprocessing=prepared(IMAGENET),
    outputs=CLS_FIRST,
    width=768,
    prefix_tokens=1,
    patch_px=16,
    tile_px=224,
    mpp=0.5,
    precision="fp32",
    licence="Owkin non-commercial",
    page="https://huggingface.co/owkin/phikon",
    parameters=85_798_656,
    gmacs=17.6,
    data="iBOT, 6,093 slides of TCGA, 40 million tiles",
    citation="Filiot et al., Scaling self-supervised learning for histopathology with masked "
    "image modeling, medRxiv 2023",
)

_PHIKON_V2 = EncoderSpec(
    name="phikon-v2",
    builder="transformers",
    arguments={
        "model": "Dinov2Model",
        "config": {**_LARGE, "image_size": 224, "patch_size": 16},
    },
    weights=HubFile("owkin/phikon-v2"),
    preprocessing=prepared(IMAGENET, "bicubic"),
    outputs=CLS_FIRST,
    width=1024,
    prefix_tokens=1,
    patch_px=16,
    tile_px=224,
    mpp=0.5,
    precision="fp32",
    licence="Owkin non-commercial",
    page="https://huggingface.co/owkin/phikon-v2",
    gmacs=61.6,
    parameters=303_350_784,
    data="DINOv2, 58,359 slides, 460 million tiles",
    citation="Filiot et al., Phikon-v2, a large and public feature extractor for biomarker "
    "prediction, arXiv 2409.09173",
    notes="Tiles of other sizes than 224 px are resized bicubically; the published processor "
    "could not be seen here.",
)

_MIDNIGHT = EncoderSpec(
    name="midnight-12k",
    builder="transformers",
    arguments={
        "model": "Dinov2Model",
        "config": {
            "hidden_size": 1536,
            "num_hidden_layers": 40,
            "num_attention_heads": 24,
            "image_size": 224,
            "patch_size": 14,
            "use_swiglu_ffn": True,
        },
    },
    weights=HubFile("kaiko-ai/midnight"),
    preprocessing=prepared(HALF),
    outputs=BOTH_FIRST,
    width=1536,
    prefix_tokens=1,
    patch_px=14,
    tile_px=224,
    mpp=0.5,
    precision="fp16",
    licence="MIT",
    page="https://huggingface.co/kaiko-ai/midnight",
    parameters=1_134_769_664,
    gmacs=299.4,
    data="DINOv2 with a KDE regulariser and stain augmentation, 12,000 slides of TCGA at several "
    "magnifications",
    citation="Karasikov et al., Training state-of-the-art pathology foundation models with orders "
    "of magnitude less data, arXiv 2504.05186",
    notes="The size of the published position embedding is not known here: it is taken as it is "
    "and interpolated by the model.",
)

_HIBOU_B = EncoderSpec(
    name="hibou-b",
    builder="transformers",
    arguments={
        "model": "Dinov2WithRegistersModel",
        "config": {
            "hidden_size": 768,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            **_HIBOU_CONFIG,
        },
    },
    weights=HubFile("histai/hibou-b", gated=True),
    preprocessing=prepared(_HIBOU, "bicubic"),
    outputs=CLS_FIRST,
    width=768,
    prefix_tokens=5,
    patch_px=14,
    tile_px=224,
    mpp=0.5,
    precision="fp32",
    licence="Apache-2.0",
    page="https://huggingface.co/histai/hibou-b",
    parameters=85_740_288,
    gmacs=23.5,
    data="DINOv2 with registers, about 1 million slides",
    citation=_HIBOU_CITATION,
    notes="Needs no code of its repository; the names of its weights could not be seen here, and "
    "are taken to be those of transformers.",
)

_HIBOU_L = EncoderSpec(
    name="hibou-l",
    builder="transformers",
    arguments={"model": "Dinov2WithRegistersModel", "config": {**_LARGE, **_HIBOU_CONFIG}},
    weights=HubFile("histai/hibou-L", gated=True),
    preprocessing=prepared(_HIBOU, "bicubic"),
    outputs=CLS_FIRST,
    width=1024,
    prefix_tokens=5,
    patch_px=14,
    tile_px=224,
    mpp=0.5,
    precision="fp32",
    licence="Apache-2.0",
    page="https://huggingface.co/histai/hibou-L",
    gmacs=82.4,
    parameters=303_658_240,
    data="DINOv2 with registers, about 1 million slides",
    citation=_HIBOU_CITATION,
    notes="Needs no code of its repository; the names of its weights could not be seen here, and "
    "are taken to be those of transformers. That its layers are SwiGLU follows from its number of "
    "parameters.",
)

ROWS: tuple[EncoderSpec, ...] = (_PHIKON, _PHIKON_V2, _MIDNIGHT, _HIBOU_B, _HIBOU_L)
