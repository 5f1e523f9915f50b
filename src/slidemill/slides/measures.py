"""Numbers as people and programs write them: decimal commas, units and blanks.

A text that can be read in two ways is no number: a comma is a decimal one, and `1,234.5` is none.
"""

import re

_UM_IN = {
    "um": 1.0,
    "micron": 1.0,
    "microns": 1.0,
    "micrometer": 1.0,
    "micrometers": 1.0,
    "micrometre": 1.0,
    "micrometres": 1.0,
    "nm": 1e-3,
    "nanometer": 1e-3,
    "nanometers": 1e-3,
    "mm": 1e3,
    "millimeter": 1e3,
    "millimeters": 1e3,
    "cm": 1e4,
    "m": 1e6,
}
"""um in a unit of length."""
_MICRO = str.maketrans({"\N{MICRO SIGN}": "u", "\N{GREEK SMALL LETTER MU}": "u"})
_DIGITS = r"[+-]?(?:[0-9]+(?:[.,][0-9]*)?|[.,][0-9]+)(?:[eE][+-]?[0-9]+)?|[+-]?(?:nan|inf)"
_NUMBER = re.compile(_DIGITS, re.IGNORECASE)
_MEASURE = re.compile(rf"({_DIGITS})\s*(.*)", re.IGNORECASE | re.DOTALL)
_PER_PIXEL = re.compile(r"\s*(?:/|per\s)\s*(?:px|pix|pixels?)$", re.IGNORECASE)
_TIMES = re.compile(rf"[x\u00d7]?\s*({_DIGITS})\s*[x\u00d7]?", re.IGNORECASE)


def number(text: str | None) -> float | None:
    """A plain number, or None; also with a decimal comma."""
    found = _NUMBER.fullmatch((text or "").strip())
    return float(found[0].replace(",", ".")) if found else None


def with_unit(text: str | None, factor: float = 1.0) -> float | None:
    """A length in um, or None.

    Args:
        text: A number, perhaps with a unit, perhaps per pixel: `0,499`, `250 nm`, `0.25 um/px`.
        factor: um in the unit that is meant where none is written.
    """
    found = _MEASURE.fullmatch((text or "").strip())
    if found is None:
        return None
    value, unit = float(found[1].replace(",", ".")), _PER_PIXEL.sub("", found[2]).strip()
    own = factor_of(unit) if unit else factor
    return value * own if own is not None else None


def factor_of(unit: str) -> float | None:
    """How many um a unit of length is, or None of an unknown one."""
    return _UM_IN.get(unit.translate(_MICRO).strip().lower())


def magnification(text: str | None) -> float | None:
    """A magnification such as `20`, `20x` or `x 20`, or None."""
    found = _TIMES.fullmatch((text or "").strip())
    return float(found[1].replace(",", ".")) if found else None
