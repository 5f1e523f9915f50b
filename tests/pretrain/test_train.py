"""Training on small bags: what it gives, its course, and inputs that are bad."""

import logging

import numpy as np
import pandas as pd
import pytest
import torch

from pretrain.tiny import STEP, make_bags, make_tiny
from slidemill.artifacts.formats import PRETRAIN_METRICS
from slidemill.artifacts.parquet import read_parquet, write_parquet
from slidemill.artifacts.provenance import Stamp
from slidemill.errors import CohortError, CollapseError
from slidemill.pretrain import schedules
from slidemill.pretrain.bags import ArrayBags, grid_positions
from slidemill.pretrain.embedding import embed_slide
from slidemill.pretrain.monitors import CollapseWatch
from slidemill.pretrain.train import COUNTS, NUMBERS, Means, initial_encoder, train

TIMES = ["seconds", "tokens_per_s"]


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def bags():
    return make_bags()


def course(trained):
    """What a training's table says but for times."""
    return trained.metrics.drop(columns=TIMES)


def same(one, other):
    """Whether two trainings are the same to the bit."""
    pd.testing.assert_frame_equal(course(one), course(other), check_exact=True)
    weights, others = one.encoder.state_dict(), other.encoder.state_dict()
    assert weights.keys() == others.keys()
    assert all(torch.equal(weights[name], others[name]) for name in weights)


# --- what training gives ------------------------------------------------------------------------


@pytest.mark.parametrize("attention", ["exact", "longnet"])
@pytest.mark.parametrize("method", ["dino", "dinov2", "dinov2-compact"])
def test_all_methods_and_encoders_train_to_the_same_bits_again(bags, method, attention):
    run = make_tiny(method=method, attention=attention)
    first = train(bags, run, seed=3)
    same(first, train(bags, run, seed=3))
    assert len(first.metrics) == 4
    before = initial_encoder(run, bags.dim, 3).state_dict()
    moved = [n for n, t in first.encoder.state_dict().items() if not torch.equal(t, before[n])]
    weights = [name for name, _ in first.encoder.named_parameters()]
    # The teacher of dino never sees a hidden tile: its token alone stays as it was.
    assert set(moved) >= set(weights) - {"mask_token"}
    assert not first.encoder.training
    assert not any(parameter.requires_grad for parameter in first.encoder.parameters())
    other = course(train(bags, run, seed=4))
    assert not np.allclose(other["loss"], first.metrics["loss"])


def test_the_callers_random_state_is_neither_used_nor_changed(bags):
    of_numpy = np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        results = []
        for seed in (0, 1):
            torch.manual_seed(seed)
            np.random.seed(seed)
            before, numbers = torch.get_rng_state(), np.random.get_state()[1].copy()
            results.append(train(bags, make_tiny(), seed=5))
            assert torch.equal(torch.get_rng_state(), before)
            assert np.array_equal(np.random.get_state()[1], numbers)
            initial_encoder(make_tiny(), 6, 5)
            assert torch.equal(torch.get_rng_state(), before)
    np.random.set_state(of_numpy)
    same(*results)


def test_readers_change_nothing_and_passes_only_roundings(bags):
    run = make_tiny()
    plain = train(bags, run, seed=0)
    same(plain, train(bags, run, seed=0, means=Means(readers=5)))
    small = train(bags, run, seed=0, means=Means(token_budget=50, checkpointing=True))
    numbers = ["loss", "dino_loss", "ibot_loss", "regulariser", "gradient_norm", "rankme"]
    np.testing.assert_allclose(small.metrics[numbers], plain.metrics[numbers], rtol=1e-4)
    assert small.metrics["tokens"].equals(plain.metrics["tokens"])


def test_names_of_slides_do_not_matter(bags):
    renamed = ArrayBags(bags.slide_ids[::-1], bags.tile_coords, bags.steps, bags.tile_features)
    same(train(bags, make_tiny(), seed=5), train(renamed, make_tiny(), seed=5))


