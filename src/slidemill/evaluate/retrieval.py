"""Retrieval: whether the slides nearest to a slide are of its class.

Leave-one-patient-out: the keys of a query's own patient are never looked at, so that two slides of
one patient do not find each other. Nothing is trained. The result depends on the vectors and on the
order of the keys, where similarities tie.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from slidemill.errors import CohortError
from slidemill.evaluate.names import ACC, MAP, MAP_OVER_K, MV
from slidemill.splits.targets import Float64Array, Int64Array

DECIMALS = 12
"""Decimals of a similarity that count: equal vectors tie, however a matrix product rounds them."""

MAX_NAMED = 5
"""Patients that a message names."""

_BLOCK = 4_000_000
"""Similarities that are computed at once; bounds the memory."""


@dataclass(frozen=True)
class _Hits:
    """Whether the nearest keys of each query are of its class.

    Attributes:
        labels: Labels of the nearest keys, nearest first, int64 (q, K).
        there: Whether there are so many keys of other patients, bool (q, K).
        right: Whether the key is of the query's class, bool (q, K).
        relevant: Keys of the query's class among those of other patients, int64 (q,).
    """

    labels: Int64Array
    there: npt.NDArray[np.bool_]
    right: npt.NDArray[np.bool_]
    relevant: Int64Array


def retrieve(
    queries: npt.ArrayLike,
    keys: npt.ArrayLike,
    query_labels: npt.ArrayLike,
    key_labels: npt.ArrayLike,
    query_patients: Sequence[str],
    key_patients: Sequence[str],
    ks: Sequence[int],
) -> dict[str, Float64Array]:
    """Acc@k, MV@k and mAP@k of each query among the keys of other patients.

    Similarity is the cosine; keys of equal similarity stay in their order. Of the k nearest keys,
    or all keys where there are fewer:

    - `acc@k` is 1 if any is of the query's class.
    - `mv@k` is 1 if the class that most are of is the query's. Of classes that tie, the one with
      the nearest key wins. (One published library counts a tie as right if any of the tied classes
      is, which is optimistic: at k = 2 that is acc@2.)
    - `map@k` is the textbook average precision, sum_j hit_j * precision_j / min(k, R), with R the
      keys of the query's class: 1 if they all come first.
    - `map@k/k` is the same sum divided by k, as some libraries have it: below 1 wherever R < k.

    A query whose class no other patient has is 0 throughout.

    Args:
        queries: Vectors (q, D).
        keys: Vectors (n, D).
        query_labels: Class of each query, (q,), integers.
        key_labels: Class of each key, (n,), integers.
        query_patients: Patient of each query.
        key_patients: Patient of each key.
        ks: Numbers of neighbours, from 1.

    Returns:
        float64 (q,) for each name of `names.retrieval_names` and k, in that order.

    Raises:
        CohortError: If a query has no key of another patient, or a vector has no direction (all
            zeros, or a value that is not finite).
        ValueError: If lengths do not fit, or a k is below 1.
    """
    if not ks or min(ks) < 1:
        raise ValueError(f"numbers of neighbours are from 1, not {list(ks)}")
    q, n = (_unit(v, p) for v, p in ((queries, query_patients), (keys, key_patients)))
    labels = [np.asarray(each, dtype=np.int64) for each in (query_labels, key_labels)]
    if q.shape[1] != n.shape[1] or [len(each) for each in labels] != [len(q), len(n)]:
        raise ValueError("queries, keys, their labels and their patients do not fit")
    patients = np.unique([*query_patients, *key_patients], return_inverse=True)[1]
    own = patients[: len(q), None] == patients[len(q) :]
    _check_others(own, query_patients)
    hits = _nearest(q, n, labels[0], labels[1], own, max(ks))
    found: dict[str, Float64Array] = {}
    for k in ks:
        found |= _at(hits, labels[0], k)
    return found


def _nearest(
    queries: Float64Array,
    keys: Float64Array,
    query_labels: Int64Array,
    key_labels: Int64Array,
    own: npt.NDArray[np.bool_],
    count: int,
) -> _Hits:
    """The nearest keys of other patients."""
    count = min(count, len(keys))
    order = np.empty((len(queries), count), dtype=np.int64)
    for rows in np.array_split(np.arange(len(queries)), max(1, -(-own.size // _BLOCK))):
        similarity = np.round(queries[rows] @ keys.T, DECIMALS)
        similarity[own[rows]] = -np.inf
        order[rows] = np.argsort(-similarity, axis=1, kind="stable")[:, :count]
    labels = key_labels[order]
    there = np.arange(count) < (~own).sum(axis=1)[:, None]
    same = key_labels == query_labels[:, None]
    right = there & (labels == query_labels[:, None])
    return _Hits(labels, there, right, (same & ~own).sum(axis=1).astype(np.int64))


def _at(hits: _Hits, query_labels: Int64Array, k: int) -> dict[str, Float64Array]:
    """The metrics at one number of neighbours."""
    right, labels, there = hits.right[:, :k], hits.labels[:, :k], hits.there[:, :k]
    ranks = np.arange(1, right.shape[1] + 1)
    gained = (right * np.cumsum(right, axis=1) / ranks).sum(axis=1)
    possible = np.maximum(np.minimum(k, hits.relevant), 1)
    return {
        ACC.format(k=k): right.any(axis=1).astype(np.float64),
        MV.format(k=k): (_majority(labels, there) == query_labels).astype(np.float64),
        MAP.format(k=k): gained / possible,
        MAP_OVER_K.format(k=k): gained / k,
    }


def _majority(labels: Int64Array, there: npt.NDArray[np.bool_]) -> Int64Array:
    """The class with most votes in each row, the nearest of several, int64 (q,)."""
    votes = np.zeros(labels.shape, dtype=np.int64)
    for column in range(labels.shape[1]):
        votes += there[:, [column]] & (labels == labels[:, [column]])
    # Keys are nearest first, and the first of the largest counts is taken.
    best = np.where(there, votes, 0).argmax(axis=1)
    winner: Int64Array = labels[np.arange(len(labels)), best]
    return winner


def _unit(vectors: npt.ArrayLike, patients: Sequence[str]) -> Float64Array:
    """Vectors of length 1, float64 (n, D)."""
    values = np.asarray(vectors, dtype=np.float64)
    if values.ndim != 2 or len(values) != len(patients):
        raise ValueError(f"vectors are (n, D) with a patient each, not {values.shape}")
    length = np.linalg.norm(values, axis=1)
    lost = np.flatnonzero(~(np.isfinite(length) & (length > 0.0)))
    if len(lost):
        raise CohortError(
            f"retrieval takes vectors that have a direction, but those of {_named(lost, patients)} "
            "are all zeros or not finite. Leave their slides out, or make their features again."
        )
    units: Float64Array = values / length[:, None]
    return units


def _check_others(own: npt.NDArray[np.bool_], patients: Sequence[str]) -> None:
    """Raise unless every query has a key of another patient."""
    lonely = np.flatnonzero(own.all(axis=1))
    if len(lonely):
        raise CohortError(
            "retrieval leaves a query's own patient out, and no other patient has a slide to find "
            f"for {_named(lonely, patients)}. Add patients, or set evaluate.retrieval to false."
        )


def _named(rows: Int64Array, patients: Sequence[str]) -> str:
    """The patients of some rows, a few of them by name."""
    names = sorted({str(patients[row]) for row in rows})
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return f"{', '.join(names[:MAX_NAMED])}{more}"
