"""Features: the model alone, reading alone, the whole engine, and the ratios, side by side.

    python benchmarks/features.py --slide big2.tif [--slide real.svs ...] [--json]

`benchmarks/tiling.py` builds the 40,000 x 30,000 px slide. Tiles are 256 px at 0.5 um (at the
slide's own resolution where it is coarser than 0.4 um) of its tissue, on an aligned and on an
unaligned grid. Reading: a plain `read_region` loop in this process and in two, and the engine's
readers. A free encoder (rgb-mean), writing included, against the plain loop with the same encoder.
A network with random weights (they do not change the time): alone on tensors in memory, and in the
engine, against the bound 1 / (1 / model + 1 / reading). Each figure is the median of interleaved
rounds. On a GPU, `--device cuda --model vit_large_patch16_224 --precision bf16`.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import count
from multiprocessing import get_context
from pathlib import Path
from resource import RUSAGE_CHILDREN, RUSAGE_SELF, getrusage

import numpy as np
import openslide
from PIL import Image

from slidemill.artifacts.formats import FEATURES
from slidemill.artifacts.provenance import Stamp
from slidemill.artifacts.workers import available_cpus
from slidemill.config import EncoderEntry
from slidemill.features import rgb_mean
from slidemill.features.chunks import Source
from slidemill.features.encoders import Encoder, resolve
from slidemill.features.engine import Done, Engine, Work
from slidemill.features.pool import ReaderPool
from slidemill.features.runners import Encoded, Piece
from slidemill.features.session import Session, Settings, crew_of, ring_of
from slidemill.features.writer import FeatureWriter, Target
from slidemill.slides.overview import read_overview
from slidemill.slides.reader import Slide
from slidemill.slides.resolution import resolve_mpp
from slidemill.tiles.coverage import mask_fraction
from slidemill.tiles.grid import Coords, exact_grid, tile_geometry
from slidemill.tissue.find import find_tissue

TILE_PX = 256
FEWEST = 500
"""Tiles of a cohort; a slide with fewer is in it several times, as in a bucket of its like."""
OFFSET = 100
"""Shift of the unaligned grid, level-0 pixels."""


def tissue_tiles(path: Path, offset: int, most: int) -> tuple[Source, Coords]:
    """Tiles of a slide's tissue, all of them inside it."""
    with Slide(path) as slide:
        mpp = resolve_mpp(slide.properties, None, 0.25).mpp_x
        asked = 0.5 if mpp < 0.4 else mpp
        geometry = tile_geometry(TILE_PX, asked, 0, mpp, mpp)
        overview = read_overview(slide, 8.0 / mpp, 8.0 / mpp).pixels
        mask = find_tissue(overview, 8.0, method="otsu", min_area_mm2=0.0, min_hole_mm2=0.0).mask
        coords = exact_grid(geometry, *slide.dimensions) + offset
        inside = (coords + np.array([geometry.width, geometry.height]) <= slide.dimensions).all(1)
        coords = coords[inside]
        share = mask_fraction(mask, 8.0 / mpp, 8.0 / mpp, coords, geometry)
        return Source(path, "auto", geometry), coords[share > 0.1][:most]


def plain_loop(source: Source, coords: Coords, encode: bool) -> None:
    """What a script does: `read_region`, RGB, resize, encode, one tile after the other."""
    found = []
    with openslide.OpenSlide(source.path) as slide:
        downsample = source.geometry.width / TILE_PX
        level = slide.get_best_level_for_downsample(downsample * 1.001)
        edge = round(source.geometry.width / slide.level_downsamples[level])
        for x, y in coords.tolist():
            image = slide.read_region((x, y), level, (edge, edge)).convert("RGB")
            if edge != TILE_PX:
                image = image.resize((TILE_PX, TILE_PX), Image.Resampling.BOX)
            if encode:
                found.append(rgb_mean.encode(np.asarray(image)[None]))