def test_moments_are_those_of_the_training_bags(bags):
    everything = np.concatenate(bags.tile_features)
    encoder = train(bags, make_tiny(epochs=1), seed=0).encoder
    np.testing.assert_allclose(encoder.feature_mean, everything.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(encoder.feature_std, everything.std(axis=0), rtol=1e-5)
    fewer = ArrayBags(*(list(part)[:4] for part in (
        bags.slide_ids, bags.tile_coords, bags.steps, bags.tile_features
    )))  # fmt: skip
    other = train(fewer, make_tiny(epochs=1), seed=0).encoder
    assert not np.allclose(other.feature_mean, everything.mean(axis=0), atol=1e-3)


def test_the_encoder_that_is_given_is_the_teacher(bags):
    """At a first momentum near 1 the teacher stays what it was, though the student learns."""
    kept = train(bags, make_tiny(teacher_momentum=1 - 1e-12), seed=5).encoder
    start = dict(initial_encoder(make_tiny(), bags.dim, 5).named_parameters())
    for name, parameter in kept.named_parameters():
        torch.testing.assert_close(parameter, start[name].detach(), atol=1e-7, rtol=0)


def test_the_loss_falls_and_embeddings_differ(bags):
    run = make_tiny(method="dino", epochs=60, learning_rate=5e-3)
    trained = train(bags, run, seed=0)
    loss = trained.metrics["loss"]
    assert loss[-10:].mean() < 0.7 * loss[:10].mean()
    vectors = np.stack([
        embed_slide(
            trained.encoder, bags.features(i), grid_positions(bags.coords(i), bags.step(i)), "cpu"
        ).cls
        for i in range(8)
    ])  # fmt: skip
    assert np.linalg.matrix_rank(vectors - vectors.mean(axis=0), tol=0.1) >= 3


def test_bfloat16_trains_on_the_cpu(bags):
    plain = train(bags, make_tiny(), seed=0).metrics
    rough = train(bags, make_tiny(precision="bf16"), seed=0)
    same(rough, train(bags, make_tiny(precision="bf16"), seed=0))
    assert all(p.dtype == torch.float32 for p in rough.encoder.parameters())
    np.testing.assert_allclose(rough.metrics["loss"], plain["loss"], rtol=0.2)
    assert not rough.metrics["loss"].equals(plain["loss"])


# --- the table ----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["dino", "dinov2"])
def test_the_table_is_that_of_the_format(bags, method, tmp_path):
    metrics = train(bags, make_tiny(method=method), seed=0).metrics
    assert [*metrics] == [*COUNTS, *NUMBERS]
    write_parquet(tmp_path / "metrics.parquet", metrics, PRETRAIN_METRICS, Stamp("d", "i"))
    read = read_parquet(tmp_path / "metrics.parquet", "pretrain-metrics")
    assert [*read] == [field.name for field in PRETRAIN_METRICS.fields]
    assert [str(kind) for kind in read.dtypes] == [f.dtype for f in PRETRAIN_METRICS.fields]
    pd.testing.assert_frame_equal(read[[*metrics]], metrics, check_exact=True)


@pytest.mark.parametrize(
    ("changes", "missing"),
    [
        ({"method": "dino", "regulariser": "none"}, {"ibot_loss", "regulariser"}),
        ({"method": "dino"}, {"ibot_loss"}),
        ({"method": "dinov2"}, set()),
        ({"method": "dinov2", "regulariser": "kde"}, set()),
        ({"method": "dinov2", "regulariser": "none"}, {"regulariser"}),
    ],
)
def test_losses_add_up_and_are_missing_where_there_is_none(bags, changes, missing):
    ibot = {"weight": 0.7} if changes["method"] == "dinov2" else {}
    run = make_tiny(**changes, regulariser_weight=0.3, ibot=ibot)
    metrics = train(bags, run, seed=0).metrics
    gone = metrics.isna().all()
    assert set(gone[gone].index) == missing
    assert metrics.drop(columns=[*missing]).notna().all(axis=None)
    total = metrics["dino_loss"] + 0.7 * metrics["ibot_loss"].fillna(0)
    total += 0.3 * metrics["regulariser"].fillna(0)
    np.testing.assert_allclose(metrics["loss"], total, rtol=1e-5)


def test_schedules_are_those_of_the_configuration(bags):
    run = make_tiny(
        epochs=5, warmup=0.3, teacher_temperature=[0.02, 0.05], teacher_warmup=0.5,
        weight_decay=[0.01, 0.2],
    )  # fmt: skip
    metrics = train(bags, run, seed=0).metrics
    assert metrics["step"].tolist() == list(range(10))
    assert metrics["epoch"].tolist() == [step // 2 for step in range(10)]
    assert (metrics["slides"] == 4).all()
    for step, row in metrics.iterrows():
        at = (int(step), 10)
        assert row["learning_rate"] == schedules.learning_rate(*at, peak=2e-3, warmup_steps=3)
        assert row["weight_decay"] == schedules.weight_decay(*at, first=0.01, last=0.2)
        assert row["teacher_momentum"] == schedules.teacher_momentum(*at, first=0.9)
        assert row["teacher_temperature"] == schedules.teacher_temperature(
            *at, first=0.02, last=0.05, warmup_steps=5
        )
    assert metrics["seconds"].is_monotonic_increasing
    assert (metrics["teacher_entropy"] <= np.log(32) + 1e-5).all()
    assert metrics["rankme"].between(1 - 1e-4, 4 + 1e-4).all()
    assert metrics["mean_cosine"].between(-1, 1).all()


def test_progress_is_told_after_every_update_and_of_what_it_showed(bags):
    told = []
    trained = train(bags, make_tiny(), seed=0, progress=lambda *args: told.append(args))
    assert [(step, steps) for step, steps, _ in told] == [(n, 4) for n in (1, 2, 3, 4)]
    table = pd.DataFrame([row for *_, row in told])[[*trained.metrics]]
    pd.testing.assert_frame_equal(table, trained.metrics, check_exact=True)


# --- accumulation and frozen prototypes ---------------------------------------------------------


def test_two_batches_an_update_have_the_mean_of_their_losses(bags):
    """At a learning rate of nothing every batch meets the first weights, in both runs."""
    still = {"learning_rate": 1e-30, "epochs": 2, "regulariser": "koleo"}
    single = train(bags, make_tiny(**still), seed=0).metrics
    double = train(bags, make_tiny(**still, accumulate=2), seed=0).metrics
    assert (len(single), len(double)) == (4, 2)
    assert double["slides"].tolist() == [8, 8]
    assert double["tokens"].tolist() == single["tokens"].to_numpy().reshape(2, 2).sum(1).tolist()
    for name in ("loss", "dino_loss", "ibot_loss", "regulariser"):
        means = single[name].to_numpy().reshape(2, 2).mean(axis=1)
        np.testing.assert_allclose(double[name], means, rtol=1e-5)


def test_an_odd_number_of_batches_ends_in_a_shorter_update():
    metrics = train(
        make_bags(11), make_tiny(epochs=1, accumulate=2, batch_slides=3), seed=0
    ).metrics
    assert metrics["slides"].tolist() == [8, 3]


def heads_while_training(bags, run):
    """Prototypes of the student after every update."""
    seen = []

    def keep(step, state):
        tensors = state().tensors
        names = [n for n in sorted(tensors) if n.startswith("method.student") and "prototypes" in n]
        seen.append([tensors[name] for name in names])

    train(bags, run, seed=0, keep=keep)
    return seen


@pytest.mark.parametrize("separate", [False, True])
def test_prototypes_rest_for_their_share_of_the_steps(bags, separate):
    run = make_tiny(epochs=4, frozen_head=0.4, ibot={"separate_head": separate})
    seen = heads_while_training(bags, run)
    assert [len(heads) for heads in seen] == [1 + separate] * 8
    for head in range(1 + separate):
        moved = [not torch.equal(now[head], seen[0][head]) for now in seen]
        assert moved == [False] * 3 + [True] * 5
    free = heads_while_training(bags, make_tiny(epochs=1, frozen_head=0.0))
    assert not torch.equal(free[0][0], seen[0][0])


# --- going on from a state ----------------------------------------------------------------------


class StopHereError(Exception):
    """The process is gone."""


def interrupted(bags, run, after):
    """The state that a training leaves which is stopped after some updates."""
    states = []

    def keep(step, state):
        if step == after:
            states.append(state())

    def stop(step, steps, row):
        if step > after:
            raise StopHereError

    # One more update is done after the state was taken, and must leave no trace in it.
    with pytest.raises(StopHereError):
        train(bags, run, seed=1, keep=keep, progress=stop)
    return states[0]


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "dino", "targets": "centring", "accumulate": 2, "epochs": 6},
        {"method": "dinov2", "targets": "sinkhorn", "ibot": {"separate_head": True}},
        {"method": "dinov2", "targets": "centring", "precision": "bf16", "frozen_head": 0.5},
        {"method": "dinov2-compact", "attention": "longnet", "regulariser": "kde"},
    ],
    ids=["dino", "dinov2", "bf16", "compact"],
)
def test_a_stopped_training_goes_on_to_the_same_bits_from_every_step(bags, changes):
    run = make_tiny(**({"epochs": 3} | changes))
    whole = train(bags, run, seed=1)
    assert len(whole.metrics) == 6
    for after in range(1, 6):
        state = interrupted(bags, run, after)
        assert (state.step, len(state.metrics)) == (after, after)
        same(train(bags, run, seed=1, state=state), whole)


