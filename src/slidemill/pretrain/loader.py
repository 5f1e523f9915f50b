"""Loading: the batches of a training, drawn, read and packed ahead of it.

What a step trains on is a function of the run's seed and the step alone: every draw has a seed of
its own, made of what it is for, the epoch and the slide. A training that goes on from a step needs
nothing else to continue, and the parts of several ranks together are the batch of one process.
Reads, through a `BagSource`, the tiles that a step's crops hold, each once a slide. Writes nothing.
"""

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from slidemill.config.pretrain import PretrainRun
from slidemill.errors import CohortError
from slidemill.pretrain.bags import (
    BagSource,
    Int64Array,
    distinct_tiles,
    finite_features,
    grid_positions,
)
from slidemill.pretrain.compact import compact_views
from slidemill.pretrain.crops import Crop, Views, augment_grid, draw_views, shift_grid
from slidemill.pretrain.masking import mask_crop, mask_ratios
from slidemill.pretrain.packing import Packed, Sequences, moved
from slidemill.pretrain.prefetch import ahead, each

MOMENTS, ORDER, VIEWS, MASKS, RATIOS = range(5)
"""What a random draw is for; part of its seed."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StepBatch:
    """What a rank trains on in one step, of B slides.

    Crops are crop-major: crop c of slide b is sequence c * B + b.

    Attributes:
        epoch: The epoch, from 0.
        step: The step, from 0, over all epochs.
        slides: int64 (B,), this rank's slides.
        globals: Their large crops.
        teacher_positions: int64 (T, 2), where the teacher sees the tiles of `globals`: the same
            crops, turned and shifted by draws of its own. A hidden tile's place is shown to the
            student, so a teacher that saw it in the same place could be followed by place alone.
        locals: Their small crops; None if the run has none.
        hidden: bool (T,), tiles of `globals` that are hidden from the student; None if the method
            hides none.
        weights: float32, for every hidden tile, in their order: 1 / hidden tiles of its crop.
        n_slides: Slides of the step over all ranks.
    """

    epoch: int
    step: int
    slides: Int64Array
    globals: Packed
    teacher_positions: Tensor
    locals: Packed | None
    hidden: Tensor | None
    weights: Tensor
    n_slides: int

    def for_teacher(self) -> Packed:
        """The large crops as the teacher sees them."""
        return replace(self.globals, positions=self.teacher_positions)

    def to(self, device: str | torch.device) -> "StepBatch":
        """The same batch on a device; from pinned memory the host does not wait."""
        return replace(
            self,
            globals=self.globals.to(device),
            teacher_positions=moved(self.teacher_positions, device),
            locals=None if self.locals is None else self.locals.to(device),
            hidden=None if self.hidden is None else moved(self.hidden, device),
            weights=moved(self.weights, device),
        )


def epoch_batches(slides: int, batch_slides: int, seed: int, epoch: int) -> list[Int64Array]:
    """Slides of every batch of an epoch, in an order drawn anew for each epoch.

    Batches are as many as can have `batch_slides` each, and as equal as can be: what is left over
    is dealt among them, since a small batch has too little to compare. A cohort smaller than the
    batch is one batch.

    Args:
        slides: Number of slides.
        batch_slides: Slides a batch, at least, where there are as many.
        seed: Seed of the run.
        epoch: The epoch, from 0.

    Returns:
        Indices of slides, int64, each slide once.
    """
    order = np.random.default_rng([seed, ORDER, epoch]).permutation(slides)
    return np.array_split(order, max(slides // batch_slides, 1))


class StepLoader:
    """The batches of a run, for one rank.

    Rank r has slides r, r + size, r + 2 size and so on of each step's order.

    Attributes:
        steps: Steps of the run.
        steps_per_epoch: Steps of an epoch.
    """

    def __init__(
        self,
        bags: BagSource,
        run: PretrainRun,
        seed: int,
        *,
        rank: int = 0,
        size: int = 1,
        device: str = "cpu",
        readers: int = 2,
    ) -> None:
        """Look at the bags.

        Args:
            bags: The training bags, and no others; read by several threads at once.
            run: Hyper-parameters. Its own `seed` is not looked at.
            seed: Seed of all draws, not negative.
            rank: Which process this is, from 0.
            size: How many processes there are.
            device: Where the batches will go: for `cuda`, they are in pinned memory.
            readers: Threads that read slides.

        Raises:
            CohortError: If there are fewer than two bags, or a step has fewer slides than there
                are processes.
        """
        slides = len(bags.slide_ids)
        if slides < 2:
            raise CohortError(
                f"a slide encoder cannot be trained on {slides} slide(s): it takes at least 2. Add "
                "slides, or train on more patients (pretrain.runs.patients)."
            )
        batches = epoch_batches(slides, run.batch_slides, seed, 0)
        smallest = min(len(batch) for batch in batches)
        if smallest < size:
            raise CohortError(
                f"pretraining {run.name!r}: of {slides} slides in batches of {run.batch_slides}, a "
                f"step has only {smallest}, and each of {size} processes needs one. Use at most "
                f"{smallest} processes (pretrain.processes), or change batch_slides."
            )
        self.steps_per_epoch = len(batches)
        self.steps = run.epochs * self.steps_per_epoch
        self._bags, self._run, self._seed = bags, run, seed
        self._rank, self._size, self._readers = rank, size, readers
        self._pin = torch.device(device).type == "cuda"
        self._dtype = bags.features(0, np.zeros(1, dtype=np.int64)).dtype
        self._told: set[int] = set()

    def iterate(self, first_step: int = 0) -> Iterator[StepBatch]:
        """Batches from a step to the end of the run, read ahead by threads.

        The threads end when the iterator does, is closed, or is forgotten.

        Raises:
            CohortError: If features of a slide are not finite; any other error of reading, too, is
                raised here, in the place of the step that it belongs to.
        """
        return ahead(self.load, range(first_step, self.steps), self._readers)

    def slides(self, step: int) -> Int64Array:
        """Slides of a step over all ranks, int64, in their order."""
        epoch, number = divmod(step, self.steps_per_epoch)
        count = len(self._bags.slide_ids)
        return epoch_batches(count, self._run.batch_slides, self._seed, epoch)[number]

    def load(self, step: int, pool: Executor | None = None) -> StepBatch:
        """The batch of one step; the same whatever was loaded before.

        Args:
            step: The step, from 0.
            pool: Threads to read with; None reads in this one.

        Raises:
            CohortError: If features of a slide are not finite, or their dtypes differ.
        """
        run, epoch, slides = self._run, step // self.steps_per_epoch, self.slides(step)
        mine = slides[self._rank :: self._size]
        drawn = each(pool, lambda i: self._draw(epoch, i), mine.tolist())
        split = run.crops.global_crops
        parts = [
            self._allocate([one.crops[c] for c in crops for one in drawn])
            for crops in (range(split), range(split, split + run.crops.local_crops))
            if len(crops)
        ]
        each(pool, lambda b: self._fill(parts, drawn[b], b, len(mine)), range(len(mine)))
        hidden, weights = self._masks(step, epoch, mine, len(slides), drawn)
        teacher = [one.teacher_positions[c] for c in range(split) for one in drawn]
        places = torch.from_numpy(np.concatenate(teacher))
        return StepBatch(
            epoch=epoch,
            step=step,
            slides=mine,
            globals=parts[0],
            teacher_positions=places.pin_memory() if self._pin else places,
            locals=parts[1] if len(parts) > 1 else None,
            hidden=hidden,
            weights=weights,
            n_slides=len(slides),
        )

    def _draw(self, epoch: int, i: int) -> "_Drawn":
        """Draw the views of a slide."""
        bags = self._bags
        grid = grid_positions(bags.coords(i), bags.step(i))
        distinct = distinct_tiles(grid)
        if len(distinct) < len(grid) and i not in self._told:
            self._told.add(i)
            log.warning(
                "slide %s: %d of %d tiles lie where another tile does; training leaves them out",
                bags.slide_ids[i],
                len(grid) - len(distinct),
                len(grid),
            )
        rng = self._rng(VIEWS, epoch, i)
        views = self._views(i, grid[distinct], rng)
        crops = (*views.global_crops, *views.local_crops)
        used = np.unique(np.concatenate([crop.rows for crop in crops]))
        placed = tuple(
            Crop(np.searchsorted(used, crop.rows), shift_grid(crop.positions, rng))
            for crop in crops
        )
        teacher = tuple(
            shift_grid(augment_grid(crop.positions, rng), rng) for crop in views.global_crops
        )
        return _Drawn(i, distinct[used], placed, teacher)

    def _views(self, i: int, grid: Int64Array, rng: np.random.Generator) -> Views:
        run = self._run
        if run.method == "dinov2-compact":
            return compact_views(grid, run.crops, run.max_tiles, run.ordering, rng)
        step_um = self._bags.step_um(i) if run.crops.unit == "um" else None
        return draw_views(grid, run.crops, run.max_tiles, rng, step_um=step_um)

    def _allocate(self, crops: Sequence[Crop]) -> Packed:
        """A packed batch with the positions of these crops and room for their features."""
        sequences = Sequences.of([len(crop.rows) for crop in crops])
        dtype = torch.from_numpy(np.empty(0, self._dtype)).dtype
        shape = (sequences.total, self._bags.dim)
        features = torch.empty(shape, dtype=dtype, pin_memory=self._pin)
        positions = torch.empty((sequences.total, 2), dtype=torch.int64, pin_memory=self._pin)
        np.concatenate([crop.positions for crop in crops], out=positions.numpy())
        if self._pin:
            sequences = Sequences(sequences.lengths, sequences.offsets.pin_memory())
        return Packed(features, positions, sequences)

    def _fill(self, parts: Sequence[Packed], drawn: "_Drawn", b: int, slides: int) -> None:
        """Read the tiles of slide b and put them where its crops are."""
        bags = self._bags
        features = finite_features(bags, drawn.slide, drawn.rows)
        if features.dtype != self._dtype:
            raise CohortError(
                f"slide {bags.slide_ids[drawn.slide]} has {features.dtype} features, slide "
                f"{bags.slide_ids[0]} {self._dtype}. Compute one of them again (features.dtype)."
            )
        places = [(part, n) for part in parts for n in range(b, len(part.sequences), slides)]
        for crop, (part, n) in zip(drawn.crops, places, strict=True):
            start = part.sequences.starts[n]
            target = part.features[start : start + len(crop.rows)].numpy()
            # Not to raise is to write without a buffer; all rows are in range.
            np.take(features, crop.rows, axis=0, out=target, mode="clip")

    def _masks(
        self, step: int, epoch: int, mine: Int64Array, slides: int, drawn: Sequence["_Drawn"]
    ) -> tuple[Tensor | None, Tensor]:
        """Hidden tiles of the rank's large crops, and their weights."""
        if not self._run.masks_tiles:
            return None, torch.empty(0)
        ibot, crops = self._run.ibot, self._run.crops.global_crops
        # Drawn for the slides of all ranks, so that the ratios are those of one process.
        ratios = mask_ratios(crops * slides, ibot, self._rng(RATIOS, step)).reshape(crops, slides)
        ratios = ratios[:, self._rank :: self._size]
        sources = [self._rng(MASKS, epoch, i) for i in mine.tolist()]
        masks = [
            mask_crop(one.crops[c].positions, float(ratios[c, b]), ibot.mask, sources[b])
            for c in range(crops)
            for b, one in enumerate(drawn)
        ]
        weights = np.concatenate([_shares(mask) for mask in masks])
        hidden, shares = torch.from_numpy(np.concatenate(masks)), torch.from_numpy(weights)
        return (hidden.pin_memory(), shares.pin_memory()) if self._pin else (hidden, shares)

    def _rng(self, *purpose: int) -> np.random.Generator:
        return np.random.default_rng([self._seed, *purpose])


@dataclass(frozen=True)
class _Drawn:
    """The views of one slide before its features are read.

    Attributes:
        slide: The slide.
        rows: int64, rows of the bag that the crops hold, ascending, each once.
        crops: The crops, their rows being indices of `rows`; large ones first.
        teacher_positions: int64 (M, 2) each, where the teacher sees the tiles of large crops.
    """

    slide: int
    rows: Int64Array
    crops: tuple[Crop, ...]
    teacher_positions: tuple[Int64Array, ...]


def _shares(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    """For every hidden tile of a crop, 1 / hidden tiles."""
    hidden = int(mask.sum())
    return np.full(hidden, 1.0 / max(hidden, 1), dtype=np.float32)
