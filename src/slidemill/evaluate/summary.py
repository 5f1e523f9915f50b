"""What an evaluation needs of every slide's features besides the features.

Reads one encoder's features once, for all models: their number, mean, squared deviations and
largest values, and a digest of their values, by which one slide under two names is found. Arrays in
and out; the stage writes them.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from slidemill.errors import CohortError, LeakError
from slidemill.evaluate.mil.bags import Moments

MOST_NAMED = 5
"""So many slides are named in a message."""


@dataclass(frozen=True)
class Summary:
    """Every slide that has features, in the manifest's order.

    Attributes:
        slide_ids: The slides.
        item_digests: Digest of each slide's features file, by what it was made of.
        sha256: sha256 of the values of the features.
        moments: Moments of the tiles of each slide.
        maximum: Largest value of each feature over the tiles of each slide, float32 (S, D).
    """

    slide_ids: tuple[str, ...]
    item_digests: tuple[str, ...]
    sha256: tuple[str, ...]
    moments: Moments
    maximum: npt.NDArray[np.float32]


def summarise(
    slides: Iterable[tuple[str, str, npt.NDArray[np.floating]]],
) -> Summary:
    """Summarise slides.

    Args:
        slides: Slide, digest of its file, and features (n, D) as they are stored, one at a time.

    Raises:
        CohortError: If features are not finite, naming every such slide.
    """
    ids, digests, hashes, bad = [], [], [], []
    counts, means, deviations, largest = [], [], [], []
    for slide_id, digest, features in slides:
        wide = features.astype(np.float64)
        mean = wide.mean(axis=0)
        if not np.isfinite(mean).all():
            bad.append(slide_id)
            continue
        ids.append(slide_id)
        digests.append(digest)
        hashes.append(hashlib.sha256(np.ascontiguousarray(features).tobytes()).hexdigest())
        counts.append(len(features))
        means.append(mean)
        largest.append(features.max(axis=0).astype(np.float32))
        wide -= mean
        deviations.append(np.einsum("nd,nd->d", wide, wide))
    if bad:
        raise CohortError(
            f"features that are nan or infinite in {_named(bad)}. Nothing was trained. Compute "
            "them again with `--config recompute=features`, or leave the slides out of the sheet."
        )
    moments = Moments(np.array(counts, dtype=np.int64), np.stack(means), np.stack(deviations))
    return Summary(tuple(ids), tuple(digests), tuple(hashes), moments, np.stack(largest))


def check_same_content(summary: Summary, used: Iterable[str]) -> None:
    """Refuse a slide that is there under two names.

    Args:
        summary: Of the encoder's features.
        used: Slides that are evaluated.

    Raises:
        LeakError: If two of them have the same features, naming every such group.
    """
    wanted = set(used)
    groups: dict[str, list[str]] = {}
    for slide_id, sha256 in zip(summary.slide_ids, summary.sha256, strict=True):
        if slide_id in wanted:
            groups.setdefault(sha256, []).append(slide_id)
    twice = [" = ".join(group) for group in groups.values() if len(group) > 1]
    if twice:
        more = f" and {len(twice) - MOST_NAMED} more" if len(twice) > MOST_NAMED else ""
        raise LeakError(
            f"the same slide under two names (its features are equal): "
            f"{'; '.join(twice[:MOST_NAMED])}{more}. It would be trained on and tested on, or "
            "counted twice: leave one of each out of the sheet, or empty its label."
        )


def check_seen_content(
    summary: Summary, trained: Iterable[str], tested: Iterable[str], what: str
) -> None:
    """Refuse a tested slide that a slide encoder was trained on under another name.

    Args:
        summary: Of the features that the encoder reads.
        trained: Slides that it was trained on.
        tested: Slides that are tested with it.
        what: The encoder, for the message.

    Raises:
        LeakError: Naming the slides.
    """
    sha256 = dict(zip(summary.slide_ids, summary.sha256, strict=True))
    seen = {sha256[slide]: slide for slide in sorted(trained) if slide in sha256}
    twice = [
        f"{slide} = {seen[sha256[slide]]}"
        for slide in sorted(tested)
        if slide in sha256 and sha256[slide] in seen
    ]
    if twice:
        raise LeakError(
            f"{what} was trained on slides that are tested with it, under another name or another "
            f"patient (their features are equal): {_named(twice)}. Leave one of each out of the "
            "sheet, and train again."
        )


def _named(slides: list[str]) -> str:
    more = f" and {len(slides) - MOST_NAMED} more" if len(slides) > MOST_NAMED else ""
    return f"{len(slides)} slide{'s' if len(slides) > 1 else ''}: " + (
        ", ".join(slides[:MOST_NAMED]) + more
    )
