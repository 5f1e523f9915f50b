"""Which candidate tiles are kept: a query over their columns.

Numerics only. A tile that does not decode is never kept, whatever the limits are.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

Columns = Mapping[str, npt.NDArray[Any]]
"""Columns of candidates by their names."""


@dataclass(frozen=True)
class Limits:
    """Limits of the tiles that are kept; see `tiles` in the configuration."""

    min_tissue: float = 0.0
    max_padded: float = 1.0
    max_pen: float = 1.0
    max_white: float = 1.0
    max_black: float = 1.0
    min_focus: float = 0.0


def keep(tiles: Columns, limits: Limits) -> npt.NDArray[np.bool_]:
    """Which tiles are within all limits, (N,) bool."""
    kept = ~tiles["read_error"]
    for within in _within(tiles, limits).values():
        kept &= within
    return kept


def why_none(tiles: Columns, limits: Limits) -> str:
    """How many tiles each limit leaves out, and what the best ones are; for a message."""
    parts = [
        f"{name} = {getattr(limits, name):g} leaves out {int((~within).sum())} "
        f"(their {_extreme(tiles, name)})"
        for name, within in _within(tiles, limits).items()
        if not within.all()
    ]
    damaged = int(tiles["read_error"].sum())
    return "; ".join(parts + ([f"{damaged} do not decode"] if damaged else []))


def _within(tiles: Columns, limits: Limits) -> dict[str, npt.NDArray[np.bool_]]:
    found = {}
    for item in fields(limits):
        limit = np.float32(getattr(limits, item.name))
        # Without a limit a value may be missing: an overview knows no focus.
        if item.name == "min_focus" and limit == 0:
            continue
        values = np.asarray(tiles[_column(item.name)], np.float32)
        least = item.name.startswith("min_")
        found[item.name] = values >= limit if least else values <= limit
    return found


def _column(limit: str) -> str:
    name = limit.partition("_")[2]
    return name if name == "focus" else f"{name}_fraction"


def _extreme(tiles: Columns, limit: str) -> str:
    values = np.asarray(tiles[_column(limit)], np.float32)
    best = np.nanmax(values) if limit.startswith("min_") else np.nanmin(values)
    return f"best is {best:.3g}"
