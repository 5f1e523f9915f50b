import itertools
import logging
import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from slidemill.config.pretrain import CropsConfig, IbotConfig, PretrainRun
from slidemill.errors import CohortError
from slidemill.pretrain.bags import ArrayBags, grid_positions
from slidemill.pretrain.crops import MAX_SHIFT
from slidemill.pretrain.loader import StepLoader, epoch_batches

CROPS = CropsConfig(global_crops=2, local_crops=3)
RUN = PretrainRun(crops=CROPS, batch_slides=3, epochs=3)
STEP = (512.0, 512.0)


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make_bags(count=11, tiles=60, dtype=np.float32, kind=ArrayBags):
    """Slides of ragged tissue whose features say which slide and which tile they are."""
    rng = np.random.default_rng(0)
    grids = [
        np.stack(np.divmod(np.sort(rng.permutation(100)[: tiles + i]), 10), axis=1)
        for i in range(count)
    ]
    features = [
        np.stack([np.full(len(g), i), np.arange(len(g))], axis=1).astype(dtype)
        for i, g in enumerate(grids)
    ]
    ids = [f"slide-{i}" for i in range(count)]
    steps = [STEP] * count
    return kind(ids, [g * 512 for g in grids], steps, features, [(128.0, 128.0)] * count)


@pytest.fixture(scope="module")
def bags():
    return make_bags()


def changed(**changes):
    return RUN.model_copy(update=changes)


def tensors(batch):
    parts = [batch.globals, *([batch.locals] if batch.locals else [])]
    found = [t for part in parts for t in (part.features, part.positions, part.sequences.offsets)]
    hidden = [] if batch.hidden is None else [batch.hidden]
    return [*found, batch.teacher_positions, *hidden, batch.weights]


def equal(one, other):
    facts = [(b.epoch, b.step, b.n_slides, b.slides.tolist()) for b in (one, other)]
    return facts[0] == facts[1] and all(
        torch.equal(a, b) and a.dtype == b.dtype
        for a, b in zip(tensors(one), tensors(other), strict=True)
    )


def crops_of(part):
    """Features and positions of every crop."""
    lengths = part.sequences.lengths
    return list(zip(part.features.split(lengths), part.positions.split(lengths), strict=True))


def is_turned_and_shifted(one, other):
    """Whether positions are others, as a whole moved, turned by quarters or mirrored."""
    centred = [(p - p[:1]).to(torch.int64) for p in (one, other)]
    turns = [
        grid * torch.tensor(signs)
        for grid in (centred[0], centred[0].flip(1))
        for signs in itertools.product((1, -1), repeat=2)
    ]
    return any(torch.equal(turn, centred[1]) for turn in turns)


# --- order of slides ---------------------------------------------------------------------------


@settings(max_examples=50)
@given(st.integers(2, 70), st.integers(2, 20), st.integers(0, 3))
def test_batches_hold_every_slide_once_and_none_is_small(slides, batch_slides, epoch):
    batches = epoch_batches(slides, batch_slides, 1, epoch)
    assert sorted(np.concatenate(batches)) == list(range(slides))
    sizes = [len(batch) for batch in batches]
    assert min(sizes) >= min(slides, batch_slides)
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) < 2 * batch_slides


def test_a_cohort_smaller_than_the_batch_is_one_batch():
    assert [len(batch) for batch in epoch_batches(5, 32, 0, 0)] == [5]
    loader = StepLoader(make_bags(5), changed(batch_slides=32), 0)
    assert (loader.steps_per_epoch, loader.steps) == (1, 3)
    assert loader.load(1).n_slides == 5


def test_every_epoch_has_its_own_order():
    orders = {tuple(np.concatenate(epoch_batches(30, 8, 0, epoch))) for epoch in range(5)}
    assert len(orders) == 5


# --- what is in a batch ------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["dino", "dinov2", "dinov2-compact"])
def test_crops_hold_tiles_of_their_slide_in_crop_major_order(bags, method):
    batch = StepLoader(bags, changed(method=method), 3).load(4)
    assert (batch.epoch, batch.step, batch.n_slides) == (1, 4, 4)
    assert len(batch.globals.sequences) == 2 * 4
    assert len(batch.locals.sequences) == 3 * 4
    for part in (batch.globals, batch.locals):
        for n, (features, positions) in enumerate(crops_of(part)):
            i = batch.slides[n % 4]
            assert set(features[:, 0].tolist()) == {i}
            rows = features[:, 1].to(torch.int64)
            grid = torch.from_numpy(grid_positions(bags.coords(i), STEP))[rows]
            assert is_turned_and_shifted(grid, positions)
            first = positions.min(dim=0).values
            assert (first >= 0).all()
            assert (first < MAX_SHIFT).all()


