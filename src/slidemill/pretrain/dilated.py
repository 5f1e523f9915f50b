"""Dilated attention of LongNet (Ding et al. 2023, arXiv:2307.02486) over packed sequences.

Nothing is read or written. A branch with segment w and ratio r cuts a sequence of N tokens into
segments of min(w, N) and lets head h attend, in each segment, among the positions p with
p mod r = floor(h / ceil(H / r)). Branches are mixed by their softmax denominators, without
gradient through the weights. A position that a branch does not keep has weight 0 in it, and a
position that no branch keeps gets 0.

Tokens that attend to each other are gathered into sequences of their own, so that all of a
branch is one packed attention: nothing is padded, and a bag alone and in a batch give the same.
The published code does pad, with zeros that take part as keys; `padding_keys` does so too.
"""

import functools
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from slidemill.pretrain.attention import Backend, attend_lse, opaque
from slidemill.pretrain.packing import Sequences

Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Dilation:
    """The branches of dilated attention.

    Attributes:
        segments: Segment of each branch, tokens.
        ratios: Ratio of each branch: one of so many positions is kept.
        padding_keys: Whether sequences are padded with zeros up to a multiple of the segment, and
            segments up to a multiple of the ratio, and these zeros take part as keys. Only for
            weights that were trained so, GigaPath's among them.

    Raises:
        ValueError: If there is no branch, the lists differ in length, or a number is below 1.
    """

    segments: tuple[int, ...]
    ratios: tuple[int, ...]
    padding_keys: bool = False

    def __post_init__(self) -> None:
        if not self.segments or len(self.segments) != len(self.ratios):
            raise ValueError(
                f"a branch has a segment and a ratio, not {self.segments} and {self.ratios}"
            )
        if min(self.segments + self.ratios) < 1:
            raise ValueError(f"segments {self.segments} and ratios {self.ratios} are at least 1")


@opaque
def attend_dilated(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    sequences: Sequences,
    dilation: Dilation,
    backend: Backend | None = None,
) -> Tensor:
    """Dilated attention within each sequence.

    Args:
        query: (T, H, d), the tokens of all sequences.
        key: (T, H, d).
        value: (T, H, d).
        sequences: Where each sequence lies; T tokens in all.
        dilation: The branches.
        backend: What computes attention; None for what `choose_backend` says.

    Returns:
        (T, H, d), in the dtype of the query. Branches of half precision are mixed in float32.

    Raises:
        UserError: If the backend that was asked for is not to be had here.
        ValueError: If the shapes do not belong together.
    """
    if not query.shape == key.shape == value.shape or sequences.total != len(query):
        raise ValueError(
            f"query {tuple(query.shape)}, key {tuple(key.shape)}, value {tuple(value.shape)}, "
            f"sequences of {sequences.total} tokens"
        )
    heads = query.shape[1]
    branches = _branches(sequences.lengths, dilation, heads, query.device)
    if dilation.padding_keys:
        zero = query.new_zeros((1, heads, query.shape[2]))
        query, key, value = (torch.cat([x, zero]) for x in (query, key, value))
    else:
        query, key, value = query.contiguous(), key.contiguous(), value.contiguous()
    outs, levels = [], []
    for branch in branches:
        q, k, v = (branch.gather(x) for x in (query, key, value))
        out, lse = attend_lse(q, k, v, branch.groups, backend)
        outs.append(branch.drop_padding(out))
        levels.append(branch.spread(branch.drop_padding(lse), heads))
    shares = torch.stack(levels).softmax(dim=0)
    mixed = shares.new_zeros((sequences.total, heads, query.shape[2]))
    for branch, out, share in zip(branches, outs, shares, strict=True):
        mixed = branch.add(mixed, out * branch.take(share).unsqueeze(-1))
    return mixed.to(query.dtype)


