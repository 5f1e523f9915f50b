"""Gated attention-based multiple instance learning (Ilse et al. 2018, arXiv:1802.04712).

Bags are packed: the tiles of all bags of a batch lie one behind the other and softmax and pooling
work on segments, so there is no padding and a bag's result does not depend on its neighbours.
Training is for a fixed number of epochs and its last state is taken; nothing is selected on, or
computed from, other bags than the training bags. The same bags, settings and seed give the same
model, bit for bit on one machine's CPU, and the caller's random state is neither used nor changed.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.nn import functional

from slidemill.config import AbmilConfig
from slidemill.errors import CollapseError

Float32Array = npt.NDArray[np.float32]

_ORDER, _TILES, _DROPOUT = range(3)
"""What a random draw is for; part of its seed."""


class Bags(Protocol):
    """A sequence of bags, float32 (n_i, D) each; may read a bag only when it is asked for."""

    def __len__(self) -> int:
        """Number of bags."""
        ...

    def __getitem__(self, index: int, /) -> Float32Array:
        """Tile features of one bag, float32 (n_i, D)."""
        ...


class GatedAbmil(nn.Module):
    """Gated attention pooling of tile features into one logit a bag.

    Features are standardised and embedded, h_k = dropout(relu(E x_k + e)). The attention is
    equation 9 of the paper, a_k = softmax_k(w . (tanh(V h_k) * sigmoid(U h_k))), with biases at V
    and U. The logit is linear in z = sum_k a_k h_k.

    Args:
        dim: Width D of a tile's features.
        width: Width of the tile embedding.
        attention_width: Width of the gated attention.
        dropout: Share of the embedding that is dropped in training.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, dim: int, width: int, attention_width: int, dropout: float) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("scale", torch.ones(dim))
        self.embed = nn.Linear(dim, width)
        self.attention_tanh = nn.Linear(width, attention_width)
        self.attention_gate = nn.Linear(width, attention_width)
        # A bias would add the same to all tiles' scores, which softmax ignores.
        self.attention_score = nn.Linear(attention_width, 1, bias=False)
        self.classify = nn.Linear(width, 1)
        self.dropout = dropout

    def forward(
        self, features: Tensor, lengths: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Logits and attention of packed bags.

        Args:
            features: Tile features of all bags one behind the other, float32 (sum_n, D).
            lengths: Tiles of each bag, int64 (B,), none 0, with sum sum_n.
            generator: Source of the dropout in training mode; None is torch's global one.

        Returns:
            Logits (B,) and attention (sum_n,), which sums to 1 in each bag.
        """
        h = functional.relu(self.embed((features - self.mean) / self.scale))
        if self.training and self.dropout > 0.0:
            kept = torch.rand(h.shape, generator=generator, device=h.device) >= self.dropout
            # With a share of 1 nothing is kept, and nothing is to be scaled up.
            h = h * kept / max(1.0 - self.dropout, torch.finfo(h.dtype).eps)
        gated = torch.tanh(self.attention_tanh(h)) * torch.sigmoid(self.attention_gate(h))
        attention = segment_softmax(self.attention_score(gated).squeeze(1), lengths)
        z = torch.segment_reduce(attention.unsqueeze(1) * h, "sum", lengths=lengths, axis=0)
        return self.classify(z).squeeze(1), attention


def segment_softmax(scores: Tensor, lengths: Tensor) -> Tensor:
    """Softmax within each segment of packed scores.

    Args:
        scores: Scores of all segments one behind the other, (sum_n,).
        lengths: Scores of each segment, int64 (B,), none 0.

    Returns:
        Weights (sum_n,) that sum to 1 in each segment.
    """
    # Subtracting a segment's largest score changes no weight and keeps exp from overflowing.
    largest = torch.segment_reduce(scores.detach(), "max", lengths=lengths)
    weights = torch.exp(scores - largest.repeat_interleave(lengths))
    totals = torch.segment_reduce(weights, "sum", lengths=lengths)
    return weights / totals.repeat_interleave(lengths)


@dataclass(frozen=True)
class FittedAbmil:
    """An ABMIL after training.

    Attributes:
        model: The model in eval mode; its buffers standardise the features.
        device: Where it predicts.
    """

    model: GatedAbmil
    device: str

    def predict(self, bags: Bags) -> tuple[npt.NDArray[np.float64], list[Float32Array]]:
        """Probabilities and attention, from all tiles of each bag.

        Returns:
            Probability of the positive class, float64 (B,), and each bag's attention, float32
            (n_i,), which sums to 1.

        Raises:
            ValueError: If a bag is not (n_i, D) with n_i > 0.
        """
        probabilities = np.empty(len(bags), dtype=np.float64)
        attentions: list[Float32Array] = []
        for i in range(len(bags)):
            features, lengths = _pack([_checked(bags[i], i)], self.device)
            with torch.inference_mode():
                logit, attention = self.model(features, lengths)
            probabilities[i] = torch.sigmoid(logit.double()).item()
            attentions.append(attention.cpu().numpy())
        return probabilities, attentions


def fit_abmil(
    bags: Bags,
    labels: npt.NDArray[np.int64],
    cfg: AbmilConfig,
    *,
    seed: int,
    device: str = "cpu",
) -> FittedAbmil:
    """Train an ABMIL on bags.

    Features are standardised by mean and standard deviation over all tiles of the training bags
    (every tile counts alike; a constant feature is only centred). The loss is binary cross-entropy
    in which positives weigh negatives / positives, so the classes weigh alike. AdamW decays all
    parameters; its learning rate falls from its setting to 0 by half a cosine over all steps.

    Args:
        bags: Training bags, and no others: float32 (n_i, D) each.
        labels: Their labels, 0 or 1, int64 (B,).
        cfg: Hyper-parameters.
        seed: Seed of initial weights, order, tile draws and dropout, not negative.
        device: Where to train: `cpu`, `cuda` or `mps`, in float32.

    Returns:
        The trained model.

    Raises:
        CollapseError: If the loss stops being finite.
        ValueError: If the labels are not of both classes or a bag is not (n_i, D) with n_i > 0.
    """
    if len(bags) != len(labels) or set(np.unique(labels).tolist()) != {0, 1}:
        raise ValueError("ABMIL is trained on one label a bag, of both classes, 0 and 1")
    model = _initial_model(bags, cfg, seed).to(device).train()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=cfg.learning_rate, weight_decay=cfg.weight_decay, fused=True
    )
    steps = cfg.epochs * math.ceil(len(bags) / cfg.batch_bags)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
    dropout = torch.Generator(device).manual_seed(_derived_seed(seed, _DROPOUT))
    targets = torch.from_numpy(labels.astype(np.float32)).to(device)
    positives = int(labels.sum())
    pos_weight = torch.tensor((len(labels) - positives) / positives, device=device)
    for epoch in range(cfg.epochs):
        for batch in _batches(len(bags), cfg.batch_bags, seed, epoch):
            drawn = [_draw_tiles(bags, i, cfg.max_tiles, seed, epoch) for i in batch]
            logits, _ = model(*_pack(drawn, device), dropout)
            loss = functional.binary_cross_entropy_with_logits(
                logits, targets[batch], pos_weight=pos_weight
            )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
        # Once an epoch: reading the loss makes a GPU wait.
        if not math.isfinite(loss.item()):
            raise CollapseError(
                f"abmil diverged in epoch {epoch} of {cfg.epochs}: its loss is not finite. Lower "
                f"evaluate.abmil.learning_rate ({cfg.learning_rate} now). In epoch 0 it may be the "
                "tile features that are not finite: compute them again."
            )
    return FittedAbmil(model.eval(), device)


def _initial_model(bags: Bags, cfg: AbmilConfig, seed: int) -> GatedAbmil:
    """The model before its first step: weights from the seed, moments from the bags."""
    scaler = StandardScaler()
    for i in range(len(bags)):
        scaler.partial_fit(_checked(bags[i], i).astype(np.float64))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = GatedAbmil(len(scaler.mean_), cfg.width, cfg.attention_width, cfg.dropout)
    model.mean.copy_(torch.from_numpy(scaler.mean_))
    model.scale.copy_(torch.from_numpy(scaler.scale_))
    return model


def _batches(bags: int, batch_bags: int, seed: int, epoch: int) -> Iterator[list[int]]:
    """Bags of each step of an epoch, in an order drawn anew; the last may be short."""
    order = np.random.default_rng([seed, _ORDER, epoch]).permutation(bags).tolist()
    for start in range(0, bags, batch_bags):
        yield order[start : start + batch_bags]


def _draw_tiles(bags: Bags, i: int, max_tiles: int, seed: int, epoch: int) -> Float32Array:
    """All tiles of bag i, or `max_tiles` of them, uniformly without replacement."""
    bag = bags[i]
    if len(bag) <= max_tiles:
        return bag
    rng = np.random.default_rng([seed, _TILES, epoch, i])
    return bag[np.sort(rng.choice(len(bag), size=max_tiles, replace=False))]


def _pack(bags: list[Float32Array], device: str) -> tuple[Tensor, Tensor]:
    """Features (sum_n, D) and lengths (B,) of bags, on the device."""
    lengths = torch.tensor([len(bag) for bag in bags], device=device)
    return torch.from_numpy(np.concatenate(bags)).to(device), lengths


def _checked(bag: Float32Array, i: int) -> Float32Array:
    """The bag, if it is one that can be pooled."""
    if bag.ndim != 2 or len(bag) == 0 or bag.dtype != np.float32:
        raise ValueError(f"bag {i} is {bag.dtype} {bag.shape}, not float32 (n, D) with n > 0")
    return bag


def _derived_seed(seed: int, purpose: int) -> int:
    """A seed for one purpose, as torch takes it."""
    return int(np.random.SeedSequence([seed, purpose]).generate_state(1, np.uint64)[0] >> 1)
