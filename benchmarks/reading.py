"""Reading tiles, side by side with a plain loop over OpenSlide, in one run.

Reads 256 px tiles at 0.5 um from the whole slide: aligned with the stored tiles, and off them by
100 px. The readers take turns, round by round, each with a fresh slide and cache; medians.

    python benchmarks/reading.py --slide big.tif --slide CMU-1-Small-Region.svs

The big slide is built by `benchmarks/tiling.py`. OpenSlide reads the finest level that is fine
enough and Pillow resizes where a tile is finer than asked, as such loops do.
"""

import argparse
import statistics
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import openslide
from PIL import Image

from slidemill.slides.reader import Slide
from slidemill.slides.regions import Region, read_region
from slidemill.slides.resolution import resolve_mpp

TILE_PX = 256
BAND = 4
"""Rows of tiles that are read column by column: what is decoded for one serves the next."""
CHUNK = 16
"""Tiles that a thread takes at once."""

Corners = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Work:
    """Tiles to read.

    Attributes:
        path: The slide.
        corners: (N, 2) top-left corners, level-0 pixels.
        extent: Edge of a tile, level-0 pixels.
    """

    path: Path
    corners: Corners
    extent: float

    def part(self, number: int, parts: int) -> "Work":
        """One of several equal shares, neighbours together."""
        return Work(self.path, np.array_split(self.corners, parts)[number], self.extent)


def grid(path: Path, mpp: float, own: float | None, offset_px: int, limit: int) -> Work:
    """Tiles of a slide in bands of rows; the middle of the slide where there are too many."""
    with Slide(path) as slide:
        found = resolve_mpp(slide.properties, own, "refuse").mpp_x
        # 0.499 um is 0.5 um, as scanners have it: tiles are then cut, not resampled.
        extent = TILE_PX * (1.0 if abs(mpp / found - 1) < 0.01 else mpp / found)
        width, height = slide.dimensions
    start = offset_px * extent / TILE_PX
    columns = np.arange(start, width - extent, extent)
    rows = np.arange(start, height - extent, extent)
    order = [
        (x, y) for at in range(0, len(rows), BAND) for x in columns for y in rows[at : at + BAND]
    ]
    first = max(0, (len(order) - limit) // 2)
    return Work(path, np.array(order[first : first + limit]).astype(np.int64), extent)


def plain(work: Work) -> float:
    """The loop that everybody writes; seconds, without those to open the slide."""
    with openslide.OpenSlide(work.path) as slide:
        level = slide.get_best_level_for_downsample(work.extent / TILE_PX * 1.001)
        size = round(work.extent / slide.level_downsamples[level])
        started = time.perf_counter()
        for x, y in work.corners.tolist():
            tile = slide.read_region((x, y), level, (size, size)).convert("RGB")
            if size != TILE_PX:
                tile = tile.resize((TILE_PX, TILE_PX), Image.Resampling.BOX)
            np.asarray(tile)
        return time.perf_counter() - started


def plain_in_processes(work: Work, pool: ProcessPoolExecutor, processes: int) -> float:
    """The same loop in several processes, which are there already; seconds of the slowest."""
    return max(pool.map(plain, [work.part(number, processes) for number in range(processes)]))


def ours(work: Work, threads: int, reader: str = "auto") -> float:
    """`read_region` into memory that is there already, on threads; seconds."""
    with Slide(work.path, reader) as slide:
        shares = iter(np.array_split(np.arange(len(work.corners)), len(work.corners) // CHUNK + 1))
        lock = threading.Lock()

        def run() -> None:
            out = np.empty((TILE_PX, TILE_PX, 3), np.uint8)
            while True:
                with lock:
                    share = next(shares, None)
                if share is None:
                    return
                for x, y in work.corners[share].tolist():
                    region = Region(x, y, work.extent, work.extent)
                    read_region(slide, region, TILE_PX, TILE_PX, out)

        workers = [threading.Thread(target=run) for _ in range(threads)]
        started = time.perf_counter()
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        return time.perf_counter() - started


def measure(path: Path, offset_px: int, arguments: argparse.Namespace) -> None:
    """Measure on one slide and print a table's row for every reader."""
    work = grid(path, arguments.mpp, arguments.slide_mpp, offset_px, arguments.tiles)
    with ProcessPoolExecutor(2) as pool:
        runs: dict[str, Callable[[], float]] = {
            "OpenSlide, 1 process": partial(plain, work),
            "OpenSlide, 2 processes": partial(plain_in_processes, work, pool, 2),
            "slidemill, 1 thread": partial(ours, work, 1, arguments.reader),
            "slidemill, 2 threads": partial(ours, work, 2, arguments.reader),
        }
        rates: dict[str, list[float]] = {name: [] for name in runs}
        for turn in range(arguments.repeats + 1):
            for name, run in runs.items():
                seconds = run()
                if turn:  # the first round warms the disk's cache and the processes
                    rates[name].append(len(work.corners) / seconds)
    first, both = (statistics.median(rates[name]) for name in list(runs)[:2])
    for name, found in rates.items():
        rate = statistics.median(found)
        grid_name = f"off by {offset_px} px" if offset_px else "aligned"
        print(
            f"| {path.name} | {grid_name} | {name} | {rate:,.0f} | {rate / first:.2f} "
            f"| {rate / both:.2f} |",
            flush=True,
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slide", type=Path, required=True, action="append")
    parser.add_argument("--mpp", type=float, default=0.5, help="um per pixel of the tiles")
    parser.add_argument("--slide-mpp", type=float, help="um per pixel of slides that do not say")
    parser.add_argument("--reader", default="auto", help="slidemill's reader")
    parser.add_argument("--tiles", type=int, default=4000, help="tiles a round, at most")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    print("| slide | grid | reader | tiles/s | times 1 process | times 2 processes |")
    print("|---|---|---|---|---|---|")
    for path in arguments.slide:
        for offset_px in (0, 100):
            measure(path, offset_px, arguments)


if __name__ == "__main__":
    main()
