"""Resolution of a slide in um per level-0 pixel, and where it is from.

No value is ever guessed: it is from the sheet, from the slide's metadata, or from a rule that the
configuration states, and the source is kept. Every key that vendors and formats use is asked, in a
fixed order; implausible values are refused and the next key is asked: 352.8 is what 72 dpi comes
to, 1000 is what libvips writes by default, and whole dpi of printers and screens say nothing of a
scan. An mpp that the objective of the same slide contradicts is refused outright: nothing says
which of the two is right.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from slidemill.errors import SlideCode, SlideError
from slidemill.slides.measures import factor_of, magnification, number, with_unit

MPP_RANGE = (0.02, 100.0)
"""Smallest and largest um per pixel that a scanner can have meant."""

MAX_ANISOTROPY = 2.0
"""Largest ratio of the two axes that a scanner can have meant."""
PRINT_DPI = (72.0, 75.0, 96.0, 100.0, 120.0, 144.0, 150.0, 200.0, 300.0, 400.0, 600.0, 1200.0)
"""Resolutions of screens and printers; programs write them where they know nothing better."""

UM_AT_1X = 10.0
"""um per pixel of a scan, about, times the power of its objective: 0.5 at 20x."""
MAX_DISAGREEMENT = 3.0
"""Factor by which mpp and objective may disagree: cameras, adapters and binning give up to 2.6."""

_OBJECTIVE_KEYS = (
    "openslide.objective-power",
    "aperio.AppMag",
    "hamamatsu.SourceLens",
    "leica.objective",
    "mirax.GENERAL.OBJECTIVE_MAGNIFICATION",
    "sakura.NominalLensMagnification",
    "trestle.Objective Power",
    "ventana.Magnification",
)
"""Keys of the objective's power; the vendors' own, where OpenSlide cannot make a number of them."""
_UM_PER_CM, _UM_PER_INCH, _UM_PER_MM = 10_000.0, 25_400.0, 1_000.0
_PAIRS = (
    ("openslide.mpp-x", "openslide.mpp-y"),
    ("aperio.MPP", "aperio.MPP"),
    ("hamamatsu.XResolution", "hamamatsu.YResolution"),
    (
        "mirax.LAYER_0_LEVEL_0_SECTION.MICROMETER_PER_PIXEL_X",
        "mirax.LAYER_0_LEVEL_0_SECTION.MICROMETER_PER_PIXEL_Y",
    ),
    ("ventana.ScanRes", "ventana.ScanRes"),
    ("dicom.PixelSpacing-x", "dicom.PixelSpacing-y"),
    ("cucim.spacing-x", "cucim.spacing-y"),
)
"""Keys whose values are um per pixel, in x and in y."""


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
    found = (magnification(properties.get(key)) for key in _OBJECTIVE_KEYS)
    return next((power for power in found if power is not None and 0 < power < math.inf), None)


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
        SlideError: If there is no mpp (mpp-missing), none is plausible, or the objective's power
            contradicts it (mpp-implausible).
    """
    if sheet_mpp is not None:
        return Resolution(sheet_mpp, sheet_mpp, "sheet")
    refused = []
    for key, found_x, found_y in _candidates(properties):
        if _is_meant(key, found_x, found_y):
            _check_objective(properties, key, math.sqrt(found_x * found_y))
            return Resolution(found_x, found_y, f"metadata:{key}")
        refused.append(f"{key} = {found_x:.6g} x {found_y:.6g}")
    if isinstance(missing_mpp, float):
        return Resolution(missing_mpp, missing_mpp, "config")
    power = objective_power(properties)
    if missing_mpp == "objective" and power is not None and is_plausible(UM_AT_1X / power):
        return Resolution(UM_AT_1X / power, UM_AT_1X / power, "objective")
    todo = (
        "give it in the sheet's mpp column, or set cohort.missing_mpp (objective, or a number of "
        "um per pixel)"
    )
    if refused:
        raise SlideError(
            SlideCode.MPP_IMPLAUSIBLE,
            f"the metadata say {'; '.join(refused)} um per pixel, which no scanner means; {todo}",
        )
    also = " nor a usable objective power" if missing_mpp == "objective" else ""
    raise SlideError(SlideCode.MPP_MISSING, f"the metadata have no mpp{also}; {todo}")


