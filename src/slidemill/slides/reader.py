"""Opening slides: one small interface over all readers.

A `Slide` reads rectangles of a pyramid level as RGB, composited on white where the slide is
transparent or ends. Every fault of a file becomes a `SlideError`, so that one bad slide never costs
another.
"""

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from slidemill.errors import SlideCode, SlideError
from slidemill.slides.readers.base import RGB, ReadError, Size, level_scales, on_white
from slidemill.slides.readers.choice import open_backend, system_fault

__all__ = ["RGB", "Slide", "on_white"]


class Slide:
    """An open slide; a context manager.

    Attributes:
        path: The file.
        dimensions: Width and height of level 0, pixels.
        level_dimensions: Width and height of every level, pixels.
        level_downsamples: Level-0 pixels per pixel of every level; true floats, never rounded.
        level_scales: The same, with what says so.
        bounds: x, y, width and height of the scanned part of level 0, pixels; all of it where the
            file says nothing.
        scene: Name of the scene that is read; None in a file of one.
        other_scenes: Names of the others.
        left_out: What looked like a level and is none, in words.
        segments: Width and height of the pieces in which each level is stored, None where unknown.
        properties: The metadata by OpenSlide's names.
        vendor: Vendor, as the reader names it.
        reader: Name and version of the reader, such as `tiff 2026.1.0`.
    """

    def __init__(self, path: Path, reader: str = "auto", scene: str | None = None) -> None:
        """Open a slide.

        Args:
            path: The file.
            reader: `auto`, a name of `cohort.reader`, or what another slide says as `reader`.
            scene: Name of the scene to read; None for the largest.

        Raises:
            SlideError: With a code of what is wrong with the file.
        """
        self.path = path
        self._backend = open_backend(path, reader.split(" ")[0], scene)
        self.level_dimensions: tuple[Size, ...] = self._backend.level_dimensions
        self.dimensions: Size = self.level_dimensions[0]
        self.segments = self._backend.segments
        layout = self._backend.layout
        pieces = () if layout.is_exact else self.segments
        self.level_scales = level_scales(self.level_dimensions, pieces, layout.stated)
        self.level_downsamples = tuple(scale.downsample for scale in self.level_scales)
        self.bounds = layout.bounds or (0, 0, *self.dimensions)
        self.scene, self.other_scenes = layout.scene, layout.other_scenes
        self.left_out = layout.left_out
        self.properties = self._backend.properties
        self.vendor = self._backend.vendor
        self.reader = f"{self._backend.name} {self._backend.version}"

    @classmethod
    def of(cls, facts: Mapping[str, Any], path: Path | None = None) -> Self:
        """Open a slide as the cohort stage did.

        Args:
            facts: Its row of the cohort's table: `path`, `reader`, `scene`.
            path: Where it is read from; by default its own path.

        Raises:
            SlideError: With a code of what is wrong with the file.
        """
        return cls(path or Path(str(facts["path"])), str(facts["reader"]), facts.get("scene"))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the file."""
        self._backend.close()

    def best_level(self, downsample: float) -> int:
        """The coarsest level that is not coarser than `downsample`.

        A level counts as fine enough within 0.1 %, since its dimensions are rounded to pixels.
        """
        fine = [i for i, d in enumerate(self.level_downsamples) if d <= downsample * 1.001]
        return max(fine, key=lambda i: self.level_downsamples[i], default=0)

    def read(self, level: int, x: int, y: int, width: int, height: int) -> RGB:
        """Read a rectangle of a level; safe to call from several threads.

        Args:
            level: The pyramid level.
            x: Left edge in pixels of that level; may lie outside the slide.
            y: Top edge in pixels of that level; may lie outside the slide.
            width: Width in pixels of that level.
            height: Height in pixels of that level.

        Returns:
            RGB pixels; white where the slide is transparent or ends.

        Raises:
            SlideError: If the pixels cannot be decoded (read-error).
        """
        out = np.empty((height, width, 3), np.uint8)
        self.read_into(level, x, y, out)
        return out

    def read_into(self, level: int, x: int, y: int, out: RGB) -> None:
        """Read a rectangle of a level to given memory; safe to call from several threads.

        Args:
            level: The pyramid level.
            x: Left edge in pixels of that level; may lie outside the slide.
            y: Top edge in pixels of that level; may lie outside the slide.
            out: (H, W, 3) uint8 of the rectangle's size, in pixels of that level; it may be a part
                of a larger array.

        Raises:
            SlideError: If the pixels cannot be decoded (read-error), or the system does not read
                the file; `out` is undefined then.
        """
        try:
            self._backend.read_into(level, x, y, out)
        except OSError as error:
            # No other pixel is sure any more: this is the slide's fault and not this rectangle's.
            raise system_fault(self.path, error) from None
        except ReadError as fault:
            raise SlideError(
                SlideCode.READ_ERROR,
                f"{self.path}: level {level} does not decode at (x, y) = ({x}, {y}), "
                f"{out.shape[1]} x {out.shape[0]} px ({fault}); it is damaged there: copy or scan "
                "it again",
            ) from None