def test_a_state_of_the_end_gives_the_end(bags):
    states = []
    whole = train(bags, make_tiny(), seed=1, keep=lambda _, state: states.append(state()))
    same(train(bags, make_tiny(), seed=1, state=states[-1]), whole)


def test_time_goes_on_from_where_it_was(bags):
    state = interrupted(bags, make_tiny(), 2)
    state.seconds = 1000.0
    seconds = train(bags, make_tiny(), seed=1, state=state).metrics["seconds"]
    assert 1000 < seconds[2] < seconds[3] < 1500


# --- what stops a training ----------------------------------------------------------------------


def test_a_training_that_diverges_stops_with_advice_and_leaves_no_spoilt_state(bags):
    kept = []

    def keep(step, state):
        kept.append(state())

    with pytest.raises(CollapseError, match=r"diverged.*Lower learning_rate \(now 1e\+30\)"):
        train(bags, make_tiny(learning_rate=1e30), seed=0, keep=keep)
    assert len(kept) < 4
    assert all(t.isfinite().all() for state in kept for t in state.tensors.values())


def test_weights_that_the_last_update_spoils_are_not_given(bags):
    """No loss is computed after the last update, so that only the weights themselves show it."""
    run = make_tiny(epochs=1, batch_slides=8, learning_rate=1e38, warmup=0.0, weight_decay=[9, 9])
    told = []
    with pytest.raises(CollapseError, match="after 1 of 1 updates its weights are nan"):
        train(bags, run, seed=0, progress=lambda *args: told.append(args))
    assert len(told) == 1


