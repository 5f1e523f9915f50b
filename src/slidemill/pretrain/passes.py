"""Passes: a step's crops through the encoder under a token budget.

Losses compare all slides of a step, but memory may not hold the activations of all its tokens. The
step is then encoded in several passes, each of which computes its activations again when its
gradient is asked for: outputs, losses and gradients are those of one pass, for a third more work.
Nothing is read or written.
"""

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from slidemill.pretrain.encoder import SlideEncoder, autocast
from slidemill.pretrain.packing import Packed, split_by_budget


def encode_within(
    encoder: SlideEncoder,
    bags: Packed,
    hidden: Tensor | None,
    *,
    token_budget: int,
    bf16: bool,
) -> tuple[Tensor, Tensor]:
    """Encode a packed batch, at most so many tokens at a time.

    Args:
        encoder: The slide encoder.
        bags: The batch.
        hidden: bool (T,), tiles to be replaced by the mask token; None for none.
        token_budget: Tiles of a pass at most, class tokens not counted; a longer sequence is a pass
            of its own.
        bf16: Whether matrices are multiplied in bfloat16.

    Returns:
        Class tokens (B, width) and tile tokens (T, width), as `SlideEncoder.encode` gives them.
    """
    runs = split_by_budget(bags.sequences.lengths, token_budget)

    def encode(part: Packed, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        with autocast(part.features.device, bf16):
            encoded = encoder.encode(part, mask)
        return encoded.cls, encoded.tokens

    if len(runs) == 1:
        return encode(bags, hidden)
    classes, tiles, start = [], [], 0
    for run in runs:
        part = bags.part(run)
        stop = start + part.sequences.total
        mask = None if hidden is None else hidden[start:stop]
        if torch.is_grad_enabled():
            # Encoders draw nothing: no random state has to be kept for the second computation.
            cls, tokens = checkpoint(
                encode, part, mask, use_reentrant=False, preserve_rng_state=False
            )
        else:
            cls, tokens = encode(part, mask)
        classes.append(cls)
        tiles.append(tokens)
        start = stop
    return torch.cat(classes), torch.cat(tiles)
