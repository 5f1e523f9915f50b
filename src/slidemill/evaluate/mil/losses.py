"""Losses and scores of models on bags, for M units at once.

A `Head` holds, for each unit, what only its training bags may say: how much a class weighs, the
scale of a regression, the intervals of a survival time. Every training bag counts alike within an
epoch: a batch's loss is the sum over a unit's bags in it, divided by how many are expected there.

Survival has two heads. Cox: one output, the logarithm of the risk, and Breslow's partial likelihood
among the bags of a step (Cox 1972; Katzman et al. 2018, doi:10.1186/s12874-018-0482-1).
Discrete-time: one output an interval, the logit of its hazard, and the likelihood of the time's
interval, censored ones having survived their own (Zadeh & Schmid 2020, arXiv:1907.00825 for a
review); the risk is minus the sum of the survival function.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from slidemill.config import SurvivalConfig
from slidemill.splits.targets import EVENT, TIME, Targets

Float64Array = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


def head_outputs(targets: Targets, survival: SurvivalConfig) -> int:
    """Outputs that a network needs for a task."""
    if targets.type == "survival":
        return 1 if survival.head == "cox" else survival.bins
    return targets.outputs


def has_offset(targets: Targets, survival: SurvivalConfig) -> bool:
    """Whether the loss holds a constant that is added to all outputs: Cox's does not."""
    return targets.type != "survival" or survival.head != "cox"


@dataclass(frozen=True)
class Head:
    """How outputs of M units are judged and read.

    Attributes:
        targets: What is to be predicted, for all N bags.
        survival: Settings of survival tasks.
        weights: What a label or class weighs, float32 (M, K): for binary and multilabel tasks the
            weight of positives against negatives, for multiclass ones each class's.
        centre: Mean of a regression's training values, float32 (M, 1).
        spread: Their standard deviation, float32 (M, 1).
        edges: Inner ends of the intervals of time, float32 (M, bins - 1).
    """

    targets: Targets
    survival: SurvivalConfig
    weights: Tensor
    centre: Tensor
    spread: Tensor
    edges: Tensor

    @classmethod
    def of(
        cls, targets: Targets, train: BoolArray, survival: SurvivalConfig, *, balanced: bool
    ) -> "Head":
        """Learn what a head has to know from each unit's training bags.

        Args:
            targets: Of all N bags.
            train: Which bags train which unit, bool (M, N).
            survival: Settings of survival tasks.
            balanced: Whether classes weigh alike, whatever their sizes.
        """
        parts = [targets.take(row) for row in train]
        centre = np.array([[part.values[:, 0].mean()] for part in parts])
        spread = np.array([[part.values[:, 0].std() or 1.0] for part in parts])
        weights = np.stack([_class_weights(part, balanced) for part in parts])
        edges = np.stack([_edges(part, survival.bins) for part in parts])
        numbers = [torch.from_numpy(a.astype(np.float32)) for a in (weights, centre, spread, edges)]
        return cls(targets, survival, *numbers)

    def to(self, device: str) -> "Head":
        """The head on a device."""
        numbers = (self.weights, self.centre, self.spread, self.edges)
        return Head(self.targets, self.survival, *(one.to(device) for one in numbers))

    def chosen(self, unit: int) -> "Head":
        """The head of one unit alone."""
        numbers = (self.weights, self.centre, self.spread, self.edges)
        return Head(self.targets, self.survival, *(one[unit : unit + 1] for one in numbers))

    def loss(self, outputs: Tensor, bags: Int64Array, own: Tensor, expected: Tensor) -> Tensor:
        """Loss of each unit on a batch.

        Args:
            outputs: Of the networks, (M, B, O).
            bags: Indices of the bags, int64 (B,).
            own: Which bags count for which unit, bool (M, B).
            expected: How many bags of a unit (Cox: events) a batch has on average, (M,).

        Returns:
            (M,), 0 for a unit that has no bag in the batch.
        """
        values = torch.from_numpy(self.targets.values[bags]).to(outputs.device)
        if self.targets.type == "survival" and self.survival.head == "cox":
            return cox_loss(outputs.squeeze(2), values, own) / expected
        return (self._each(outputs, values) * own).sum(1) / expected

    def expected(self, train: BoolArray, batch: int) -> Float64Array:
        """Bags of each unit (Cox: events) in a batch of the cohort on average, float64 (M,)."""
        counted = train.astype(np.float64)
        if self.targets.type == "survival" and self.survival.head == "cox":
            counted = counted * self.targets.values[:, EVENT]
        return np.asarray(counted.mean(1) * min(batch, train.shape[1]), dtype=np.float64)

    def scores(self, outputs: Tensor) -> Tensor:
        """What a model says of bags, float64 (M, B, K), from outputs (M, B, O).

        Probabilities of classes and labels, a regression's number, or a risk.
        """
        outputs = outputs.double()
        kind = self.targets.type
        if kind == "multiclass":
            return outputs.softmax(2)
        if kind == "regression":
            return outputs * self.spread.unsqueeze(2) + self.centre.unsqueeze(2)
        if kind == "survival":
            if self.survival.head == "cox":
                return outputs
            survived = torch.cumprod(1.0 - outputs.sigmoid(), 2)
            return -survived.sum(2, keepdim=True)
        return outputs.sigmoid()

    def _each(self, outputs: Tensor, values: Tensor) -> Tensor:
        """Loss of each bag, (M, B)."""
        kind = self.targets.type
        if kind == "regression":
            wanted = (values[:, 0].to(outputs.dtype) - self.centre) / self.spread
            return (outputs.squeeze(2) - wanted).square()
        if kind == "multiclass":
            true = values[:, 0].long().expand(len(outputs), -1)
            lost = functional.cross_entropy(outputs.transpose(1, 2), true, reduction="none")
            return lost * self.weights.gather(1, true)
        if kind == "survival":
            return self._discrete(outputs, values)
        known = ~values.isnan()
        wanted = values.nan_to_num().to(outputs.dtype).expand_as(outputs)
        lost = functional.binary_cross_entropy_with_logits(
            outputs, wanted, pos_weight=self.weights.unsqueeze(1), reduction="none"
        )
        # The mean over a bag's known labels: a bag counts once, however many it has.
        return (lost * known).sum(2) / known.sum(1).clamp(min=1)

    def _discrete(self, outputs: Tensor, values: Tensor) -> Tensor:
        time, event = values[:, TIME].to(outputs.dtype), values[:, EVENT].to(outputs.dtype)
        # Interval of each time: the number of inner ends that it has passed.
        interval = (time.view(1, -1, 1) > self.edges.unsqueeze(1)).sum(2, keepdim=True)
        log_die, log_live = functional.logsigmoid(outputs), functional.logsigmoid(-outputs)
        before = functional.pad(log_live.cumsum(2), (1, 0))
        survived_before = before.gather(2, interval).squeeze(2)
        died = log_die.gather(2, interval).squeeze(2)
        lived = log_live.gather(2, interval).squeeze(2)
        return -(survived_before + event * died + (1.0 - event) * lived)