@pytest.mark.parametrize("method", ["dino", "dinov2", "dinov2-compact"])
def test_the_teacher_sees_the_same_tiles_elsewhere(bags, method):
    run, seen = changed(method=method, batch_slides=11), []
    for batch in map(StepLoader(bags, run, 3).load, range(3)):
        shown = batch.for_teacher()
        assert shown.features is batch.globals.features
        assert shown.sequences is batch.globals.sequences
        assert shown.positions is batch.teacher_positions
        assert shown.positions.dtype == torch.int64
        for (_, student), (_, teacher) in zip(
            crops_of(batch.globals), crops_of(shown), strict=True
        ):
            assert is_turned_and_shifted(student, teacher)
            first = teacher.min(dim=0).values
            assert (first >= 0).all()
            assert (first < MAX_SHIFT).all()
            corners = student.min(dim=0).values, first
            moves = (student - corners[0], teacher - corners[1])
            seen.append((torch.equal(*corners), torch.equal(*moves), *first.tolist()))
    # Of 66 crops one in 4,096 begins where the student's does, and one in 8 is not turned.
    corner, turn, columns, rows = zip(*seen, strict=True)
    assert len(seen) == 66
    assert sum(corner) <= 1
    assert 1 <= sum(turn) <= 20
    for places in (columns, rows):
        assert min(places) < 10
        assert max(places) > MAX_SHIFT - 10
    assert abs(np.corrcoef(columns, rows)[0, 1]) < 0.4


def test_every_crop_has_a_place_of_its_own(bags):
    """Of one slide, too: where a crop is cannot tell which slide it is of."""
    batch = StepLoader(bags, changed(batch_slides=11), 0).load(0)
    corners = [
        tuple(positions.min(dim=0).values.tolist())
        for part in (batch.globals, batch.for_teacher(), batch.locals)
        for _, positions in crops_of(part)
    ]
    assert len(corners) == 11 * (2 + 2 + 3)
    assert len(set(corners)) > 0.95 * len(corners)


def test_all_steps_of_an_epoch_hold_all_slides(bags):
    loader = StepLoader(bags, RUN, 0)
    assert (loader.steps_per_epoch, loader.steps) == (3, 9)
    seen = [(batch.epoch, batch.step, batch.slides) for batch in loader.iterate()]
    assert [step for _, step, _ in seen] == list(range(9))
    for epoch in range(3):
        slides = [slides for number, _, slides in seen if number == epoch]
        assert sorted(np.concatenate(slides)) == list(range(11))


def test_views_of_a_slide_differ_from_epoch_to_epoch(bags):
    loader = StepLoader(bags, changed(batch_slides=11), 0)
    seen = set()
    for batch in map(loader.load, range(3)):
        at = batch.slides.tolist().index(5)
        crops = crops_of(batch.globals)
        seen.add(tuple(tuple(crops[n][0][:, 1].tolist()) for n in (at, 11 + at)))
    assert len(seen) == 3


def test_large_crops_alone(bags):
    run = changed(crops=CropsConfig(global_crops=3, local_crops=0))
    batch = StepLoader(bags, run, 0).load(0)
    assert batch.locals is None
    assert len(batch.globals.sequences) == 3 * 4


def test_features_stay_in_half_precision():
    batch = StepLoader(make_bags(dtype=np.float16), RUN, 0).load(0)
    assert batch.globals.features.dtype == batch.locals.features.dtype == torch.float16
    assert batch.globals.positions.dtype == torch.int64


def test_crops_in_micrometres_take_the_slides_step(bags):
    crops = CropsConfig(
        unit="um", global_size=(512.0, 512.0), local_size=(256.0, 256.0), min_tiles=1
    )
    batch = StepLoader(bags, changed(crops=crops), 0).load(0)
    for part, cells in ((batch.globals, 4), (batch.locals, 2)):  # of 128 um
        extents = [np.ptp(positions.numpy(), axis=0) + 1 for _, positions in crops_of(part)]
        assert np.max(extents) == cells


def test_no_crop_has_more_tiles_than_allowed(bags):
    run = changed(max_tiles=20, crops=CropsConfig(global_size=(1.0, 1.0), local_size=(1.0, 1.0)))
    for method in ("dinov2", "dinov2-compact"):
        batch = StepLoader(bags, run.model_copy(update={"method": method}), 0).load(0)
        expected = 20 if method == "dinov2" else 16
        assert set(batch.globals.sequences.lengths) == {expected}
        assert set(batch.locals.sequences.lengths) == {expected}


