"""What an evaluation needs of every slide's features besides the features.

Reads one encoder's features once, for all models: their number, mean and squared deviations, and a
digest of their values, by which one slide under two names is found. Arrays in and out; the stage
writes them.
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
    """

    slide_ids: tuple[str, ...]
    item_digests: tuple[str, ...]
    sha256: tuple[str, ...]
    moments: Moments


def summarise(
    slides: Iterable[tuple[str, str, npt.NDArray[np.floating]]],
) -> Summary:
    """Summarise slides.

    Args:
        slides: Slide, digest of its file, and features (n, D) as they are stored, one at a time.

    Raises:
        CohortError: If features are not finite, naming every such slide.
    """
    ids, digests, hashes, counts, means, deviations, bad = [], [], [], [], [], [], []
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
        wide -= mean
        deviations.append(np.einsum("nd,nd->d", wide, wide))
    if bad:
        raise CohortError(
            f"features that are nan or infinite in {_named(bad)}. Nothing was trained. Compute "
            "them again with `--config recompute=features`, or leave the slides out of the sheet."
        )
    moments = Moments(np.array(counts, dtype=np.int64), np.stack(means), np.stack(deviations))
    return Summary(tuple(ids), tuple(digests), tuple(hashes), moments)


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


def _named(slides: list[str]) -> str:
    more = f" and {len(slides) - MOST_NAMED} more" if len(slides) > MOST_NAMED else ""
    return f"{len(slides)} slide{'s' if len(slides) > 1 else ''}: " + (
        ", ".join(slides[:MOST_NAMED]) + more
    )
