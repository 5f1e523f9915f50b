"""Training of one unit at a time: the plain loop over bags.

For networks of other packages, which take one bag. It goes through the cohort as
`slidemill.evaluate.mil.stack` does, in the same order, with the same draws of tiles, losses and
steps, so that the two give the same numbers for the same network.
"""

import math
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from slidemill.evaluate.mil.bags import Bags, Course, Float32Array, noise_seed, read_ahead
from slidemill.evaluate.mil.losses import Head, head_outputs
from slidemill.evaluate.mil.networks import Shape, initial_weights
from slidemill.evaluate.mil.stack import (
    Progress,
    check_finite,
    make_optimizer,
    make_schedule,
    training_mask,
)
from slidemill.evaluate.mil.units import BagUnit, Settings, UnitResult
from slidemill.splits.targets import Targets


class BagNetwork(Protocol):
    """A module that takes one standardised bag, (n, D), and gives outputs (O,) and attention."""

    def __call__(self, bag: Tensor) -> tuple[Tensor, Tensor | None]:
        """Outputs (O,), and attention (n,) that sums to 1, or None."""
        ...


Build = Callable[[int, int, BagUnit], nn.Module]
"""Makes the network of a unit, by the features of a tile and the outputs of a bag."""


class PlainAbmil(nn.Module):
    """One ABMIL as anyone would write it: the reference that the stacked one is compared with.

    Args:
        shape: Its shape; `abmil`.
        seed: Seed of its initial weights and its dropout.
    """

    def __init__(self, shape: Shape, seed: int) -> None:
        super().__init__()
        self.shape, self.seed = shape, seed
        for name, (n_in, n_out, bias) in shape.layers().items():
            self.add_module(name, nn.Linear(n_in, n_out, bias=bias))
        self.load_state_dict(initial_weights(shape, seed))
        self.noise: Tensor | None = None

    def prepare(self, epoch: int, bag: int, tiles: int) -> None:
        """Draw the dropout of a bag before it is trained on."""
        share = self.shape.dropout
        source = torch.Generator().manual_seed(noise_seed(self.seed, epoch, bag))
        drawn = torch.rand((tiles, self.shape.widths[-1]), generator=source)
        self.noise = (drawn >= share) / (1.0 - share) if share else None

    def forward(self, bag: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs (O,) and attention (n,) of one bag (n, D)."""
        h = bag
        for i in range(len(self.shape.widths)):
            h = functional.relu(self.get_submodule(f"embed{i}")(h))
        if self.training and self.noise is not None:
            h = h * self.noise
        hidden = torch.tanh(self.get_submodule("tanh")(h))
        if self.shape.gated:
            hidden = hidden * torch.sigmoid(self.get_submodule("gate")(h))
        weights = self.get_submodule("score")(hidden).softmax(0)
        outputs: Tensor = self.get_submodule("classify")((weights.T @ h).flatten())
        return outputs, weights.mean(1)


def fit_loop(
    build: Build,
    bags: Bags,
    targets: Targets,
    unit: BagUnit,
    settings: Settings,
    batch: int,
    *,
    seed: int,
    device: str = "cpu",
    progress: Progress | None = None,
) -> UnitResult:
    """Train and test one unit, bag by bag.

    A network's `auxiliary_loss(bag, outputs, target)` is added to the loss of a bag if it has one.

    Args:
        build: Makes the network.
        bags: All N bags.
        targets: What is to be predicted of them.
        unit: Which bags train and test.
        settings: Hyper-parameters.
        batch: Bags of the cohort a step.
        seed: Seed of the order of bags and of the draws of tiles.
        device: Where to train, in float32.
        progress: Told after every epoch.

    Raises:
        CollapseError: If the loss stops being finite.
    """
    mil = settings.mil
    train = training_mask([unit], len(targets), mil)
    head = Head.of(targets, train, settings.survival, balanced=mil.class_weight == "balanced")
    head = head.to(device)
    outputs = head_outputs(targets, settings.survival)
    course = Course(bags, batch, mil.max_tiles, seed)
    expected = torch.from_numpy(head.expected(train, batch)).float().clamp(min=1e-12).to(device)
    scaler = _Scaler(bags, train[0], device, settings.standardise)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(unit.seed)
        network = build(bags.moments.mean.shape[1], outputs, unit).to(device)
        optimizer = make_optimizer(list(network.parameters()), mil)
        schedule = make_schedule(optimizer, mil, course.steps)
        best, best_epoch, kept = math.inf, mil.epochs, None
        for epoch in range(mil.epochs):
            network.train()
            total = torch.zeros(1, device=device)
            for part in course.epoch(epoch, train[0]):
                optimizer.zero_grad(set_to_none=False)
                if len(part.bags):
                    loss = _step(network, head, part.bags, _split(part.features, part.lengths),
                                 epoch, scaler, expected)  # fmt: skip
                    loss.backward()
                    total += loss.detach()
                _zero_missing(network)
                optimizer.step()
                schedule.step()
            check_finite(total, [unit], epoch, mil)
            if progress is not None:
                progress(epoch + 1, mil.epochs)
            if mil.patience and len(unit.validate):
                found = _validation_loss(network.eval(), head, bags, unit, scaler)
                if found < best:
                    best, best_epoch = found, epoch + 1
                    kept = {name: value.clone() for name, value in network.state_dict().items()}
                if epoch + 1 - best_epoch >= mil.patience:
                    break
    if kept is not None:
        network.load_state_dict(kept)
    return _test(network.eval(), head, bags, unit, scaler, best_epoch)


class _Scaler:
    """Standardises tiles by those of the training bags, on the device."""

    def __init__(self, bags: Bags, train: np.ndarray, device: str, wanted: bool) -> None:
        mean, scale = bags.moments.over(np.flatnonzero(train))
        self.mean = torch.from_numpy(mean).float().to(device) if wanted else None
        self.scale = torch.from_numpy(scale).float().to(device)
        self.device = device

    def __call__(self, tiles: Float32Array) -> Tensor:
        x = torch.from_numpy(tiles).to(self.device)
        return x if self.mean is None else (x - self.mean) / self.scale


def _step(
    network: nn.Module,
    head: Head,
    indices: np.ndarray,
    tiles: Sequence[Float32Array],
    epoch: int,
    scaler: _Scaler,
    expected: Tensor,
) -> Tensor:
    """Loss of a unit's own bags of one batch."""
    outputs, extra = [], []
    for i, one in zip(indices.tolist(), tiles, strict=True):
        if isinstance(network, PlainAbmil):
            network.prepare(epoch, i, len(one))
        bag = scaler(one)
        found, _ = network(bag)
        outputs.append(found)
        auxiliary = getattr(network, "auxiliary_loss", None)
        if auxiliary is not None:
            target = torch.from_numpy(head.targets.values[i]).to(bag.device)
            extra.append(auxiliary(bag, found, target))
    own = torch.ones((1, len(indices)), dtype=torch.bool, device=expected.device)
    loss = head.loss(torch.stack(outputs).unsqueeze(0), indices, own, expected)[0]
    return loss + torch.stack(extra).sum() / expected[0] if extra else loss


def _zero_missing(network: nn.Module) -> None:
    """A parameter that no bag of an empty first batch reached takes a step with a gradient of 0."""
    for parameter in network.parameters():
        if parameter.requires_grad and parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)


