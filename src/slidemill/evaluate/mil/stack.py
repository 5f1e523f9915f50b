"""Training of many units side by side: folds, repetitions and draws of one network.

All units go through the cohort in one order. A batch is read once; each unit learns from those of
its bags that are its own, by a mask on the loss, and its weights are slices of joint tensors, so
that one optimiser step is a step of every unit. A unit's result does not depend on which others it
is trained with. Test bags never enter: not the moments, not the loss, not the choice of an epoch.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from slidemill.config import MilConfig
from slidemill.errors import CollapseError
from slidemill.evaluate.mil.bags import Bags, BoolArray, Course, Float32Array, read_ahead
from slidemill.evaluate.mil.losses import Head, has_offset, head_outputs
from slidemill.evaluate.mil.networks import Pooling, Shape, StackedMil, dropout_noise
from slidemill.evaluate.mil.units import BagUnit, Float64Array, Settings, UnitResult
from slidemill.splits.targets import Targets

Progress = Callable[[int, int], None]
"""Told the epochs done and the epochs of the fit."""

MOMENTUM = 0.9
"""Of sgd."""


@dataclass
class _Best:
    """The best epoch of each unit so far."""

    loss: Tensor
    epoch: Tensor
    weights: dict[str, Tensor]


def fit_stack(
    pooling: Pooling,
    bags: Bags,
    targets: Targets,
    units: Sequence[BagUnit],
    settings: Settings,
    batch: int,
    *,
    seed: int,
    device: str = "cpu",
    progress: Progress | None = None,
) -> list[UnitResult]:
    """Train and test units side by side.

    Args:
        pooling: The network.
        bags: All N bags.
        targets: What is to be predicted of them.
        units: Which bags train and test which model.
        settings: Hyper-parameters.
        batch: Bags of the cohort a step; `cohort_batch` says how many.
        seed: Seed of the order of bags and of the draws of tiles, common to all units.
        device: Where to train, in float32.
        progress: Told after every epoch.

    Returns:
        One result a unit.

    Raises:
        CollapseError: If the loss of a unit stops being finite.
    """
    train = training_mask(units, len(targets), settings.mil)
    network = _network(pooling, bags, targets, units, train, settings).to(device)
    head = Head.of(
        targets, train, settings.survival, balanced=settings.mil.class_weight == "balanced"
    ).to(device)
    course = Course(bags, batch, settings.mil.max_tiles, seed)
    optimizer = make_optimizer(list(network.weights.parameters()), settings.mil)
    schedule = make_schedule(optimizer, settings.mil, course.steps)
    own = torch.from_numpy(train).to(device)
    needed: BoolArray = np.asarray(train.any(axis=0))
    expected = torch.from_numpy(head.expected(train, batch)).float().clamp(min=1e-12).to(device)
    best = _Best(torch.full((len(units),), math.inf), torch.zeros(len(units)), {})
    for epoch in range(settings.mil.epochs):
        network.train()
        total = torch.zeros(len(units), device=device)
        for part in course.epoch(epoch, needed):
            optimizer.zero_grad()
            if not len(part.bags):
                # A step with gradients of 0, not one that is left out.
                for parameter in network.weights.values():
                    parameter.grad = torch.zeros_like(parameter)
            else:
                x = torch.from_numpy(part.features).to(device)
                noise = dropout_noise(network, epoch, part.bags.tolist(), part.lengths)
                outputs, _ = network(x, part.lengths, noise)
                losses = head.loss(outputs, part.bags, own[:, part.bags], expected)
                losses.sum().backward()
                total += losses.detach()
            optimizer.step()
            schedule.step()
        check_finite(total, units, epoch, settings.mil)
        if progress is not None:
            progress(epoch + 1, settings.mil.epochs)
        if settings.mil.patience and _validate(network, head, bags, units, epoch, best, settings):
            break
    if best.weights:
        network.load_state_dict(best.weights)
    epochs = best.epoch.long().tolist() if best.weights else [settings.mil.epochs] * len(units)
    results = _test(network.eval(), head, bags, units, epochs)
    return [replace(result, waited_s=course.waited_s) for result in results]


def cohort_batch(unit: BagUnit, bags: int, settings: Settings, survival: bool) -> int:
    """Bags of the cohort a step, so that a unit has `batch_bags` of its own in it on average."""
    own = len(unit.train) + (0 if settings.mil.patience else len(unit.validate))
    wanted = settings.survival.batch_bags if survival else settings.mil.batch_bags
    return min(bags, max(1, round(wanted * bags / max(own, 1))))


def training_mask(units: Sequence[BagUnit], bags: int, mil: MilConfig) -> BoolArray:
    """Which bags train which unit, bool (M, N)."""
    mask = np.zeros((len(units), bags), dtype=np.bool_)
    for row, unit in zip(mask, units, strict=True):
        row[unit.train] = True
        if not mil.patience:
            row[unit.validate] = True
    return mask


def make_optimizer(parameters: list[Tensor], mil: MilConfig) -> torch.optim.Optimizer:
    """The optimiser of settings; it decays all parameters."""
    if mil.optimizer == "sgd":
        return torch.optim.SGD(
            parameters, mil.learning_rate, MOMENTUM, weight_decay=mil.weight_decay, fused=True
        )
    return torch.optim.AdamW(
        parameters, mil.learning_rate, weight_decay=mil.weight_decay, fused=True
    )


def make_schedule(
    optimizer: torch.optim.Optimizer, mil: MilConfig, steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """The course of the learning rate over all steps of all epochs."""
    if mil.schedule == "constant":
        return torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0, total_iters=0)
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=mil.epochs * steps)


def check_finite(total: Tensor, units: Sequence[BagUnit], epoch: int, mil: MilConfig) -> None:
    """Refuse to go on with a loss that is not finite; looked at once an epoch, as a GPU waits."""
    bad = (~total.isfinite()).nonzero().flatten().tolist()
    if bad:
        raise CollapseError(
            f"training diverged in epoch {epoch} of {mil.epochs} ({units[bad[0]].name}): its loss "
            f"is not finite. Lower evaluate.mil.learning_rate ({mil.learning_rate} now)."
        )


def _network(
    pooling: Pooling,
    bags: Bags,
    targets: Targets,
    units: Sequence[BagUnit],
    train: BoolArray,
    settings: Settings,
) -> StackedMil:
    dim = bags.moments.mean.shape[1]
    outputs = head_outputs(targets, settings.survival)
    shape = Shape.of(
        pooling, dim, outputs, settings.mil, settings.abmil,
        offset=has_offset(targets, settings.survival),
    )  # fmt: skip
    network = StackedMil(shape, [unit.seed for unit in units])
    if settings.standardise:
        found = [bags.moments.over(np.flatnonzero(row)) for row in train]
        means, scales = (torch.from_numpy(np.stack(one)) for one in zip(*found, strict=True))
        network.standardise(means, scales)
    return network


@torch.no_grad()
def _validate(
    network: StackedMil,
    head: Head,
    bags: Bags,
    units: Sequence[BagUnit],
    epoch: int,
    best: _Best,
    settings: Settings,
) -> bool:
    """Note the best epoch of each unit; whether all have waited long enough."""
    network.eval()
    for m, unit in enumerate(units):
        if not len(unit.validate):
            loss = torch.tensor(-float(epoch))  # nothing to choose by: the last epoch is taken
        else:
            only = torch.tensor([m], device=network.mean.device)
            read = read_ahead(bags, unit.validate.tolist())
            outputs = torch.cat([_one(network, tiles, only)[0] for _, tiles in read], 1)
            own = torch.ones((1, len(unit.validate)), dtype=torch.bool, device=outputs.device)
            counted = torch.ones(1, device=outputs.device)
            loss = head.chosen(m).loss(outputs, unit.validate, own, counted)[0].cpu()
        if loss < best.loss[m]:
            best.loss[m], best.epoch[m] = loss, epoch + 1
            for name, value in network.state_dict().items():
                kept = best.weights.setdefault(name, value.clone())
                kept[m] = value[m]
    return bool((epoch + 1 - best.epoch >= settings.mil.patience).all())


@torch.inference_mode()
def _test(
    network: StackedMil, head: Head, bags: Bags, units: Sequence[BagUnit], epochs: list[int]
) -> list[UnitResult]:
    """Scores of each unit's test bags; every bag is read once for all units that test it."""
    tested: dict[int, list[int]] = {}
    for m, unit in enumerate(units):
        for i in unit.test.tolist():
            tested.setdefault(i, []).append(m)
    scores: dict[tuple[int, int], Float64Array] = {}
    attention: dict[tuple[int, int], Float32Array] = {}
    for i, tiles in read_ahead(bags, sorted(tested)):
        models = tested[i]
        chosen = torch.tensor(models, device=network.mean.device)
        outputs, weights = _one(network, tiles, chosen)
        for row, m in enumerate(models):
            scores[m, i] = head.chosen(m).scores(outputs[row : row + 1])[0, 0].cpu().numpy()
            if weights is not None:
                attention[m, i] = weights[row].cpu().numpy()
    width = head.targets.outputs
    return [
        UnitResult(
            np.array([scores[m, i] for i in unit.test.tolist()]).reshape(-1, width),
            [attention[m, i] for i in unit.test.tolist()] if attention else [],
            epochs[m],
        )
        for m, unit in enumerate(units)
    ]


def _one(network: StackedMil, tiles: Float32Array, chosen: Tensor) -> tuple[Tensor, Tensor | None]:
    """Outputs (C, 1, O) and attention of all tiles of one bag, by some of the networks."""
    x = torch.from_numpy(tiles).to(network.mean.device)
    found: tuple[Tensor, Tensor | None] = network(x, (len(tiles),), None, chosen)
    return found
