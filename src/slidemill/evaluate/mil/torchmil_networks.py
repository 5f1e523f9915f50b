"""CLAM-SB, DSMIL and TransMIL of torchmil (Apache-2.0), as networks that take one bag.

All three embed tiles by one layer (linear, ReLU, dropout) of the width that the settings give. What
torchmil 1.0.2 lacks is added from the papers:

- clam-sb (Lu et al. 2021, doi:10.1038/s41551-020-00682-w): gated attention, and a loss that
  clusters the tiles of most and least attention. torchmil's classifier has one output; it is given
  as many as the task has. torchmil's smooth SVM mixes the tiles of a bag (its targets have a
  dimension too many), so the loss itself is written here. Its pseudo-labels take the classes of a
  task to exclude each other.
- dsmil (Li et al. 2021, arXiv:2011.08939): torchmil's has one output. A task of several has one of
  it per output on a common embedding. The paper's multi-class form differs in its last layer, which
  reads the embeddings of all classes.
- transmil (Shao et al. 2021, arXiv:2106.00908): torchmil's classifier has one output; it is given
  as many as the task has. torchmil leaves out the convolution of values beside Nyström attention
  and dropout within the layers. Tiles are laid on a square grid in the order of the bag, so that
  the order of tiles matters. It has no attention to show: Nyström attention is no distribution over
  tiles, its weights can be negative.
"""

import math
from types import ModuleType
from typing import Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from slidemill.errors import ConfigError, Problem
from slidemill.splits.targets import TaskType

Name = Literal["clam-sb", "dsmil", "transmil"]

SUPPORTS: dict[str, frozenset[TaskType]] = {
    "clam-sb": frozenset({"binary", "multiclass"}),
    "dsmil": frozenset({"binary", "multiclass", "multilabel"}),
    "transmil": frozenset({"binary", "multiclass", "multilabel", "regression", "survival"}),
}
"""Types of tasks that a network serves.

The clustering of clam-sb needs classes that exclude each other, the critical tile of dsmil needs
classes or labels.
"""

INSTANCES = 8
"""Tiles of most and of least attention that clam-sb clusters, as its authors have it."""

INSTANCE_SHARE = 0.3
"""Share of clam-sb's loss that is the clustering's; the rest is the bag's."""

TRANSMIL_HEADS = 8
"""Heads of transmil's attention at most; fewer where the width is no multiple."""


class Classifier(Protocol):
    """A module that takes one bag."""

    def __call__(self, bag: Tensor) -> tuple[Tensor, Tensor | None]:
        """Outputs (O,), and attention (n,) that is not negative and sums to 1, or None."""
        ...


def build(name: Name, dim: int, outputs: int, width: int, dropout: float) -> nn.Module:
    """A network that takes one bag float32 (n, D), n > 0.

    Its forward gives outputs (O,), and attention (n,) that is not negative and sums to 1, or None.
    In training, `auxiliary_loss(bag, outputs, target)` of clam-sb and dsmil is to be added to the
    loss of the bag that was the last to be given.

    Args:
        name: Which one.
        dim: Features of a tile, D.
        outputs: Outputs of a bag, O: 1 of a binary task, one a class or label of others.
        width: Width of the embedding.
        dropout: Share of the embedding that is dropped in training.

    Returns:
        The network, with initial weights drawn from torch's default generator.

    Raises:
        ConfigError: If torchmil is not installed.
    """
    models = _torchmil(name)
    embed = nn.Sequential(nn.Linear(dim, width), nn.ReLU(), nn.Dropout(dropout))
    if name == "clam-sb":
        return ClamSb(models, embed, dim, width, outputs)
    if name == "dsmil":
        return Dsmil(models, embed, width, outputs)
    return TransMil(models, embed, dim, width, outputs)


