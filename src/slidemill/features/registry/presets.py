"""What many rows share: statistics of colours, and ways to prepare a tile."""

from slidemill.features.spec import RGB3, Interpolation, Output, Preprocessing

IMAGENET: tuple[RGB3, RGB3] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF: tuple[RGB3, RGB3] = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
CLIP: tuple[RGB3, RGB3] = (
    (0.48145466, 0.4578275, 0.40821073),
    (0.26862954, 0.26130258, 0.27577711),
)
LUNIT: tuple[RGB3, RGB3] = (
    (0.70322989, 0.53606487, 0.66096631),
    (0.21716536, 0.26081574, 0.20723464),
)
H_OPTIMUS: tuple[RGB3, RGB3] = ((0.707223, 0.578729, 0.703617), (0.211883, 0.230117, 0.177517))
"""Mean and standard deviation of red, green and blue, 0 to 1."""

CLS_FIRST: tuple[Output, ...] = ("cls", "mean", "cls+mean")
BOTH_FIRST: tuple[Output, ...] = ("cls+mean", "cls", "mean")
CC_BY_NC_ND = "CC-BY-NC-ND-4.0"


def prepared(
    statistics: tuple[RGB3, RGB3],
    interpolation: Interpolation = "bilinear",
    *,
    resize_px: int | None = 224,
    crop_px: int = 224,
) -> Preprocessing:
    """Resizing, cropping and normalising with such statistics."""
    mean, std = statistics
    return Preprocessing(resize_px, crop_px, interpolation, mean, std)