def _split(features: Float32Array, lengths: Sequence[int]) -> list[Float32Array]:
    return np.split(features, np.cumsum(lengths)[:-1])


@torch.inference_mode()
def _validation_loss(
    network: nn.Module, head: Head, bags: Bags, unit: BagUnit, scaler: _Scaler
) -> float:
    read = read_ahead(bags, unit.validate.tolist())
    outputs = torch.stack([network(scaler(tiles))[0] for _, tiles in read]).unsqueeze(0)
    own = torch.ones(outputs.shape[:2], dtype=torch.bool, device=outputs.device)
    ones = torch.ones(1, device=outputs.device)
    return float(head.loss(outputs, unit.validate, own, ones)[0])


@torch.inference_mode()
def _test(
    network: nn.Module, head: Head, bags: Bags, unit: BagUnit, scaler: _Scaler, epochs: int
) -> UnitResult:
    scores, attention = [], []
    for _, tiles in read_ahead(bags, unit.test.tolist()):
        outputs, weights = network(scaler(tiles))
        scores.append(head.scores(outputs.view(1, 1, -1))[0, 0].cpu().numpy())
        if weights is not None:
            attention.append(weights.cpu().numpy().astype(np.float32))
    return UnitResult(np.array(scores).reshape(-1, head.targets.outputs), attention, epochs)
