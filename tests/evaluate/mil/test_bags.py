import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slidemill.evaluate.mil.bags import Course, ListBags, moments_of, noise_seed, read_ahead


def bags_of(sizes: list[int], seed: int = 0, dim: int = 3) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [(rng.standard_normal((n, dim)) * 5 + 2).astype(np.float32) for n in sizes]


class OnDisk(ListBags):
    """Bags that are read ahead, as files are."""

    in_memory = False


@given(st.lists(st.integers(1, 7), min_size=2, max_size=8), st.data())
def test_moments_of_a_subset_are_those_of_its_tiles(sizes: list[int], data: st.DataObject) -> None:
    bags = bags_of(sizes)
    chosen = data.draw(st.lists(st.sampled_from(range(len(sizes))), min_size=1, unique=True))
    tiles = np.concatenate([bags[i] for i in sorted(chosen)]).astype(np.float64)
    mean, scale = moments_of(bags).over(np.array(sorted(chosen)))
    spread = tiles.std(axis=0)
    assert np.allclose(mean, tiles.mean(axis=0), atol=1e-12)
    assert np.allclose(scale, np.where(spread > 1e-12, spread, 1.0), atol=1e-9)


def test_a_constant_feature_is_only_centred() -> None:
    bags = [np.full((n, 2), 1234.567, dtype=np.float32) for n in (3, 5)]
    mean, scale = moments_of(bags).over(np.array([0, 1]))
    assert np.allclose(mean, np.float32(1234.567))
    assert scale.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("kind", [ListBags, OnDisk])
@given(seed=st.integers(0, 5), batch=st.integers(1, 9), max_tiles=st.integers(1, 9))
def test_an_epoch_has_each_needed_bag_once(
    kind: type[ListBags], seed: int, batch: int, max_tiles: int
) -> None:
    bags = kind(bags_of([4, 9, 1, 6, 8, 3]))
    needed = np.array([True, True, False, True, True, False])
    course = Course(bags, batch, max_tiles, seed)
    found = list(course.epoch(2, needed))
    assert len(found) == course.steps == -(-6 // batch)
    assert sorted(i for part in found for i in part.bags.tolist()) == [0, 1, 3, 4]
    for part in found:
        assert part.lengths == tuple(min(max_tiles, len(bags.tiles(i))) for i in part.bags)
        assert part.features.shape == (sum(part.lengths), 3)


def test_the_batches_do_not_depend_on_who_needs_them() -> None:
    course = Course(ListBags(bags_of([4, 9, 1, 6, 8, 3])), 2, 5, 0)
    everyone = list(course.epoch(1, np.ones(6, dtype=bool)))
    some = list(course.epoch(1, np.array([True, False, True, True, False, True])))
    for all_of, part in zip(everyone, some, strict=True):
        kept = [i for i in all_of.bags.tolist() if i not in (1, 4)]
        assert part.bags.tolist() == kept
        split = dict(
            zip(all_of.bags.tolist(), np.split(all_of.features, np.cumsum(all_of.lengths)[:-1]),
                strict=True)
        )  # fmt: skip
        assert all(
            np.array_equal(tiles, split[i])
            for i, tiles in zip(
                kept, np.split(part.features, np.cumsum(part.lengths)[:-1]), strict=False
            )
        )


def test_epochs_draw_other_tiles_and_other_orders() -> None:
    course = Course(ListBags(bags_of([40, 40, 40, 40])), 4, 5, 0)
    first, second = (next(course.epoch(e, np.ones(4, dtype=bool))) for e in (0, 1))
    assert not np.array_equal(first.features, second.features)
    assert any(course.order(0).tolist() != course.order(e).tolist() for e in range(1, 5))


def test_bags_are_read_ahead_in_order() -> None:
    bags = OnDisk(bags_of([2, 3, 4]))
    assert [(i, len(tiles)) for i, tiles in read_ahead(bags, [2, 0, 1])] == [(2, 4), (0, 2), (1, 3)]
    assert list(read_ahead(bags, [])) == []


def test_a_fault_of_reading_ahead_is_not_lost() -> None:
    class Torn(OnDisk):
        def tiles(self, i: int, rows: object = None) -> np.ndarray:
            raise OSError("torn")

    with pytest.raises(OSError, match="torn"):
        list(Course(Torn(bags_of([2, 3])), 1, 5, 0).epoch(0, np.ones(2, dtype=bool)))


def test_noise_seeds_differ() -> None:
    seeds = {noise_seed(s, e, b) for s in range(5) for e in range(5) for b in range(5)}
    assert len(seeds) == 125
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize("bad", [np.zeros((0, 3), np.float32), np.zeros((2, 3)), np.zeros(3)])
def test_what_is_no_bag_is_refused(bad: np.ndarray) -> None:
    with pytest.raises(ValueError, match="bag 0 is"):
        ListBags([bad])
