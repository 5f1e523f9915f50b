"""Encoders without weights: they need no download, and every other has to beat them."""

from slidemill.features.spec import EncoderSpec

ROWS: tuple[EncoderSpec, ...] = (
    EncoderSpec(
        name="hed-texture",
        builder="handcrafted",
        outputs=("pooled",),
        width=64,
        tile_px=256,
        mpp=0.5,
        precision="fp32",
        licence="Apache-2.0",
        page="docs/encoders/hed-texture.md",
        data="no training: statistics of separated stains, their texture and their nuclei",
        notes="The default: deterministic, and every column has a name. Lengths suit 0.5 um a "
        "pixel.",
    ),
    EncoderSpec(
        name="rgb-mean",
        builder="handcrafted",
        outputs=("pooled",),
        width=3,
        tile_px=256,
        mpp=0.5,
        precision="fp32",
        licence="Apache-2.0",
        page="src/slidemill/features/rgb_mean.py",
        data="no training: mean of red, green and blue, 0 to 255",
        notes="A control: what it can tell apart, staining can.",
    ),
)
