"""Training of a slide encoder without labels, by DINO on spatial crops.

The same bags, run and seed give the same encoder, bit for bit on one machine's CPU. Every random
draw is a function of the seed and of what it is for (the epoch, the slide), never of what was drawn
before, and the caller's random state is neither used nor changed.
"""

import copy
import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from slidemill.config import PretrainRun
from slidemill.errors import CohortError, CollapseError
from slidemill.pretrain.bags import (
    BagSource,
    Float32Array,
    Int64Array,
    feature_moments,
    grid_positions,
)
from slidemill.pretrain.crops import draw_views
from slidemill.pretrain.dino import DinoHead, DinoLoss, DinoNetwork, DinoTerms, update_teacher
from slidemill.pretrain.encoder import SlideTransformer
from slidemill.pretrain.schedules import learning_rate, teacher_momentum

MAX_GRADIENT_NORM = 3.0
"""Gradients are clipped to this norm, over all parameters together."""

FROZEN_EPOCHS = 1
"""Epochs at the start in which the prototypes stay as they are (Caron et al. 2021)."""

_MOMENTS, _ORDER, _VIEWS = range(3)
"""What a random draw is for; part of its seed."""

PaddedBatch = tuple[Tensor, Tensor, Tensor]
"""Features float32 (B, L, D), positions int64 (B, L, 2), valid bool (B, L)."""

Progress = Callable[[int, int, float], None]
"""Called after every step with the steps done, the steps of the run and the loss in nats."""


@dataclass(frozen=True)
class Trained:
    """What training gives.

    Attributes:
        encoder: The teacher's slide encoder, on the CPU, in eval mode.
        metrics: One row a step, with the columns of the `pretrain-metrics` format; `seconds` is
            wall time since the start of training.
    """

    encoder: SlideTransformer
    metrics: pd.DataFrame


def train(
    bags: BagSource,
    run: PretrainRun,
    *,
    device: str,
    seed: int,
    progress: Progress | None = None,
) -> Trained:
    """Train a slide encoder on bags.

    Args:
        bags: The training bags, and no others; at least two.
        run: Hyper-parameters. Its own `seed` is not looked at.
        device: Where to train: `cpu` (float32), `cuda` (bfloat16 autocast) or `mps` (float32).
        seed: Seed of initial weights, order and crops, not negative.
        progress: Told after every step.

    Returns:
        The encoder and the course of the training.

    Raises:
        CohortError: If there are fewer than two bags.
        CollapseError: If loss or gradient stop being finite.
    """
    slides = len(bags.slide_ids)
    if slides < 2:
        raise CohortError(
            f"a slide encoder cannot be trained on {slides} slide(s): it takes at least 2. Add "
            "slides, or train on more patients (pretrain.runs.patients)."
        )
    started = time.perf_counter()
    student = initial_network(bags, run, seed).to(device)
    teacher = copy.deepcopy(student).requires_grad_(False).eval()
    criterion = DinoLoss(
        run.prototypes,
        student_temperature=run.student_temperature,
        teacher_temperature=run.teacher_temperature,
        centre_momentum=run.centre_momentum,
    ).to(device)
    optimizer = _optimizer(student, run.weight_decay)
    steps_per_epoch = len(epoch_batches(slides, run.batch_slides, seed, 0))
    steps = run.epochs * steps_per_epoch
    warmup_steps = round(run.warmup * steps)
    rows: list[dict[str, float]] = []
    for step, (epoch, batch) in enumerate(_batches(slides, run, seed)):
        rate = learning_rate(step, steps, peak=run.learning_rate, warmup_steps=warmup_steps)
        momentum = teacher_momentum(step, steps, first=run.teacher_momentum)
        for group in optimizer.param_groups:
            group["lr"] = rate
        views = _load(bags, batch, run, seed, epoch, device)
        terms = _forward(student, teacher, criterion, views, len(batch))
        optimizer.zero_grad(set_to_none=True)
        terms.loss.backward()
        if epoch < FROZEN_EPOCHS:
            student.head.prototypes.grad = None
        norm = clip_grad_norm_(student.parameters(), MAX_GRADIENT_NORM)
        # One transfer for all numbers of the step: each would make the GPU wait.
        loss, entropy, kl, norm_value = torch.stack([*terms, norm]).detach().tolist()
        if not math.isfinite(loss) or not math.isfinite(norm_value):
            raise CollapseError(_diverged(step, steps, epoch, loss, norm_value, run))
        optimizer.step()
        update_teacher(teacher, student, momentum)
        rows.append(
            {
                "step": step,
                "epoch": epoch,
                "loss": loss,
                "learning_rate": rate,
                "teacher_momentum": momentum,
                "teacher_entropy": entropy,
                "kl_to_uniform": kl,
                "gradient_norm": norm_value,
                "seconds": time.perf_counter() - started,
            }
        )
        if progress is not None:
            progress(step + 1, steps, loss)
    return Trained(teacher.encoder.cpu(), pd.DataFrame(rows))


