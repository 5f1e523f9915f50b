"""Five folds of ABMIL on a cohort that does not fit in memory: peak memory, and who waits for whom.

Writes a synthetic cohort of features to a folder (1,000 slides of 8,000 tiles of 1,536 features in
float16 are 24.6 GB), in the format of the features stage, and trains five folds side by side. Three
times are told: an epoch's reading alone, its training alone (on tiles that are in memory already),
and both as they are run, with the next batch read while one is trained on; of the last, the seconds
for which training stood still because its next batch was not there. Where they are few, reading is
not the bottleneck (on a machine of two cores it still takes time from the products of matrices).

    python benchmarks/mil_cohort.py --folder /scratch/mil --slides 1000 --epochs 2
"""

import argparse
import json
import resource
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from slidemill.artifacts.formats import FEATURES
from slidemill.artifacts.hdf5 import write_hdf5
from slidemill.artifacts.provenance import Stamp
from slidemill.config import MilConfig
from slidemill.evaluate.dataset import TileBags, make_rows
from slidemill.evaluate.mil.bags import Course, Moments
from slidemill.evaluate.mil.train import cross_fit
from slidemill.evaluate.mil.units import BagUnit, Settings
from slidemill.evaluate.summary import summarise
from slidemill.features.store import FeatureStore
from slidemill.splits.targets import Targets

FOLDS = 5


def write_cohort(folder: Path, slides: int, tiles: int, dim: int) -> pd.DataFrame:
    """Features of slides, those that are not there yet; the manifest's rows."""
    rng = np.random.default_rng(0)
    block = rng.standard_normal((tiles, dim), dtype=np.float32).astype(np.float16)
    side = int(np.ceil(np.sqrt(tiles)))
    grid = np.stack(np.divmod(np.arange(tiles), side)[::-1], axis=1).astype(np.int64) * 512
    facts = {
        "encoder": "synthetic", "weights_sha256": "", "mpp": 0.5, "tile_px": 256, "mpp_x": 0.25,
        "mpp_y": 0.25, "step_x": 512.0, "step_y": 512.0, "tiles_left_out": 0, "output": "cls",
        "precision": "fp16",
    }  # fmt: skip
    (folder / "slides").mkdir(parents=True, exist_ok=True)
    rows = []
    for i in range(slides):
        path = folder / "slides" / f"S{i:05d}.h5"
        if not path.is_file():
            features = np.roll(block, int(rng.integers(dim)), axis=1)
            if i % 2:
                # A fiftieth of a positive slide's tiles carries the label.
                features[::50, :8] += np.float16(1.5)
            stamp = Stamp(digest="0" * 64, item_digest=f"{i:064d}", slide_id=path.stem)
            write_hdf5(path, {"features": features, "coords": grid}, FEATURES, stamp, facts)
        row = {"slide_id": path.stem, "status": "ok", "item_digest": f"{i:064d}"}
        rows.append({**row, "path": f"slides/{path.name}"})
    return pd.DataFrame(rows)


class Resident:
    """Bags of the sizes of others whose tiles are in memory already: one array for all."""

    in_memory = True

    def __init__(self, moments: Moments, tiles: np.ndarray) -> None:
        self.moments = moments
        self._tiles = tiles

    def tiles(self, i: int, rows: np.ndarray | None = None) -> np.ndarray:
        """The same tiles for every bag; a copy, as of a file that is read."""
        del i
        return self._tiles if rows is None else self._tiles[rows]


def main() -> None:
    """Write, train, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--slides", type=int, default=1000)
    parser.add_argument("--tiles", type=int, default=8000)
    parser.add_argument("--dim", type=int, default=1536)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    manifest = write_cohort(args.folder, args.slides, args.tiles, args.dim)
    store = FeatureStore(args.folder, manifest)
    clock = time.perf_counter
    start = clock()
    summary = summarise((s, d, store.stored(i)) for i, (s, d) in enumerate(
        zip(store.slide_ids, store.item_digests, strict=True)))  # fmt: skip
    summary_s = clock() - start

    y = (np.arange(args.slides) % 2).astype(np.float64)[:, None]
    targets = Targets("binary", ("positive",), y, "negative")
    names = list(store.slide_ids)
    rows = make_rows(range(len(names)), names, targets, summary.moments.count, "mean")
    bags = TileBags(rows, store.features, summary.moments, in_memory=False)
    of = np.arange(args.slides) // 2 % FOLDS
    none = np.zeros(0, dtype=np.int64)
    # Testing is not timed here: each unit tests one slide.
    units = [
        BagUnit(f"fold {f}", np.flatnonzero(of != f), none, np.flatnonzero(of == f)[:1], 0)
        for f in range(FOLDS)
    ]
    settings = Settings(MilConfig(epochs=args.epochs))
    course = Course(bags, 10, settings.mil.max_tiles, 0)

    start = clock()
    everyone = np.ones(args.slides, dtype=np.bool_)
    read = sum(len(batch.features) for batch in course.epoch(0, everyone))
    reading_s = clock() - start
    resident = Resident(summary.moments, store.features(0))
    once = Settings(MilConfig(epochs=1))
    few = TileBags(rows.take(np.arange(10)), store.features, summary.moments, in_memory=False)
    cross_fit("abmil", few, targets.take(np.arange(10)), [
        BagUnit("warm", np.arange(8), none, np.arange(8, 10), 0)], once, seed=0)  # fmt: skip
    start = clock()
    cross_fit("abmil", resident, targets, units, settings, seed=0)
    training_s = (clock() - start) / args.epochs
    start = clock()
    waited_s = cross_fit("abmil", bags, targets, units, settings, seed=0)[0].waited_s / args.epochs
    both_s = (clock() - start) / args.epochs
    found = {
        "slides": args.slides,
        "tiles": args.tiles,
        "dim": args.dim,
        "tiles_an_epoch": read,
        "summary_s": summary_s,
        "epoch_reading_alone_s": reading_s,
        "epoch_training_alone_s": training_s,
        "epoch_s": both_s,
        "epoch_waited_s": waited_s,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "threads": torch.get_num_threads(),
    }
    if args.json:
        sys.stdout.write(json.dumps(found) + "\n")
        return
    sys.stdout.write(
        f"{args.slides} slides x {args.tiles} tiles x {args.dim}, {FOLDS} folds of abmil\n"
        f"  summary {summary_s:.0f} s; an epoch: reading alone {reading_s:.1f} s, training alone "
        f"{training_s:.1f} s, both {both_s:.1f} s, of which it waited for tiles {waited_s:.1f} s "
        f"({100 * waited_s / both_s:.1f} %)\n"
        f"  peak memory {found['peak_mb']:.0f} MB\n"
    )


if __name__ == "__main__":
    main()
