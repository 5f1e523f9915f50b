"""DINO: the slide token of every crop is to say what the teacher's says of another crop.

Caron et al. 2021 (arXiv:2104.14294), on crops of slides. Nothing is read or written.
"""

import torch
from torch import Tensor

from slidemill.pretrain.loader import StepBatch
from slidemill.pretrain.losses.dino import dino_loss
from slidemill.pretrain.losses.kde import kde_loss
from slidemill.pretrain.losses.koleo import koleo_loss
from slidemill.pretrain.methods.base import Method, Terms, by_view, detached
from slidemill.pretrain.packing import join


class Dino(Method):
    """Self-distillation of slide tokens between crops, with a regulariser if one is set."""

    def terms(self, batch: StepBatch, temperature: float, slides: int) -> Terms:
        """This rank's share of the loss; see `Method.forward`."""
        count = len(batch.slides)
        with torch.no_grad():
            cls, _ = self.encode(self.teacher.encoder, batch.for_teacher())
            targets = self.slide_targets(self.teacher.head(cls), temperature)
        everything = join(
            [batch.globals] if batch.locals is None else [batch.globals, batch.locals]
        )
        student, _ = self.encode(self.student.encoder, everything)
        dino = self.slide_loss(student, targets, slides)
        spread = self.spread_loss(student[: len(batch.globals.sequences)], count, slides)
        loss = dino + self.run.regulariser_weight * spread
        parts = {"dino_loss": detached(dino)} | self.shown(spread)
        return Terms(loss, parts, targets, cls[:count].float())

    def slide_loss(self, student: Tensor, targets: Tensor, slides: int) -> Tensor:
        """Share of the loss on slide tokens.

        Args:
            student: (V B, width), the student's class tokens of all crops, large ones first.
            targets: (G B, K), the teacher's targets for the large crops.
            slides: Slides whose losses are averaged.
        """
        count = len(targets) // self.run.crops.global_crops
        logits = by_view(self.student.head(student), count)
        temperature = self.run.student_temperature
        return dino_loss(logits, by_view(targets, count), temperature, slides)

    def spread_loss(self, student: Tensor, count: int, slides: int) -> Tensor:
        """Share of the regulariser: its mean over the large crops, each compared on its own.

        Args:
            student: (G B, width), the student's class tokens of the large crops.
            count: Slides B of this rank.
            slides: Slides whose losses are averaged.
        """
        kind = self.run.chosen_regulariser
        if kind == "none":
            return student.new_zeros(())
        regulariser = koleo_loss if kind == "koleo" else kde_loss
        views = by_view(student, count)
        return torch.stack([regulariser(view, self.ranks, slides) for view in views]).mean()

    def shown(self, spread: Tensor) -> dict[str, Tensor]:
        """The share of the regulariser as a part of `Terms`, if there is a regulariser."""
        if self.run.chosen_regulariser == "none":
            return {}
        return {"regulariser": detached(spread)}