def initial_network(bags: BagSource, run: PretrainRun, seed: int) -> DinoNetwork:
    """The network before its first step: weights drawn from the seed, moments from the bags.

    Its encoder is also the control that tells what training adds.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        encoder = SlideTransformer(bags.dim, run.width, run.depth, run.heads)
        network = DinoNetwork(encoder, DinoHead(run.width, run.prototypes))
    rng = np.random.default_rng([seed, _MOMENTS])
    encoder.set_moments(*feature_moments(bags, run.max_tiles, rng))
    return network


def epoch_batches(slides: int, batch_slides: int, seed: int, epoch: int) -> list[Int64Array]:
    """Slides of every batch of an epoch, in an order drawn anew for each epoch.

    A last batch that is smaller is kept; if it would be of one slide, that slide joins the batch
    before it.

    Args:
        slides: Number of slides.
        batch_slides: Slides a batch.
        seed: Seed of the run.
        epoch: The epoch, from 0.

    Returns:
        Indices of slides, int64, each slide once.
    """
    order = np.random.default_rng([seed, _ORDER, epoch]).permutation(slides)
    starts = np.arange(batch_slides, slides, batch_slides)
    if len(starts) and slides - starts[-1] == 1:
        starts = starts[:-1]
    return np.split(order, starts)


def _batches(slides: int, run: PretrainRun, seed: int) -> Iterator[tuple[int, Int64Array]]:
    """Epoch and slides of every step of the run."""
    for epoch in range(run.epochs):
        for batch in epoch_batches(slides, run.batch_slides, seed, epoch):
            yield epoch, batch


def _load(
    bags: BagSource, batch: Int64Array, run: PretrainRun, seed: int, epoch: int, device: str
) -> list[PaddedBatch]:
    """The views of a batch: its global crops padded together, then its local ones if any.

    Within each, crop c of slide b is at c * len(batch) + b. All are on the device.
    """
    slides = []
    for i in batch.tolist():
        rng = np.random.default_rng([seed, _VIEWS, epoch, i])
        grid = grid_positions(bags.coords(i), bags.step(i))
        views = draw_views(grid, run.crops, run.max_tiles, rng)
        crops = [*views.global_crops, *views.local_crops]
        # Crops overlap: read every tile once.
        wanted = np.unique(np.concatenate([crop.rows for crop in crops]))
        features = bags.features(i, wanted)
        slides.append(
            [(features[np.searchsorted(wanted, crop.rows)], crop.positions) for crop in crops]
        )
    by_crop = [list(crop) for crop in zip(*slides, strict=True)]
    split = run.crops.global_crops
    parts = [by_crop[:split], by_crop[split:]]
    batches = [pad(list(itertools.chain.from_iterable(part))) for part in parts if part]
    return [(f.to(device), p.to(device), v.to(device)) for f, p, v in batches]


def pad(crops: Sequence[tuple[Float32Array, Int64Array]]) -> PaddedBatch:
    """Put crops of different lengths into one batch, with zeros behind the shorter ones.

    Args:
        crops: Features float32 (M, D) and positions int64 (M, 2) of each crop.

    Returns:
        Features, positions and which are valid; L is the longest M.
    """
    shape = (len(crops), max(len(features) for features, _ in crops))
    features = np.zeros((*shape, crops[0][0].shape[1]), dtype=np.float32)
    positions = np.zeros((*shape, 2), dtype=np.int64)
    valid = np.zeros(shape, dtype=np.bool_)
    for row, (crop_features, crop_positions) in enumerate(crops):
        features[row, : len(crop_features)] = crop_features
        positions[row, : len(crop_features)] = crop_positions
        valid[row, : len(crop_features)] = True
    return torch.from_numpy(features), torch.from_numpy(positions), torch.from_numpy(valid)


def _forward(
    student: DinoNetwork,
    teacher: DinoNetwork,
    criterion: DinoLoss,
    views: list[PaddedBatch],
    slides: int,
) -> DinoTerms:
    """Loss of one batch: the student sees all views, the teacher the global ones."""
    student_outputs = torch.cat([student(*view) for view in views])
    with torch.no_grad():
        teacher_outputs = teacher(*views[0])
    by_view = (-1, slides, student_outputs.shape[-1])
    return criterion(  # type: ignore[no-any-return]
        student_outputs.view(by_view), teacher_outputs.view(by_view)
    )


def _optimizer(student: DinoNetwork, weight_decay: float) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2019), without decay on biases, norms and the class token."""
    parameters = list(student.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, fused=True)


def _diverged(step: int, steps: int, epoch: int, loss: float, norm: float, run: PretrainRun) -> str:
    """Say where training diverged and what to change."""
    return (
        f"pretraining {run.name!r} diverged at step {step} of {steps} (epoch {epoch}): the loss is "
        f"{loss}, the norm of its gradient {norm}. Lower learning_rate (now {run.learning_rate}) "
        f"or raise warmup (now {run.warmup}). At step 0 it is the tile features that are not "
        "finite: compute them again."
    )
