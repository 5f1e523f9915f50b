"""Pretraining on slides of which only the arrangement of tiles tells the label.

Two kinds of tiles in equal shares on ragged tissue of 100 to 1,000 tiles: mixed at random in slides
of class 0, in patches of several tiles in class 1. Features are noisy: one tile alone is told apart
in 98 % of cases. The multiset of tiles is drawn alike in both classes, so that every order-blind
model is at AUROC 0.5 by construction. Slide encoders are pretrained on one set of slides, without
labels, and a linear probe is cross-validated on another; so are the controls: mean and max of
tiles, ABMIL, the encoder before its first step, and the trained one on tiles that have changed
places. Prints a table, and with --json a line of JSON.

    python benchmarks/pretrain_arrangement.py
    python benchmarks/pretrain_arrangement.py --methods dino --epochs 40 --ablate
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from unittest.mock import patch

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from sklearn.model_selection import StratifiedKFold

from slidemill.config import (
    AbmilConfig,
    CropsConfig,
    HeadConfig,
    MilConfig,
    PretrainRun,
)
from slidemill.errors import CollapseError
from slidemill.evaluate.metrics.classification import auroc
from slidemill.evaluate.metrics.weighted import weighted_auroc
from slidemill.evaluate.mil.bags import ListBags
from slidemill.evaluate.mil.train import cross_fit
from slidemill.evaluate.mil.units import BagUnit, Settings
from slidemill.evaluate.probes import PROBES
from slidemill.evaluate.probes import Settings as ProbeSettings
from slidemill.evaluate.resample import Summary, draw_weights
from slidemill.pretrain.bags import ArrayBags
from slidemill.pretrain.embedding import embed_with_controls
from slidemill.pretrain.train import Means, initial_encoder, train
from slidemill.pretrain.vit import SlideTransformer
from slidemill.splits.targets import Targets

DIM, ACCURACY, STEP_PX, STEP_UM = 8, 0.98, 512, 128.0
FOLDS, DRAWS, SEED = 5, 2000, 0
READOUTS = ("cls", "mean_tokens", "layers")


@dataclass(frozen=True)
class Cohort:
    """Slides and what their arrangement is.

    Attributes:
        bags: The slides.
        labels: float64, 1 where kinds lie in patches, 0 where they are mixed.
    """

    bags: ArrayBags
    labels: np.ndarray


def make_cohort(slides: int, seed: int) -> Cohort:
    """Draw slides; every second one has patches."""
    rng = np.random.default_rng(seed)
    labels = np.arange(slides) % 2
    coords, features = [], []
    for label in labels:
        grid = tissue(rng)
        kinds = arrange(grid, bool(label), rng)
        # Along one direction of the features, so far apart that a tile is told with ACCURACY.
        axis = np.zeros(DIM)
        axis[:4] = 0.5
        signal = (2 * kinds - 1)[:, None] * NormalDist().inv_cdf(ACCURACY) * axis
        features.append((signal + rng.normal(size=(len(grid), DIM))).astype(np.float16))
        coords.append(grid * STEP_PX)
    bags = ArrayBags(
        [f"{seed}-{i:04d}" for i in range(slides)],
        coords,
        [(float(STEP_PX), float(STEP_PX))] * slides,
        features,
        [(STEP_UM, STEP_UM)] * slides,
    )
    return Cohort(bags, labels.astype(np.float64))


def tissue(rng: np.random.Generator) -> np.ndarray:
    """Ragged tissue: 100 to 1,000 cells of a grid, in rows; int64 (N, 2)."""
    tiles = round(float(np.exp(rng.uniform(np.log(100), np.log(1000)))))
    edge = int(np.ceil(np.sqrt(tiles / 0.6)))
    shape = smooth((edge, edge), edge / 6, rng)
    y, x = np.mgrid[:edge, :edge]
    shape = 0.7 * shape / shape.std() - 3.0 * np.hypot(y - edge / 2, x - edge / 2) / edge
    cells = np.sort(np.argsort(-shape.ravel())[:tiles])
    return np.stack([cells % edge, cells // edge], axis=1).astype(np.int64)


def arrange(grid: np.ndarray, patches: bool, rng: np.random.Generator) -> np.ndarray:
    """Kind of each tile, 0 or 1 in equal shares: in patches some five tiles wide, or mixed."""
    if patches:
        edge = int(grid.max()) + 1
        field = smooth((edge, edge), 2.0, rng)[grid[:, 1], grid[:, 0]]
    else:
        field = rng.normal(size=len(grid))
    kinds = np.zeros(len(grid), dtype=np.int64)
    kinds[np.argsort(field)[: len(grid) // 2]] = 1
    return kinds


def smooth(shape: tuple[int, int], cells: float, rng: np.random.Generator) -> np.ndarray:
    """Noise that is alike over some cells."""
    found: np.ndarray = gaussian_filter(rng.normal(size=shape), cells, mode="reflect")
    return found


def make_run(method: str, ordering: str = "hilbert", **changed: object) -> PretrainRun:
    """The defaults, on an encoder and a head as small as the data."""
    compact = method == "dinov2-compact"
    crops = (
        CropsConfig(global_size=(0.4, 0.6), local_crops=2, local_size=(0.2, 0.35))
        if compact
        else CropsConfig(
            unit="um",
            global_size=(9 * STEP_UM, 13 * STEP_UM),
            local_crops=2,
            local_size=(5 * STEP_UM, 7 * STEP_UM),
        )
    )
    values: dict[str, object] = {
        "method": method,
        "ordering": ordering,
        "size": "3x64",
        "heads": 4,
        "crops": crops,
        "head": HeadConfig(**SMALL),
        "learning_rate": 2e-3,
        "teacher_momentum": 0.99,
        "accumulate": 2 if compact else 1,
        "batch_slides": 16 if compact else 32,
    }
    return PretrainRun.model_validate(values | changed)


def probe(vectors: np.ndarray, labels: np.ndarray) -> tuple[float, float, float]:
    """AUROC of a cross-validated linear probe, with its interval over slides."""
    scores = np.zeros(len(labels))
    targets = Targets("binary", ("patches",), labels[:, None], "mixed")
    splitter = StratifiedKFold(FOLDS, shuffle=True, random_state=SEED)
    for rows, test in splitter.split(vectors, labels):
        fitted = PROBES["linear-probe"].fit(
            vectors[rows].astype(np.float64),
            targets.take(rows),
            [str(row) for row in rows],
            ProbeSettings(),
            inner_folds=5,
            seed=SEED,
        )
        scores[test] = fitted.predict(vectors[test])[:, 0]
    return interval(labels, scores)


def abmil(cohort: Cohort) -> tuple[float, float, float]:
    """AUROC of cross-validated ABMIL on the tiles."""
    tiles = [bag.astype(np.float32) for bag in cohort.bags.tile_features]
    targets = Targets("binary", ("patches",), cohort.labels[:, None], "mixed")
    splitter = StratifiedKFold(FOLDS, shuffle=True, random_state=SEED)
    none = np.zeros(0, dtype=np.int64)
    units = [
        BagUnit(f"fold {fold}", rows, none, test, SEED)
        for fold, (rows, test) in enumerate(splitter.split(cohort.labels, cohort.labels))
    ]
    mil = MilConfig(width=64, epochs=30, learning_rate=1e-3, batch_bags=16)
    settings = Settings(mil, AbmilConfig(attention_width=64))
    results = cross_fit("abmil", ListBags(tiles), targets, units, settings, seed=SEED)
    scores = np.zeros(len(cohort.labels))
    for unit, result in zip(units, results, strict=True):
        scores[unit.test] = result.scores[:, 0]
    return interval(cohort.labels, scores)


def interval(labels: np.ndarray, scores: np.ndarray) -> tuple[float, float, float]:
    """AUROC of out-of-fold scores and its 95 % interval from resampled slides."""
    truth, said = labels[:, None], scores[:, None]
    estimate = auroc(truth, said)
    drawn = weighted_auroc(truth, said, draw_weights(len(labels), DRAWS, SEED))
    return (estimate, *Summary(estimate, drawn).interval())


def pretrain(
    run: PretrainRun, training: Cohort, test: Cohort, told: Callable[[str], None]
) -> dict[str, object]:
    """Pretrain, embed the other slides, and probe every readout and control."""
    started = time.perf_counter()

    def show(step: int, steps: int, row: dict[str, float]) -> None:
        if step % max(steps // 5, 1) == 0:
            told(
                f"  step {step}/{steps}: loss {row['loss']:.3f}, slide tokens "
                f"{row['dino_loss']:.3f}, tiles {row['ibot_loss']:.3f}, entropy "
                f"{row['teacher_entropy']:.2f}, cosine {row['mean_cosine']:.3f}, "
                f"rank {row['rankme']:.1f}, {time.perf_counter() - started:.0f} s"
            )

    trained = train(training.bags, run, seed=SEED, means=Means(), progress=show)
    initial = initial_encoder(run, DIM, SEED)
    initial.feature_mean.copy_(trained.encoder.feature_mean)
    initial.feature_std.copy_(trained.encoder.feature_std)
    embedded = [
        embed_with_controls(
            trained.encoder,
            initial,
            test.bags.features(i),
            test.bags.coords(i) // STEP_PX,
            seed=SEED,
            slide_id=slide_id,
            device="cpu",
        )
        for i, slide_id in enumerate(test.bags.slide_ids)
    ]
    seconds = time.perf_counter() - started
    found: dict[str, object] = {
        f"{prefix}{name}": probe(
            np.stack([one[f"{prefix}{name}"].ravel() for one in embedded]), test.labels
        )
        for prefix in ("", "random_init_", "shuffled_")
        for name in READOUTS
    }
    last = trained.metrics.iloc[-1]
    return found | {
        "seconds": seconds,
        "slide_loss": float(last["dino_loss"]),
        "cosine": float(last["mean_cosine"]),
        "rank": float(last["rankme"]),
    }


def show_value(value: object) -> str:
    """An AUROC with its interval."""
    estimate, low, high = value  # type: ignore[misc]
    return f"{estimate:.3f} ({low:.3f} to {high:.3f})"


METHODS = {
    "dino": ("dino", "hilbert"),
    "dinov2": ("dinov2", "hilbert"),
    "dinov2-compact, stored": ("dinov2-compact", "stored"),
    "dinov2-compact, hilbert": ("dinov2-compact", "hilbert"),
}


class Additive(SlideTransformer):
    """Positions in tokens."""

    def __init__(self, dim: int, width: int, depth: int, heads: int) -> None:
        super().__init__(dim, width, depth, heads, position_use="input")


class LongWaves(SlideTransformer):
    """Positions of the waves that words have."""

    def __init__(self, dim: int, width: int, depth: int, heads: int) -> None:
        super().__init__(dim, width, depth, heads, position_base=10000.0, position_scale=1.0)


class OwnKeys(SlideTransformer):
    """Keys that begin as drawn, not near to the queries."""

    def __init__(self, dim: int, width: int, depth: int, heads: int) -> None:
        with patch("slidemill.pretrain.vit.align_keys", lambda _: None):
            super().__init__(dim, width, depth, heads)


SMALL = {"prototypes": 64, "hidden": 256, "bottleneck": 64}
ABLATIONS: dict[str, dict[str, object]] = {
    "as it is": {},
    "no regulariser": {"regulariser": "none"},
    "centring": {"targets": "centring"},
    "centring, no regulariser": {"targets": "centring", "regulariser": "none"},
    "teacher .04 to .07": {"teacher_temperature": (0.04, 0.07)},
    "teacher .04 to .07, no regulariser": {
        "teacher_temperature": (0.04, 0.07),
        "regulariser": "none",
    },
    "1,024 prototypes": {"head": SMALL | {"prototypes": 1024}},
    "positions in tokens": {"encoder": Additive},
    "long waves": {"encoder": LongWaves},
    "own keys": {"encoder": OwnKeys},
    "teacher momentum .996": {"teacher_momentum": 0.996},
    "learning rate 5e-4": {"learning_rate": 5e-4},
    "batch of 8": {"batch_slides": 8},
}
"""What is changed, one thing at a time; `encoder` is another slide encoder."""


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slides", type=int, default=400, help="Slides of either set.")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--methods", nargs="*", default=list(METHODS))
    parser.add_argument("--ablate", nargs="*", help="Changes to try instead; all if none is named.")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    training, test = make_cohort(args.slides, 1), make_cohort(args.slides, 2)
    sizes = [len(coords) for coords in test.bags.tile_coords]
    print(f"{args.slides} slides a set, {min(sizes)} to {max(sizes)} tiles", flush=True)
    results: dict[str, dict[str, object]] = {}
    changes = ABLATIONS if args.ablate is not None else {"": {}}
    changes = {name: changes[name] for name in args.ablate or changes}
    if args.ablate is None:
        tiles = [bag.astype(np.float32) for bag in test.bags.tile_features]
        results["tiles"] = {
            "mean": probe(np.stack([bag.mean(axis=0) for bag in tiles]), test.labels),
            "max": probe(np.stack([bag.max(axis=0) for bag in tiles]), test.labels),
            "abmil": abmil(test),
        }
        for name, value in results["tiles"].items():
            print(f"| {name} of tiles | {show_value(value)} |", flush=True)
    for name in args.methods:
        method, ordering = METHODS[name]
        for change, values in changes.items():
            title = f"{name}, {change}" if change else name
            print(title, flush=True)
            encoder = values.get("encoder", SlideTransformer)
            others = {key: value for key, value in values.items() if key != "encoder"}
            run = make_run(method, ordering, epochs=args.epochs, **others)
            try:
                with patch("slidemill.pretrain.train.SlideTransformer", encoder):
                    found = pretrain(run, training, test, lambda line: print(line, flush=True))
            except CollapseError as error:
                print(f"  stopped: {error}", flush=True)
                continue
            results[title] = found
            for prefix in ("", "random_init_", "shuffled_"):
                row = " | ".join(show_value(found[f"{prefix}{key}"]) for key in READOUTS)
                print(f"| {title} | {prefix.rstrip('_') or 'trained'} | {row} |")
            print(f"  {found['seconds']:.0f} s", flush=True)
    if args.json:
        print(json.dumps(results))


if __name__ == "__main__":
    main()
