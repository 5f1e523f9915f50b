"""Bags: the tiles of slides, as models on bags take them.

Arrays in, arrays out; a source of bags may read a file when a bag is asked for. Bags are packed:
the tiles of all bags of a batch lie one behind the other, so that nothing is padded.
"""

import hashlib
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

_ORDER, _TILES = range(2)
"""What a random draw is for; part of its seed."""


@dataclass(frozen=True)
class Moments:
    """Count, mean and squared deviations of each bag's tiles: enough to standardise any subset.

    Attributes:
        count: Tiles of each bag, int64 (N,), none 0.
        mean: Their mean, float64 (N, D).
        m2: Sum of squared deviations from it, float64 (N, D).
    """

    count: Int64Array
    mean: Float64Array
    m2: Float64Array

    def over(self, bags: Int64Array) -> tuple[Float64Array, Float64Array]:
        """Mean and standard deviation over all tiles of some bags (Chan, Golub & LeVeque 1979).

        Args:
            bags: Indices of the bags.

        Returns:
            Two float64 (D,) arrays. Every tile counts alike. The deviation of a feature that does
            not vary is given as 1, so that it is only centred.
        """
        weight = self.count[bags] / self.count[bags].sum()
        mean = weight @ self.mean[bags]
        between = weight @ (self.mean[bags] - mean) ** 2
        variance = self.m2[bags].sum(axis=0) / self.count[bags].sum() + between
        # What rounding leaves of a constant is no variance.
        constant = variance <= (10 * np.finfo(np.float64).eps * np.abs(mean)) ** 2
        return mean, np.where(constant, 1.0, np.sqrt(variance))


def moments_of(bags: Sequence[Float32Array]) -> Moments:
    """Moments of bags in memory, float32 (n_i, D) each, from float64 sums."""
    wide = [bag.astype(np.float64) for bag in bags]
    mean = np.stack([bag.mean(axis=0) for bag in wide])
    m2 = np.stack([((bag - m) ** 2).sum(axis=0) for bag, m in zip(wide, mean, strict=True)])
    return Moments(np.array([len(bag) for bag in bags], dtype=np.int64), mean, m2)


class Bags(Protocol):
    """N bags of tiles with D features each."""

    @property
    def moments(self) -> Moments:
        """Moments of the bags, in their order; they say how many tiles a bag has."""
        ...

    @property
    def in_memory(self) -> bool:
        """Whether reading a bag is free; if not, the next batch is read ahead."""
        ...

    def tiles(self, i: int, rows: Int64Array | None = None) -> Float32Array:
        """Features of bag i, float32 (n_i, D), or of those rows of it, which ascend."""
        ...


class ListBags:
    """Bags in memory."""

    in_memory = True

    def __init__(self, bags: Sequence[Float32Array]) -> None:
        """Take bags.

        Args:
            bags: float32 (n_i, D) each, n_i > 0.

        Raises:
            ValueError: If a bag is something else.
        """
        for i, bag in enumerate(bags):
            if bag.ndim != 2 or len(bag) == 0 or bag.dtype != np.float32:
                raise ValueError(f"bag {i} is {bag.dtype} {bag.shape}, not float32 (n, D), n > 0")
        self._bags = bags
        self.moments = moments_of(bags)

    def tiles(self, i: int, rows: Int64Array | None = None) -> Float32Array:
        """Features of bag i, or of those rows of it."""
        return self._bags[i] if rows is None else self._bags[i][rows]


@dataclass(frozen=True)
class Batch:
    """The bags of one step.

    Attributes:
        bags: Their indices, int64 (B,); may be none.
        features: Their tiles one behind the other, float32 (sum of lengths, D).
        lengths: Tiles of each.
    """

    bags: Int64Array
    features: Float32Array
    lengths: tuple[int, ...]


@dataclass
class Course:
    """In which order, and in which batches, an epoch goes through a cohort.

    The order is of the whole cohort and the same for all units: a unit learns from those bags of a
    batch that are its training bags. So a batch is read once for all of them, and what a unit
    learns does not depend on which other units are trained beside it.

    Attributes:
        bags: The cohort's bags.
        batch: Bags a batch.
        max_tiles: Tiles that are drawn from a bag, uniformly without replacement.
        seed: Seed of order and draws.
        waited_s: Seconds for which training has waited for tiles so far.
    """

    bags: Bags
    batch: int
    max_tiles: int
    seed: int
    waited_s: float = 0.0

    @property
    def steps(self) -> int:
        """Batches an epoch."""
        return -(-len(self.bags.moments.count) // self.batch)

    def order(self, epoch: int) -> Int64Array:
        """All bags in the order of an epoch, int64 (N,)."""
        rng = np.random.default_rng([self.seed, _ORDER, epoch])
        return rng.permutation(len(self.bags.moments.count)).astype(np.int64)

    def epoch(self, epoch: int, needed: BoolArray) -> Iterator[Batch]:
        """The batches of an epoch; bags that nobody needs are left out and not read.

        Args:
            epoch: Which one.
            needed: Whether any unit trains on the bag, bool (N,).
        """
        order = self.order(epoch)
        parts = [order[i : i + self.batch] for i in range(0, len(order), self.batch)]
        wanted = [part[needed[part]] for part in parts]
        if self.bags.in_memory:
            yield from (self._read(part, epoch) for part in wanted)
            return
        with ThreadPoolExecutor(1, thread_name_prefix="bags") as ahead:
            following = ahead.submit(self._read, wanted[0], epoch)
            for part in [*wanted[1:], None]:
                start = time.perf_counter()
                batch = following.result()
                self.waited_s += time.perf_counter() - start
                if part is not None:
                    following = ahead.submit(self._read, part, epoch)
                yield batch

    def _read(self, part: Int64Array, epoch: int) -> Batch:
        tiles = [self.bags.tiles(i, self._rows(i, epoch)) for i in part.tolist()]
        width = self.bags.moments.mean.shape[1]
        features = np.concatenate(tiles) if tiles else np.empty((0, width), np.float32)
        return Batch(part, features, tuple(len(one) for one in tiles))

    def _rows(self, i: int, epoch: int) -> Int64Array | None:
        count = int(self.bags.moments.count[i])
        if count <= self.max_tiles:
            return None
        rng = np.random.default_rng([self.seed, _TILES, epoch, i])
        return np.sort(rng.choice(count, size=self.max_tiles, replace=False)).astype(np.int64)


def read_ahead(bags: Bags, indices: Sequence[int]) -> Iterator[tuple[int, Float32Array]]:
    """Some bags, all their tiles, one after the other; the next is read while one is used."""
    if bags.in_memory or not indices:
        yield from ((i, bags.tiles(i)) for i in indices)
        return
    with ThreadPoolExecutor(1, thread_name_prefix="bags") as ahead:
        following = ahead.submit(bags.tiles, indices[0])
        for i, later in zip(indices, [*indices[1:], None], strict=True):
            tiles = following.result()
            if later is not None:
                following = ahead.submit(bags.tiles, later)
            yield i, tiles


def noise_seed(seed: int, epoch: int, bag: int) -> int:
    """Seed of the dropout of a bag in an epoch, for torch's generators, 63 bits."""
    text = f"{seed} {epoch} {bag}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest()) >> 1
