import numpy as np
import pytest

from slidemill.evaluate.dataset import (
    TileBags,
    embedding_bags,
    embedding_vectors,
    make_rows,
    max_vectors,
    mean_vectors,
    tile_counts,
    views_of,
)
from slidemill.evaluate.mil.bags import moments_of
from slidemill.splits.targets import Targets

RNG = np.random.default_rng(0)
TILES = [RNG.standard_normal((n, 3)).astype(np.float32) for n in (4, 6, 5, 6)]
PATIENTS = ["a", "b", "a", "b"]
TARGETS = Targets("binary", ("yes",), np.array([[0.0], [1], [0], [1]]), "no")
MOMENTS = moments_of(TILES)


def embed(slide: int, view: tuple[int, int]) -> np.ndarray:
    return np.array([slide, *view], dtype=np.float32)


def test_a_row_a_slide() -> None:
    rows = make_rows(range(4), PATIENTS, TARGETS, MOMENTS.count, "mean")
    assert rows.slides == ((0,), (1,), (2,), (3,))
    assert rows.of(["b", "nobody"]).tolist() == [1, 3]


def test_one_slide_a_patient_is_the_one_with_most_tiles_and_the_first_of_equals() -> None:
    rows = make_rows(range(4), PATIENTS, TARGETS, MOMENTS.count, "one")
    assert rows.slides == ((2,), (1,))
    assert rows.patients == ("a", "b")
    assert rows.targets.values[:, 0].tolist() == [0, 1]


def test_a_joint_bag_is_all_tiles_of_a_patient() -> None:
    rows = make_rows(range(4), PATIENTS, TARGETS, MOMENTS.count, "joint-bag")
    bags = TileBags(rows, lambda i: TILES[i], MOMENTS, in_memory=True)
    joined = np.concatenate([TILES[0], TILES[2]])
    assert np.array_equal(bags.tiles(0), joined)
    assert np.array_equal(bags.tiles(0, np.array([1, 5])), joined[[1, 5]])
    expected = moments_of([joined, np.concatenate([TILES[1], TILES[3]])])
    assert bags.moments.count.tolist() == [9, 12]
    assert np.allclose(bags.moments.mean, expected.mean)
    assert np.allclose(bags.moments.m2, expected.m2)
    assert np.allclose(mean_vectors(rows, MOMENTS)[0], joined.mean(axis=0, dtype=np.float64))
    maximum = np.stack([tiles.max(axis=0) for tiles in TILES])
    assert np.array_equal(max_vectors(rows, maximum)[0], joined.max(axis=0))
    assert tile_counts(rows, MOMENTS)[:, 0] == pytest.approx(np.log([9, 12]))


def test_embeddings_beside_tiles() -> None:
    rows = make_rows(range(4), PATIENTS, TARGETS, MOMENTS.count, "mean")
    bags = TileBags(
        rows, lambda i: TILES[i], MOMENTS, in_memory=True, beside=lambda i: embed(i, (1, 2))
    )
    whole = [np.concatenate([t, np.tile(embed(i, (1, 2)), (len(t), 1))], axis=1)
             for i, t in enumerate(TILES)]  # fmt: skip
    assert all(np.array_equal(bags.tiles(i), one) for i, one in enumerate(whole))
    assert np.allclose(bags.moments.m2, moments_of(whole).m2)
    assert np.allclose(bags.moments.mean, moments_of(whole).mean)


def test_embeddings_of_a_patient_are_averaged_or_joined() -> None:
    rows = make_rows(range(4), PATIENTS, TARGETS, MOMENTS.count, "joint-bag")
    assert embedding_vectors(rows, embed, (0, 3)).tolist() == [[1, 0, 3], [2, 0, 3]]
    assert embedding_bags(rows, embed, (0, 3)).tiles(0).tolist() == [[0, 0, 3], [2, 0, 3]]


def test_a_unit_is_given_its_own_encoder_or_the_one_for_all() -> None:
    assert views_of({(0, 1): 1}, 0, 1) == (0, 1)
    assert views_of({(-1, -1): 1}, 0, 1) == (-1, -1)
    assert views_of({}, 0, 1) == (-1, -1)


def test_rows_are_taken_with_their_targets() -> None:
    rows = make_rows(range(4), PATIENTS, TARGETS, MOMENTS.count, "mean").take(np.array([3, 0]))
    assert rows.slides == ((3,), (0,))
    assert rows.targets.values[:, 0].tolist() == [1, 0]