def cox_loss(risk: Tensor, values: Tensor, own: Tensor) -> Tensor:
    """Minus Breslow's partial log-likelihood of each unit's own bags of a batch.

    Args:
        risk: Logarithm of the risk, (M, B).
        values: Time and event of each bag, float64 (B, 2).
        own: Which bags count for which unit, bool (M, B).

    Returns:
        (M,): the sum over events; an event that no other bag outlives adds 0.
    """
    time, event = values[:, TIME], values[:, EVENT].bool()
    at_risk = time.unsqueeze(0) >= time.unsqueeze(1)
    # A bag is always at risk at its own time, so that no row is empty where it counts.
    compared = (at_risk.unsqueeze(0) & own.unsqueeze(1)) | torch.eye(
        len(time), dtype=torch.bool, device=risk.device
    )
    among = risk.unsqueeze(1).masked_fill(~compared, -torch.inf).logsumexp(2)
    return ((among - risk) * (own & event)).sum(1)


def _class_weights(targets: Targets, balanced: bool) -> Float64Array:
    """What classes or positives weigh in one unit, float64 (K,); 1 where nothing is balanced."""
    weights = np.ones(targets.outputs)
    if not balanced or targets.type in ("regression", "survival"):
        return weights
    hot = targets.one_hot()
    positives = np.nansum(hot, axis=0)
    known = (~np.isnan(hot)).sum(axis=0)
    if targets.type == "multiclass":
        there = positives > 0
        weights[there] = len(targets) / (there.sum() * positives[there])
        return weights
    both = (positives > 0) & (positives < known)
    weights[both] = (known - positives)[both] / positives[both]
    return weights


def _edges(targets: Targets, bins: int) -> Float64Array:
    """Inner ends of intervals with equal numbers of events, float64 (bins - 1,)."""
    if targets.type != "survival":
        return np.zeros(0)
    seen = targets.values[targets.values[:, EVENT] == 1.0, TIME]
    shares = np.arange(1, bins) / bins
    return np.quantile(seen if len(seen) else targets.values[:, TIME], shares)
