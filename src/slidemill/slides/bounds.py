"""The scanned part of a slide's canvas.

Some scanners (MIRAX, Leica) lay what they scanned on a larger canvas. Coordinates of slidemill
count from the canvas' corner, those of QuPath from the corner of the scanned part.
"""

from collections.abc import Mapping
from typing import Any

Bounds = tuple[int, int, int, int]
"""x, y, width and height, level-0 pixels of the canvas."""


def stated_bounds(properties: Mapping[str, str], size: tuple[int, int]) -> Bounds | None:
    """The scanned part as OpenSlide's properties state it.

    Args:
        properties: Metadata by OpenSlide's names.
        size: Width and height of level 0, pixels.

    Returns:
        The part of it that lies on the canvas; None where nothing is stated, it is no rectangle on
        the canvas, or all of the canvas.
    """
    texts = [properties.get(f"openslide.bounds-{key}", "") for key in ("x", "y", "width", "height")]
    try:
        x, y, width, height = (int(text) for text in texts)
    except ValueError:
        return None
    left, top = max(x, 0), max(y, 0)
    right, bottom = min(x + width, size[0]), min(y + height, size[1])
    if left >= right or top >= bottom or (left, top, right, bottom) == (0, 0, *size):
        return None
    return left, top, right - left, bottom - top


def bounds_of(facts: Mapping[str, Any]) -> Bounds:
    """The scanned part of a slide by its row of the cohort; all of it where none is known."""
    if not facts.get("bounds_width"):
        return 0, 0, int(facts["width"]), int(facts["height"])
    return (
        int(facts["bounds_x"]),
        int(facts["bounds_y"]),
        int(facts["bounds_width"]),
        int(facts["bounds_height"]),
    )
