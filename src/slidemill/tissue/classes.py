"""What a pixel of a slide at low resolution can be."""

from enum import IntEnum


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
