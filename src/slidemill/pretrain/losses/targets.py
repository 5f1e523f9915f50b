"""Targets: what the teacher's outputs have to become before a student learns from them.

A teacher that follows its student can end by giving one answer to everything. Centring (Caron et
al. 2021, arXiv:2104.14294, equation 4) and Sinkhorn-Knopp (Caron et al. 2020, arXiv:2006.09882;
Oquab et al. 2023, arXiv:2304.07193) both keep it from that, and both have the form

    targets = softmax(logits / temperature - shift)

with a shift (K,) of prototypes: centre / temperature, or the logarithm of the last row sums of
Sinkhorn-Knopp. The shift is all that has to be kept, so that targets can be made a few rows at a
time. Nothing here carries a gradient; nothing is read or written.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from slidemill.pretrain.distributed import Ranks
from slidemill.pretrain.losses.precision import full_precision


class Centring(nn.Module):
    """Targets by a centre: a moving average of the teacher's outputs, subtracted from them.

    The centre moves once an update of the weights, after its use, by the mean over all outputs
    since the last move: c <- m c + (1 - m) mean.

    Args:
        prototypes: Number K of outputs.
        momentum: Momentum m of the moving average, in [0, 1).

    Attributes:
        centre: float32 (K,) buffer, 0 at first.
        window_sum: float32 (K,) buffer, sum of the outputs since the last move, over all ranks.
        window_count: float32 () buffer, their number, exact up to 2^24.
    """

    centre: Tensor
    window_sum: Tensor
    window_count: Tensor

    def __init__(self, prototypes: int, momentum: float) -> None:
        super().__init__()
        if not 0.0 <= momentum < 1.0:
            raise ValueError(f"momentum of the centre is {momentum}, not in [0, 1)")
        self.momentum = momentum
        # All are buffers, so that a run that was killed in a window goes on in it.
        self.register_buffer("centre", torch.zeros(prototypes))
        self.register_buffer("window_sum", torch.zeros(prototypes))
        self.register_buffer("window_count", torch.zeros(()))

    @torch.no_grad()
    def targets(self, logits: Tensor, temperature: float) -> Tensor:
        """Map the teacher's outputs (..., K) to probabilities, float32 (..., K)."""
        return ((logits.float() - self.centre) / temperature).softmax(dim=-1)

    @torch.no_grad()
    def shift(self, temperature: float) -> Tensor:
        """The shift, float32 (K,), that makes the same targets; see `shifted_targets`."""
        return self.centre / temperature

    @torch.no_grad()
    def observe(self, logits: Tensor, ranks: Ranks) -> None:
        """Add the teacher's outputs (n, K) of this rank, and of all others, to the window.

        Every rank has to call it as often as the others; n may differ, and be 0.
        """
        self.observe_blocks([logits], ranks)

    @torch.no_grad()
    def observe_blocks(self, blocks: Iterable[Tensor], ranks: Ranks) -> None:
        """`observe` outputs that need not be in memory at once: blocks (n, K), at least one.

        Ranks may have different numbers of blocks.
        """
        mine = torch.cat([torch.zeros_like(self.centre), torch.zeros_like(self.window_count)[None]])
        for logits in blocks:
            mine[:-1] += logits.float().sum(dim=0)
            mine[-1] += len(logits)
        total = ranks.sum(mine)
        self.window_sum += total[:-1]
        self.window_count += total[-1]

    @torch.no_grad()
    def advance(self) -> None:
        """Move the centre by what the window holds, and empty it; of nothing, it stays."""
        mean = self.window_sum / self.window_count.clamp(min=1.0)
        self.centre.lerp_(mean, (1.0 - self.momentum) * (self.window_count > 0))
        self.window_sum.zero_()
        self.window_count.zero_()


@torch.no_grad()
def shifted_targets(logits: Tensor, temperature: float, shift: Tensor) -> Tensor:
    """Targets softmax(logits / temperature - shift).

    Args:
        logits: The teacher's outputs (n, K).
        temperature: Temperature of the teacher.
        shift: float32 (K,), from `Centring.shift` or `sinkhorn_shift`.

    Returns:
        Probabilities, float32 (n, K).
    """
    return (logits.float() / temperature - shift).softmax(dim=-1)


def sinkhorn(logits: Tensor, temperature: float, ranks: Ranks, iterations: int = 3) -> Tensor:
    """Targets by Sinkhorn-Knopp: every prototype is used alike over the rows of all ranks.

    exp(logits / temperature) is scaled in turn so that prototypes have equal sums over rows, and
    rows sum to 1. Rows that are all the same get uniform targets. Once it has converged, the mean
    entropy of targets is log K less what they tell of their row, at least log(K / n) for n rows:
    with many more prototypes than rows, targets cannot be sharp at any temperature.

    Args:
        logits: The teacher's outputs (n, K) of this rank; n may differ between ranks, and be 0.
        temperature: Temperature of the teacher.
        ranks: The processes whose rows are scaled together.
        iterations: How often prototypes and rows are scaled.

    Returns:
        Probabilities, float32 (n, K).

    Raises:
        ValueError: If there is no iteration.
    """
    shift = sinkhorn_shift(lambda: [logits], temperature, ranks, iterations)
    return shifted_targets(logits, temperature, shift)


@torch.no_grad()
def sinkhorn_shift(
    blocks: Callable[[], Iterable[Tensor]], temperature: float, ranks: Ranks, iterations: int = 3
) -> Tensor:
    """What Sinkhorn-Knopp subtracts, from rows that need not be in memory at once.

    In the log domain: with v_b = -log sum_k exp(z_bk - s_k), the factor that makes row b sum to 1,
    an iteration sets s_k = log sum_b exp(z_bk + v_b); v is 0 in the first. The factors 1 / K and
    1 / B of the published form cancel in the softmax.

    Args:
        blocks: Gives the teacher's outputs (n, K) of this rank, a block of rows at a time, anew at
            each call; at least one block, which may have no rows.
        temperature: Temperature of the teacher.
        ranks: The processes whose rows are scaled together.
        iterations: How often prototypes and rows are scaled; `blocks` is called as often.

    Returns:
        The shift, float32 (K,), the same on all ranks. Not finite if no rank has a row.

    Raises:
        ValueError: If there is no iteration, or no block.
    """
    if iterations < 1:
        raise ValueError(f"Sinkhorn-Knopp of {iterations} iterations")
    shift: Tensor | None = None
    for _ in range(iterations):
        total: Tensor | None = None
        for logits in blocks():
            with full_precision(logits):
                scaled = logits.float() / temperature
                if shift is not None:
                    scaled = scaled - (scaled - shift).logsumexp(dim=1, keepdim=True)
                part = scaled.logsumexp(dim=0)
            total = part if total is None else torch.logaddexp(total, part)
        if total is None:
            raise ValueError("Sinkhorn-Knopp of no block of rows")
        shift = _log_sum_over_ranks(total, ranks)
    assert shift is not None
    return shift


def _log_sum_over_ranks(mine: Tensor, ranks: Ranks) -> Tensor:
    """Log of the sum over ranks of exp(x), x (K,) of any size; -inf is a rank without rows."""
    if ranks.size == 1:
        return mine
    table = mine.new_zeros((ranks.size, len(mine)))
    table[ranks.rank] = mine
    return ranks.sum(table).logsumexp(dim=0)
