"""Encoders that Lunit and kaiko.ai trained on TCGA; released on GitHub, without an account."""

from slidemill.features.registry.presets import CLS_FIRST, HALF, LUNIT, prepared
from slidemill.features.spec import EncoderSpec, UrlFile

_LUNIT_PAGE = "https://github.com/lunit-io/benchmark-ssl-pathology"
_LUNIT_FILES = f"{_LUNIT_PAGE}/releases/download/pretrained-weights"
_LUNIT_LICENCE = "Lunit non-commercial"
_LUNIT_DATA = "20,994 slides of TCGA and 19 million tiles at 0.5 and 0.25 um a pixel"
_LUNIT_PAPER = "Kang et al., Benchmarking self-supervised learning on diverse pathology datasets, "
_LUNIT_PAPER += "CVPR 2023, arXiv:2212.04690"
_KAIKO_PAGE = "https://github.com/kaiko-ai/towards_large_pathology_fms"
_KAIKO_FILES = f"{_KAIKO_PAGE}/releases/download/0.0.1"
_KAIKO_PAPER = "Aben et al., Towards large-scale training of pathology foundation models, "
_KAIKO_PAPER += "2024, arXiv:2404.15217"


def _lunit_resnet(method: str, words: str) -> EncoderSpec:
    return EncoderSpec(
        name=f"lunit-{method}",
        builder="torchvision",
        arguments={"model": "resnet50"},
        weights=UrlFile(f"{_LUNIT_FILES}/{method}_rn50_ep200.torch", _LUNIT_PAGE),
        preprocessing=prepared(LUNIT),
        outputs=("pooled",),
        width=2048,
        patch_px=32,
        tile_px=512,
        mpp=0.5,
        precision="fp32",
        licence=_LUNIT_LICENCE,
        page=_LUNIT_PAGE,
        parameters=23_508_032,
        gmacs=4.1,
        data=f"{words}, {_LUNIT_DATA}",
        citation=_LUNIT_PAPER,
        notes="Its authors give the 7 x 7 map; the feature is its mean.",
    )


def _lunit_dino(patch: int, parameters: int, gmacs: float) -> EncoderSpec:
    file = f"{_LUNIT_FILES}/dino_vit_small_patch{patch}_ep200.torch"
    return EncoderSpec(
        name=f"lunit-dino-s{patch}",
        builder="timm",
        arguments={"model": f"vit_small_patch{patch}_224"},
        weights=UrlFile(file, _LUNIT_PAGE),
        preprocessing=prepared(LUNIT),
        outputs=CLS_FIRST,
        width=384,
        prefix_tokens=1,
        patch_px=patch,
        tile_px=224,
        mpp=0.5,
        precision="fp32",
        licence=_LUNIT_LICENCE,
        page=_LUNIT_PAGE,
        parameters=parameters,
        gmacs=gmacs,
        data=f"DINO, {_LUNIT_DATA}",
        citation=_LUNIT_PAPER,
        notes="Small and good for its size."
        if patch == 16
        else "Five times the work of lunit-dino-s16, for finer patches.",
    )


def _kaiko(
    size: str, letter: str, patch: int, width: int, parameters: int, gmacs: float
) -> EncoderSpec:
    return EncoderSpec(
        name=f"kaiko-{letter}{patch}",
        builder="timm",
        arguments={"model": f"vit_{size}_patch{patch}_224"},
        weights=UrlFile(f"{_KAIKO_FILES}/vit{letter}{patch}.pth", _KAIKO_PAGE),
        preprocessing=prepared(HALF),
        outputs=CLS_FIRST,
        width=width,
        prefix_tokens=1,
        patch_px=patch,
        tile_px=256,
        mpp=0.5,
        precision="fp32",
        licence="kaiko non-commercial",
        page=_KAIKO_PAGE,
        parameters=parameters,
        gmacs=gmacs,
        data="DINO on TCGA at several magnifications",
        citation=_KAIKO_PAPER,
    )


_KAIKO_L14 = EncoderSpec(
    name="kaiko-l14",
    builder="timm",
    # Published with positions of 518 px images, 37 x 37 patches, and fed 224 px.
    arguments={
        "model": "vit_large_patch14_reg4_dinov2",
        "options": {"img_size": 224},
        "positions": 37,
        "naming": "dinov2",
    },
    weights=UrlFile(f"{_KAIKO_FILES}/vitl14.pth", _KAIKO_PAGE),
    preprocessing=prepared(HALF),
    outputs=CLS_FIRST,
    width=1024,
    prefix_tokens=5,
    patch_px=14,
    tile_px=256,
    mpp=0.5,
    precision="fp32",
    licence="kaiko non-commercial",
    page=_KAIKO_PAGE,
    parameters=303_230_976,
    gmacs=82.3,
    data="DINOv2 on TCGA at several magnifications",
    citation=_KAIKO_PAPER,
)

ROWS: tuple[EncoderSpec, ...] = (
    _lunit_resnet("bt", "Barlow Twins"),
    _lunit_resnet("mocov2", "MoCo v2"),
    _lunit_resnet("swav", "SwAV"),
    _lunit_dino(16, 21_665_664, 4.6),
    _lunit_dino(8, 21_670_272, 22.4),
    _kaiko("small", "s", 16, 384, 21_665_664, 4.6),
    _kaiko("small", "s", 8, 384, 21_670_272, 22.4),
    _kaiko("base", "b", 16, 768, 85_798_656, 17.6),
    _kaiko("base", "b", 8, 768, 85_807_872, 78.1),
    _KAIKO_L14,
)