@dataclass(frozen=True)
class _Branch:
    """Which tokens of a packed row attend to each other in one branch.

    Heads are dealt with in chunks of c that share their offsets: (T, H, ...) is looked at as
    (T H / c, c, ...), and `rows` indexes that.

    Attributes:
        tokens: T.
        chunk: c.
        groups: The gathered rows as sequences: one per chunk, sequence and segment.
        rows: int64 (R,), what is gathered; T H / c for padding. None for all, in order.
        real: int64, those of the R rows that are not padding; None for all.
        targets: `rows` without padding.
    """

    tokens: int
    chunk: int
    groups: Sequences
    rows: Tensor | None
    real: Tensor | None
    targets: Tensor | None

    def gather(self, x: Tensor) -> Tensor:
        """(T or T + 1, H, d) to (R, c, d)."""
        if self.rows is None:
            return x[: self.tokens]
        return x.view(-1, self.chunk, x.shape[2]).index_select(0, self.rows)

    def drop_padding(self, x: Tensor) -> Tensor:
        """Gathered rows without those of padding."""
        return x if self.real is None else x.index_select(0, self.real)

    def spread(self, lse: Tensor, heads: int) -> Tensor:
        """Logs of denominators back at their tokens: (T, H), where not kept the lowest number."""
        if self.targets is None:
            return lse
        lowest = torch.finfo(lse.dtype).min
        level = lse.new_full((self.tokens * heads // self.chunk, self.chunk), lowest)
        return level.index_copy_(0, self.targets, lse).view(self.tokens, heads)

    def take(self, share: Tensor) -> Tensor:
        """(T, H) to (R without padding, c)."""
        if self.targets is None:
            return share
        return share.reshape(-1, self.chunk).index_select(0, self.targets)

    def add(self, mixed: Tensor, part: Tensor) -> Tensor:
        """(T, H, d) with (R without padding, c, d) added at their tokens."""
        if self.targets is None:
            return mixed + part
        chunks = mixed.view(-1, self.chunk, mixed.shape[2])
        return chunks.index_add(0, self.targets, part).view_as(mixed)


@functools.lru_cache(maxsize=8)
def _branches(
    lengths: tuple[int, ...], dilation: Dilation, heads: int, device: torch.device
) -> tuple[_Branch, ...]:
    """All branches for sequences of these lengths; kept for the blocks to come."""
    # The tables outlive this call: made in inference mode, no training could use them.
    with torch.inference_mode(False):
        return tuple(
            _branch(lengths, segment, ratio, dilation.padding_keys, heads, device)
            for segment, ratio in zip(dilation.segments, dilation.ratios, strict=True)
        )


def _branch(
    lengths: tuple[int, ...],
    segment: int,
    ratio: int,
    padding_keys: bool,
    heads: int,
    device: torch.device,
) -> _Branch:
    together = -(-heads // ratio)  # heads that share an offset, but perhaps the last ones
    chunk = math.gcd(together, heads)
    chunks = heads // chunk
    token, place, segment_of = _slots(lengths, segment, ratio)
    if not padding_keys:
        kept = token >= 0
        token, place, segment_of = token[kept], place[kept], segment_of[kept]
    offset = place % ratio
    rows, sizes = [], []
    for i in range(chunks):
        chosen = np.flatnonzero(offset == i * chunk // together)
        of_chunk = token[chosen]
        rows.append(np.where(of_chunk >= 0, of_chunk * chunks + i, -1))
        sizes.append(np.unique(segment_of[chosen], return_counts=True)[1])
    groups = Sequences.of(np.concatenate(sizes).tolist(), device)
    return _indexed(np.concatenate(rows), sum(lengths), chunk, chunks, groups)


def _indexed(rows: Int64Array, tokens: int, chunk: int, chunks: int, groups: Sequences) -> _Branch:
    """A branch from the rows that it gathers, -1 for padding."""
    device = groups.offsets.device
    real = np.flatnonzero(rows >= 0)
    if len(real) == len(rows):
        if chunks == 1 and len(rows) == tokens:
            return _Branch(tokens, chunk, groups, None, None, None)
        index = torch.from_numpy(rows).to(device)
        return _Branch(tokens, chunk, groups, index, None, index)
    return _Branch(
        tokens,
        chunk,
        groups,
        torch.from_numpy(np.where(rows >= 0, rows, tokens * chunks)).to(device),
        torch.from_numpy(real).to(device),
        torch.from_numpy(rows[real]).to(device),
    )


def _slots(
    lengths: tuple[int, ...], segment: int, ratio: int
) -> tuple[Int64Array, Int64Array, Int64Array]:
    """Every place of every padded segment: its token or -1, its place in it, and which it is.

    Args:
        lengths: Tokens of each sequence.
        segment: w, cut to N for sequences of N < w tokens.
        ratio: r; places of a segment are padded up to a multiple of it.

    Returns:
        int64 (P,) each, ordered by sequence, segment and place.
    """
    count = np.asarray(lengths, dtype=np.int64)
    width = np.minimum(count, segment)
    padded = -(-width // ratio) * ratio
    segments = -(-count // width)
    slots = segments * padded
    within = np.arange(slots.sum()) - np.repeat(np.cumsum(slots) - slots, slots)
    of_slot = np.repeat(np.arange(len(count)), slots)
    number, place = np.divmod(within, padded[of_slot])
    position = number * width[of_slot] + place
    is_token = (place < width[of_slot]) & (position < count[of_slot])
    token = np.where(is_token, (np.cumsum(count) - count)[of_slot] + position, -1)
    return token, place, (np.cumsum(segments) - segments)[of_slot] + number
