"""Reading tiles and feeding them to an encoder.

Reads pixels, knows no artifacts. Tiles are read ahead by threads (the codecs release the
interpreter's lock) and encoded in batches; a feature depends on its tile alone. A tile that does
not decode is left out and costs no other.
"""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from slidemill.errors import SlideCode, SlideError
from slidemill.features.build import Encode
from slidemill.slides.reader import RGB, Slide
from slidemill.slides.regions import Region, read_region
from slidemill.tiles.grid import Coords, TileGeometry

READ_AHEAD = 2
"""Batches that are read before they are needed; bounds the memory."""


@dataclass(frozen=True)
class Batch:
    """Tiles that are encoded together.

    Attributes:
        numbers: (n,) int64, which tiles these are.
        pixels: (n, tile_px, tile_px, 3) uint8, white outside the slide.
    """

    numbers: npt.NDArray[np.int64]
    pixels: npt.NDArray[np.uint8]


def read_batches(
    slide: Slide, coords: Coords, geometry: TileGeometry, batch_size: int, threads: int
) -> Iterator[Batch]:
    """Tiles of a slide in batches, in the order of `coords`.

    Args:
        slide: The slide.
        coords: (N, 2) top-left corners, level-0 pixels.
        geometry: Size of the tiles.
        batch_size: Tiles a batch; fewer where some do not decode.
        threads: Threads that read.

    Raises:
        SlideError: If the slide is too coarse.
    """

    def read(corner: npt.NDArray[np.int64]) -> RGB | None:
        region = Region(int(corner[0]), int(corner[1]), geometry.width, geometry.height)
        try:
            return read_region(slide, region, geometry.tile_px, geometry.tile_px)
        except SlideError as error:
            if error.code is not SlideCode.READ_ERROR:
                raise
            return None

    pending: deque[Future[RGB | None]] = deque()
    corners = iter(coords)
    with ThreadPoolExecutor(max_workers=threads) as pool:
        try:
            for start in range(0, len(coords), batch_size):
                while len(pending) < READ_AHEAD * batch_size:
                    corner = next(corners, None)
                    if corner is None:
                        break
                    pending.append(pool.submit(read, corner))
                count = min(batch_size, len(coords) - start)
                tiles = [pending.popleft().result() for _ in range(count)]
                sound = [i for i, tile in enumerate(tiles) if tile is not None]
                if sound:
                    pixels = np.stack([tile for tile in tiles if tile is not None])
                    yield Batch(np.array(sound, np.int64) + start, pixels)
        finally:
            for future in pending:
                future.cancel()


def encode_slide(
    slide: Slide,
    coords: Coords,
    geometry: TileGeometry,
    encode: Encode,
    batch_size: int,
    threads: int,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Features of a slide's tiles.

    Returns:
        (n, D) float32, in the order of `coords`, and (n,) int64, which of them were encoded: all
        but those that do not decode.

    Raises:
        SlideError: If no tile decodes (read-error).
    """
    features, numbers = [], []
    for batch in read_batches(slide, coords, geometry, batch_size, threads):
        features.append(encode(batch.pixels))
        numbers.append(batch.numbers)
    if not features:
        raise SlideError(
            SlideCode.READ_ERROR,
            f"{slide.path}: none of its {len(coords)} tiles decodes; the file is damaged: copy or "
            "scan it again",
        )
    return np.concatenate(features), np.concatenate(numbers)
