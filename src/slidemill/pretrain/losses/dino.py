"""DINO: the student gives every view of a slide what the teacher gives another view of it.

Nothing is read or written. Caron et al. 2021 (arXiv:2104.14294), equation 3; the same mean over
pairs of views is the image-level loss of DINOv2 (Oquab et al. 2023, arXiv:2304.07193).
"""

import torch
from torch import Tensor

from slidemill.pretrain.losses.precision import full_precision


def dino_loss(student: Tensor, targets: Tensor, temperature: float, slides: int) -> Tensor:
    """Cross-entropy of targets and student, mean over pairs of different views and over slides.

    -1 / (G (V - 1) S) sum_g sum_{v != g} sum_b sum_k targets[g, b, k] log p[v, b, k] with
    p = softmax(student / temperature). DINOv2 weighs its pairs of two global views by 2 because it
    has them in one term; that gives the same mean.

    Args:
        student: The student's outputs (V, B, K) for all views, the global ones first.
        targets: The teacher's probabilities (G, B, K) for the global views, in the same order;
            no gradient reaches them.
        temperature: Temperature of the student.
        slides: Slides S of the whole step, over all ranks and accumulated batches.

    Returns:
        This rank's share of the loss, nats; a scalar.

    Raises:
        ValueError: If there is no pair of different views, or shapes do not match.
    """
    views, globals_ = len(student), len(targets)
    if student.shape[1:] != targets.shape[1:] or not 1 <= globals_ <= views or views < 2:
        raise ValueError(
            f"views {tuple(student.shape)} of the student, {tuple(targets.shape)} of the teacher"
        )
    with full_precision(student):
        log_student = (student.float() / temperature).log_softmax(dim=-1)
        targets = targets.detach().float()
        # What view v is compared with: the sum of all targets but its own.
        likelihood = (targets.sum(dim=0) * log_student[globals_:]).sum()
        for v in range(globals_):
            others = [targets[g] for g in range(globals_) if g != v]
            if others:
                likelihood = likelihood + (torch.stack(others).sum(dim=0) * log_student[v]).sum()
        return -likelihood / (globals_ * (views - 1) * slides)
