import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from slidemill.pretrain.packing import Sequences, join, pack, split_by_budget

lengths_of = st.lists(st.integers(1, 40), min_size=1, max_size=12)


def crops(lengths, dtype=np.float32, seed=0):
    rng = np.random.default_rng(seed)
    return [(rng.normal(size=(n, 3)).astype(dtype), rng.integers(0, 99, (n, 2))) for n in lengths]


def assert_same(one, other):
    assert one.sequences.lengths == other.sequences.lengths
    for a, b in (
        (one.features, other.features),
        (one.positions, other.positions),
        (one.sequences.offsets, other.sequences.offsets),
    ):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)


@given(lengths_of)
def test_offsets_are_cumulative_and_owners_count_their_tokens(lengths):
    sequences = Sequences.of(lengths)
    assert sequences.lengths == tuple(lengths)
    assert sequences.offsets.dtype == torch.int32
    assert sequences.offsets.tolist() == [sum(lengths[:i]) for i in range(len(lengths) + 1)]
    assert sequences.starts == tuple(sequences.offsets[:-1].tolist())
    assert (len(sequences), sequences.total) == (len(lengths), sum(lengths))
    assert sequences.longest == max(lengths)
    assert sequences.owner.dtype == torch.int64
    assert torch.bincount(sequences.owner, minlength=len(lengths)).tolist() == lengths
    assert (sequences.owner.diff() >= 0).all()


@given(lengths_of)
def test_class_tokens_make_each_sequence_one_longer(lengths):
    longer = Sequences.of(lengths).with_class_token()
    assert longer.lengths == tuple(n + 1 for n in lengths)
    assert longer.offsets.dtype == torch.int32
    assert torch.equal(longer.offsets, Sequences.of(longer.lengths).offsets)
    assert longer.total == sum(lengths) + len(lengths)


@pytest.mark.parametrize("lengths", [[], [3, 0], [-1]])
def test_empty_sequences_are_refused(lengths):
    with pytest.raises(ValueError, match="at least one token"):
        Sequences.of(lengths)


@given(lengths_of)
def test_a_packed_batch_holds_the_crops_one_after_the_other(lengths):
    made = crops(lengths)
    packed = pack(made)
    for (features, grid), f, p in zip(
        made, packed.features.split(lengths), packed.positions.split(lengths), strict=True
    ):
        assert np.array_equal(f.numpy(), features)
        assert np.array_equal(p.numpy(), grid)
    assert packed.positions.dtype == torch.int64


def test_half_precision_stays_and_the_batch_is_a_copy():
    made = crops([3, 4], np.float16)
    packed = pack(made)
    assert packed.features.dtype == torch.float16
    packed.features.zero_()
    assert made[0][0].any()


@pytest.mark.parametrize("shape", [(4, 2), (3, 3), (3,)])
def test_positions_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"features \(3, 5\), positions"):
        pack([(np.zeros((3, 5), np.float32), np.zeros(shape, np.int64))])
    with pytest.raises(ValueError, match="at least one token"):
        pack([])


@given(lengths_of, st.data())
def test_a_part_is_the_batch_of_these_crops(lengths, data):
    first = data.draw(st.integers(0, len(lengths) - 1))
    end = data.draw(st.integers(first + 1, len(lengths)))
    made = crops(lengths)
    packed = pack(made)
    assert_same(packed.part(slice(first, end)), pack(made[first:end]))
    assert_same(packed.part(slice(first - len(lengths), None)), pack(made[first:]))
    assert_same(packed.part(slice(None, end)), pack(made[:end]))
    assert packed.part(slice(first, end)).features.data_ptr() == (
        packed.features[packed.sequences.starts[first] :].data_ptr()
    )


@pytest.mark.parametrize("run", [slice(1, 1), slice(3, None), slice(2, 1), slice(0, 3, 2)])
def test_a_part_of_nothing_or_with_a_step_is_refused(run):
    with pytest.raises(ValueError, match="no run of neighbours"):
        pack(crops([3, 4, 5])).part(run)


@given(st.lists(lengths_of, min_size=1, max_size=4))
def test_joined_batches_are_the_batch_of_all_crops(parts):
    made = [crops(lengths, seed=i) for i, lengths in enumerate(parts)]
    assert_same(join([pack(one) for one in made]), pack([crop for one in made for crop in one]))


def test_a_batch_alone_is_not_copied_and_none_is_refused():
    packed = pack(crops([3, 4]))
    assert join([packed]) is packed
    with pytest.raises(ValueError, match="no packed batch"):
        join([])


@given(lengths_of, st.integers(0, 90))
def test_runs_cover_the_list_within_the_budget_and_no_two_could_be_one(lengths, budget):
    runs = split_by_budget(lengths, budget)
    assert [i for run in runs for i in range(run.start, run.stop)] == list(range(len(lengths)))
    held = [sum(lengths[run]) for run in runs]
    for run, tokens in zip(runs, held, strict=True):
        assert run.stop > run.start
        assert tokens <= budget or run.stop - run.start == 1
    for tokens, after in zip(held, runs[1:], strict=False):
        assert tokens + lengths[after.start] > budget


@given(lengths_of, st.integers(1, 90))
def test_parts_of_a_split_joined_are_the_batch(lengths, budget):
    packed = pack(crops(lengths))
    assert_same(join([packed.part(run) for run in split_by_budget(lengths, budget)]), packed)


def test_nothing_cannot_be_split():
    with pytest.raises(ValueError, match="no sequence"):
        split_by_budget([], 8)


def test_a_batch_goes_to_a_device():
    packed = pack(crops([3, 4])).to("meta")
    for tensor in (packed.features, packed.positions, packed.sequences.offsets):
        assert tensor.device.type == "meta"
    assert packed.sequences.lengths == (3, 4)
