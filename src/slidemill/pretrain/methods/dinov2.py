"""DINOv2: DINO, and the student tells of tiles that it was not shown, with a regulariser.

Oquab et al. 2023 (arXiv:2304.07193), on crops of slides. Nothing is read or written.
"""

import torch
from torch import Tensor

from slidemill.config import PretrainRun
from slidemill.pretrain.distributed import Ranks
from slidemill.pretrain.encoder import SlideEncoder
from slidemill.pretrain.loader import StepBatch
from slidemill.pretrain.losses.ibot import Head, chunked_ibot, head_blocks
from slidemill.pretrain.losses.targets import sinkhorn_shift
from slidemill.pretrain.methods.base import Network, Terms, detached
from slidemill.pretrain.methods.dino import Dino
from slidemill.pretrain.packing import join

LOGITS_AT_ONCE = 1 << 26
"""Outputs of a head for tiles that are in memory at once: 256 MB in float32."""


class Dinov2(Dino):
    """DINO with the loss on hidden tiles.

    Attributes:
        tile_centring: Targets of tiles, where they are made by a centre: one of their own, since
            tiles and slides are not alike.
    """

    def __init__(self, run: PretrainRun, encoder: SlideEncoder, ranks: Ranks) -> None:
        super().__init__(run, encoder, ranks)
        self.tile_centring = self.make_centring()
        self.chunk = max(LOGITS_AT_ONCE // run.head.prototypes, 1)

    def make_network(self, encoder: SlideEncoder) -> Network:
        """The network around an encoder, with a head for tiles if they have their own."""
        tile_head = self.make_head(encoder.width) if self.run.ibot.separate_head else None
        return Network(encoder, self.make_head(encoder.width), tile_head)

    def terms(self, batch: StepBatch, temperature: float, slides: int) -> Terms:
        """This rank's share of the loss; see `Method.forward`."""
        assert batch.hidden is not None
        count, tiles = len(batch.slides), batch.globals.sequences.total
        # Places of hidden tiles; the host knows how many, so it need not wait for the device.
        places = torch.nonzero_static(batch.hidden, size=len(batch.weights)).squeeze(1)
        with torch.no_grad():
            cls, tokens = self.encode(self.teacher.encoder, batch.for_teacher())
            targets = self.slide_targets(self.teacher.head(cls), temperature)
            shown = tokens[places]
        everything, hidden = batch.globals, batch.hidden
        if batch.locals is not None:
            everything = join([batch.globals, batch.locals])
            hidden = torch.cat([hidden, hidden.new_zeros(batch.locals.sequences.total)])
        student, student_tokens = self.encode(self.student.encoder, everything, hidden)
        dino = self.slide_loss(student, targets, slides)
        ibot = self.tile_loss(
            student_tokens[:tiles][places], shown, batch.weights, temperature, slides
        )
        spread = self.spread_loss(student[: len(batch.globals.sequences)], count, slides)
        loss = dino + self.run.ibot.weight * ibot + self.run.regulariser_weight * spread
        parts = {"dino_loss": detached(dino), "ibot_loss": detached(ibot)} | self.shown(spread)
        return Terms(loss, parts, targets, cls[:count].float())

    def tile_loss(
        self, student: Tensor, teacher: Tensor, weights: Tensor, temperature: float, slides: int
    ) -> Tensor:
        """Share of the loss on hidden tiles.

        Args:
            student: (M, width), the student's tokens of the hidden tiles.
            teacher: (M, width), the teacher's, which were not hidden from it.
            weights: (M,), 1 / (hidden tiles of the tile's crop).
            temperature: Temperature of the teacher.
            slides: Slides whose losses are averaged.
        """
        head: Head = self.teacher.of_tiles()
        if len(teacher) <= self.chunk:
            # They fit: computed once, and not anew for every iteration and for the loss.
            with torch.no_grad():
                teacher = head(teacher)
            head = _as_it_is
        blocks = head_blocks(head, teacher, self.chunk)
        if self.tile_centring is None:
            shift = sinkhorn_shift(blocks, temperature, self.ranks)
        else:
            shift = self.tile_centring.shift(temperature)
        share = chunked_ibot(
            self.student.of_tiles(),
            student,
            head,
            teacher,
            weights,
            shift=shift,
            student_temperature=self.run.student_temperature,
            teacher_temperature=temperature,
            crops=slides * self.run.crops.global_crops,
            chunk=self.chunk,
        )
        if self.tile_centring is not None:
            self.tile_centring.observe_blocks(blocks(), self.ranks)
        return share


def _as_it_is(outputs: Tensor) -> Tensor:
    """The head of what has been through it."""
    return outputs