class Nothing:
    """A runner that drops tiles, and a sink that drops features: reading alone."""

    dim = 1

    def feed(self, piece: Piece, waited_s: float) -> Iterator[Encoded]:
        """Drop tiles."""
        piece.release()
        sound = np.ones(len(piece.rows), np.bool_)
        yield Encoded(piece.slide, piece.rows, sound[:, None], None, sound, waited_s)

    def flush(self) -> Iterator[Encoded]:
        """Nothing is left over."""
        yield from ()

    def begin(self, slide: int, tiles: int, dim: int) -> None:
        """Take nothing."""

    def write(self, encoded: Encoded) -> None:
        """Take nothing."""

    def end(self, outcome: object) -> None:
        """See that nothing failed."""
        assert isinstance(outcome, Done), outcome


@contextmanager
def writer(works: Sequence[Work], folder: Path, dtype: str) -> Iterator[FeatureWriter]:
    """The engine's own writer."""
    attributes = {name: 1 for name, _ in FEATURES.attributes if name != "tiles_left_out"}

    def target(number: int) -> Target:
        path = folder / f"{number}.h5"
        return Target(path, Stamp("d" * 64, "i" * 64), works[number].coords, attributes, {})

    def ended(outcome: object) -> None:
        assert isinstance(outcome, Done), outcome

    with FeatureWriter(target, dtype, ended) as found:
        yield found


def rate(tiles: int, work: Callable[[], None]) -> float:
    """Tiles a second."""
    started = time.perf_counter()
    work()
    return tiles / (time.perf_counter() - started)


def medians(rounds: int, works: dict[str, tuple[int, Callable[[], None]]]) -> dict[str, float]:
    """Median speed of each, measured by turns."""
    found: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, (tiles, work) in works.items():
            found[name].append(rate(tiles, work))
    return {name: statistics.median(values) for name, values in found.items()}


