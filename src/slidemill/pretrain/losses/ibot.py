"""iBOT: the student tells of a hidden tile what the teacher, which sees it, makes of it.

Nothing is read or written. Zhou et al. 2022 (arXiv:2111.07832), equation 2, as DINOv2 has it
(Oquab et al. 2023, arXiv:2304.07193). DINOv2's code multiplies by 2 and divides by its 2 global
crops; a weight of 1 there is a weight of 1 here.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from slidemill.pretrain.losses.precision import full_precision
from slidemill.pretrain.losses.targets import shifted_targets

Head = Callable[[Tensor], Tensor]
"""A projection head: embeddings (n, width) to outputs (n, K)."""


def ibot_loss(
    student: Tensor, targets: Tensor, weights: Tensor, temperature: float, crops: int
) -> Tensor:
    """Cross-entropy of targets and student on hidden tiles: mean over tiles, then over crops.

    -1/C sum_j weights_j sum_k targets[j, k] log p[j, k] with p = softmax(student / temperature).

    Args:
        student: The student's outputs (M, K) for hidden tiles of all crops; M may be 0.
        targets: The teacher's probabilities (M, K) for the same tiles; no gradient reaches them.
        weights: (M,), 1 / (number of hidden tiles of the tile's crop).
        temperature: Temperature of the student.
        crops: Global crops C of the whole step, over all ranks and accumulated batches, with and
            without hidden tiles.

    Returns:
        This rank's share of the loss, nats; a scalar, 0 if there is no hidden tile.

    Raises:
        ValueError: If shapes do not match.
    """
    if student.shape != targets.shape or weights.shape != student.shape[:1]:
        raise ValueError(
            f"outputs {tuple(student.shape)}, targets {tuple(targets.shape)} and weights "
            f"{tuple(weights.shape)} of hidden tiles do not match"
        )
    with full_precision(student):
        log_student = (student.float() / temperature).log_softmax(dim=-1)
        likelihood = (targets.detach().float() * log_student).sum(dim=-1)
        return -(weights.detach().float() * likelihood).sum() / crops


def chunked_ibot(
    student_head: Head,
    student_tokens: Tensor,
    teacher_head: Head,
    teacher_tokens: Tensor,
    weights: Tensor,
    *,
    shift: Tensor,
    student_temperature: float,
    teacher_temperature: float,
    crops: int,
    chunk: int,
) -> Tensor:
    """`ibot_loss` of tokens, so that outputs of no more than `chunk` tokens are in memory at once.

    With more than one chunk, heads compute their outputs again in the backward pass. Value and
    gradient are those of `ibot_loss` on all tokens.

    Args:
        student_head: Maps tokens to outputs (n, K), row by row, without randomness.
        student_tokens: (M, width), hidden tiles' tokens of the student; M may be 0.
        teacher_head: The teacher's head; no gradient reaches it.
        teacher_tokens: (M, width), the same tiles' tokens of the teacher.
        weights: (M,), 1 / (number of hidden tiles of the tile's crop).
        shift: float32 (K,), what makes targets of the teacher's outputs: `Centring.shift`, or
            `sinkhorn_shift` of `head_blocks`.
        student_temperature: Temperature of the student.
        teacher_temperature: Temperature of the teacher.
        crops: Global crops of the whole step.
        chunk: Tokens at once, at least 1.

    Returns:
        This rank's share of the loss, nats; a scalar.

    Raises:
        ValueError: If numbers of tokens and weights do not match.
    """
    if not len(student_tokens) == len(teacher_tokens) == len(weights):
        raise ValueError(
            f"{len(student_tokens)} tokens of the student, {len(teacher_tokens)} of the teacher "
            f"and {len(weights)} weights of hidden tiles"
        )

    def share(student: Tensor, teacher: Tensor, weight: Tensor) -> Tensor:
        with torch.no_grad():
            targets = shifted_targets(teacher_head(teacher), teacher_temperature, shift)
        return ibot_loss(student_head(student), targets, weight, student_temperature, crops)

    parts = zip(
        student_tokens.split(chunk), teacher_tokens.split(chunk), weights.split(chunk), strict=True
    )
    if len(student_tokens) <= chunk:
        return share(*next(parts))
    shares = [
        # Heads draw nothing: there is no random state to keep, which on CUDA would be a wait.
        checkpoint(share, *part, use_reentrant=False, preserve_rng_state=False)
        for part in parts
    ]
    return torch.stack(shares).sum()


def head_blocks(head: Head, tokens: Tensor, chunk: int) -> Callable[[], Iterator[Tensor]]:
    """Outputs of a head a chunk of tokens at a time, anew at each call, without gradient.

    Args:
        head: The teacher's head.
        tokens: (M, width); of none, there is one block without rows.
        chunk: Tokens at once, at least 1.

    Returns:
        What `sinkhorn_shift` asks for.
    """

    def blocks() -> Iterator[Tensor]:
        for part in tokens.split(chunk):
            with torch.no_grad():
                yield head(part)

    return blocks
