"""Every model on bags of which the best score is known, and on the MIL unit tests of Raff & Holt.

Shifted mean: AUROC on test bags with a 95 % interval over bags (one bag a patient), beside the four
scores in closed form on the same bags, and the difference to the best score that does not look at
the order of tiles. No model without positions may beat that one beyond the interval.

Unit tests: AUROC on training and test bags. A model holds where the interval on test bags lies
above .5, breaks the assumption where it lies below (it learnt what turns around), and else it is
not told. Models on vectors are given the mean tile of a bag.

    python benchmarks/mil_oracles.py [--quick] [--json] [--models abmil dsmil]
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch

from slidemill.config import MilConfig
from slidemill.evaluate.metrics import metrics_of
from slidemill.evaluate.mil.bags import ListBags
from slidemill.evaluate.mil.train import cross_fit
from slidemill.evaluate.mil.units import BagUnit
from slidemill.evaluate.mil.units import Settings as BagSettings
from slidemill.evaluate.oracles import UNIT_TESTS, BagSet, ShiftedMean
from slidemill.evaluate.probes import PROBES, Settings
from slidemill.evaluate.resample import Summary, draw_weights
from slidemill.splits.targets import Float64Array, Int64Array, Targets

BAG_MODELS = ("abmil", "mean-pool", "max-pool", "clam-sb", "dsmil", "transmil")
VECTOR_MODELS = ("linear-probe", "knn", "simpleshot")
DRAWS = 1000


@dataclass(frozen=True)
class Size:
    """How much is drawn and trained.

    Attributes:
        shifted: Training bags of shifted mean.
        tested: Its test bags.
        unit: Training bags, and test bags, of each unit test.
        epochs: Passes over the training bags of shifted mean.
        unit_epochs: The same of the unit tests.
    """

    shifted: int
    tested: int
    unit: int
    epochs: int
    unit_epochs: int


FULL = Size(4000, 4000, 1000, 15, 15)
QUICK = Size(1000, 2000, 300, 10, 10)


@dataclass(frozen=True)
class Row:
    """A model on one set of bags.

    Attributes:
        data: The set.
        model: The model, or the score in closed form.
        train: AUROC on training bags; nan for scores in closed form.
        test: AUROC on test bags.
        low: Lower end of its 95 % interval.
        high: Upper end.
        behind: AUROC minus that of the best order-blind score on the same bags; nan elsewhere.
        behind_low: Lower end of the paired interval.
        behind_high: Upper end.
        verdict: Of unit tests: holds, breaks, or not told. Of shifted mean: `beats order-blind`
            where the paired interval lies above 0.
        seconds: Training and prediction.
    """

    data: str
    model: str
    train: float
    test: float
    low: float
    high: float
    behind: float
    behind_low: float
    behind_high: float
    verdict: str
    seconds: float


def fit(name: str, train: BagSet, test: BagSet, epochs: int, seed: int) -> Float64Array:
    """Scores of training bags, then of test bags, float64 (n,), by a model of the training bags."""
    labels = np.concatenate([train.labels, test.labels]).astype(np.float64)[:, None]
    targets = Targets("binary", ("positive",), labels, "negative")
    own = np.arange(len(train.labels))
    if name in VECTOR_MODELS:
        x = np.concatenate([train.means(), test.means()])
        patients = [f"bag {i}" for i in own]
        fitted = PROBES[name].fit(
            x[own], targets.take(own), patients, Settings(), inner_folds=5, seed=seed
        )
        return fitted.predict(x)[:, 0]
    bags = ListBags([*train.bags, *test.bags])
    none = np.zeros(0, dtype=np.int64)
    unit = BagUnit(name, own, none, np.arange(len(targets)), seed)
    settings = BagSettings(MilConfig(epochs=epochs, batch_bags=16))
    return cross_fit(name, bags, targets, [unit], settings, seed=seed)[0].scores[:, 0]


class Judge:
    """AUROC of scores of the same test bags, with intervals over the same draws of bags."""

    def __init__(self, labels: Int64Array) -> None:
        self.y = labels.astype(np.float64)[:, None]
        self.metric = metrics_of("binary")["auroc"]
        self.weights = draw_weights(len(labels), DRAWS, 0)

    def __call__(self, scores: Float64Array) -> Summary:
        """AUROC of scores float64 (n,), and its draws."""
        column = scores[:, None]
        drawn = self.metric.weighted(self.y, column, self.weights)
        return Summary(self.estimate(scores), drawn)

    def estimate(self, scores: Float64Array) -> float:
        """AUROC of scores float64 (n,)."""
        return self.metric.function(self.y, scores[:, None])


def shifted_mean(models: Sequence[str], size: Size, seed: int) -> Iterator[Row]:
    """The closed forms, then the models."""
    family = ShiftedMean(dim=4)
    train, test = family.bags(size.shifted, seed), family.bags(size.tested, seed + 1)
    judge, own = Judge(test.labels), Judge(train.labels)
    forms = family.scores(test.bags)
    best = judge(forms["order-blind"])

    def row(model: str, learnt: float, scores: Float64Array, seconds: float) -> Row:
        found = judge(scores)
        low, high = found.interval()
        apart = Summary(found.estimate - best.estimate, found.drawn - best.drawn)
        apart_low, apart_high = apart.interval()
        return Row(
            "shifted-mean", model, learnt, found.estimate, low, high, apart.estimate, apart_low,
            apart_high, "beats order-blind" if apart_low > 0 else "", seconds,
        )  # fmt: skip

    for name, scores in forms.items():
        yield row(f"({name})", math.nan, scores, 0.0)
    for name in models:
        start = time.perf_counter()
        scores = fit(name, train, test, size.epochs, seed)
        seconds = time.perf_counter() - start
        learnt = own.estimate(scores[: size.shifted])
        yield row(name, learnt, scores[size.shifted :], seconds)


def unit_tests(models: Sequence[str], size: Size, seed: int) -> Iterator[Row]:
    """Every model on every unit test."""
    for test_name, draw in UNIT_TESTS.items():
        train, test = draw(size.unit, 16, True, seed), draw(size.unit, 16, False, seed)
        judge, own = Judge(test.labels), Judge(train.labels)
        for name in models:
            start = time.perf_counter()
            scores = fit(name, train, test, size.unit_epochs, seed)
            seconds = time.perf_counter() - start
            learnt, found = own.estimate(scores[: size.unit]), judge(scores[size.unit :])
            low, high = found.interval()
            verdict = "holds" if low > 0.5 else "BREAKS" if high < 0.5 else "not told"
            yield Row(
                test_name, name, learnt, found.estimate, low, high, math.nan, math.nan, math.nan,
                verdict, seconds,
            )  # fmt: skip


def _line(row: Row) -> str:
    behind = f"  {row.behind:+.3f} [{row.behind_low:+.3f}, {row.behind_high:+.3f}]"
    behind = "" if math.isnan(row.behind) else behind
    train = "    " if math.isnan(row.train) else f"{row.train:.3f}"
    return (
        f"{row.data:16}{row.model:16}{train:6}  {row.test:.3f} [{row.low:.3f}, {row.high:.3f}]"
        f"{behind}  {row.verdict:18}{row.seconds:6.1f} s\n"
    )


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="Fewer bags and epochs.")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0, help="Of torch; 0 leaves its own.")
    every = (*BAG_MODELS, *VECTOR_MODELS)
    parser.add_argument("--models", nargs="+", choices=every, default=every)
    parser.add_argument("--only", choices=("shifted-mean", "unit-tests"))
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    size, models = QUICK if args.quick else FULL, tuple(args.models)
    rows: list[Row] = []
    if not args.json:
        sys.stdout.write(
            f"{'data':16}{'model':16}{'train':6}  test   95 % interval   to order-blind\n"
        )
    for part in (shifted_mean, unit_tests):
        if args.only and part.__name__ != args.only.replace("-", "_"):
            continue
        for row in part(models, size, args.seed):
            rows.append(row)
            if not args.json:
                sys.stdout.write(_line(row))
                sys.stdout.flush()
    if args.json:
        found = {"size": asdict(size), "seed": args.seed, "rows": [asdict(row) for row in rows]}
        sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
