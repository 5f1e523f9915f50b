"""Every unit of a protocol through a model on bags.

The one door to this folder: chooses how a network is trained (side by side, or in the plain loop)
and gives one result a unit, in the order of the units.
"""

from collections.abc import Sequence
from typing import cast

from torch import nn

from slidemill.evaluate.mil.bags import Bags
from slidemill.evaluate.mil.loop import Build, fit_loop
from slidemill.evaluate.mil.networks import POOLINGS
from slidemill.evaluate.mil.stack import Progress, cohort_batch, fit_stack
from slidemill.evaluate.mil.units import BagUnit, Settings, UnitResult
from slidemill.splits.targets import Targets

MOST_UNITS = 64
"""Units that are trained side by side at most; bounds the memory and changes no value."""


def cross_fit(
    network: str,
    bags: Bags,
    targets: Targets,
    units: Sequence[BagUnit],
    settings: Settings,
    *,
    seed: int,
    device: str = "cpu",
    progress: Progress | None = None,
) -> list[UnitResult]:
    """Train a network on the training bags of every unit and predict the unit's test bags.

    Args:
        network: abmil, mean-pool, max-pool (trained side by side); clam-sb, dsmil, transmil (one
            after the other).
        bags: All N bags.
        targets: What is to be predicted of them, N rows.
        units: Which bags train and test which model.
        settings: Hyper-parameters.
        seed: Seed of the order of bags and of the draws of tiles, common to all units.
        device: Where to train, in float32.
        progress: Told the epochs done and the epochs of all fits.

    Returns:
        One result a unit. A unit's result depends on no other unit.

    Raises:
        CollapseError: If the loss of a unit stops being finite.
    """
    survival = targets.type == "survival"
    sizes = [cohort_batch(unit, len(targets), settings, survival) for unit in units]
    found: dict[int, UnitResult] = {}
    groups = _groups(sizes, 1 if network not in POOLINGS else MOST_UNITS)
    total = len(groups) * settings.mil.epochs
    for number, group in enumerate(groups):

        def shown(done: int, _: int, before: int = number * settings.mil.epochs) -> None:
            if progress is not None:
                progress(before + done, total)

        batch = sizes[group[0]]
        chosen = [units[i] for i in group]
        if network in POOLINGS:
            results = fit_stack(
                network, bags, targets, chosen, settings, batch, seed=seed, device=device,
                progress=shown,
            )  # fmt: skip
        else:
            results = [
                fit_loop(
                    _builder(network, settings), bags, targets, chosen[0], settings, batch,
                    seed=seed, device=device, progress=shown,
                )
            ]  # fmt: skip
        found |= dict(zip(group, results, strict=True))
    return [found[i] for i in range(len(units))]


def _groups(sizes: Sequence[int], most: int) -> list[list[int]]:
    """Units of one batch size together, in their order, at most so many."""
    by_size: dict[int, list[int]] = {}
    for i, size in enumerate(sizes):
        by_size.setdefault(size, []).append(i)
    return [
        group[start : start + most]
        for group in by_size.values()
        for start in range(0, len(group), most)
    ]


def _builder(network: str, settings: Settings) -> Build:
    from slidemill.evaluate.mil.torchmil_networks import Name, build

    def make(dim: int, outputs: int, unit: BagUnit) -> nn.Module:
        return build(cast("Name", network), dim, outputs, settings.mil.width, settings.mil.dropout)

    return make
