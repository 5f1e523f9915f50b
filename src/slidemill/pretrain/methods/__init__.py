"""Pretraining methods, one a file: what a step's loss is made of."""

from slidemill.config import PretrainRun
from slidemill.pretrain.distributed import Ranks
from slidemill.pretrain.encoder import SlideEncoder
from slidemill.pretrain.methods.base import Method, Terms
from slidemill.pretrain.methods.dino import Dino
from slidemill.pretrain.methods.dinov2 import Dinov2

__all__ = ["METHODS", "Method", "Terms", "make_method"]

METHODS: dict[str, type[Method]] = {"dino": Dino, "dinov2": Dinov2, "dinov2-compact": Dinov2}
"""By the configuration's name. `dinov2-compact` differs in its crops alone, which are drawn by
`compact_views` before a method sees them."""


def make_method(run: PretrainRun, encoder: SlideEncoder, ranks: Ranks) -> Method:
    """The method of a run, around its student's encoder; draws from torch's random state."""
    return METHODS[run.method](run, encoder, ranks)
