"""Packing: bags of different lengths as one row of tokens, without padding.

Nothing is read or written. A packed batch holds the tokens of its sequences one after the other;
`Sequences` says where each begins. Every module of a slide encoder works on such rows, so that a
step's cost is its tokens and not its longest crop times their number.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from slidemill.pretrain.bags import Int64Array


def moved(tensor: Tensor, device: str | torch.device) -> Tensor:
    """A tensor on a device; the host waits only if it is itself the one that gets it."""
    return tensor.to(device, non_blocking=torch.device(device).type != "cpu")


@dataclass(frozen=True)
class Sequences:
    """Where the sequences of a packed row lie.

    Attributes:
        lengths: Tokens of each sequence, each at least 1; known to the host, so that nothing has to
            wait for a device to learn a shape.
        offsets: int32 (B + 1,), first token of each sequence and the end of the last; on the
            device of the tokens.
    """

    lengths: tuple[int, ...]
    offsets: Tensor

    @classmethod
    def of(cls, lengths: Sequence[int], device: str | torch.device = "cpu") -> "Sequences":
        """Sequences of these lengths.

        Raises:
            ValueError: If there is none, or one is empty.
        """
        if not lengths or min(lengths) < 1:
            raise ValueError(f"a packed row has sequences of at least one token, not {lengths}")
        ends = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        return cls(tuple(int(n) for n in lengths), moved(torch.from_numpy(ends), device))

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def total(self) -> int:
        """Tokens of all sequences."""
        return sum(self.lengths)

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return max(self.lengths)

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """First token of each sequence, known to the host."""
        return tuple(int(n) for n in np.concatenate([[0], np.cumsum(self.lengths)[:-1]]))

    @cached_property
    def owner(self) -> Tensor:
        """int64 (total,): which sequence each token belongs to; on the tokens' device."""
        counts = self.offsets.diff()
        which = torch.arange(len(self), device=counts.device)
        return torch.repeat_interleave(which, counts, output_size=self.total)

    def with_class_token(self) -> "Sequences":
        """The same sequences with one more token at the front of each."""
        extra = torch.arange(len(self) + 1, dtype=torch.int32, device=self.offsets.device)
        return Sequences(tuple(n + 1 for n in self.lengths), self.offsets + extra)

    def part(self, run: slice) -> "Sequences":
        """Neighbouring sequences as a row of their own, without a wait for the device.

        Raises:
            ValueError: If there is none, or the slice has a step.
        """
        first, end, step = run.indices(len(self))
        if step != 1 or first >= end:
            raise ValueError(f"{run} of {len(self)} sequences is no run of neighbours")
        offsets = self.offsets[first : end + 1] - self.offsets[first]
        return Sequences(self.lengths[first:end], offsets)

    def to(self, device: str | torch.device) -> "Sequences":
        """The same sequences with their offsets on a device."""
        return Sequences(self.lengths, moved(self.offsets, device))


@dataclass(frozen=True)
class Packed:
    """A packed batch of bags or crops.

    Attributes:
        features: Tile features, float16 or float32 (T, D).
        positions: int64 (T, 2), column and row of each tile in its crop's grid.
        sequences: Where each crop lies; T tokens in all, class tokens not among them.
    """

    features: Tensor
    positions: Tensor
    sequences: Sequences

    def to(self, device: str | torch.device) -> "Packed":
        """The same batch on a device; from pinned memory the host does not wait."""
        return Packed(
            moved(self.features, device), moved(self.positions, device), self.sequences.to(device)
        )

    def part(self, run: slice) -> "Packed":
        """Some neighbouring sequences; tokens are not copied.

        Raises:
            ValueError: If there is none, or the slice has a step.
        """
        sequences = self.sequences.part(run)
        start = self.sequences.starts[run.indices(len(self.sequences))[0]]
        tokens = slice(start, start + sequences.total)
        return Packed(self.features[tokens], self.positions[tokens], sequences)

    def pinned(self) -> "Packed":
        """The same batch in page-locked memory, from which a GPU copies on its own."""
        return Packed(
            self.features.pin_memory(),
            self.positions.pin_memory(),
            Sequences(self.sequences.lengths, self.sequences.offsets.pin_memory()),
        )


def pack(crops: Sequence[tuple[npt.NDArray[np.floating], Int64Array]]) -> Packed:
    """Put crops one after the other.

    Args:
        crops: Features float16 or float32 (M, D) and positions int64 (M, 2) of each, M at least 1.

    Returns:
        The batch, on the CPU, features in the dtype that they came in.

    Raises:
        ValueError: If there is no crop, one is empty, or features and positions do not match.
    """
    for features, positions in crops:
        if positions.shape != (len(features), 2):
            raise ValueError(f"a crop of features {features.shape}, positions {positions.shape}")
    sequences = Sequences.of([len(features) for features, _ in crops])
    return Packed(
        torch.from_numpy(np.concatenate([features for features, _ in crops])),
        torch.from_numpy(np.concatenate([positions for _, positions in crops])),
        sequences,
    )


def join(batches: Sequence[Packed]) -> Packed:
    """Put packed batches of one device one after the other; a single one is given back as it is.

    Raises:
        ValueError: If there is no batch.
    """
    if not batches:
        raise ValueError("no packed batch to join")
    if len(batches) == 1:
        return batches[0]
    offsets, total = [batches[0].sequences.offsets[:1]], 0
    for batch in batches:
        offsets.append(batch.sequences.offsets[1:] + total)
        total += batch.sequences.total
    lengths = tuple(length for batch in batches for length in batch.sequences.lengths)
    return Packed(
        torch.cat([batch.features for batch in batches]),
        torch.cat([batch.positions for batch in batches]),
        Sequences(lengths, torch.cat(offsets)),
    )


def split_by_budget(lengths: Sequence[int], token_budget: int) -> list[slice]:
    """Cut a list of sequences into runs of at most so many tokens.

    Order is kept; a sequence longer than the budget is a run of its own.

    Args:
        lengths: Tokens of each sequence, at least one sequence.
        token_budget: Tokens of a run at most.

    Returns:
        Slices that cover the list, in order, none of them empty.

    Raises:
        ValueError: If there is no sequence.
    """
    if not lengths:
        raise ValueError("no sequence to cut into runs")
    runs, start, held = [], 0, 0
    for i, length in enumerate(lengths):
        if i > start and held + length > token_budget:
            runs.append(slice(start, i))
            start, held = i, 0
        held += length
    runs.append(slice(start, len(lengths)))
    return runs