class ClamSb(nn.Module):
    """CLAM with a single attention branch.

    Args:
        models: torchmil's models.
        embed: The embedding of tiles.
        dim: Features of a tile.
        width: Width of the embedding; the attention's is half of it.
        outputs: Outputs of a bag; 1 stands for two classes.
    """

    def __init__(
        self, models: ModuleType, embed: nn.Module, dim: int, width: int, outputs: int
    ) -> None:
        super().__init__()
        self.clam = models.CLAM_SB((dim,), att_dim=max(1, width // 2), gated=True, feat_ext=embed)
        self.clam.classifier = nn.Linear(width, outputs)
        classes = max(2, outputs)
        self.clam.inst_classifiers = nn.ModuleList(nn.Linear(width, 2) for _ in range(classes))
        self._last: tuple[Tensor, Tensor] | None = None

    def forward(self, bag: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs (O,) and attention (n,) of a bag (n, D)."""
        found, scores, embedded = self.clam(bag.unsqueeze(0), return_att=True, return_emb=True)
        self._last = (scores[0], embedded[0]) if self.training else None
        return found.reshape(-1), scores[0].softmax(0)

    def auxiliary_loss(self, bag: Tensor, outputs: Tensor, target: Tensor) -> Tensor:
        """Loss of the clustering of the last bag, relative to the bag's own loss.

        The classifier of the bag's class is to tell the tiles of most attention from those of
        least; those of other classes are to refuse the tiles of most attention. 0 for a bag of one
        tile.

        Args:
            bag: The bag that was given last, (n, D).
            outputs: What it gave; not used.
            target: Its class, (1,).
        """
        if self._last is None or len(self._last[0]) != len(bag):
            raise ValueError("the loss is of the bag that was given last, in training")
        scores, embedded = self._last
        k = min(INSTANCES, len(bag) // 2)
        if k == 0:
            return embedded.new_zeros(())
        order = scores.detach().argsort(descending=True, stable=True)
        most, least = embedded[order[:k]], embedded[order[-k:]]
        losses = []
        for label, classifier in enumerate(self.clam.inst_classifiers):
            if label == int(target[0]):
                both = classifier(torch.cat([most, least]))
                losses.append(smooth_svm(both, torch.arange(2 * k, device=bag.device) < k))
            else:
                losses.append(smooth_svm(classifier(most), most.new_zeros(k, dtype=torch.bool)))
        share: float = INSTANCE_SHARE / (1.0 - INSTANCE_SHARE)
        return share * torch.stack(losses).mean()


class Dsmil(nn.Module):
    """DSMIL, one a output, on a common embedding.

    Args:
        models: torchmil's models.
        embed: The embedding of tiles.
        width: Its width, and that of the queries.
        outputs: Outputs of a bag.
    """

    def __init__(self, models: ModuleType, embed: nn.Module, width: int, outputs: int) -> None:
        super().__init__()
        self.embed = embed
        self.streams = nn.ModuleList(
            models.DSMIL((width,), att_dim=width, nonlinear_q=True) for _ in range(outputs)
        )
        self._last: Tensor | None = None

    def forward(self, bag: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs (O,) and attention (n,), its mean over outputs, of a bag (n, D).

        In training the outputs are those of the bag's stream, whose loss is the caller's; else the
        mean of both streams (equation 7 of the paper).
        """
        embedded = self.embed(bag).unsqueeze(0)
        found = [one(embedded, return_att=True, return_inst_pred=True) for one in self.streams]
        of_bag = torch.cat([outputs for outputs, _, _ in found])
        critical = torch.stack([tiles.max() for _, _, tiles in found])
        attention = torch.cat([weights for _, weights, _ in found]).squeeze(2).mean(0)
        self._last = critical if self.training else None
        return of_bag if self.training else (of_bag + critical) / 2.0, attention

    def auxiliary_loss(self, bag: Tensor, outputs: Tensor, target: Tensor) -> Tensor:
        """Loss of the stream of the critical tile, of the last bag; it weighs as much as the bag's.

        Args:
            bag: The bag that was given last, (n, D); not used.
            outputs: What it gave, (O,); not used.
            target: 0 or 1 (1,) of a binary task, the class (1,) of several, or 0, 1 or nan (O,) of
                labels.
        """
        if self._last is None:
            raise ValueError("the loss is of the bag that was given last, in training")
        critical = self._last
        if len(target) != len(critical):
            return functional.cross_entropy(critical, target[0].long())
        known = ~target.isnan()
        if not known.any():
            return critical.sum() * 0.0
        wanted = target[known].to(critical.dtype)
        return functional.binary_cross_entropy_with_logits(critical[known], wanted)


class TransMil(nn.Module):
    """TransMIL.

    Args:
        models: torchmil's models.
        embed: The embedding of tiles.
        dim: Features of a tile.
        width: Width of the embedding.
        outputs: Outputs of a bag.
    """

    def __init__(
        self, models: ModuleType, embed: nn.Module, dim: int, width: int, outputs: int
    ) -> None:
        super().__init__()
        heads = math.gcd(TRANSMIL_HEADS, width)
        self.transmil = models.TransMIL(
            (dim,), att_dim=width, n_heads=heads, n_landmarks=max(1, width // 2), feat_ext=embed
        )
        self.transmil.classifier = nn.Linear(width, outputs)
        for layer in self.transmil.layers:
            layer.norm2 = nn.Identity()  # belongs to an MLP that these layers do not have

    def forward(self, bag: Tensor) -> tuple[Tensor, None]:
        """Outputs (O,) of a bag (n, D)."""
        found: Tensor = self.transmil(bag.unsqueeze(0))
        return found.reshape(-1), None


def smooth_svm(logits: Tensor, positive: Tensor) -> Tensor:
    """Smooth top-1 SVM with margin and temperature 1 (Berrada et al. 2018, arXiv:1802.07595).

    Args:
        logits: Of two classes, (n, 2).
        positive: Whether the second is the right one, bool (n,).

    Returns:
        The mean over rows, a scalar.
    """
    true = positive.long()
    margin = 1.0 - functional.one_hot(true, 2)
    return functional.cross_entropy(logits + margin, true)


def _torchmil(name: str) -> ModuleType:
    """The models of torchmil, imported when asked for: it is an optional extra."""
    try:
        from torchmil import models
    except ImportError as error:
        problem = Problem(
            "evaluate.models",
            f"{name} needs torchmil, which cannot be imported ({error})",
            "Install it: pip install 'slidemill[torchmil]', or leave the model out",
        )
        raise ConfigError("of the evaluation", [problem]) from None
    found: ModuleType = models
    return found
