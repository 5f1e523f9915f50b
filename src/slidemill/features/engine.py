"""Reading tiles and feeding them to an encoder.

Reads pixels, knows no artifacts. Tiles are read ahead by threads (OpenSlide and NumPy release the
interpreter's lock) and encoded in batches; a feature depends on its tile alone.
"""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from slidemill.features.build import Encode
from slidemill.slides.reader import RGB, Slide
from slidemill.slides.regions import Region, read_region
from slidemill.tiles.grid import Coords, TileGeometry

READ_AHEAD = 2
"""Batches that are read before they are needed; bounds the memory."""


def read_batches(
    slide: Slide, coords: Coords, geometry: TileGeometry, batch_size: int, threads: int
) -> Iterator[npt.NDArray[np.uint8]]:
    """Tiles of a slide in batches, in the order of `coords`.

    Args:
        slide: The slide.
        coords: (N, 2) top-left corners, level-0 pixels.
        geometry: Size of the tiles.
        batch_size: Tiles a batch.
        threads: Threads that read.

    Yields:
        (n, tile_px, tile_px, 3) uint8, white outside the slide.

    Raises:
        SlideError: If a tile cannot be read.
    """

    def read(corner: npt.NDArray[np.int64]) -> RGB:
        region = Region(int(corner[0]), int(corner[1]), geometry.width, geometry.height)
        return read_region(slide, region, geometry.tile_px, geometry.tile_px)

    pending: deque[Future[RGB]] = deque()
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
                yield np.stack([pending.popleft().result() for _ in range(count)])
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
) -> npt.NDArray[np.float32]:
    """Features of a slide's tiles.

    Returns:
        (N, D) float32, in the order of `coords`.

    Raises:
        SlideError: If a tile cannot be read.
    """
    batches = read_batches(slide, coords, geometry, batch_size, threads)
    return np.concatenate([encode(batch) for batch in batches])