# --- masks -------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", ["random", "block"])
def test_half_the_large_crops_are_masked_and_weigh_alike(bags, mask):
    run = changed(ibot=IbotConfig(mask=mask))
    for step in range(3):
        batch = StepLoader(bags, run, 1).load(step)
        hidden = [one.sum().item() for one in batch.hidden.split(batch.globals.sequences.lengths)]
        tiles = batch.globals.sequences.lengths
        crops = 2 * batch.n_slides
        assert sum(count > 0 for count in hidden) == round(crops / 2)
        assert all(
            h == 0 or 0.1 * n - 1 <= h <= 0.5 * n + 1 for h, n in zip(hidden, tiles, strict=True)
        )
        expected = [1 / count for count in hidden for _ in range(count)]
        assert batch.weights.dtype == torch.float32
        np.testing.assert_allclose(batch.weights.numpy(), expected, rtol=1e-6)


def test_dino_hides_nothing(bags):
    batch = StepLoader(bags, changed(method="dino"), 0).load(0)
    assert batch.hidden is None
    assert len(batch.weights) == 0


# --- a function of seed and step ---------------------------------------------------------------


@pytest.mark.parametrize("method", ["dino", "dinov2", "dinov2-compact"])
def test_a_step_is_the_same_whatever_was_loaded_before(bags, method):
    run = changed(method=method)
    whole = list(StepLoader(bags, run, 7).iterate())
    for first in (0, 4, 8):
        later = list(StepLoader(bags, run, 7, readers=1).iterate(first))
        assert len(later) == 9 - first
        assert all(equal(a, b) for a, b in zip(whole[first:], later, strict=True))
    loader = StepLoader(bags, run, 7)
    assert all(equal(loader.load(step), whole[step]) for step in (6, 2, 6))
    assert not equal(StepLoader(bags, run, 8).load(2), whole[2])
    assert list(loader.iterate(9)) == []


def test_the_callers_random_state_is_neither_used_nor_changed(bags):
    first = StepLoader(bags, RUN, 0).load(0)
    np.random.seed(5)
    torch.manual_seed(5)
    state, other = np.random.get_state()[1].copy(), torch.get_rng_state()
    assert equal(StepLoader(bags, RUN, 0).load(0), first)
    assert np.array_equal(np.random.get_state()[1], state)
    assert torch.equal(torch.get_rng_state(), other)


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("method", ["dino", "dinov2", "dinov2-compact"])
def test_parts_of_all_ranks_are_the_batch_of_one_process(bags, method, size):
    run = changed(method=method)
    one = StepLoader(bags, run, 2)
    ranks = [StepLoader(bags, run, 2, rank=r, size=size) for r in range(size)]
    for step in range(one.steps_per_epoch):
        whole = one.load(step)
        parts = [rank.load(step) for rank in ranks]
        assert [part.n_slides for part in parts] == [whole.n_slides] * size
        for r, part in enumerate(parts):
            assert part.slides.tolist() == whole.slides[r::size].tolist()
            for mine, all_crops in (
                (part.globals, whole.globals),
                (part.for_teacher(), whole.for_teacher()),
                (part.locals, whole.locals),
            ):
                theirs = [
                    crop
                    for n, crop in enumerate(crops_of(all_crops))
                    if n % whole.n_slides % size == r
                ]
                for (f, p), (g, q) in zip(crops_of(mine), theirs, strict=True):
                    assert torch.equal(f, g)
                    assert torch.equal(p, q)
            if whole.hidden is not None:
                lengths = whole.globals.sequences.lengths
                theirs = [
                    mask
                    for n, mask in enumerate(whole.hidden.split(lengths))
                    if n % whole.n_slides % size == r
                ]
                assert torch.equal(part.hidden, torch.cat(theirs))
                assert len(part.weights) == part.hidden.sum()
        assert sum(len(part.weights) for part in parts) == len(whole.weights)
        assert sum(part.weights.sum() for part in parts) == pytest.approx(whole.weights.sum())


def test_a_step_with_fewer_slides_than_processes_is_refused(bags):
    # 11 slides in batches of at least 3: the last has 3.
    StepLoader(bags, RUN, 0, rank=2, size=3)
    with pytest.raises(CohortError, match=r"only 3.*4 processes.*at most 3 processes"):
        StepLoader(bags, RUN, 0, rank=0, size=4)


def test_one_slide_is_too_few():
    with pytest.raises(CohortError, match="at least 2"):
        StepLoader(make_bags(1), RUN, 0)


# --- reading -----------------------------------------------------------------------------------


class Counting(ArrayBags):
    """Bags that write down which rows they were asked for."""

    def features(self, i, rows=None):
        assert rows is not None, "a whole slide was read"
        self.__dict__.setdefault("asked", []).append((i, np.asarray(rows)))
        return super().features(i, rows)


