"""cuCIM, where it is installed and asked for by name.

It is never chosen by itself: where a tile is damaged it gives wrong pixels without an error.
"""

from pathlib import Path

import numpy as np

from slidemill.slides.readers.base import (
    RGB,
    Layout,
    OpenError,
    ReadError,
    Size,
    check_size,
    faults_of,
    on_canvas,
)


class CuCimBackend:
    """A file opened by cuCIM on the CPU; see `Backend`."""

    name = "cucim"

    def __init__(self, path: Path) -> None:
        """Open a file.

        Raises:
            OpenError: If cuCIM is not installed, or cannot open it.
        """
        try:
            import cucim
        except ImportError:
            raise OpenError("cuCIM is not installed: pip install 'slidemill[cucim]'") from None
        self.version = str(cucim.__version__)
        with faults_of("cuCIM", OpenError):
            self._slide = cucim.CuImage(str(path))
            resolutions = self._slide.resolutions
            metadata = self._slide.metadata
        self.level_dimensions: tuple[Size, ...] = tuple(
            (int(w), int(h)) for w, h in resolutions["level_dimensions"]
        )
        for size in self.level_dimensions:
            check_size(size)
        self.segments: tuple[Size | None, ...] = tuple(
            (int(w), int(h)) for w, h in resolutions["level_tile_sizes"]
        )
        self.layout = Layout()
        self.vendor: str | None = next((key for key in metadata if key != "cucim"), None)
        described = metadata.get(self.vendor, {}) if self.vendor else {}
        self.properties = {
            f"{self.vendor}.{key}": str(value)
            for key, value in described.items()
            if isinstance(value, (str, int, float))
        }
        spacing = metadata.get("cucim", {}).get("spacing", [])
        units = metadata.get("cucim", {}).get("spacing_units", [])
        if list(units[:2]) == ["micrometer", "micrometer"]:
            # cuCIM gives (y, x).
            self.properties["cucim.spacing-y"] = str(spacing[0])
            self.properties["cucim.spacing-x"] = str(spacing[1])

    def read_into(self, level: int, x: int, y: int, out: RGB) -> None:
        """Read a rectangle; see `Backend.read_into`."""
        columns, rows = self.level_dimensions[level]
        full = self.level_dimensions[0]

        def read(left: int, top: int, right: int, bottom: int, into: RGB) -> None:
            # cuCIM takes the corner in level-0 pixels.
            location = (round(left * full[0] / columns), round(top * full[1] / rows))
            with faults_of("cuCIM", ReadError):
                region = self._slide.read_region(location, (right - left, bottom - top), level)
                into[...] = np.asarray(region)[..., :3]

        on_canvas((columns, rows), x, y, out, read)

    def close(self) -> None:
        """Release the file."""
        self._slide.close()
