"""Systems that papers name and whose weights cannot be had: found by name, never loaded.

They are listed so that a user who read about one is told at once, and told what to take instead.
"""

from slidemill.features.spec import EncoderSpec, Output

_UNKNOWN: tuple[Output, ...] = ("cls",)


def _row(
    name: str, page: str, citation: str, data: str, missing: str, alternatives: tuple[str, ...]
) -> EncoderSpec:
    return EncoderSpec(
        name=name,
        builder="none",
        outputs=_UNKNOWN,
        width=None,
        tile_px=None,
        mpp=None,
        precision="fp32",
        licence="none published",
        page=page,
        data=data,
        citation=citation,
        missing=missing,
        alternatives=alternatives,
    )


_VIRCHOW2 = "Zimmermann et al., Virchow2, 2024, arXiv:2408.00738"
_PLUTO = "Juyal et al., PLUTO: pathology-universal transformer, 2024, arXiv:2405.07905"
_PLUTO4 = "Padigela et al., PLUTO-4, 2025, arXiv:2511.02826"
_PATHAI = "PathAI has published none of its networks"
_UNI_PAGE = "https://huggingface.co/MahmoodLab/UNI2-h"
_MIDNIGHT_PAGE = "https://github.com/kaiko-ai/midnight"

ROWS: tuple[EncoderSpec, ...] = (
    _row(
        "virchow2g", "https://arxiv.org/abs/2408.00738", _VIRCHOW2, "ViT-G, DINOv2",
        "Paige published Virchow2, not its larger sibling", ("virchow2", "h-optimus-1"),
    ),
    _row(
        "pluto", "https://arxiv.org/abs/2405.07905", _PLUTO,
        "FlexiViT-S, DINOv2 with MAE and a Fourier loss, 158,852 slides",
        _PATHAI, ("kaiko-s16", "lunit-dino-s16", "h0-mini"),
    ),
    _row(
        "pluto-4s", "https://arxiv.org/abs/2511.02826", _PLUTO4,
        "FlexiViT-S, DINOv2, 551,164 slides",
        _PATHAI, ("h0-mini", "kaiko-s16"),
    ),
    _row(
        "pluto-4g", "https://arxiv.org/abs/2511.02826", _PLUTO4, "ViT-G/14, DINOv2, 551,164 slides",
        _PATHAI, ("uni2-h", "virchow2", "h-optimus-1"),
    ),
    _row(
        "rudolfv", "https://arxiv.org/abs/2401.04079",
        "Dippel et al., RudolfV, 2024, arXiv:2401.04079", "ViT-L, DINOv2, 133,998 slides",
        "Aignostics has published no weights of it", ("uni", "phikon-v2", "kaiko-l14"),
    ),
    _row(
        "atlas", "https://arxiv.org/abs/2501.05409",
        "Alber et al., Atlas: a novel pathology foundation model, 2025, arXiv:2501.05409",
        "ViT-H, DINOv2", "Aignostics, Mayo Clinic and Charité have published no weights of it",
        ("virchow2", "uni2-h", "h-optimus-1"),
    ),
    _row(
        "uni2-g-preview", _UNI_PAGE, "Chen et al., UNI, Nat. Med. 2024",
        "ViT-g, named beside UNI2-h", "only its results have been published", ("uni2-h",),
    ),
    _row(
        "midnight-92k", _MIDNIGHT_PAGE, "Karasikov et al., Midnight, 2025, arXiv:2504.05186",
        "ViT-g/14, DINOv2, 92,000 slides, some of them not public",
        "only the network of public slides was published", ("midnight-12k", "openmidnight"),
    ),
)  # fmt: skip