def test_only_the_tiles_of_crops_are_read_each_once():
    bags = make_bags(kind=Counting)
    crops = CropsConfig(global_size=(0.3, 0.4), local_crops=8, local_size=(0.1, 0.2), min_tiles=1)
    loader = StepLoader(bags, changed(crops=crops), 0)
    bags.asked.clear()
    batch = loader.load(0)
    assert sorted(i for i, _ in bags.asked) == sorted(batch.slides)
    crops = [*crops_of(batch.globals), *crops_of(batch.locals)]
    for i, rows in bags.asked:
        assert np.all(np.diff(rows) > 0)
        held = torch.cat([f[:, 1] for f, _ in crops if f[0, 0] == i]).unique()
        assert rows.tolist() == held.tolist()
        assert len(rows) < len(bags.tile_features[i])


def test_several_threads_read():
    names = set()

    class Watching(ArrayBags):
        both = threading.Barrier(2, timeout=5)

        def features(self, i, rows=None):
            if len(rows) > 1:
                names.add(threading.current_thread().name)
                self.both.wait()
            return super().features(i, rows)

    batches = StepLoader(make_bags(8, kind=Watching), RUN, 0, readers=2).iterate()
    next(batches)
    batches.close()
    assert len(names) == 2


def test_tiles_in_the_same_cell_are_used_once_and_counted(caplog):
    bags = make_bags(3)
    coords = [one.copy() for one in bags.tile_coords]
    coords[1][[4, 7]] = coords[1][2]
    twice = ArrayBags(bags.slide_ids, coords, bags.steps, bags.tile_features)
    run = changed(crops=CropsConfig(global_size=(1.0, 1.0), local_crops=0), batch_slides=3)
    loader = StepLoader(twice, run, 0)
    with caplog.at_level(logging.WARNING):
        batches = [loader.load(step) for step in range(2)]
    (record,) = caplog.records
    assert "slide-1: 2 of 61 tiles" in record.getMessage()
    for batch in batches:
        for features, _ in crops_of(batch.globals):
            rows = set(features[:, 1].tolist())
            assert (2 in rows) and (features[0, 0] != 1 or rows.isdisjoint({4, 7}))
            assert len(rows) == len(features)


def with_nan(kind, slide=3):
    bags = make_bags(kind=kind)
    bags.tile_features[slide][:] = np.nan
    return bags


def test_features_that_are_not_finite_stop_the_step_that_reads_them():
    bags = with_nan(ArrayBags)
    loader = StepLoader(bags, RUN, 0)
    first = next(step for step in itertools.count() if 3 in loader.slides(step))
    batches = loader.iterate()
    for _ in range(first):
        next(batches)
    with pytest.raises(CohortError, match=r"slide-3.*not finite"):
        next(batches)


def test_errors_of_reading_reach_the_training_and_no_thread_is_left():
    class Broken(ArrayBags):
        def coords(self, i):
            if i == 3:
                raise OSError("the disk is gone")
            return super().coords(i)

    before = threading.active_count()
    with pytest.raises(OSError, match="the disk is gone"):
        list(StepLoader(make_bags(kind=Broken), RUN, 0).iterate())
    assert threading.active_count() == before


def test_no_thread_is_left_when_training_stops_early(bags):
    before = threading.active_count()
    batches = StepLoader(bags, RUN, 0, readers=3).iterate()
    next(batches)
    assert threading.active_count() > before
    batches.close()
    assert threading.active_count() == before


def test_slides_of_two_dtypes_are_refused(bags):
    features = list(bags.tile_features)
    features[2] = features[2].astype(np.float16)
    mixed = ArrayBags(bags.slide_ids, bags.tile_coords, bags.steps, features)
    with pytest.raises(CohortError, match="slide-2 has float16 features, slide slide-0 float32"):
        list(StepLoader(mixed, RUN, 0).iterate())


@pytest.mark.parametrize("method", ["dino", "dinov2", "dinov2-compact"])
def test_slides_of_one_tile_and_of_very_few_are_trained_on(method):
    grids = [np.array([[5, 9]]), np.array([[0, 0], [7, 3], [1, 1]]), np.argwhere(np.ones((9, 9)))]
    features = [np.full((len(grid), 2), i, np.float32) for i, grid in enumerate(grids)]
    coords = [grid * 512 for grid in grids]
    bags = ArrayBags(["a", "b", "c"], coords, [STEP] * 3, features)
    for batch in StepLoader(bags, changed(method=method), 0).iterate():
        for part in (batch.globals, batch.locals):
            for crop, _ in crops_of(part):
                slide = int(crop[0, 0])
                assert len(crop) == len(grids[slide]) if slide < 2 else len(crop) >= 4
        if batch.hidden is not None:
            for mask in batch.hidden.split(batch.globals.sequences.lengths):
                assert not mask.all()


def test_a_batch_goes_to_a_device(bags):
    batch = StepLoader(bags, RUN, 0).load(0)
    moved = batch.to("meta")
    assert all(tensor.device.type == "meta" for tensor in tensors(moved))
    assert moved.slides is batch.slides
