"""Where tiles become features: what is fed and what comes back, and the encoders of the host.

Knows arrays and numbers of tiles, no slides, no files and no torch; networks are run by
`slidemill.features.device_runner`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from slidemill.slides.reader import RGB

if TYPE_CHECKING:
    from slidemill.features.build import HostEncoder


@dataclass(frozen=True)
class Piece:
    """Tiles of one slide that were read together.

    Attributes:
        slide: Number of the slide.
        rows: (n,) int64 rows of the tiles in its features.
        pixels: (n, T, T, 3) uint8.
        release: To be called when the pixels are no longer needed.
    """

    slide: int
    rows: npt.NDArray[np.int64]
    pixels: RGB
    release: Callable[[], None]


@dataclass(frozen=True)
class Encoded:
    """Features of tiles of one slide.

    Attributes:
        slide: Number of the slide.
        rows: (n,) int64.
        features: (n, D) float16 or float32.
        tokens: (n, R, C, W), where they are kept.
        finite: (n,) bool, whether all numbers of a tile are finite.
        idle_s: Seconds that the device waited before these, since the ones before.
    """

    slide: int
    rows: npt.NDArray[np.int64]
    features: npt.NDArray[Any]
    tokens: npt.NDArray[Any] | None
    finite: npt.NDArray[np.bool_]
    idle_s: float


class Runner(Protocol):
    """Turns pieces into features."""

    dim: int

    def feed(self, piece: Piece, waited_s: float) -> Iterator[Encoded]:
        """Take tiles; give what is ready, of these or of earlier ones, in their order.

        Args:
            piece: The tiles.
            waited_s: Seconds that the caller waited for them.
        """
        ...

    def flush(self) -> Iterator[Encoded]:
        """Encode what is left over."""
        ...


class HostRunner:
    """Handcrafted encoders, on the CPU, chunk by chunk; see `Runner`."""

    def __init__(self, encoder: "HostEncoder", dtype: str) -> None:
        self.dim = encoder.dim
        self._encode = encoder.encode
        self._dtype = np.dtype(dtype)

    def feed(self, piece: Piece, waited_s: float) -> Iterator[Encoded]:
        """See `Runner.feed`."""
        # A number that is too large for float16 becomes infinite, and is reported as that.
        with np.errstate(over="ignore"):
            features = self._encode(piece.pixels).astype(self._dtype)
        piece.release()
        finite = np.isfinite(features).all(axis=1)
        yield Encoded(piece.slide, piece.rows, features, None, finite, waited_s)

    def flush(self) -> Iterator[Encoded]:
        """Nothing is ever left over."""
        yield from ()
