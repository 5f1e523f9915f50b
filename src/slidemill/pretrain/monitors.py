"""Signs of a collapse: what to watch while a slide encoder learns, and when to stop.

The measures are functions of tensors; `CollapseWatch` is fed with their values once a step.
Nothing is read or written. What a teacher says of slides is worth learning only if it says
different things of different slides. That is the mutual information of slide and prototype,

    information = H(mean target) - mean H(target) = log K - kl_to_uniform - entropy,

which is 0 in every kind of collapse, whether all targets are uniform or all fall on one prototype.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from slidemill.config import PretrainRun
from slidemill.errors import CollapseError
from slidemill.pretrain.losses.precision import full_precision


@torch.no_grad()
def entropy(targets: Tensor) -> Tensor:
    """Mean entropy of distributions (..., K), nats: log K if all are uniform, 0 if certain."""
    rows: Tensor = torch.special.entr(targets.float()).sum(dim=-1)
    return rows.mean()


@torch.no_grad()
def kl_to_uniform(targets: Tensor) -> Tensor:
    """KL divergence of the mean of distributions (..., K) to the uniform one, nats.

    0 if all prototypes are used alike, log K if every row falls on the same one.
    """
    mean = targets.float().flatten(end_dim=-2).mean(dim=0)
    spread: Tensor = torch.special.entr(mean).sum()
    return math.log(len(mean)) - spread


@torch.no_grad()
def rankme(embeddings: Tensor) -> Tensor:
    """Effective rank of embeddings (n, width): between 1 and min(n, width).

    exp(-sum_k p_k log p_k) with p_k = s_k / sum s + 1e-7 of the singular values s (Garrido et al.
    2023, arXiv:2210.02885, equation 1). Not centred: embeddings that are all equal have rank 1.

    Returns:
        A scalar; nan if an embedding is not finite.

    Raises:
        ValueError: If there is no embedding.
    """
    _needs(embeddings, 1)
    # A decomposition of numbers that are not finite is an error of the library, and here a sign.
    finite = embeddings.isfinite().all()
    values = torch.linalg.svdvals(embeddings.float().nan_to_num(0.0, 0.0, 0.0))
    share = values / values.sum() + 1e-7
    return torch.where(finite, torch.special.entr(share).sum().exp(), math.nan)


@torch.no_grad()
def mean_pairwise_cosine(embeddings: Tensor) -> Tensor:
    """Mean cosine over pairs of different rows of embeddings (n, width): 1 if all are alike.

    Raises:
        ValueError: If there are fewer than two embeddings.
    """
    _needs(embeddings, 2)
    with full_precision(embeddings):
        points = functional.normalize(embeddings.float(), dim=-1)
        pairs = points.sum(dim=0).square().sum() - points.square().sum()
        return pairs / (len(points) * (len(points) - 1))


def _needs(embeddings: Tensor, count: int) -> None:
    if len(embeddings) < count:
        raise ValueError(f"{len(embeddings)} embedding(s), which takes at least {count}")


@dataclass(frozen=True)
class Signs:
    """What one step shows, over the slides of all ranks.

    Attributes:
        loss: The loss that is learnt from, all terms.
        gradient_norm: Norm of its gradient, before clipping.
        teacher_entropy: `entropy` of the teacher's targets for slide tokens, nats.
        kl_to_uniform: `kl_to_uniform` of the same targets, nats.
        mean_cosine: `mean_pairwise_cosine` of embeddings of different slides, one crop a slide.
        rankme: `rankme` of the same embeddings.
    """

    loss: float
    gradient_norm: float
    teacher_entropy: float
    kl_to_uniform: float
    mean_cosine: float
    rankme: float


GRACE_SHARE, GRACE_STEPS = 0.2, 200
"""The watch begins after a fifth of the run, and not before step 200. A fresh encoder is near to
collapsed where slides differ by arrangement only, since its slide tokens average over tiles: with
hundreds of tiles a slide, a mean cosine of 0.97 and targets that hold 1 % of log K; with thousands,
0.99 and 0.2 %. Runs that learn leave that state when the learning rate has warmed up."""

WINDOW_SHARE, WINDOW_STEPS = 0.1, 100
"""A sign has to be seen in every step of a tenth of the run, and of 100 steps at least. A run of
fewer than 300 steps is therefore never stopped for it: too short to tell."""

ALIKE_COSINE, ALIKE_INFORMATION = 0.999, 0.01
"""Embeddings are alike above a mean cosine of 0.999 (2.6 degrees), if the targets also hold less
than 1 % of log K. The cosine alone is no sign: embeddings share a large mean after the last norm,
healthy ones reach 0.98, and the head can tell apart what is near. A cohort of few slides has a
mean of few pairs, and still targets that tell those few slides apart."""

SAME_INFORMATION = 0.001
"""Targets are the same for all slides if they hold less than 0.1 % of log K. At uniform targets
this is an entropy within 0.1 % of log K, and the cross-entropy cannot be below that entropy."""


class CollapseWatch:
    """Stops a run that diverged or collapsed, and says what to change.

    Two ways to collapse are watched, after a grace period and over a window of consecutive steps:
    slide embeddings that are alike, and targets that are the same for all slides. Numbers that are
    not finite stop the run at once.

    Args:
        run: Settings of the run; `head.prototypes` is the K of the targets.
        steps: Steps of the whole run.

    Attributes:
        grace: First step that is watched.
        window: Consecutive steps that a sign has to be seen in.
    """

    def __init__(self, run: PretrainRun, steps: int) -> None:
        self.run, self.steps = run, steps
        self.grace = max(round(GRACE_SHARE * steps), GRACE_STEPS)
        self.window = max(round(WINDOW_SHARE * steps), WINDOW_STEPS)
        self._since: dict[str, int] = {}

    def check(self, step: int, signs: Signs) -> None:
        """Look at a step; to be called once for every step, in order.

        Args:
            step: The step, from 0.
            signs: What it shows.

        Raises:
            CollapseError: If the run diverged or collapsed.
        """
        if not math.isfinite(signs.loss) or not math.isfinite(signs.gradient_norm):
            raise CollapseError(self._diverged(step, signs))
        if step < self.grace:
            return
        for cause, seen in self._seen(signs).items():
            if not seen:
                self._since.pop(cause, None)
            elif step + 1 - self._since.setdefault(cause, step) >= self.window:
                raise CollapseError(self._collapsed(step, signs, cause))

    def state_dict(self) -> dict[str, int]:
        """Since which step each sign has been seen in every step; of none, not there."""
        return dict(self._since)

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on from the state of a run that was interrupted."""
        self._since = dict(state)

    def _seen(self, signs: Signs) -> dict[str, bool]:
        """Which signs a step shows; a monitor that is nan shows none."""
        most = math.log(self.run.head.prototypes)
        share = (most - signs.kl_to_uniform - signs.teacher_entropy) / most
        return {
            "alike": signs.mean_cosine > ALIKE_COSINE and share < ALIKE_INFORMATION,
            "same": share < SAME_INFORMATION,
        }

    def _diverged(self, step: int, signs: Signs) -> str:
        """Say where training diverged and what to change."""
        run = self.run
        return (
            f"pretraining {run.name!r} diverged at step {step} of {self.steps}: the loss is "
            f"{signs.loss}, the norm of its gradient {signs.gradient_norm}. Lower learning_rate "
            f"(now {run.learning_rate:g}) or raise warmup (now {run.warmup:g}). At step 0 it is "
            "the tile features that are not finite: compute them again."
        )

    def _collapsed(self, step: int, signs: Signs, cause: str) -> str:
        """Say what is seen, since when, and what to change."""
        most = math.log(self.run.head.prototypes)
        uniform = signs.teacher_entropy > 0.5 * most
        if cause == "alike":
            what = "embeddings of different slides are all alike"
        else:
            kind = "uniform" if uniform else "on the same few prototypes"
            what = f"the teacher gives all slides the same target, {kind}"
        return (
            f"pretraining {self.run.name!r} collapsed: {what}, in every step from "
            f"{self._since[cause]} to {step} of {self.steps}. Mean cosine of slides "
            f"{signs.mean_cosine:.4f}, effective rank {signs.rankme:.1f}, entropy of targets "
            f"{signs.teacher_entropy:.3f} of log K = {most:.3f}, KL to uniform "
            f"{signs.kl_to_uniform:.3f}, loss {signs.loss:.3f}. Change, in this order: "
            f"{'; '.join(self._advice(uniform))}."
        )

    def _advice(self, uniform: bool) -> list[str]:
        """What to change, the likeliest first, with what it is now."""
        run, last = self.run, self.run.teacher_temperature[1]
        advice = []
        if run.chosen_targets == "centring":
            advice.append("targets: sinkhorn (now centring)")
        if run.chosen_regulariser == "none":
            advice.append("regulariser: koleo (now none)")
        else:
            advice.append(f"a higher regulariser_weight (now {run.regulariser_weight:g})")
        sharper = "lower" if uniform else "higher"
        return [
            *advice,
            f"a lower learning_rate (now {run.learning_rate:g})",
            f"a {sharper} teacher_temperature (now {last:g} at the end)",
            f"a teacher_momentum nearer 1 (now {run.teacher_momentum:g})",
            f"a larger batch_slides (now {run.batch_slides})",
            f"fewer head.prototypes (now {run.head.prototypes})",
        ]