def _check_objective(properties: Mapping[str, str], key: str, mpp: float) -> None:
    """Refuse an mpp of the metadata that the objective contradicts.

    Raises:
        SlideError: If they disagree by more than `MAX_DISAGREEMENT`.
    """
    power = objective_power(properties)
    # The finest level that is there may be a reduced one; the lens is that of the scan.
    if power is None or properties.get("dicom.ImageType[3]") == "RESAMPLED":
        return
    factor = mpp * power / UM_AT_1X
    if 1 / MAX_DISAGREEMENT <= factor <= MAX_DISAGREEMENT:
        return
    raise SlideError(
        SlideCode.MPP_IMPLAUSIBLE,
        f"the metadata say {mpp:.6g} um per pixel ({key}) and an objective of {power:.6g}x, which "
        f"gives about {UM_AT_1X / power:.3g}: they disagree by a factor of "
        f"{max(factor, 1 / factor):.3g}; give the right one in the sheet's mpp column",
    )


def _candidates(properties: Mapping[str, str]) -> Iterator[tuple[str, float, float]]:
    """Every resolution that the metadata give: key, um per pixel in x and in y."""
    for key_x, key_y in _PAIRS:
        # What OpenSlide says of a generic TIFF is its tags again, which are judged as such below.
        if key_x.startswith("openslide.") and properties.get("openslide.vendor") == "generic-tiff":
            continue
        yield from _pair(key_x, properties.get(key_x), properties.get(key_y))
    spacing = re.findall(r'[^\s"\\]+', properties.get("philips.DICOM_PIXEL_SPACING", ""))
    if len(spacing) == 2:
        # DICOM gives mm between rows first, then between columns.
        yield from _pair("philips.DICOM_PIXEL_SPACING", spacing[1], spacing[0], _UM_PER_MM)
    for key in ("openslide.comment", "tiff.ImageDescription"):
        found = re.search(
            r"<PixelSizeMicrons>\s*([^<\s]+)\s*</PixelSizeMicrons>", properties.get(key, "")
        )
        if found:
            yield from _pair(f"{key}:PixelSizeMicrons", found[1], found[1])
    yield from _ome(properties)
    yield from _tiff(properties)


def _ome(properties: Mapping[str, str]) -> Iterator[tuple[str, float, float]]:
    units = [properties.get(f"ome.PhysicalSize{axis}Unit", "").strip() or "um" for axis in "XY"]
    factors = [factor_of(unit) for unit in units]
    x, y = (number(properties.get(f"ome.PhysicalSize{axis}")) for axis in "XY")
    if factors[0] is not None and factors[1] is not None and x is not None and y is not None:
        yield "ome.PhysicalSizeX", x * factors[0], y * factors[1]


def _tiff(properties: Mapping[str, str]) -> Iterator[tuple[str, float, float]]:
    unit = properties.get("tiff.ResolutionUnit")
    um = {"centimeter": _UM_PER_CM, "inch": _UM_PER_INCH}.get(unit or "")
    x, y = (number(properties.get(f"tiff.{axis}Resolution")) for axis in "XY")
    if um is not None and x and y and x > 0 and y > 0:
        yield "tiff.XResolution", um / x, um / y


def _pair(
    key: str, x: str | None, y: str | None, factor: float = 1.0
) -> Iterator[tuple[str, float, float]]:
    found_x, found_y = with_unit(x, factor), with_unit(y, factor)
    if found_x is not None and found_y is not None:
        yield key, found_x, found_y


def _is_meant(key: str, mpp_x: float, mpp_y: float) -> bool:
    """Whether a scanner can have meant a resolution that was found under a key."""
    if not (is_plausible(mpp_x) and is_plausible(mpp_y)):
        return False
    if not 1 / MAX_ANISOTROPY <= mpp_x / mpp_y <= MAX_ANISOTROPY:
        return False
    is_print = any(math.isclose(_UM_PER_INCH / mpp_x, dpi, rel_tol=1e-3) for dpi in PRINT_DPI)
    return not (key.startswith("tiff.") and is_print)
