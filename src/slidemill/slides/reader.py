"""Opening slides: one small interface, OpenSlide behind it.

A `Slide` reads rectangles of a pyramid level as RGB, composited on white where the slide is
transparent or ends. Every fault of a file becomes a `SlideError`, so that one bad slide never costs
another.
"""

from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import openslide
from PIL import Image

from slidemill.errors import SlideCode, SlideError

RGB = npt.NDArray[np.uint8]
"""Pixels, (height, width, 3), uint8."""


class Slide:
    """An open slide; a context manager.

    Attributes:
        path: The file.
        dimensions: Width and height of level 0, pixels.
        level_dimensions: Width and height of every level, pixels.
        level_downsamples: Level-0 pixels per pixel of every level; true floats, never rounded.
        properties: The metadata by OpenSlide's names.
        vendor: Vendor, as the reader names it.
        reader: Library that reads the slide, with its version.
    """

    def __init__(self, path: Path) -> None:
        """Open a slide.

        Raises:
            SlideError: If the file is missing (file-missing) or cannot be opened (unreadable).
        """
        self.path = path
        if not path.exists():
            raise SlideError(
                SlideCode.FILE_MISSING, f"{path}: there is no such file; mend the sheet"
            )
        try:
            self._handle = openslide.OpenSlide(path)
            self.dimensions: tuple[int, int] = self._handle.dimensions
            self.level_dimensions: tuple[tuple[int, int], ...] = self._handle.level_dimensions
            self.level_downsamples: tuple[float, ...] = self._handle.level_downsamples
            self.properties: dict[str, str] = dict(self._handle.properties)
        except (openslide.OpenSlideError, OSError) as error:
            raise SlideError(SlideCode.UNREADABLE, _why_unreadable(path, error)) from None
        self.vendor = self.properties.get("openslide.vendor")
        self.reader = f"openslide {openslide.__library_version__}"

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
        self._handle.close()

    def best_level(self, downsample: float) -> int:
        """The coarsest level that is not coarser than `downsample`.

        A level counts as fine enough within 0.1 %, since its dimensions are rounded to pixels.
        """
        fine = [i for i, d in enumerate(self.level_downsamples) if d <= downsample * 1.001]
        return max(fine, key=lambda i: self.level_downsamples[i], default=0)

    def read(self, level: int, x: int, y: int, width: int, height: int) -> RGB:
        """Read a rectangle of a level.

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
        downsample = self.level_downsamples[level]
        location = (round(x * downsample), round(y * downsample))
        try:
            region: Image.Image = self._handle.read_region(location, level, (width, height))
        except (openslide.OpenSlideError, OSError) as error:
            raise SlideError(
                SlideCode.READ_ERROR,
                f"{self.path}: level {level} does not decode at level-0 (x, y) = {location} "
                f"({error}); the file is damaged there: copy or scan it again",
            ) from None
        return on_white(np.asarray(region))

    @property
    def associated_images(self) -> Any:  # noqa: ANN401 - OpenSlide's own mapping
        """Label, macro and thumbnail images, where the file has them."""
        return self._handle.associated_images


def on_white(rgba: npt.NDArray[np.uint8]) -> RGB:
    """Composite straight-alpha RGBA pixels (H, W, 4) on white."""
    alpha = rgba[..., 3:]
    if alpha.min(initial=255) == 255:
        return np.ascontiguousarray(rgba[..., :3])
    colour = rgba[..., :3].astype(np.uint16)
    weight = alpha.astype(np.uint16)
    blended = (colour * weight + 255 * (255 - weight) + 127) // 255
    return blended.astype(np.uint8)


def _why_unreadable(path: Path, error: Exception) -> str:
    """Say what a file that does not open is, as far as its length and first bytes tell."""
    size = path.stat().st_size if path.is_file() else -1
    if size < 0:
        what = "it is not a file"
    elif size == 0:
        what = "the file is empty"
    else:
        with path.open("rb") as stream:
            head = stream.read(4)
        is_tiff = head[:2] in (b"II", b"MM")
        what = (
            "it looks like a TIFF, but is damaged, cut off, or of an unknown kind"
            if is_tiff
            else "it is no slide of a known format"
        )
    return (
        f"{path}: {what} ({size} bytes; the reader says: {error}); copy it again or remove the row"
    )
