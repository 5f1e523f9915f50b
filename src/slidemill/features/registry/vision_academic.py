"""Vision transformers of pathology that timm builds, of universities and free projects."""

from slidemill.features.registry.presets import CC_BY_NC_ND, CLS_FIRST, HALF, IMAGENET, prepared
from slidemill.features.spec import EncoderSpec, HubFile

_GPFM = EncoderSpec(
    name="gpfm",
    builder="timm",
    arguments={
        "model": "vit_large_patch14_dinov2",
        "options": {"img_size": 224, "init_values": 1e-5},
        "naming": "dinov2",
    },
    weights=HubFile("majiabo/GPFM", "GPFM.pth"),
    preprocessing=prepared(IMAGENET, "bicubic"),
    outputs=CLS_FIRST,
    width=1024,
    prefix_tokens=1,
    patch_px=14,
    tile_px=512,
    mpp=0.25,
    precision="fp16",
    licence=CC_BY_NC_ND,
    page="https://github.com/birkhoffkiki/GPFM",
    parameters=303_227_904,
    gmacs=81.0,
    data="DINOv2, and distillation of UNI, CONCH and Phikon",
    citation="Ma et al., Towards a generalizable pathology foundation model via unified knowledge "
    "distillation, 2024, arXiv:2407.18449",
    notes="Its authors cut 512 px at 0.25 um; others use 224 px at 0.5 um.",
)


def _stainnet(name: str, size: str, width: int, parameters: int, gmacs: float) -> EncoderSpec:
    repository = "JWonderLand/StainNet" + ("-Base" if size == "base" else "")
    return EncoderSpec(
        name=name,
        builder="timm",
        arguments={
            "model": f"vit_{size}_patch16_224",
            "options": {"dynamic_img_size": True},
        },
        weights=HubFile(repository),
        # As on its card. The configuration inside the repository crops, which is another feature.
        preprocessing=prepared(HALF, "bicubic"),
        outputs=CLS_FIRST,
        width=width,
        prefix_tokens=1,
        patch_px=16,
        tile_px=224,
        mpp=None,
        precision="fp32",
        licence=CC_BY_NC_ND,
        page=f"https://huggingface.co/{repository}",
        parameters=parameters,
        gmacs=gmacs,
        data="DINO, 20,231 slides of IHC and special stains (HISTAI), 1,418,938 tiles",
        citation="Li et al., StainNet, 2025, arXiv:2512.10326",
        notes="For IHC and special stains, not H&E. Its authors name no resolution.",
    )


_OPENMIDNIGHT = EncoderSpec(
    name="openmidnight",
    builder="timm",
    arguments={
        "model": "vit_giant_patch14_reg4_dinov2",
        "options": {"img_size": 224},
        "naming": "dinov2",
    },
    weights=HubFile("SophontAI/OpenMidnight", "teacher_checkpoint_load.pt"),
    preprocessing=prepared(IMAGENET),
    outputs=CLS_FIRST,
    width=1536,
    prefix_tokens=5,
    patch_px=14,
    tile_px=224,
    mpp=0.5,
    precision="fp16",
    licence="Apache-2.0",
    page="https://huggingface.co/SophontAI/OpenMidnight",
    parameters=1_134_774_272,
    gmacs=304.2,
    data="DINOv2 with a KDE loss, 12,000 slides of TCGA",
    citation="Kaplan et al., How to train a state-of-the-art pathology foundation model with "
    "$1.6k, 2025, sophontai.com/blog/openmidnight",
)

_PATHORCHESTRA = EncoderSpec(
    name="pathorchestra",
    builder="timm",
    arguments={
        "model": "vit_large_patch16_224",
        "options": {"img_size": 224, "init_values": 1e-5, "dynamic_img_size": True},
    },
    weights=HubFile("AI4Pathology/PathOrchestra", "pytorch_model.bin", gated=True),
    preprocessing=prepared(IMAGENET),
    outputs=CLS_FIRST,
    width=1024,
    prefix_tokens=1,
    patch_px=16,
    tile_px=256,
    mpp=0.5,
    precision="fp32",
    licence=CC_BY_NC_ND,
    page="https://huggingface.co/AI4Pathology/PathOrchestra",
    parameters=303_350_784,
    gmacs=61.6,
    data="DINOv2",
    citation="Yan et al., PathOrchestra, 2025, arXiv:2503.24345",
)

ROWS: tuple[EncoderSpec, ...] = (
    _GPFM,
    _stainnet("stainnet-s", "small", 384, 21_665_664, 4.6),
    _stainnet("stainnet-b", "base", 768, 85_798_656, 17.6),
    _OPENMIDNIGHT,
    _PATHORCHESTRA,
)
