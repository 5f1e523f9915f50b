"""Resolution of a slide in um per level-0 pixel, and where it is from.

No value is ever guessed: it is from the sheet, from the slide's metadata, or from a rule that the
configuration states, and the source is kept. Implausible values are refused: 352.8 is what 72 dpi
comes to, and 1000 is what libvips writes by default.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from slidemill.errors import SlideCode, SlideError

MPP_RANGE = (0.02, 100.0)
"""Smallest and largest um per pixel that a scanner can have meant."""

_MPP_KEYS = ("openslide.mpp-x", "openslide.mpp-y")
_OBJECTIVE_KEY = "openslide.objective-power"


@dataclass(frozen=True)
class Resolution:
    """um per level-0 pixel.

    Attributes:
        mpp_x: In x.
        mpp_y: In y.
        source: `sheet`, `metadata:KEY`, `objective` or `config`.
    """

    mpp_x: float
    mpp_y: float
    source: str


def is_plausible(mpp: float) -> bool:
    """Whether a scanner can have meant this many um per pixel."""
    return math.isfinite(mpp) and MPP_RANGE[0] <= mpp <= MPP_RANGE[1]


def objective_power(properties: Mapping[str, str]) -> float | None:
    """Objective power that the metadata gives, or None."""
    power = _number(properties.get(_OBJECTIVE_KEY))
    return power if power is not None and power > 0 else None


def resolve_mpp(
    properties: Mapping[str, str], sheet_mpp: float | None, missing_mpp: str | float
) -> Resolution:
    """Decide the resolution of a slide.

    The sheet comes first, then the metadata, then what `cohort.missing_mpp` says.

    Args:
        properties: Metadata of the slide by OpenSlide's names.
        sheet_mpp: mpp of the sheet, for both axes.
        missing_mpp: `refuse`, `objective`, or um per pixel to assume.

    Raises:
        SlideError: If there is no mpp (mpp-missing) or none is plausible (mpp-implausible).
    """
    if sheet_mpp is not None:
        return Resolution(sheet_mpp, sheet_mpp, "sheet")
    found_x, found_y = (_number(properties.get(key)) for key in _MPP_KEYS)
    if (
        found_x is not None
        and found_y is not None
        and is_plausible(found_x)
        and is_plausible(found_y)
    ):
        return Resolution(found_x, found_y, f"metadata:{_MPP_KEYS[0]}")
    if isinstance(missing_mpp, float):
        return Resolution(missing_mpp, missing_mpp, "config")
    power = objective_power(properties)
    if missing_mpp == "objective" and power is not None and is_plausible(10.0 / power):
        return Resolution(10.0 / power, 10.0 / power, "objective")
    todo = (
        "give it in the sheet's mpp column, or set cohort.missing_mpp (objective, or a number of "
        "um per pixel)"
    )
    if found_x is not None or found_y is not None:
        raise SlideError(
            SlideCode.MPP_IMPLAUSIBLE,
            f"the metadata say mpp = {found_x} x {found_y} um per pixel, which no scanner means; "
            f"{todo}",
        )
    also = " nor a usable objective power" if missing_mpp == "objective" else ""
    raise SlideError(SlideCode.MPP_MISSING, f"the metadata have no mpp{also}; {todo}")


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text is not None else None
    except ValueError:
        return None
