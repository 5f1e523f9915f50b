"""What every method has: a student, a teacher that is its moving average, and targets.

A method turns a batch into this rank's share of the step's loss. It reads and writes nothing, and
has no schedule of its own: temperatures and momentum are told.
"""

import copy
from abc import ABC, abstractmethod
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn

from slidemill.config import PretrainRun
from slidemill.pretrain.average import update_average
from slidemill.pretrain.distributed import Ranks
from slidemill.pretrain.encoder import SlideEncoder, autocast, wants_bf16
from slidemill.pretrain.head import ProjectionHead
from slidemill.pretrain.loader import StepBatch
from slidemill.pretrain.losses.targets import Centring, sinkhorn
from slidemill.pretrain.packing import Packed
from slidemill.pretrain.passes import encode_within


class Network(nn.Module):
    """A slide encoder with its heads: the student, or the teacher.

    Args:
        encoder: The slide encoder.
        head: The head of slide tokens.
        tile_head: The head of tiles; None if they have none, or share the other.
    """

    def __init__(
        self, encoder: SlideEncoder, head: ProjectionHead, tile_head: ProjectionHead | None = None
    ) -> None:
        super().__init__()
        self.encoder, self.head, self.tile_head = encoder, head, tile_head

    def of_tiles(self) -> ProjectionHead:
        """The head that tiles go through."""
        return self.head if self.tile_head is None else self.tile_head


class Terms(NamedTuple):
    """What a batch gives.

    Attributes:
        loss: This rank's share of the loss; carries the gradient.
        parts: Shares of the loss by name, before their weights, without gradient.
        targets: The teacher's targets for slide tokens, (G B, K).
        embeddings: The teacher's slide embeddings of the first large crop, (B, width).
    """

    loss: Tensor
    parts: dict[str, Tensor]
    targets: Tensor
    embeddings: Tensor


class Method(nn.Module, ABC):
    """A student, its teacher, and the loss between them.

    Args:
        run: Hyper-parameters.
        encoder: The student's slide encoder; the teacher starts as its copy.
        ranks: The processes that train together.

    Attributes:
        student: What learns.
        teacher: Its moving average, in eval mode and without gradient.
        centring: Targets of slide tokens, where they are made by a centre.
        token_budget: Tokens of a pass through an encoder at most; no limit unless set.
    """

    def __init__(self, run: PretrainRun, encoder: SlideEncoder, ranks: Ranks) -> None:
        super().__init__()
        self.run, self.ranks = run, ranks
        self.token_budget = 2**62
        self.student = self.make_network(encoder)
        self.teacher = copy.deepcopy(self.student).requires_grad_(False).eval()
        self.centring = self.make_centring()

    def make_network(self, encoder: SlideEncoder) -> Network:
        """The network around an encoder."""
        return Network(encoder, self.make_head(encoder.width))

    def make_head(self, width: int) -> ProjectionHead:
        """A head as the configuration says."""
        head = self.run.head
        return ProjectionHead(width, head.prototypes, head.hidden, head.bottleneck)

    def make_centring(self) -> Centring | None:
        """A centre, if targets are made by one."""
        if self.run.chosen_targets == "sinkhorn":
            return None
        return Centring(self.run.head.prototypes, self.run.centre_momentum)

    def train(self, mode: bool = True) -> Self:
        """Set the mode of the student; the teacher stays in eval mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(self, batch: StepBatch, temperature: float, slides: int) -> Terms:
        """Compute this rank's share of the loss, heads and encoders in the run's precision.

        Args:
            batch: This rank's part of a batch, on the device.
            temperature: Temperature of the teacher.
            slides: Slides whose losses are averaged: over ranks and accumulated batches.

        Returns:
            The share and what monitors need.
        """
        device = batch.globals.features.device
        with autocast(device, wants_bf16(self.run.precision, device)):
            return self.terms(batch, temperature, slides)

    @abstractmethod
    def terms(self, batch: StepBatch, temperature: float, slides: int) -> Terms:
        """What `forward` gives, under its autocast."""

    def finish_step(self, momentum: float) -> None:
        """Move the teacher and the centres; to be called after every update of the student."""
        update_average(self.teacher, self.student, momentum)
        for part in self.children():
            if isinstance(part, Centring):
                part.advance()

    def prototypes(self) -> list[nn.Parameter]:
        """The student's prototypes, which stay as they are at the start of a run."""
        heads = [self.student.head, self.student.tile_head]
        return [head.prototypes for head in heads if head is not None]

    def encode(
        self, encoder: SlideEncoder, bags: Packed, hidden: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Class tokens and tile tokens of a packed batch, within the token budget."""
        device = bags.features.device
        return encode_within(
            encoder,
            bags,
            hidden,
            token_budget=self.token_budget,
            bf16=wants_bf16(self.run.precision, device),
        )

    def slide_targets(self, logits: Tensor, temperature: float) -> Tensor:
        """The teacher's outputs for slide tokens, (n, K), as targets."""
        if self.centring is None:
            return sinkhorn(logits, temperature, self.ranks)
        targets: Tensor = self.centring.targets(logits, temperature)
        self.centring.observe(logits, self.ranks)
        return targets


def by_view(rows: Tensor, slides: int) -> Tensor:
    """Rows of crops (V * slides, ...), crop-major, as (V, slides, ...)."""
    views: Tensor = rows.unflatten(0, (-1, slides))
    return views


def detached(tensor: Tensor) -> Tensor:
    """A float32 copy of a value for the log."""
    return tensor.detach().to(torch.float32)
