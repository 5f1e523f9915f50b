"""Synthetic bags of which it is known what a model can find in them, and what it must not learn.

Two families. `shifted_mean` (torchmil's corrected toy data, arXiv:2510.25759) has scores in closed
form: the best of all, the best of those that do not look at the order of tiles, and the largest and
the mean tile. The unit tests of Raff & Holt 2023 (arXiv:2310.17867) have training bags with a
shortcut that breaks the assumption of multiple-instance learning (a bag is positive because of
tiles that are there), and test bags in which the shortcut points the other way.

The same arguments give the same bags, bit for bit on one machine.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view
from scipy.special import logsumexp

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class BagSet:
    """Bags with their labels.

    Attributes:
        bags: One float32 (n_i, D) a bag.
        labels: 0 or 1, int64 (B,).
        signal: Which tiles make the bag positive, bool (n_i,) a bag; none in negative bags.
    """

    bags: list[Float32Array]
    labels: Int64Array
    signal: list[BoolArray]

    def means(self) -> Float64Array:
        """Mean tile of each bag, float64 (B, D), for models on vectors."""
        return np.stack([bag.mean(axis=0, dtype=np.float64) for bag in self.bags])


@dataclass(frozen=True)
class ShiftedMean:
    """Bags of Gaussian tiles; in a positive one some neighbours are shifted.

    Attributes:
        delta: The shift, in standard deviations.
        shifted: Features that are shifted, K; the first ones.
        run: Tiles in a row that are shifted, R.
        sizes: Fewest and most tiles of a bag; all between are as likely.
        dim: Features of a tile, D >= K; the others say nothing.
    """

    delta: float = 2.0
    shifted: int = 1
    run: int = 3
    sizes: tuple[int, int] = (15, 45)
    dim: int = 1

    def bags(self, count: int, seed: int) -> BagSet:
        """Draw bags, each positive with probability 1/2.

        Args:
            count: Number of bags.
            seed: Seed of the draw.
        """
        rng = np.random.default_rng(seed)
        labels = rng.integers(0, 2, count)
        bags, signal = [], []
        for label in labels:
            size = int(rng.integers(self.sizes[0], self.sizes[1] + 1))
            bag = rng.standard_normal((size, self.dim))
            start = int(rng.integers(0, size - self.run + 1))
            here = np.zeros(size, dtype=np.bool_)
            here[start : start + self.run] = label == 1
            bag[here, : self.shifted] += self.delta
            bags.append(bag.astype(np.float32))
            signal.append(here)
        return BagSet(bags, labels.astype(np.int64), signal)

    def bayes(self, bags: Sequence[Float32Array]) -> Float64Array:
        """The best score there is: log ratio of a bag's likelihoods, positive to negative.

        The mean over all places of the run of the likelihood ratio of its tiles. float64 (B,).
        """

        def score(ratios: Float64Array) -> Float64Array:
            runs = sliding_window_view(ratios, self.run, axis=1).sum(axis=2)
            found: Float64Array = logsumexp(runs, axis=1) - np.log(runs.shape[1])
            return found

        return self._each(bags, score)

    def order_blind(self, bags: Sequence[Float32Array]) -> Float64Array:
        """The best score that does not look at the order of tiles, float64 (B,).

        To such a score any R tiles may be the shifted ones, so it is the mean of the likelihood
        ratio over all subsets of R tiles: an elementary symmetric polynomial of the tiles' ratios.
        """

        def score(ratios: Float64Array) -> Float64Array:
            # Logarithms of the polynomials of degree 0 to R over the tiles so far.
            sums = np.full((self.run + 1, len(ratios)), -np.inf)
            sums[0] = 0.0
            for column in ratios.T:
                sums[1:] = np.logaddexp(sums[1:], sums[:-1] + column)
            found: Float64Array = sums[self.run] - np.log(math.comb(ratios.shape[1], self.run))
            return found

        return self._each(bags, score)

    def max_pool(self, bags: Sequence[Float32Array]) -> Float64Array:
        """Likelihood ratio of the most suspicious tile, float64 (B,)."""
        return self._each(bags, lambda ratios: ratios.max(axis=1))

    def mean_pool(self, bags: Sequence[Float32Array]) -> Float64Array:
        """Mean likelihood ratio of the tiles: the mean of the shifted features, rescaled."""
        return self._each(bags, lambda ratios: ratios.mean(axis=1))

    def scores(self, bags: Sequence[Float32Array]) -> dict[str, Float64Array]:
        """All four scores of bags, float64 (B,) each, by their names."""
        return {
            "bayes": self.bayes(bags),
            "order-blind": self.order_blind(bags),
            "max-pool": self.max_pool(bags),
            "mean-pool": self.mean_pool(bags),
        }

    def _each(
        self, bags: Sequence[Float32Array], score: Callable[[Float64Array], Float64Array]
    ) -> Float64Array:
        """A score of the log likelihood ratios (m, n) of m bags of n tiles, for all bags."""
        found = np.empty(len(bags))
        sizes = np.array([len(bag) for bag in bags])
        for size in np.unique(sizes):
            same = np.flatnonzero(sizes == size)
            shown = np.stack([bags[i][:, : self.shifted] for i in same.tolist()]).astype(np.float64)
            found[same] = score(self.delta * shown.sum(2) - self.delta**2 * self.shifted / 2.0)
        return found


UnitTest = Callable[[int, int, bool, int], BagSet]
"""Draws bags, by their number, the features of a tile, whether they train, and a seed."""


def single_concept(count: int, dim: int, train: bool, seed: int) -> BagSet:
    """Single-concept standard MIL (Raff & Holt 2023, algorithm 1).

    A bag is positive if it has one to three tiles of the concept: N(0, 3^2) or N(1, 1), one of the
    two by chance. All have ten tiles of N(0, 1). In training every negative bag has a tile of
    poison, N(-10, 0.1^2), and no positive one; in testing every positive one has it. That tiles of
    poison make a bag negative is what no model of the assumption can learn.

    Args:
        count: Number of bags, every second one positive.
        dim: Features of a tile.
        train: Whether they are training bags.
        seed: Seed of the draw.
    """

    def draw(rng: np.random.Generator, positive: bool) -> list[_Tiles]:
        tiles = [_Tiles(10, 0.0, 1.0)]
        if positive:
            kinds = rng.integers(0, 2, rng.integers(1, 4))
            tiles += [_Tiles(1, *((0.0, 3.0), (1.0, 1.0))[kind], concept=True) for kind in kinds]
        return tiles + _poison(positive, train)

    return _bags(draw, count, dim, train, seed)


def multi_concept(count: int, dim: int, train: bool, seed: int) -> BagSet:
    """Multi-concept standard MIL (Raff & Holt 2023, algorithm 2).

    A bag is positive if it has tiles of both concepts, N(2, 0.1^2) and N(3, 0.1^2): one to three of
    each. A negative one has one tile of one of them, drawn by chance. All have one to nine tiles of
    N(0, 1), and there is the poison of `single_concept`.

    Args:
        count: Number of bags, every second one positive.
        dim: Features of a tile.
        train: Whether they are training bags.
        seed: Seed of the draw.
    """

    def draw(rng: np.random.Generator, positive: bool) -> list[_Tiles]:
        each = int(rng.integers(1, 4))
        return [*_concepts(rng, positive, each, 1), *_poison(positive, train)]

    return _bags(draw, count, dim, train, seed)


def false_frequency(count: int, dim: int, train: bool, seed: int) -> BagSet:
    """False frequency (Raff & Holt 2023, algorithm 3).

    As `multi_concept` without poison. In training a positive bag has one tile of each concept and a
    negative one a single tile of one, so that counting tiles of concepts is enough; in testing a
    negative one has 35 to 44 of them, all of one concept.

    Args:
        count: Number of bags, every second one positive.
        dim: Features of a tile.
        train: Whether they are training bags.
        seed: Seed of the draw.
    """

    def draw(rng: np.random.Generator, positive: bool) -> list[_Tiles]:
        return _concepts(rng, positive, 1, 1 if train else int(rng.integers(35, 45)))

    return _bags(draw, count, dim, train, seed)


UNIT_TESTS: dict[str, UnitTest] = {
    "single-concept": single_concept,
    "multi-concept": multi_concept,
    "false-frequency": false_frequency,
}
"""The unit tests of Raff & Holt, by name."""


@dataclass(frozen=True)
class _Tiles:
    """Some tiles of a bag, of independent features N(mean, deviation^2)."""

    count: int
    mean: float
    deviation: float
    concept: bool = False


def _poison(positive: bool, train: bool) -> list[_Tiles]:
    return [_Tiles(1, -10.0, 0.1)] if positive != train else []


def _concepts(
    rng: np.random.Generator, positive: bool, in_positive: int, in_negative: int
) -> list[_Tiles]:
    """Tiles of both concepts, or of one of them, among others."""
    others = _Tiles(int(rng.integers(1, 10)), 0.0, 1.0)
    if positive:
        return [others, *(_Tiles(in_positive, mean, 0.1, concept=True) for mean in (2.0, 3.0))]
    return [others, _Tiles(in_negative, (2.0, 3.0)[rng.integers(2)], 0.1)]


def _bags(
    draw: Callable[[np.random.Generator, bool], list[_Tiles]],
    count: int,
    dim: int,
    train: bool,
    seed: int,
) -> BagSet:
    """Bags whose tiles are shuffled, every second one positive."""
    rng = np.random.default_rng([seed, train])
    labels = np.arange(count, dtype=np.int64) % 2
    bags, signal = [], []
    for label in labels:
        parts = draw(rng, bool(label))
        tiles = [rng.normal(part.mean, part.deviation, (part.count, dim)) for part in parts]
        concept = np.concatenate([np.full(part.count, part.concept) for part in parts])
        order = rng.permutation(len(concept))
        bags.append(np.concatenate(tiles)[order].astype(np.float32))
        signal.append(concept[order])
    return BagSet(bags, labels, signal)
