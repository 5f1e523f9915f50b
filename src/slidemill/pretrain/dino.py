"""DINO: self-distillation without labels.

Equations of Caron et al. 2021 (arXiv:2104.14294). The student learns to give each view of a slide
the distribution over prototypes that the teacher, a moving average of the student, gives another
view. The teacher's outputs are centred and sharpened, which keeps both from collapsing; the loss
reports the two numbers that show a collapse.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import get_ema_multi_avg_fn

from slidemill.pretrain.encoder import SlideTransformer, autocast, init_linear


class DinoHead(nn.Module):
    """Projection onto prototypes: a 3-layer MLP, L2 norm, then cosines with unit prototypes.

    The hidden layers are 4 x width wide and the bottleneck min(width, 256): DINO's 2048 and 256
    scaled to small encoders. Prototypes are normalised at every use, which is weight normalisation
    with its gain fixed at 1, without bias.

    Args:
        width: Width of the slide embedding.
        prototypes: Number K of outputs.
    """

    def __init__(self, width: int, prototypes: int) -> None:
        super().__init__()
        hidden, bottleneck = 4 * width, min(width, 256)
        self.mlp = nn.Sequential(
            nn.Linear(width, hidden),
            nn.GELU(),
            nn.Linear(hidden, hidden),
            nn.GELU(),
            nn.Linear(hidden, bottleneck),
        )
        self.prototypes = nn.Parameter(torch.empty(prototypes, bottleneck))
        init_linear(self)
        nn.init.normal_(self.prototypes, std=bottleneck**-0.5)

    def forward(self, embedding: Tensor) -> Tensor:
        """Map embeddings (B, width) to cosines (B, K), each in [-1, 1]."""
        point = functional.normalize(self.mlp(embedding), dim=-1)
        return functional.linear(point, functional.normalize(self.prototypes, dim=-1))


class DinoNetwork(nn.Module):
    """A slide encoder and its head: the student, or the teacher.

    Args:
        encoder: The slide encoder.
        head: The head.
    """

    def __init__(self, encoder: SlideTransformer, head: DinoHead) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head

    def forward(self, features: Tensor, positions: Tensor, valid: Tensor) -> Tensor:
        """Map a padded batch, as `SlideTransformer` takes it, to float32 (B, K) over prototypes."""
        with autocast(features.device.type):
            embedding = self.encoder(features, positions, valid)
        # In float32 on every device: bfloat16 would err by a tenth in cosine / temperature.
        return self.head(embedding.float())  # type: ignore[no-any-return]


class DinoTerms(NamedTuple):
    """What one step of the loss gives; scalars.

    Attributes:
        loss: Mean cross-entropy, nats; carries the gradient.
        teacher_entropy: Mean entropy of the teacher's distributions, nats: log K when the teacher
            is uniform on every view, 0 when it is certain.
        kl_to_uniform: KL divergence of the teacher's mean distribution to the uniform one, nats: 0
            when all prototypes are used alike, log K when every view falls on the same one.
    """

    loss: Tensor
    teacher_entropy: Tensor
    kl_to_uniform: Tensor


class DinoLoss(nn.Module):
    """Cross-entropy of teacher and student over pairs of different views, with centring.

    Args:
        prototypes: Number K of outputs.
        student_temperature: Temperature of the student.
        teacher_temperature: Temperature of the teacher.
        centre_momentum: Momentum of the centre's moving average.

    Attributes:
        centre: float32 (K,) buffer, 0 at first; part of the state that a resumed run needs.
    """

    centre: Tensor

    def __init__(
        self,
        prototypes: int,
        *,
        student_temperature: float,
        teacher_temperature: float,
        centre_momentum: float,
    ) -> None:
        super().__init__()
        self.student_temperature = student_temperature
        self.teacher_temperature = teacher_temperature
        self.centre_momentum = centre_momentum
        self.register_buffer("centre", torch.zeros(prototypes))

    def forward(self, student: Tensor, teacher: Tensor) -> DinoTerms:
        """Compare all pairs of a teacher view g and a student view v other than g.

        With P_t = softmax((z_t - centre) / tau_t) and P_s = softmax(z_s / tau_s), the loss is the
        mean over pairs and slides of -sum_k P_t[k] log P_s[k]. The centre moves towards the mean of
        z_t after it was used.

        Args:
            student: float32 (V, B, K), outputs for all views, the global ones first.
            teacher: float32 (G, B, K), outputs for the global views, in the same order.

        Returns:
            The loss and the monitors of collapse.
        """
        teacher = teacher.detach()
        target = functional.softmax((teacher - self.centre) / self.teacher_temperature, dim=-1)
        log_student = functional.log_softmax(student / self.student_temperature, dim=-1)
        views, (globals_, slides, prototypes) = len(student), teacher.shape
        cross_entropy = -torch.einsum("gbk,vbk->gv", target, log_student) / slides
        same_view = torch.eye(globals_, views, dtype=torch.bool, device=student.device)
        pairs = globals_ * (views - 1)
        loss = cross_entropy.masked_fill(same_view, 0.0).sum() / pairs
        with torch.no_grad():
            entropy = torch.special.entr(target).sum(dim=-1).mean()
            mean_entropy = torch.special.entr(target.mean(dim=(0, 1))).sum()
            self.centre.lerp_(teacher.mean(dim=(0, 1)), 1.0 - self.centre_momentum)
        return DinoTerms(loss, entropy, math.log(prototypes) - mean_entropy)


def update_teacher(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """Move the teacher's parameters: teacher <- momentum * teacher + (1 - momentum) * student.

    Buffers are left alone: they are constants of the training set, equal in both.
    """
    average = get_ema_multi_avg_fn(momentum)
    average(list(teacher.parameters()), list(student.parameters()), torch.empty(0))
