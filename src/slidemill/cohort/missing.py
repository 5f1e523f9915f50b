"""What a cell says when it says nothing: one list for ids, paths, settings and labels.

Markers are compared without regard to case, and without blanks and invisible characters around
them: R writes `NA`, pandas `nan`, databases `NULL`, registries `[Not Available]`.
"""

from collections.abc import Iterable

from slidemill.cohort.twins import plain

MARKERS = ("", "NA", "N/A", "NaN", "null", "[Not Available]", "[Unknown]", "-")
"""Cells that are missing in every sheet. `none` is not among them: it is a grade of many scores."""


class Missing:
    """Tells missing cells from others.

    Args:
        more: Markers of this cohort, besides `MARKERS`.
    """

    def __init__(self, more: Iterable[str] = ()) -> None:
        self._markers = frozenset(_folded(marker) for marker in (*MARKERS, *more))

    def __call__(self, cell: str) -> bool:
        """Whether a cell says that there is no value."""
        if cell.isascii() and cell.isprintable():
            return cell.strip().lower() in self._markers
        return _folded(cell) in self._markers


def _folded(text: str) -> str:
    return plain(text).casefold()
