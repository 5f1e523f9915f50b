"""Small slides, runs and methods for the tests of methods, and losses by the formulas."""

from itertools import pairwise

import numpy as np
import torch
from scipy.special import log_softmax, logsumexp, softmax

from slidemill.config.pretrain import CropsConfig, HeadConfig, IbotConfig, PretrainRun
from slidemill.pretrain.bags import ArrayBags
from slidemill.pretrain.distributed import Ranks
from slidemill.pretrain.loader import StepLoader
from slidemill.pretrain.methods import make_method
from slidemill.pretrain.vit import SlideTransformer

TEMPERATURE, SLIDES = 0.06, 5
SEPARATE = IbotConfig(separate_head=True, weight=0.7)


def make_run(method="dinov2", **changes):
    """A run of small crops and heads; five slides a step."""
    settings = {
        "crops": CropsConfig(local_crops=3, min_tiles=2),
        "head": HeadConfig(prototypes=24, hidden=16, bottleneck=8),
        "size": "2x16",
        "heads": 2,
        "batch_slides": SLIDES,
        "regulariser_weight": 0.3,
    }
    return PretrainRun(method=method, **(settings | changes))


def make_bags(tiles=(40, 17, 60, 25, 33)):
    """Ragged slides of random features."""
    rng = np.random.default_rng(0)
    grids = [
        np.stack(np.divmod(np.sort(rng.permutation(100)[:count]), 10), axis=1) for count in tiles
    ]
    features = [rng.normal(size=(count, 6)).astype(np.float32) for count in tiles]
    ids = [f"slide-{i}" for i in range(len(tiles))]
    return ArrayBags(ids, [grid * 512 for grid in grids], [(512.0, 512.0)] * len(ids), features)


def load(run, bags=None, *, step=0, rank=0, size=1):
    """A batch of the run."""
    loader = StepLoader(bags or make_bags(), run, 3, rank=rank, size=size)
    return loader.load(step)


def build(run, ranks=Ranks(), *, apart=True):  # noqa: B008 - of no state
    """The method of a run; unless it is fresh, teacher and centres are not at their start."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = SlideTransformer(6, run.width, run.depth, run.n_heads)
        method = make_method(run, encoder, ranks)
        if apart:
            with torch.no_grad():
                for network in (method.student, method.teacher):
                    for parameter in network.parameters():
                        parameter.add_(0.1 * torch.randn_like(parameter))
                for name, buffer in method.named_buffers():
                    if name.endswith("centre"):
                        buffer.add_(0.02 * torch.randn_like(buffer))
    return method


def grow(run, batch, method, momentum=None):
    """Terms and gradients of a step; with a momentum, the step is finished."""
    method.zero_grad()
    terms = method(batch, TEMPERATURE, batch.n_slides)
    terms.loss.backward()
    gradients = {name: p.grad for name, p in method.student.named_parameters()}
    if momentum is not None:
        method.finish_step(momentum)
    return terms, gradients


def crops_of(part, hidden=None):
    """Every crop alone, with its mask."""
    masks = [None] * len(part.sequences)
    if hidden is not None:
        masks = hidden.split(part.sequences.lengths)
    return [(part.part(slice(n, n + 1)), mask) for n, mask in enumerate(masks)]


def sinkhorn_by_hand(logits):
    """Sinkhorn-Knopp as published, in float64."""
    q = np.exp(logits / TEMPERATURE).T
    for _ in range(3):
        q /= q.sum(axis=1, keepdims=True) * len(q)
        q /= q.sum(axis=0, keepdims=True) * q.shape[1]
    return (q * q.shape[1]).T


def spread_by_hand(points, kind):
    """KoLeo or KDE of one view."""
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    if kind == "kde":
        exponents = 5.0 * unit @ unit.T
        np.fill_diagonal(exponents, -np.inf)
        return (logsumexp(exponents, axis=1) - np.log(len(unit) - 1)).mean()
    distances = np.linalg.norm(unit[:, None] - unit[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    return -np.log(distances.min(axis=1) + 1e-8).mean()


@torch.no_grad()
def by_hand(method, batch):
    """Parts of the loss, targets and embeddings, crop by crop, for one process."""
    run, slides = method.run, batch.n_slides
    globals_ = run.crops.global_crops

    def outputs(network, crops):
        encoded = [network.encoder.encode(crop, mask) for crop, mask in crops]
        cls = torch.cat([one.cls for one in encoded])
        return cls, network.head(cls).double().numpy(), [one.tokens for one in encoded]

    def targets_of(logits, centring):
        if centring is None:
            return sinkhorn_by_hand(logits)
        return softmax((logits - centring.centre.double().numpy()) / TEMPERATURE, axis=1)

    embeddings, taught, shown = outputs(method.teacher, crops_of(batch.for_teacher()))
    crops = crops_of(batch.globals, batch.hidden)
    crops += [] if batch.locals is None else crops_of(batch.locals)
    cls, told, guessed = outputs(method.student, crops)
    targets = targets_of(taught, method.centring)
    student = log_softmax(told / run.student_temperature, axis=1).reshape(-1, slides, told.shape[1])
    views = targets.reshape(globals_, slides, -1)
    pairs = [
        -(views[g] * student[v]).sum(axis=1).mean()
        for g in range(globals_)
        for v in range(len(student))
        if g != v
    ]
    points = cls.double().numpy().reshape(len(student), slides, -1)[:globals_]
    kind = run.chosen_regulariser
    parts = {"dino_loss": np.mean(pairs)}
    if kind != "none":
        parts["regulariser"] = np.mean([spread_by_hand(view, kind) for view in points])
    if batch.hidden is not None:
        masks = batch.hidden.split(batch.globals.sequences.lengths)
        logits = [
            [network.of_tiles()(one[mask]).double().numpy() for one, mask in zip(tokens, masks)]  # noqa: B905
            for network, tokens in ((method.teacher, shown), (method.student, guessed))
        ]
        tiles = targets_of(np.concatenate(logits[0]), method.tile_centring)
        ends = np.cumsum([0, *(len(one) for one in logits[0])])
        each = [
            -(tiles[a:b] * log_softmax(one / run.student_temperature, axis=1)).sum(axis=1).mean()
            if b > a
            else 0.0
            for (a, b), one in zip(pairwise(ends), logits[1], strict=True)
        ]
        parts["ibot_loss"] = np.mean(each)
    return parts, targets, embeddings[:slides]


def weighted(run, parts):
    """The loss of its parts."""
    loss = parts["dino_loss"] + run.regulariser_weight * parts.get("regulariser", 0.0)
    return loss + run.ibot.weight * parts.get("ibot_loss", 0.0)
