"""Ink or stain, by texture: a stroke of ink is even, tissue has cells.

Numerics only: arrays in, arrays out. Giemsa, toluidine blue, light green and melanin have colours
of ink, so colour alone gives candidates. At 16 um per pixel the density of stained tissue differs
from its neighbourhood's by a tenth of itself or more, since nuclei, stroma and gaps lie side by
side; ink differs by a few hundredths, and also over tissue, since it adds the same density to all.
"""

from dataclasses import dataclass
from typing import Self

import cv2
import numpy as np
import numpy.typing as npt

Bits = npt.NDArray[np.uint8]
Field = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Plane = npt.NDArray[np.int16]

NEAR_PX = 5
"""Neighbourhood of which a pixel differs; what is narrower has no inside to judge."""
MIN_INSIDE = 40
"""Pixels of an inside that are enough to judge by."""
ABOUT_PX = 4
"""Width of the rim in which a candidate's surroundings are looked at."""
STAINED = 150
"""Density from which on surroundings are stained, thousandths."""
SAME_HUE = 0.07
"""Sum over the channels of differences in their shares of the density: ink has another hue than
what it lies on, and the dark part of a stain has that of the pale part."""
NEARLY = 1.3
"""Up to so many times the roughness of ink may be ink where most of its kind is."""
WINDOW_PX = 15
"""Window in which an even part of something rough is looked for."""
EVEN = 0.6
"""Such a part has at most this much of the roughness that ink may have."""
ROUGH = 1.6
"""A rough part of something even has at least this much."""
MIN_PART = 250
"""Pixels of the smallest such part."""


@dataclass(frozen=True)
class Texture:
    """What candidates are judged by.

    Attributes:
        difference: How far a pixel's density is from its neighbourhood's median, (H, W).
        density: That density, mean of the channels, thousandths, (H, W).
        shares: What part of it each channel has, (H, W, 3).
    """

    difference: Field
    density: Field
    shares: Field

    @classmethod
    def of(cls, densities: tuple[Plane, Plane, Plane]) -> Self:
        """Texture of red, green and blue, each (H, W) int16, thousandths."""
        planes = np.stack([np.maximum(plane, 0) for plane in densities], axis=-1)
        total = np.maximum(planes.sum(axis=-1, dtype=np.float32), np.float32(3))
        density = total / np.float32(3)
        difference = np.abs(density - cv2.medianBlur(density, NEAR_PX))
        return cls(difference, density, planes / total[..., None])


def keep_even(candidates: Bits, texture: Texture, most: float) -> Bits:
    """Candidates for ink that are even enough for it.

    Of something rough, even parts stay: a stroke that touches stained tissue. Where most of what
    can be judged is ink, so is what is too narrow to judge, what is but little too rough, and what
    is rough with nothing but glass about it: a stroke that ran dry. What is narrow and has the hue
    of the stain about it is the dark part of that stain.

    Args:
        candidates: (H, W), what has the colour of ink, 0 or 255.
        texture: Of the same picture.
        most: Largest roughness of ink, median difference over median density.

    Returns:
        (H, W), 0 or 255.
    """
    if not candidates.any():
        return candidates
    inside = cv2.erode(candidates, np.ones((NEAR_PX, NEAR_PX), np.uint8)) > 0
    _, labels, stats, _ = cv2.connectedComponentsWithStats(candidates, connectivity=8)
    kept = np.zeros_like(candidates)
    perhaps = np.zeros_like(candidates)
    area = {True: 0, False: 0}
    for label in range(1, len(stats)):
        x, y, w, h = stats[label, :4]
        rim = ABOUT_PX
        part = np.s_[max(0, y - rim) : y + h + rim, max(0, x - rim) : x + w + rim]
        own: Mask = np.asarray(labels)[part] == label
        near = _crop(texture, part)
        judged = own & inside[part]
        about = _rim(own, candidates[part])
        if np.count_nonzero(judged) < MIN_INSIDE:
            if not _goes_on(own, about, near):
                perhaps[part][own] = 255
            continue
        ratio = np.median(near.difference[judged]) / np.median(near.density[judged])
        area[bool(ratio <= most)] += int(np.count_nonzero(own))
        if ratio <= most:
            kept[part][own & ~_rough_parts(own, judged, near, most * ROUGH)] = 255
            continue
        kept[part][_even_parts(own, judged, near, most * EVEN)] = 255
        if ratio <= NEARLY * most or (near.density[about] > STAINED).mean() < 0.1:
            perhaps[part][own] = 255
    return kept | perhaps if area[True] >= area[False] else kept


def _crop(texture: Texture, part: tuple[slice, slice]) -> Texture:
    return Texture(texture.difference[part], texture.density[part], texture.shares[part])


def _rim(own: Mask, candidates: Bits) -> Mask:
    """What is about a candidate and none itself."""
    size = 2 * ABOUT_PX + 1
    grown = cv2.dilate(own.view(np.uint8), np.ones((size, size), np.uint8)) > 0
    rim: Mask = grown & (candidates == 0)
    return rim


def _goes_on(own: Mask, about: Mask, near: Texture) -> bool:
    """Whether most of what is about a candidate is stained, and has its hue."""
    stained = about & (near.density > STAINED)
    if 2 * np.count_nonzero(stained) < np.count_nonzero(about) or not stained.any():
        return False
    step = np.median(near.shares[own], axis=0) - np.median(near.shares[stained], axis=0)
    return bool(np.abs(step).sum() <= SAME_HUE)


def _even_parts(own: Mask, judged: Mask, near: Texture, most: float) -> Mask:
    """Parts of a component that are even throughout a window."""
    return _parts(own, judged & (_about(judged, near) < most))


def _rough_parts(own: Mask, judged: Mask, near: Texture, least: float) -> Mask:
    """Parts of a component that are rough throughout a window: tissue that ink touches."""
    return _parts(own, judged & (_about(judged, near) > least))


def _about(judged: Mask, near: Texture) -> Field:
    """Mean roughness of what can be judged in a window about each pixel."""
    size, border = (WINDOW_PX, WINDOW_PX), cv2.BORDER_CONSTANT
    difference, density = (
        cv2.blur(np.where(judged, field, np.float32(0)), size, borderType=border)
        for field in (near.difference, near.density)
    )
    return np.asarray(difference / np.maximum(density, np.float32(1)), np.float32)


def _parts(own: Mask, chosen: Mask) -> Mask:
    """Those of what was chosen inside a component that are large, with the edge about them."""
    bits = chosen.view(np.uint8)
    opened = cv2.morphologyEx(bits, cv2.MORPH_OPEN, np.ones((NEAR_PX, NEAR_PX), np.uint8))
    _, labels, stats, _ = cv2.connectedComponentsWithStats(opened, connectivity=8)
    large = stats[:, cv2.CC_STAT_AREA] >= MIN_PART
    large[0] = False
    found = large[np.asarray(labels)].view(np.uint8)
    # The inside was cut off all around.
    grown = cv2.dilate(found, np.ones((NEAR_PX + 2, NEAR_PX + 2), np.uint8)) > 0
    parts: Mask = own & grown
    return parts