def measure_reading(path: Path, offset: int, cpus: int, rounds: int, most: int) -> dict[str, float]:
    """Reading, and the free encoder, on one slide."""
    source, coords = tissue_tiles(path, offset, most)
    few = coords[:: max(1, len(coords) // 800)]
    copies = -(-FEWEST // len(coords))
    settings = Settings("fp32", "float32", False, TILE_PX, cpus=cpus)
    encoder = resolve(EncoderEntry(name="rgb-mean"), Path())
    crew = crew_of(settings, encoder)
    with (
        tempfile.TemporaryDirectory() as folder,
        Session(encoder, settings) as session,
        ExitStack() as opened,
    ):
        names = count()

        def work() -> list[Work]:
            # Slides by new names: what readers keep of a small one is not there a second time.
            links = [Path(folder) / f"{next(names)}{path.suffix}" for _ in range(copies)]
            for link in links:
                link.symlink_to(path.resolve())
            return [Work(i, replace(source, path=link), coords) for i, link in enumerate(links)]

        def engine() -> None:
            works = work()
            with writer(works, Path(folder), "float32") as sink:
                session.engine(sink).run(works)

        ring = ring_of(TILE_PX, crew)
        pool = opened.enter_context(ReaderPool(ring, crew))

        def readers() -> None:
            Engine(ring, pool, Nothing(), Nothing()).run(work())

        def two_loops() -> None:
            context = get_context("fork")
            with ProcessPoolExecutor(2, mp_context=context) as pool:
                jobs = [pool.submit(plain_loop, source, few[i::2], False) for i in range(2)]
                for job in jobs:
                    job.result()

        # Readers are started, libraries imported and the file is in the system's cache from here.
        engine()
        readers()
        found = medians(
            rounds,
            {
                "loop": (len(few), lambda: plain_loop(source, few, encode=False)),
                "loop, 2 processes": (len(few), two_loops),
                "readers": (copies * len(coords), readers),
                "loop + rgb-mean": (len(few), lambda: plain_loop(source, few, encode=True)),
                "engine + rgb-mean": (copies * len(coords), engine),
            },
        )
    return {"tiles": len(coords), "copies": copies} | found


def random_encoder(model: str, folder: Path) -> Encoder:
    """A network of timm with random weights, in a file as its own would be."""
    import timm
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    path = folder / "weights.safetensors"
    network = timm.create_model(model, num_classes=0)
    save_file(network.state_dict(), path)
    return resolve(EncoderEntry(name=f"timm:{model}", checkpoint=str(path)), Path())


def measure_model(
    arguments: argparse.Namespace, precision: str, cpus: int, read: dict[Path, float]
) -> dict[str, float]:
    """A network alone, and in the engine, over all slides."""
    import torch

    from slidemill.features.build import build

    parts = [tissue_tiles(path, 0, arguments.tiles) for path in arguments.slide]
    works = [Work(i, source, coords) for i, (source, coords) in enumerate(parts)]
    tiles = sum(len(work.coords) for work in works)
    reading_s = sum(len(work.coords) / read[work.source.path] for work in works)
    settings = Settings(
        precision, "float32", False, TILE_PX, cpus=cpus, device=arguments.device,
        batch_size=arguments.batch_size, compiled=arguments.compile,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        encoder = random_encoder(arguments.model, Path(folder))
        with Session(encoder, settings) as session:
            waited: list[float] = []

            def engine() -> None:
                with writer(works, Path(folder), "float32") as sink:
                    made = session.engine(sink)
                    started = time.perf_counter()
                    made.run(works)
                    waited.append(made.idle_s / (time.perf_counter() - started))

            engine()  # starts readers, builds, warms up
            device = "cuda" if arguments.device == "cuda" else "cpu"
            network = build(encoder).network.to(device)
            batch = session.batch_size
            images = torch.randn(batch, 3, 224, 224, device=device)
            kinds = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
            repeats = max(1, tiles // batch)

            def alone() -> None:
                with (
                    torch.inference_mode(),
                    torch.autocast(device, kinds[precision], enabled=precision != "fp32"),
                ):
                    for _ in range(repeats):
                        found = network(images)
                    (found.cls if found.cls is not None else found.pooled).float().cpu()

            alone()
            waited.clear()
            found = medians(
                arguments.rounds,
                {"model alone": (repeats * batch, alone), "engine": (tiles, engine)},
            )
    bound = 1 / (1 / found["model alone"] + reading_s / tiles)
    return (
        {"tiles": tiles, "batch": batch}
        | found
        | {
            "waited": statistics.median(waited),
            "bound": bound,
            "ratio": found["engine"] / bound,
        }
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slide", type=Path, action="append", required=True)
    parser.add_argument("--model", default="vit_small_patch16_224")
    parser.add_argument("--precision", action="append", choices=["fp32", "bf16", "fp16"])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--tiles", type=int, default=300, help="Tiles a slide for the network.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    cpus = available_cpus()
    results: dict[str, dict[str, float]] = {}
    read: dict[Path, float] = {}
    for path in arguments.slide:
        for offset in (0, OFFSET):
            found = measure_reading(path, offset, cpus, arguments.rounds, 4000)
            found["ratio"] = found["engine + rgb-mean"] / found["loop + rgb-mean"]
            results[f"{path.name}, offset {offset}"] = found
        read[path] = results[f"{path.name}, offset 0"]["readers"]
    for precision in arguments.precision or ["fp32", "bf16"]:
        found = measure_model(arguments, precision, cpus, read)
        results[f"{arguments.model}, {precision}"] = found
    peak = (getrusage(RUSAGE_SELF).ru_maxrss + getrusage(RUSAGE_CHILDREN).ru_maxrss) / 1024
    results["memory"] = {"peak_mb": peak}
    if arguments.json:
        print(json.dumps(results, indent=1))
        return
    for name, values in results.items():
        print(name)
        for key, value in values.items():
            print(f"  {key:20s} {value:12,.3f}" if value < 100 else f"  {key:20s} {value:8,.0f}")


if __name__ == "__main__":
    main()
