"""Vision transformers of pathology that timm builds, of companies and the larger groups.

Their repositories ask a person to accept terms first.
"""

from typing import Any

from slidemill.features.registry.presets import (
    BOTH_FIRST,
    CC_BY_NC_ND,
    CLS_FIRST,
    H_OPTIMUS,
    IMAGENET,
    prepared,
)
from slidemill.features.spec import EncoderSpec, HubFile

_BIN = "pytorch_model.bin"
_GATED_LAYERS = {"mlp_layer": "SwiGLUPacked", "act_layer": "SiLU"}
_VIRCHOW: dict[str, Any] = {
    "img_size": 224,
    "init_values": 1e-5,
    "mlp_ratio": 5.3375,
    "dynamic_img_size": True,
    **_GATED_LAYERS,
}
_GIANT: dict[str, Any] = {"img_size": 224, "init_values": 1e-5}
_LARGE: dict[str, Any] = {"img_size": 224, "init_values": 1e-5, "dynamic_img_size": True}

_UNI = EncoderSpec(
    name="uni",
    builder="timm",
    arguments={"model": "vit_large_patch16_224", "options": _LARGE},
    weights=HubFile("MahmoodLab/UNI", _BIN, gated=True),
    preprocessing=prepared(IMAGENET),
    outputs=CLS_FIRST,
    width=1024,
    prefix_tokens=1,
    patch_px=16,
    tile_px=256,
    mpp=0.5,
    precision="fp16",
    licence=CC_BY_NC_ND,
    page="https://huggingface.co/MahmoodLab/UNI",
    parameters=303_350_784,
    gmacs=61.6,
    data="DINOv2, over 100,000 slides, 100 million tiles",
    citation="Chen et al., Towards a general-purpose foundation model for computational "
    "pathology, Nat. Med. 2024",
)

_UNI2_H = EncoderSpec(
    name="uni2-h",
    builder="timm",
    arguments={
        "model": "vit_giant_patch14_224",
        "options": {
            "img_size": 224,
            "patch_size": 14,
            "depth": 24,
            "num_heads": 24,
            "init_values": 1e-5,
            "embed_dim": 1536,
            "mlp_ratio": 2.66667 * 2,
            "no_embed_class": True,
            "reg_tokens": 8,
            "dynamic_img_size": True,
            **_GATED_LAYERS,
        },
    },
    weights=HubFile("MahmoodLab/UNI2-h", _BIN, gated=True),
    preprocessing=prepared(IMAGENET),
    outputs=CLS_FIRST,
    width=1536,
    prefix_tokens=9,
    patch_px=14,
    tile_px=256,
    mpp=0.5,
    precision="bf16",
    licence=CC_BY_NC_ND,
    page="https://huggingface.co/MahmoodLab/UNI2-h",
    parameters=681_394_176,
    gmacs=185.5,
    data="DINOv2, over 350,000 slides of H&E and IHC, 200 million tiles",
    citation="Chen et al., Towards a general-purpose foundation model for computational "
    "pathology, Nat. Med. 2024",
    notes="IHC was among its data.",
)

_VIRCHOW_1 = EncoderSpec(
    name="virchow",
    builder="timm",
    arguments={"model": "vit_huge_patch14_224", "options": _VIRCHOW},
    weights=HubFile("paige-ai/Virchow", _BIN, gated=True),
    preprocessing=prepared(IMAGENET, "bicubic"),
    outputs=BOTH_FIRST,
    width=1280,
    prefix_tokens=1,
    patch_px=14,
    tile_px=224,
    mpp=0.5,
    precision="fp16",
    licence="Apache-2.0, with terms",
    page="https://huggingface.co/paige-ai/Virchow",
    parameters=631_229_184,
    gmacs=167.4,
    data="DINOv2, 1,488,550 slides",
    citation="Vorontsov et al., A foundation model for clinical-grade computational pathology and "
    "rare cancers detection, Nat. Med. 2024",
    notes="Its page asks for an institutional mail address.",
)

