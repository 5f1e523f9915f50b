"""Find tissue in a picture of a slide at low resolution: one class for every pixel.

Numerics only: arrays in, arrays out. The colour of glass is taken from the slide itself, light is
turned into optical density against it, ink and artefacts are excluded (`slidemill.tissue.exclude`),
one method says which pixels have the colour or texture of tissue, and a clean-up works on physical
areas, so that the same slide at another resolution keeps the same pieces and holes.

The result depends on the arguments alone, not on the number of threads.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

from slidemill.tissue.classes import KINDS, KINDS_OF, Kind, TissueClass
from slidemill.tissue.entropy import entropy_tissue
from slidemill.tissue.exclude import components, extremes, find_excluded
from slidemill.tissue.hsv import hsv_tissue
from slidemill.tissue.otsu import otsu_tissue

Mask = npt.NDArray[np.bool_]
Pixels = npt.NDArray[np.uint8]
Planes = tuple[npt.NDArray[np.int16], npt.NDArray[np.int16], npt.NDArray[np.int16]]
Method = Literal["otsu", "hsv", "entropy"]

SMOOTHING_UM = 8.0
"""Standard deviation of the smoothing against noise and single fibres."""
CLOSING_UM = 24.0
"""Radius of the closing that joins fibres and cells to pieces of tissue."""
EXCLUDE_MPP = 16.0
"""Resolution at which ink and artefacts are looked for, um per pixel."""
LEAST_DENSITY = -20
"""Thousandths. Noise of glass is within; white filling about tinted glass shall have no colour."""
STAINED = 40
"""Saturation, thousandths, from which on what was left out might have been tissue."""
_GLASS_PX = 400  # longest edge of the picture from which the colour of glass is taken
USUAL_GLASS = (242, 242, 242)
"""Glass where a picture shows none."""


@dataclass(frozen=True)
class TissueMap:
    """What every pixel of a slide is.

    Attributes:
        classes: (H, W) uint8, values of `TissueClass`.
        threshold: What parted tissue from glass; NaN where the method has no threshold.
        pieces: Number of connected pieces of tissue.
    """

    classes: npt.NDArray[np.uint8]
    threshold: float
    pieces: int
    taken: Mapping[TissueClass, float] = field(default_factory=dict)
    """Of all that is as coloured as stain, what share was left out, by class."""

    @property
    def mask(self) -> Mask:
        """Where tissue is, (H, W)."""
        mask: Mask = self.classes == TissueClass.TISSUE
        return mask


def find_tissue(
    pixels: Pixels,
    mpp: float,
    *,
    method: Method,
    min_area_mm2: float,
    min_hole_mm2: float,
    unreadable: Mask | None = None,
    exclude: Collection[Kind] = KINDS,
) -> TissueMap:
    """Find tissue in a low-resolution picture of a slide.

    Args:
        pixels: RGB, (H, W, 3) uint8.
        mpp: um per pixel.
        method: otsu, hsv or entropy; see the modules of these names.
        min_area_mm2: Smaller pieces are dropped, square mm.
        min_hole_mm2: Smaller holes are filled, square mm.
        unreadable: (H, W), True where the slide does not decode; the pixels there mean nothing.
        exclude: What is looked for and left out.

    Returns:
        The classes of all pixels; none is TISSUE where there is no tissue.
    """
    pixels = np.ascontiguousarray(pixels)
    lost = unreadable is not None and bool(unreadable.any())
    if lost:
        pixels = pixels.copy()
        pixels[unreadable] = 255  # which does not count as glass
    glass = glass_colour(pixels)
    if lost:
        pixels[unreadable] = glass  # so that the area has no edge
    classes = _excluded(pixels, glass, mpp, exclude)
    if unreadable is not None:
        classes[unreadable] = TissueClass.UNREADABLE
    usable: Mask = classes == TissueClass.GLASS
    smooth = cv2.GaussianBlur(pixels, (0, 0), max(SMOOTHING_UM / mpp, 0.6))
    densities = optical_densities(np.asarray(smooth, np.uint8), glass)
    lightest, darkest = extremes(densities)
    saturation = darkest - lightest
    threshold = float("nan")
    if method == "otsu":
        found, threshold = otsu_tissue(saturation, usable)
    elif method == "hsv":
        found = hsv_tissue(saturation, lightest)
    else:
        plain: Mask = (saturation < 40) & (lightest < 120)
        sharp = cv2.LUT(np.ascontiguousarray(pixels[..., 1]), _table(glass[1]))
        found = entropy_tissue(densities, np.asarray(sharp, np.int16), plain, usable, mpp)
    bits = (found & usable).view(np.uint8)
    size = 2 * max(1, round(CLOSING_UM / mpp)) + 1
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
    closed = cv2.morphologyEx(bits, cv2.MORPH_CLOSE, kernel)
    np.putmask(classes, (np.asarray(closed) > 0) & usable, TissueClass.TISSUE)
    cleaned = clean_up(classes, mpp, min_area_mm2, min_hole_mm2, threshold)
    return replace(cleaned, taken=_taken(cleaned.classes, saturation))


def _taken(
    classes: npt.NDArray[np.uint8], saturation: npt.NDArray[np.int16]
) -> dict[TissueClass, float]:
    """What share of tissue, and of what might have been, is of every class that is left out."""
    stained = {kind: int(((classes == kind) & (saturation >= STAINED)).sum()) for kind in KINDS_OF}
    whole = int((classes == TissueClass.TISSUE).sum()) + sum(stained.values())
    return {kind: count / whole for kind, count in stained.items() if count}


def clean_up(
    classes: npt.NDArray[np.uint8],
    mpp: float,
    min_area_mm2: float,
    min_hole_mm2: float,
    threshold: float = float("nan"),
) -> TissueMap:
    """Fill small holes in tissue, then drop small pieces, by physical area.

    A hole is an area that is no tissue, of whatever classes, with tissue all around; it is filled
    as a whole or not at all. So no large area of ink, black or damage becomes tissue. What is cut
    off by the picture's border is no hole. Pieces hang together across corners, holes do not.

    Args:
        classes: (H, W), values of `TissueClass`; not changed.
        mpp: um per pixel.
        min_area_mm2: Smaller pieces become glass, square mm.
        min_hole_mm2: Smaller holes become tissue, square mm.
        threshold: Handed on to the result.

    Returns:
        The cleaned classes.
    """
    classes = classes.copy()
    pixel_mm2 = mpp**2 / 1e6
    outside = classes != TissueClass.TISSUE
    labels, area = components(outside.view(np.uint8), 4)
    fill = area * pixel_mm2 < min_hole_mm2
    fill[0] = False
    for side in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        fill[side] = False
    if fill.any():
        np.putmask(classes, np.take(fill, labels), TissueClass.TISSUE)
    tissue = classes == TissueClass.TISSUE
    labels, area = components(tissue.view(np.uint8), 8)
    drop = area * pixel_mm2 < min_area_mm2
    drop[0] = False
    if drop.any():
        np.putmask(classes, np.take(drop, labels), TissueClass.GLASS)
    return TissueMap(classes, threshold, int(len(area) - 1 - drop.sum()))


def glass_colour(pixels: Pixels) -> tuple[int, int, int]:
    """Colour of bare glass: of all smooth and nearly grey colours that are common, the brightest.

    Dark or tinted glass is taken as it is. Pixels of pure white are most often the filling about a
    scan; they count only where nothing else does.

    Args:
        pixels: RGB, (H, W, 3) uint8.

    Returns:
        RGB; `USUAL_GLASS` where the picture has no glass.
    """
    height, width = pixels.shape[:2]
    step = max(1, -(-max(height, width) // _GLASS_PX))
    part = pixels[: max(1, height // step) * step, : max(1, width // step) * step]
    size = (max(1, width // step), max(1, height // step))
    small = cv2.resize(part, size, interpolation=cv2.INTER_AREA)
    grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
    red, green, blue = cv2.split(small)
    least = cv2.min(cv2.min(red, green), blue)
    chroma = cv2.subtract(cv2.max(cv2.max(red, green), blue), least)
    rough = cv2.morphologyEx(grey, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
    plain = (rough <= 10) & (chroma <= 40) & (grey >= 90)
    filling = least >= 254
    for candidates in (plain & ~filling, plain):
        if candidates.sum() < 0.005 * plain.size:
            continue
        counts = np.bincount(grey[candidates], minlength=256).astype(np.float64)
        counts = np.convolve(counts, np.ones(5), mode="same")
        common = np.flatnonzero(counts >= 0.25 * counts.max())
        # Up from the brightest common level to the top of its own peak.
        level = int(common[-1])
        while counts[level - 1] > counts[level]:
            level -= 1
        near = candidates & (np.abs(grey.astype(np.int16) - level) <= 3)
        median = np.median(small[near], axis=0)
        return round(median[0]), round(median[1]), round(median[2])
    return USUAL_GLASS


def optical_densities(pixels: Pixels, glass: tuple[int, int, int]) -> Planes:
    """Natural logarithm of glass over light, by channel, in thousandths.

    Args:
        pixels: RGB, (H, W, 3) uint8.
        glass: RGB of bare glass.

    Returns:
        Red, green and blue, each (H, W) int16; `LEAST_DENSITY` where a pixel is brighter than that.
    """
    red, green, blue = (
        np.asarray(cv2.LUT(plane, _table(level)), np.int16)
        for plane, level in zip(cv2.split(pixels), glass, strict=True)
    )
    return red, green, blue


def _table(level: int) -> npt.NDArray[np.int16]:
    """Density of every value of a channel, (256,)."""
    light = np.maximum(np.arange(256), 1)
    density = np.maximum(np.rint(1000 * np.log(level / light)), LEAST_DENSITY)
    return np.asarray(density, np.int16)


def _excluded(
    pixels: Pixels, glass: tuple[int, int, int], mpp: float, exclude: Collection[Kind]
) -> npt.NDArray[np.uint8]:
    """Ink, borders, edges and bubbles, (H, W), looked for at `EXCLUDE_MPP`."""
    height, width = pixels.shape[:2]
    scale = min(1.0, mpp / EXCLUDE_MPP)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    densities = optical_densities(np.asarray(small, np.uint8), glass)
    classes = find_excluded(densities, mpp / scale, exclude)
    return np.asarray(cv2.resize(classes, (width, height), interpolation=cv2.INTER_NEAREST))
