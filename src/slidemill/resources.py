"""What a job of each stage asks of a cluster: memory in MB and run time in minutes.

Estimates from the slides of a bucket, the size of the encoder and the length of a training, made to
be too large rather than too small. They change no result, and a site's profile may replace each of
them. A job that ends for want of either is tried again with more of both and keeps what it has
finished, so nothing asks for more than `LONGEST` minutes, which most partitions allow.
"""

from dataclasses import dataclass
from math import ceil

from slidemill.config.evaluate import ON_BAGS
from slidemill.features.spec import EncoderSpec
from slidemill.plan import CellPlan, EncoderPlan, Plan, PretrainPlan

LONGEST = 1440
"""Minutes that a job asks for at most, whatever the attempt."""
TILES = 15_000
"""Tiles of a slide that run times are made for."""
TERAFLOPS = 30
"""Speed of an encoder on a GPU that run times are made for, 10^12 operations a second."""
SLIDES_PER_SECOND = 6
"""Slides that a pretraining passes in a second; a third of what it is made for on an H100."""
UNKNOWN_SPEC = (700_000_000, 180.0)
"""Parameters and GMACs that are assumed of an encoder whose size is not known: ViT-H's."""


@dataclass(frozen=True)
class Need:
    """What the first attempt of a job asks for.

    Attributes:
        mem_mb: Memory in MB.
        minutes: Run time in minutes.
    """

    mem_mb: int
    minutes: int

    def grown(self, attempt: int) -> "Need":
        """What the n-th attempt asks for: n times as much, and no longer than `LONGEST`."""
        return Need(self.mem_mb * attempt, min(self.minutes * attempt, LONGEST))


def _need(mem_mb: float, minutes: float) -> Need:
    return Need(ceil(mem_mb), min(ceil(minutes), LONGEST))


def of_bucket(plan: Plan, stage: str, bucket: str) -> Need:
    """What a bucket of slides needs in the cohort, tissue or tiles stage.

    Each slide on which a CPU works has its overview or a row of tiles in memory; slides lie on
    slow storage.
    """
    slides = len(plan.buckets[bucket])
    if stage == "cohort":
        return _need(2000, 10 + 0.1 * slides)
    return _need(4000, 10 + {"tissue": 0.5, "tiles": 1.0}[stage] * slides)


def of_features(plan: Plan, unit: EncoderPlan, bucket: str) -> Need:
    """What a bucket of slides needs in the features stage, by the size of its encoder."""
    return encoder_need(unit.encoder.spec, len(plan.buckets[bucket]))


def encoder_need(spec: EncoderSpec, slides: int) -> Need:
    """What slides need with an encoder.

    A network is in memory thrice while it is loaded (the file, its numbers, the module), in
    float32; the rest are readers and their tiles. A slide takes what its tiles cost on a slow GPU
    and a minute for reading.
    """
    if not spec.needs_weights:
        return _need(4000, 15 + 3 * slides)
    parameters = spec.parameters or UNKNOWN_SPEC[0]
    gmacs = spec.gmacs or UNKNOWN_SPEC[1]
    seconds = TILES * 2 * gmacs * 1e9 / (TERAFLOPS * 1e12)
    return _need(8000 + 3 * 4 * parameters / 1e6, 15 + slides * (1 + seconds / 60))


def of_pretrain(plan: Plan, unit: PretrainPlan) -> Need:
    """What the training of a slide encoder needs; a longer one goes on where it was ended."""
    passes = len(plan.slide_ids) * unit.run.epochs
    return _need(16_000, 60 + passes / SLIDES_PER_SECOND / 60)


def of_evaluate(plan: Plan, cell: CellPlan | None) -> Need:
    """What a row of a comparison needs; a summary or a comparison itself (None) is light.

    1,000 slides of 8,000 tiles and 1,536 numbers were seen to need 5 GB, and 0.3 s a slide, epoch
    and fold on two cores.
    """
    slides = len(plan.slide_ids)
    mem_mb, minutes = 8000 + 2 * slides, 60 + 0.02 * slides
    if cell is not None and cell.entry is not None and cell.entry.name in ON_BAGS:
        config = plan.config.evaluate
        passes = slides * config.mil.epochs * config.folds * config.repeats
        minutes += passes * 0.1 / 60
    return _need(mem_mb, minutes)


def of_report(plan: Plan) -> Need:
    """What the report needs."""
    return _need(4000 + len(plan.slide_ids), 60)
