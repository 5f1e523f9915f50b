"""What a pixel of a slide at low resolution can be, and what of it can be told from tissue."""

from collections.abc import Iterable
from enum import IntEnum
from typing import Literal, get_args

Kind = Literal["pen", "border", "edge", "bubble"]
KINDS: tuple[Kind, ...] = get_args(Kind)
"""What can be left out: ink, dark borders, edges of the coverslip, rings of bubbles."""


class TissueClass(IntEnum):
    """Values of a class map, as the tissue stage stores them; never renumbered."""

    GLASS = 0
    TISSUE = 1
    PEN = 2
    BLACK = 3
    """A dark border, or an area outside the scan that is black."""
    OTHER = 4
    """An edge of the coverslip, a bubble, a fold of dirt."""
    UNREADABLE = 5
    """The slide does not decode there."""


KINDS_OF: dict[TissueClass, tuple[Kind, ...]] = {
    TissueClass.PEN: ("pen",),
    TissueClass.BLACK: ("border",),
    TissueClass.OTHER: ("edge", "bubble"),
}
"""Kinds that are stored as a class."""


def in_order(kinds: Iterable[Kind]) -> tuple[Kind, ...]:
    """Kinds without repeats, in the order of `KINDS`, so that a list in another order is equal."""
    given = set(kinds)
    return tuple(kind for kind in KINDS if kind in given)


def parse_kinds(text: str) -> tuple[Kind, ...]:
    """Kinds that a cell of the sheet names.

    Args:
        text: Words between blanks, commas or semicolons, or `none`.

    Raises:
        ValueError: If a word is none of `KINDS`, there is no word, or `none` is not alone.
    """
    words = text.replace(",", " ").replace(";", " ").lower().split()
    if words == ["none"]:
        return ()
    if not words or not set(words) <= set(KINDS):
        raise ValueError(f"{text!r} does not name what is to be excluded")
    return tuple(kind for kind in KINDS if kind in words)
