"""The rows of a task: who is predicted, from which slides, and as what kind of input.

A row is what a model sees as one: a slide, or all slides of a patient in one bag. Inputs are tile
features, slide embeddings, or the one beside the other. Embeddings may differ between folds, when
an encoder is trained per fold: a view is one state of them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from slidemill.evaluate.mil.bags import Bags, ListBags, Moments
from slidemill.splits.targets import Targets

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]

View = tuple[int, int]
"""(repeat, fold) of the slide encoder, or (-1, -1) where one encoder, or none, serves all."""

Embed = Callable[[int, View], Float32Array]
"""Embedding of a slide, float32 (E,), by its index and the view."""

TileSource = Callable[[int], Float32Array]
"""Tile features of a slide, float32 (n, D), by its index; may read a file."""


@dataclass(frozen=True)
class Rows:
    """Who is predicted.

    Attributes:
        slides: Indices of each row's slides; one, or all of a patient.
        patients: The patient of each row.
        targets: What is to be predicted of each row.
    """

    slides: tuple[tuple[int, ...], ...]
    patients: tuple[str, ...]
    targets: Targets

    def __len__(self) -> int:
        return len(self.slides)

    def of(self, patients: Sequence[str]) -> Int64Array:
        """Rows of some patients, ascending, int64."""
        wanted = set(patients)
        found = [i for i, patient in enumerate(self.patients) if patient in wanted]
        return np.array(found, dtype=np.int64)

    def take(self, rows: Int64Array) -> "Rows":
        """Some of the rows."""
        chosen = rows.tolist()
        return Rows(
            tuple(self.slides[i] for i in chosen),
            tuple(self.patients[i] for i in chosen),
            self.targets.take(rows),
        )

    def with_targets(self, targets: Targets) -> "Rows":
        """The same rows with something else to be predicted."""
        return replace(self, targets=targets)


def make_rows(
    slides: Sequence[int],
    patients: Sequence[str],
    targets: Targets,
    tiles: Int64Array,
    policy: Literal["mean", "joint-bag", "one"],
) -> Rows:
    """Rows of labelled slides under a policy for patients with several.

    Args:
        slides: Index of each slide.
        patients: Its patient.
        targets: What is to be predicted of it; the same for all slides of a patient.
        tiles: Number of its tiles, int64, by the same order.
        policy: mean: a row a slide (predictions are averaged later). joint-bag: a row a patient.
            one: a row a patient, of its slide with the most tiles; the first one among equals.
    """
    if policy == "mean":
        return Rows(tuple((i,) for i in slides), tuple(patients), targets)
    of_patient: dict[str, list[int]] = {}
    for position, patient in enumerate(patients):
        of_patient.setdefault(patient, []).append(position)
    if policy == "one":
        kept = [max(found, key=lambda p: int(tiles[p])) for found in of_patient.values()]
        members = [[position] for position in kept]
    else:
        members = list(of_patient.values())
    return Rows(
        tuple(tuple(slides[p] for p in row) for row in members),
        tuple(of_patient),
        targets.take([row[0] for row in members]),
    )


class TileBags:
    """Rows as bags of tile features, with an embedding beside each tile if there is one.

    Attributes:
        moments: Of the rows' tiles.
        in_memory: Whether reading is free.
    """

    def __init__(
        self,
        rows: Rows,
        tiles: TileSource,
        moments: Moments,
        *,
        in_memory: bool,
        beside: Callable[[int], Float32Array] | None = None,
    ) -> None:
        """Make bags.

        Args:
            rows: The rows.
            tiles: Reads a slide's tile features.
            moments: Of every slide's tiles, by slide.
            in_memory: Whether reading is free.
            beside: Embedding of a slide, set beside each of its tiles.
        """
        self._rows, self._tiles, self._beside = rows, tiles, beside
        self.in_memory = in_memory
        if beside is not None:
            moments = _beside_moments(moments, beside, rows)
        self.moments = _joined_moments(moments, rows)

    def tiles(self, i: int, rows: Int64Array | None = None) -> Float32Array:
        """Features of bag i, float32 (n, D), or of those rows of it."""
        parts = [self._slide(slide) for slide in self._rows.slides[i]]
        found = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return found if rows is None else found[rows]

    def _slide(self, slide: int) -> Float32Array:
        found = self._tiles(slide)
        if self._beside is None:
            return found
        vector = self._beside(slide)
        return np.concatenate([found, np.broadcast_to(vector, (len(found), len(vector)))], axis=1)


def mean_vectors(rows: Rows, moments: Moments) -> Float64Array:
    """Mean tile of each row, float64 (rows, D)."""
    return _joined_moments(moments, rows).mean


def max_vectors(rows: Rows, maximum: Float32Array) -> Float64Array:
    """Largest values of each row's tiles, float64 (rows, D).

    Args:
        rows: The rows.
        maximum: Of every slide's tiles, float32 (S, D).
    """
    found = [maximum[list(slides)].max(axis=0) for slides in rows.slides]
    return np.stack(found).astype(np.float64)


def embedding_vectors(rows: Rows, embed: Embed, view: View) -> Float64Array:
    """Embedding of each row, the mean over its slides, float64 (rows, E)."""
    found = [
        np.mean([embed(slide, view).astype(np.float64) for slide in slides], axis=0)
        for slides in rows.slides
    ]
    return np.stack(found)


def embedding_bags(rows: Rows, embed: Embed, view: View) -> Bags:
    """Rows as bags of their slides' embeddings."""
    return ListBags([np.stack([embed(s, view) for s in slides]) for slides in rows.slides])


def tile_counts(rows: Rows, moments: Moments) -> Float64Array:
    """Logarithm of the number of tiles of each row, float64 (rows, 1)."""
    counts = [[np.log(moments.count[list(slides)].sum())] for slides in rows.slides]
    return np.array(counts, dtype=np.float64)


def views_of(encoders: Mapping[View, object], repeat: int, fold: int) -> View:
    """The view that a unit of this repeat and fold is given."""
    return (repeat, fold) if (repeat, fold) in encoders else (-1, -1)


def _joined_moments(moments: Moments, rows: Rows) -> Moments:
    """Moments of rows from those of slides (Chan, Golub & LeVeque 1979)."""
    first = np.array([slides[0] for slides in rows.slides], dtype=np.int64)
    count, mean, m2 = moments.count[first], moments.mean[first], moments.m2[first]
    for i, slides in enumerate(rows.slides):
        if len(slides) > 1:
            chosen = np.array(slides)
            weight = moments.count[chosen] / moments.count[chosen].sum()
            count[i] = moments.count[chosen].sum()
            mean[i] = weight @ moments.mean[chosen]
            apart = (moments.mean[chosen] - mean[i]) ** 2
            m2[i] = moments.m2[chosen].sum(axis=0) + moments.count[chosen] @ apart
    return Moments(count, mean, m2)


def _beside_moments(moments: Moments, beside: Callable[[int], Float32Array], rows: Rows) -> Moments:
    """Moments of slides whose tiles all have the same vector beside them."""
    used = sorted({slide for slides in rows.slides for slide in slides})
    width = len(beside(used[0]))
    vectors = np.zeros((len(moments.count), width))
    vectors[used] = np.stack([beside(slide) for slide in used])
    return Moments(
        moments.count,
        np.concatenate([moments.mean, vectors], axis=1),
        np.concatenate([moments.m2, np.zeros_like(vectors)], axis=1),
    )
