"""Encoders of everyday photographs: baselines for those of pathology.

They were made for no size of tile: 224 px is what they take, and any resolution will do.
"""

from slidemill.features.registry.presets import CLS_FIRST, IMAGENET, prepared
from slidemill.features.spec import EncoderSpec, HubFile

_HE = "He et al., Deep residual learning for image recognition, CVPR 2016, arXiv:1512.03385"
_DINOV2 = "Oquab et al., DINOv2: learning robust visual features without supervision, TMLR 2024, "
_DINOV2 += "arXiv:2304.07193"
_REGISTERS = "Darcet et al., Vision transformers need registers, ICLR 2024, arXiv:2309.16588"
_DINOV3 = "Siméoni et al., DINOv3, 2025, arXiv:2508.10104"
_RESNET = "timm/resnet50.tv_in1k"


def _dinov2(
    letter: str, size: str, width: int, parameters: int, gmacs: float, *, registers: bool
) -> EncoderSpec:
    model = f"vit_{size}_patch14{'_reg4' if registers else ''}_dinov2"
    hub = f"timm/{model}.lvd142m"
    return EncoderSpec(
        name=f"dinov2-{letter}{'-reg' if registers else ''}",
        builder="timm",
        # Published with positions of 518 px images, 37 x 37 patches; by Meta under other names.
        arguments={
            "model": model,
            "options": {"img_size": 224},
            "positions": 37,
            "naming": "dinov2",
        },
        weights=HubFile(hub),
        preprocessing=prepared(IMAGENET, "bicubic"),
        outputs=CLS_FIRST,
        width=width,
        prefix_tokens=5 if registers else 1,
        patch_px=14,
        tile_px=224,
        mpp=None,
        precision="fp16",
        licence="Apache-2.0",
        page=f"https://huggingface.co/{hub}",
        parameters=parameters,
        gmacs=gmacs,
        data="DINOv2 on LVD-142M, 142 million photographs",
        citation=f"{_DINOV2}; {_REGISTERS}" if registers else _DINOV2,
        notes="Of photographs, not of tissue; with registers."
        if registers
        else "Of photographs, not of tissue.",
    )


def _dinov3(letter: str, size: str, width: int, parameters: int, gmacs: float) -> EncoderSpec:
    hub = f"timm/vit_{size}_patch16_dinov3.lvd1689m"
    return EncoderSpec(
        name=f"dinov3-{letter}",
        builder="timm",
        arguments={"model": f"vit_{size}_patch16_dinov3", "options": {"img_size": 224}},
        weights=HubFile(hub),
        preprocessing=prepared(IMAGENET, "bicubic"),
        outputs=CLS_FIRST,
        width=width,
        prefix_tokens=5,
        patch_px=16,
        tile_px=224,
        mpp=None,
        precision="bf16",
        licence="DINOv3 licence",
        page=f"https://huggingface.co/{hub}",
        parameters=parameters,
        gmacs=gmacs,
        data="DINOv3 on LVD-1689M, 1.7 billion photographs; small ones distilled from 7B",
        citation=_DINOV3,
        notes="Of photographs, not of tissue. The class token, as its authors give it; timm's own "
        "default is the mean.",
    )


_RESNETS = (
    EncoderSpec(
        name="resnet50",
        builder="timm",
        arguments={"model": "resnet50"},
        weights=HubFile(_RESNET),
        preprocessing=prepared(IMAGENET),
        outputs=("pooled",),
        width=2048,
        patch_px=32,
        tile_px=256,
        mpp=0.5,
        precision="fp32",
        licence="BSD-3-Clause",
        page=f"https://huggingface.co/{_RESNET}",
        parameters=23_508_032,
        gmacs=4.1,
        data="supervised on ImageNet-1k",
        citation=_HE,
        notes="Of photographs, not of tissue.",
    ),
    EncoderSpec(
        name="resnet50-trunc",
        builder="timm",
        arguments={
            "model": "resnet50",
            "options": {"features_only": True, "out_indices": [3]},
            "drop": ["layer4.", "fc."],
        },
        weights=HubFile(_RESNET),
        preprocessing=prepared(IMAGENET),
        outputs=("pooled",),
        width=1024,
        patch_px=16,
        tile_px=256,
        mpp=0.5,
        precision="fp32",
        licence="BSD-3-Clause",
        page=f"https://huggingface.co/{_RESNET}",
        parameters=8_543_296,
        gmacs=3.3,
        data="supervised on ImageNet-1k; cut after its third stage",
        citation=f"{_HE}; truncated as by Lu et al., CLAM, Nat. Biomed. Eng. 2021",
        notes="Of photographs, not of tissue; the classical baseline of attention MIL.",
    ),
)

ROWS: tuple[EncoderSpec, ...] = (
    *_RESNETS,
    _dinov2("s", "small", 384, 21_628_800, 6.1, registers=False),
    _dinov2("b", "base", 768, 85_724_928, 23.2, registers=False),
    _dinov2("l", "large", 1024, 303_227_904, 81.0, registers=False),
    _dinov2("g", "giant", 1536, 1_134_769_664, 299.4, registers=False),
    _dinov2("s", "small", 384, 21_629_952, 6.2, registers=True),
    _dinov2("b", "base", 768, 85_727_232, 23.5, registers=True),
    _dinov2("l", "large", 1024, 303_230_976, 82.3, registers=True),
    _dinov2("g", "giant", 1536, 1_134_774_272, 304.2, registers=True),
    _dinov3("s", "small", 384, 21_586_944, 4.7),
    _dinov3("b", "base", 768, 85_641_216, 17.9),
    _dinov3("l", "large", 1024, 303_079_424, 62.8),
)
