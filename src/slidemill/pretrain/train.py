"""Training of a slide encoder without labels.

The same bags, run and seed give the same encoder, bit for bit on one machine's CPU, whether the
run was killed and went on or not, and to rounding however many processes share it. Every random
draw is a function of the seed and of what it is for (the step, the slide), never of what was drawn
before; the networks draw nothing. So the weights, the optimiser, the centres and the step are all
that a state has to hold, and the caller's random state is neither used nor changed. There is no
gradient scaler: bfloat16 has the range of float32.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from slidemill.config import PretrainRun
from slidemill.pretrain import schedules
from slidemill.pretrain.bags import BagSource, feature_moments
from slidemill.pretrain.distributed import Ranks
from slidemill.pretrain.encoder import SlideEncoder
from slidemill.pretrain.loader import MOMENTS, StepBatch, StepLoader
from slidemill.pretrain.longnet import LongNet
from slidemill.pretrain.methods import Method, Terms, make_method
from slidemill.pretrain.monitors import (
    CollapseWatch,
    Signs,
    entropy,
    kl_to_uniform,
    mean_pairwise_cosine,
    rankme,
)
from slidemill.pretrain.snapshot import TrainingState, check_weights, put_tensors, take_tensors
from slidemill.pretrain.vit import SlideTransformer

MOMENT_TILES = 256
"""Tiles of a slide that moments are taken from, at most: means over a cohort need no more."""

NUMBERS = (
    "loss", "dino_loss", "ibot_loss", "regulariser", "learning_rate", "weight_decay",
    "teacher_momentum", "teacher_temperature", "teacher_entropy", "kl_to_uniform", "rankme",
    "mean_cosine", "gradient_norm", "tokens_per_s", "seconds",
)  # fmt: skip
"""Columns of the metrics that are float64; the others are counts."""

COUNTS = ("step", "epoch", "slides", "tokens")


@dataclass(frozen=True)
class Means:
    """How a training is computed; changes no result but by rounding.

    Attributes:
        device: `cpu`, `cuda`, `cuda:N` or `mps`.
        token_budget: Tokens of a pass through an encoder at most.
        checkpointing: Whether blocks compute their activations again in the backward pass.
        compile: Whether blocks are compiled.
        readers: Threads that read ahead.
        ranks: The processes that train together.
    """

    device: str = "cpu"
    token_budget: int = 2**62
    checkpointing: bool = False
    compile: bool = False
    readers: int = 2
    ranks: Ranks = field(default_factory=Ranks)


Keep = Callable[[int, Callable[[], TrainingState]], None]
"""Called after every update with the updates done and a way to get the state; may write it."""

Progress = Callable[[int, int, dict[str, float]], None]
"""Called after every update with the updates done, those of the run and the update's metrics."""


@dataclass(frozen=True)
class Trained:
    """What training gives.

    Attributes:
        encoder: The teacher's slide encoder, on the CPU, in eval mode.
        metrics: One row an update, with the columns of the `pretrain-metrics` format.
    """

    encoder: SlideEncoder
    metrics: pd.DataFrame