def test_features_that_overflow_in_float32_stop_the_training(bags):
    """They are finite as stored, and their mean is; their distance from it is not."""
    features = [np.full_like(one, -3e38) for one in bags.tile_features]
    features[2][:] = 3e38
    huge = ArrayBags(bags.slide_ids, bags.tile_coords, bags.steps, features)
    with pytest.raises(CollapseError, match=r"diverged at step 0 .*the tile features"):
        train(huge, make_tiny(batch_slides=8), seed=0)


def test_a_training_that_collapses_is_stopped():
    """A teacher as blunt as 1.0, whose centre hardly moves, ends with one answer to everything."""
    bags = make_bags(4, first=8)
    run = make_tiny(
        method="dino", targets="centring", centre_momentum=0.999, teacher_temperature=[1.0, 1.0],
        epochs=400, teacher_momentum=0.5, crops={"local_crops": 0}, regulariser="none",
    )  # fmt: skip
    with pytest.raises(CollapseError, match=r"collapsed.*targets: sinkhorn") as caught:
        train(bags, run, seed=0)
    assert "of 400" in str(caught.value)


def test_a_watch_that_waits_goes_on_waiting_after_a_stop(bags, monkeypatch):
    """The window in which a sign has been seen is part of the state."""
    monkeypatch.setattr("slidemill.pretrain.monitors.GRACE_STEPS", 2)
    monkeypatch.setattr("slidemill.pretrain.monitors.WINDOW_STEPS", 4)
    monkeypatch.setattr(CollapseWatch, "_seen", lambda *_: {"same": True})
    run = make_tiny(epochs=5)

    def stopped(state):
        told = []
        with pytest.raises(CollapseError, match="from 2 to 5 of 10"):
            train(bags, run, seed=1, state=state, progress=lambda *args: told.append(args))
        return len(told)

    assert stopped(None) == 5
    assert stopped(interrupted(bags, run, 4)) == 1


# --- bad input ----------------------------------------------------------------------------------


