from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch

from slidemill.evaluate.mil.units import BagUnit
from slidemill.splits.targets import Targets

Bags = list[np.ndarray]
Planted = tuple[Bags, Targets, list[np.ndarray]]


def planted(n: int, seed: int, dim: int = 6) -> Planted:
    """Bags of noise; in the positive ones a tenth of the tiles is shifted."""
    rng = np.random.default_rng(seed)
    bags, truth = [], []
    labels = np.arange(n) % 2
    for label in labels:
        bag = rng.standard_normal((int(rng.integers(30, 50)), dim)).astype(np.float32)
        marked = np.zeros(len(bag), dtype=bool)
        marked[rng.choice(len(bag), 4, replace=False)] = label == 1
        bag[marked] += 3
        bags.append(bag)
        truth.append(marked)
    return bags, Targets("binary", ("yes",), labels[:, None].astype(np.float64), "no"), truth


def k_fold(n: int, folds: int = 4, seed: int = 0) -> list[BagUnit]:
    """Units whose fold f tests every bag with index f modulo the folds; the next fold validates."""
    units = []
    for fold in range(folds):
        of = np.arange(n) // 2 % folds
        after = (fold + 1) % folds
        parts = [np.flatnonzero((of != fold) & (of != after)), np.flatnonzero(of == after)]
        units.append(BagUnit(f"fold {fold}", *parts, np.flatnonzero(of == fold), seed))
    return units


@pytest.fixture(name="planted")
def _planted() -> Callable[..., Planted]:
    return planted


@pytest.fixture(name="k_fold")
def _k_fold() -> Callable[..., list[BagUnit]]:
    return k_fold


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Small products are slower on several threads, and tests run side by side."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