def initial_encoder(run: PretrainRun, dim: int, seed: int) -> SlideEncoder:
    """The slide encoder before its first step, with weights drawn from the seed.

    Moments of the features are still to be set. It is also the control that tells what training
    adds.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return _encoder(run, dim)


def train(
    bags: BagSource,
    run: PretrainRun,
    *,
    seed: int,
    means: Means | None = None,
    state: TrainingState | None = None,
    keep: Keep | None = None,
    progress: Progress | None = None,
) -> Trained:
    """Train a slide encoder on bags.

    Args:
        bags: The training bags, and no others; at least two.
        run: Hyper-parameters. Its own `seed` is not looked at.
        seed: Seed of initial weights, order, crops and masks, not negative.
        means: How it is computed; by default on the CPU.
        state: A state to go on from, of the same bags, run and seed.
        keep: Told after every update, on the first rank only.
        progress: Told after every update, on the first rank only.

    Returns:
        The encoder and the course of the training; the same on every rank.

    Raises:
        CohortError: If there are fewer than two bags, a step has fewer slides than processes, or
            features are not finite.
        CollapseError: If the training diverges or collapses.
    """
    means = means or Means()
    training = _Training(bags, run, seed, means)
    if state is not None:
        training.load(state)
    training.go(keep, progress)
    return Trained(training.method.teacher.encoder.cpu(), training.metrics())


class _Training:
    """One run in progress."""

    def __init__(self, bags: BagSource, run: PretrainRun, seed: int, means: Means) -> None:
        self.run, self.means, self.ranks = run, means, means.ranks
        self.loader = StepLoader(
            bags,
            run,
            seed,
            rank=means.ranks.rank,
            size=means.ranks.size,
            device=means.device,
            readers=means.readers,
        )
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            encoder = _encoder(run, bags.dim)
            rng = np.random.default_rng([seed, MOMENTS])
            encoder.set_moments(*feature_moments(bags, MOMENT_TILES, rng))
            self.method: Method = make_method(run, encoder, means.ranks)
        self.method.to(means.device)
        self.method.token_budget = means.token_budget
        for network in (self.method.student, self.method.teacher):
            network.encoder.checkpointing = means.checkpointing
            if means.compile:
                for block in network.encoder.blocks():
                    block.compile(dynamic=True)
        self.optimizer = _optimizer(self.method)
        self.updates = -(-self.loader.steps // run.accumulate)
        self.watch = CollapseWatch(run, self.updates)
        self.rows: list[list[float]] = []
        self.step, self.before = 0, 0.0

    def go(self, keep: Keep | None, progress: Progress | None) -> None:
        """Do what is left of the run."""
        started = time.perf_counter() - self.before
        batches = self.loader.iterate(self.step * self.run.accumulate)
        last = time.perf_counter()
        while self.step < self.updates:
            row = self._update(batches)
            now = time.perf_counter()
            row |= {"tokens_per_s": row["tokens"] / (now - last), "seconds": now - started}
            last = now
            self.rows.append([float(row[key]) for key in (*COUNTS, *NUMBERS)])
            self.step += 1
            self.before = now - started
            if self.ranks.first:
                if progress is not None:
                    progress(self.step, self.updates, row)
                if keep is not None:
                    keep(self.step, self.state)
        check_weights(self.method, self.step, self.updates)

    def _update(self, batches: Iterator[StepBatch]) -> dict[str, float]:
        """One update of the weights; returns its metrics."""
        run, step = self.run, self.step
        planned = self._schedule(step)
        first = step * run.accumulate
        window = range(first, min(first + run.accumulate, self.loader.steps))
        slides = sum(len(self.loader.slides(number)) for number in window)
        self.optimizer.zero_grad(set_to_none=True)
        epoch, tokens = window[0] // self.loader.steps_per_epoch, 0
        found: list[Terms] = []
        for batch in islice(batches, len(window)):
            tokens += batch.globals.sequences.total
            tokens += 0 if batch.locals is None else batch.locals.sequences.total
            terms = self.method(batch.to(self.means.device), planned["teacher_temperature"], slides)
            terms.loss.backward()
            found.append(terms._replace(loss=terms.loss.detach()))
        self.ranks.sum_gradients(self.method.student)
        if step < round(run.frozen_head * self.updates):
            for prototypes in self.method.prototypes():
                prototypes.grad = None
        norm = clip_grad_norm_(self.method.student.parameters(), run.max_gradient)
        measured = self._measure(found, norm, tokens)
        self.watch.check(step, Signs(**{key: measured[key] for key in Signs.__annotations__}))
        self.optimizer.step()
        self.method.finish_step(planned["teacher_momentum"])
        return {"step": step, "epoch": epoch, "slides": slides, **planned, **measured}

    def _schedule(self, step: int) -> dict[str, float]:
        """What the schedules say of an update; the optimiser is told."""
        run, steps = self.run, self.updates
        warmup = round(run.warmup * steps)
        rate = schedules.learning_rate(step, steps, peak=run.learning_rate, warmup_steps=warmup)
        first, last = run.weight_decay
        decay = schedules.weight_decay(step, steps, first=first, last=last)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
            group["weight_decay"] = decay if group["decays"] else 0.0
        cold, warm = run.teacher_temperature
        return {
            "learning_rate": rate,
            "weight_decay": decay,
            "teacher_momentum": schedules.teacher_momentum(step, steps, first=run.teacher_momentum),
            "teacher_temperature": schedules.teacher_temperature(
                step, steps, first=cold, last=warm, warmup_steps=round(run.teacher_warmup * steps)
            ),
        }

    @torch.no_grad()
    def _measure(self, found: list[Terms], norm: Tensor, tokens: int) -> dict[str, float]:
        """Numbers of an update, over all its batches and ranks."""
        names = ("dino_loss", "ibot_loss", "regulariser")
        shares = [torch.stack([terms.loss for terms in found]).sum()]
        for name in names:
            parts = [terms.parts[name] for terms in found if name in terms.parts]
            shares.append(torch.stack(parts).sum() if parts else norm.new_full((), torch.nan))
        sums = self.ranks.sum(torch.stack(shares))
        # Of all ranks: the numbers are those that one process would have.
        targets, _ = self.ranks.gather(torch.cat([terms.targets for terms in found]))
        embeddings, _ = self.ranks.gather(torch.cat([terms.embeddings for terms in found]))
        signs = (
            entropy(targets),
            kl_to_uniform(targets),
            rankme(embeddings),
            mean_pairwise_cosine(embeddings),
            norm,
        )
        # One transfer for all numbers: each would make a GPU wait.
        values = torch.cat([sums, torch.stack(signs)]).tolist()
        keys = (
            "loss", *names, "teacher_entropy", "kl_to_uniform", "rankme", "mean_cosine",
            "gradient_norm",
        )  # fmt: skip
        total = self.ranks.count(tokens, norm.device)
        return dict(zip(keys, values, strict=True)) | {"tokens": total}

    def state(self) -> TrainingState:
        """The state after the last update; later updates do not change it.

        Raises:
            CollapseError: If that update has spoilt the weights.
        """
        check_weights(self.method, self.step, self.updates)
        tensors = take_tensors(self.method, self.optimizer)
        return TrainingState(
            self.step, self.before, tensors, list(self.rows), self.watch.state_dict()
        )

    def load(self, state: TrainingState) -> None:
        """Go on from a state."""
        put_tensors(state.tensors, self.method, self.optimizer)
        self.watch.load_state_dict(state.watch)
        self.step, self.before, self.rows = state.step, state.seconds, list(state.metrics)

    def metrics(self) -> pd.DataFrame:
        """The course of the run."""
        table = pd.DataFrame(self.rows, columns=[*COUNTS, *NUMBERS], dtype=np.float64)
        return table.astype(dict.fromkeys(COUNTS, np.int64))


def _encoder(run: PretrainRun, dim: int) -> SlideEncoder:
    kinds: dict[str, type[SlideEncoder]] = {kind.kind: kind for kind in (SlideTransformer, LongNet)}
    return kinds[run.attention](dim, run.width, run.depth, run.n_heads)


def _optimizer(method: Method) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2019), without decay on biases, norms and single tokens."""
    parameters = list(method.student.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "decays": True},
        {"params": [p for p in parameters if p.ndim <= 1], "decays": False},
    ]
    return torch.optim.AdamW(groups, fused=True)