def with_slide(bags, coords, features=None):
    """The bags and one more slide."""
    coords = np.asarray(coords, dtype=np.int64)
    if features is None:
        features = np.random.default_rng(0).normal(size=(len(coords), 6)).astype(np.float32)
    return ArrayBags(
        [*bags.slide_ids, "odd-one"], [*bags.tile_coords, coords], [*bags.steps, (STEP, STEP)],
        [*bags.tile_features, features], [*bags.steps_um, (128.0, 128.0)],
    )  # fmt: skip


@pytest.mark.parametrize("method", ["dino", "dinov2", "dinov2-compact"])
@pytest.mark.parametrize("tiles", [1, 3])
def test_a_slide_of_one_tile_or_of_fewer_than_a_crop_needs_is_its_own_crop(bags, method, tiles):
    """It is trained on like the others, as a whole in every crop; nothing is told of it."""
    odd = with_slide(bags, np.arange(2 * tiles).reshape(tiles, 2) * STEP)
    run = make_tiny(method=method, crops={"local_crops": 2, "min_tiles": 8}, batch_slides=9)
    metrics = train(odd, run, seed=0).metrics
    assert (metrics["slides"] == 9).all()
    assert np.isfinite(metrics["loss"]).all()
    encoder = train(odd, run, seed=0).encoder
    embedded = embed_slide(encoder, odd.features(8), odd.coords(8) // STEP, "cpu")
    assert np.isfinite(embedded.layers).all()


def test_a_cohort_of_slides_of_one_tile_trains():
    """There is nothing to arrange, and the numbers stay finite all the same."""
    bags = make_bags(4)
    single = ArrayBags(
        bags.slide_ids, [one[:1] for one in bags.tile_coords], bags.steps,
        [one[:1] for one in bags.tile_features],
    )  # fmt: skip
    assert np.isfinite(train(single, make_tiny(), seed=0).metrics["loss"]).all()


def test_duplicate_coordinates_count_once_and_are_told_of(bags, caplog):
    """The first tile of a cell is trained on; the log names the slide and how many are left out."""
    coords, features = bags.tile_coords[0], bags.tile_features[0]
    double = with_slide(bags, np.concatenate([coords, coords]), np.concatenate([features] * 2))
    once = with_slide(bags, coords, features)
    with caplog.at_level(logging.WARNING):
        doubled = train(double, make_tiny(), seed=0)
    assert f"odd-one: {len(coords)} of {2 * len(coords)} tiles" in caplog.text
    assert caplog.text.count("odd-one") == 1
    plain = train(once, make_tiny(), seed=0)
    assert doubled.metrics["tokens"].equals(plain.metrics["tokens"])


def test_coordinates_beyond_256000_pixels_are_exact(bags):
    """Positions come from int64: a slide far from the corner is the same slide."""
    far = [one + np.array([1_000_000 * STEP, 70_000 * STEP]) for one in bags.tile_coords]
    moved = ArrayBags(bags.slide_ids, far, bags.steps, bags.tile_features)
    same(train(bags, make_tiny(), seed=0), train(moved, make_tiny(), seed=0))


def test_a_slide_wider_than_a_thousand_cells_trains(bags):
    """No table of positions ends anywhere."""
    wide = np.stack([np.arange(40) * 100, np.zeros(40)], axis=1) * STEP
    metrics = train(with_slide(bags, wide), make_tiny(), seed=0).metrics
    assert np.isfinite(metrics["loss"]).all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_are_not_finite_stop_the_training_and_name_the_slide(bags, value):
    """Before the first step; with what to do."""
    features = [one.copy() for one in bags.tile_features]
    features[3][-1, 2] = value
    broken = ArrayBags(bags.slide_ids, bags.tile_coords, bags.steps, features)
    with pytest.raises(CohortError, match=r"slide-3.*not finite.*Delete the slide's features file"):
        train(broken, make_tiny(), seed=0, progress=lambda *_: pytest.fail("a step was made"))


def test_a_cohort_smaller_than_the_batch_is_one_batch_a_step():
    """Every step then has the whole cohort."""
    metrics = train(make_bags(3), make_tiny(batch_slides=32, epochs=3), seed=0).metrics
    assert metrics["slides"].tolist() == [3, 3, 3]


def test_one_slide_is_too_few():
    """Slides are told apart from each other: an error that says so."""
    with pytest.raises(CohortError, match=r"1 slide.*at least 2.*pretrain.runs.patients"):
        train(make_bags(1), make_tiny(), seed=0)