_VIRCHOW_2 = EncoderSpec(
    name="virchow2",
    builder="timm",
    arguments={"model": "vit_huge_patch14_224", "options": {**_VIRCHOW, "reg_tokens": 4}},
    weights=HubFile("paige-ai/Virchow2", _BIN, gated=True),
    preprocessing=prepared(IMAGENET, "bicubic"),
    outputs=BOTH_FIRST,
    width=1280,
    prefix_tokens=5,
    patch_px=14,
    tile_px=224,
    mpp=None,
    precision="fp16",
    licence=CC_BY_NC_ND,
    page="https://huggingface.co/paige-ai/Virchow2",
    parameters=631_239_424,
    gmacs=170.1,
    data="DINOv2 at mixed magnifications, 3,134,922 slides",
    citation="Zimmermann et al., Virchow2, 2024, arXiv:2408.00738",
    notes="Trained at many resolutions: say which with tiles.mpp.",
)


def _h_optimus(number: int, licence: str, data: str, citation: str) -> EncoderSpec:
    repository = f"bioptimus/H-optimus-{number}"
    return EncoderSpec(
        name=f"h-optimus-{number}",
        builder="timm",
        arguments={"model": "vit_giant_patch14_reg4_dinov2", "options": _GIANT},
        weights=HubFile(repository, _BIN, gated=True),
        # Its card resizes nothing.
        preprocessing=prepared(H_OPTIMUS, "bicubic", resize_px=None),
        outputs=CLS_FIRST,
        width=1536,
        prefix_tokens=5,
        patch_px=14,
        tile_px=224,
        mpp=0.5,
        precision="fp16",
        licence=licence,
        page=f"https://huggingface.co/{repository}",
        parameters=1_134_774_272,
        gmacs=304.2,
        data=data,
        citation=citation,
        notes="Takes tiles of 224 px and no others.",
    )


_H0_MINI = EncoderSpec(
    name="h0-mini",
    builder="timm",
    arguments={
        "model": "vit_base_patch14_reg4_dinov2",
        "options": {
            "img_size": 224,
            "init_values": 1e-5,
            "mlp_ratio": 5.33334,
            "dynamic_img_size": True,
            **_GATED_LAYERS,
        },
    },
    weights=HubFile("bioptimus/H0-mini", gated=True),
    preprocessing=prepared(H_OPTIMUS, "bicubic"),
    outputs=CLS_FIRST,
    width=768,
    prefix_tokens=5,
    patch_px=14,
    tile_px=224,
    mpp=0.5,
    precision="fp16",
    licence=CC_BY_NC_ND,
    page="https://huggingface.co/bioptimus/H0-mini",
    parameters=85_739_520,
    gmacs=23.5,
    data="distilled from H-optimus-0 on 40 million tiles of TCGA",
    citation="Filiot et al., Distilling foundation models for robust and efficient models in "
    "digital pathology, 2025, arXiv:2501.16239",
    notes="A thirteenth of the work of its teacher; output: cls+mean is in use too.",
)

_GIGAPATH = EncoderSpec(
    name="prov-gigapath",
    builder="timm",
    arguments={
        "model": "vit_giant_patch14_dinov2",
        "options": {
            "img_size": 224,
            "patch_size": 16,
            "embed_dim": 1536,
            "depth": 40,
            "num_heads": 24,
            "mlp_ratio": 5.33334,
        },
    },
    weights=HubFile("prov-gigapath/prov-gigapath", _BIN, gated=True),
    preprocessing=prepared(IMAGENET, "bicubic", resize_px=256),
    outputs=CLS_FIRST,
    width=1536,
    prefix_tokens=1,
    patch_px=16,
    tile_px=256,
    mpp=0.5,
    precision="fp16",
    licence="Apache-2.0, with terms",
    page="https://huggingface.co/prov-gigapath/prov-gigapath",
    parameters=1_134_953_984,
    gmacs=228.1,
    data="DINOv2, 171,189 slides, 1.3 billion tiles",
    citation="Xu et al., A whole-slide foundation model for digital pathology from real-world "
    "data, Nature 2024",
    notes="Sees the middle 224 of 256 px.",
)

ROWS: tuple[EncoderSpec, ...] = (
    _UNI,
    _UNI2_H,
    _VIRCHOW_1,
    _VIRCHOW_2,
    _h_optimus(
        0, "Apache-2.0", "DINOv2 and iBOT, over 500,000 slides",
        "Saillard et al., H-optimus-0, 2024, github.com/bioptimus/releases",
    ),
    _h_optimus(
        1, f"{CC_BY_NC_ND} (academic)", "over 1 million slides of more than 800,000 patients",
        "Bioptimus, H-optimus-1, 2025, huggingface.co/bioptimus/H-optimus-1",
    ),
    _H0_MINI,
    _GIGAPATH,
)  # fmt: skip
