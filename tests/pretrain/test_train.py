import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from slidemill.artifacts.formats import PRETRAIN_METRICS
from slidemill.config import CropsConfig, PretrainRun
from slidemill.errors import CohortError, CollapseError
from slidemill.pretrain.bags import ArrayBags, grid_positions
from slidemill.pretrain.dino import update_teacher
from slidemill.pretrain.encoder import embed
from slidemill.pretrain.train import epoch_batches, initial_network, pad, train

KINDS = np.arange(60) % 2
RUN = PretrainRun(
    width=32,
    depth=1,
    heads=2,
    prototypes=64,
    epochs=20,
    batch_slides=4,
    learning_rate=2e-3,
    teacher_momentum=0.95,
)


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make_bags(count=12, tiles=50, dim=8):
    """Two kinds: one tissue as a compact nest, another finely mixed; each slide its own stain."""
    rng = np.random.default_rng(7)
    tissues = rng.normal(size=(3, dim)) * 2.0
    coords, features = [], []
    for i in range(count):
        square = np.stack(np.meshgrid(np.arange(9), np.arange(9)), axis=-1).reshape(-1, 2)
        grid = square[np.sort(rng.choice(81, size=tiles + i % 12, replace=False))]
        nest = np.abs(grid - rng.integers(3, 6, size=2)).max(axis=1) <= 2
        mixed = rng.random(len(grid)) < 0.6
        tissue = nest * 2 if KINDS[i] else mixed * 1
        stain = 0.5 * rng.normal(size=dim)
        noise = 0.7 * rng.normal(size=(len(grid), dim))
        features.append((tissues[tissue] + stain + noise).astype(np.float32))
        coords.append((grid * 448).astype(np.int64))
    ids = [f"slide-{i}" for i in range(count)]
    return ArrayBags(ids, coords, [(448.0, 448.0)] * count, features)


def embeddings(encoder, bags):
    return np.stack(
        [
            embed(encoder, bags.features(i), grid_positions(bags.coords(i), bags.step(i)), "cpu")
            for i in range(len(bags.slide_ids))
        ]
    )


@pytest.fixture(scope="module")
def bags():
    return make_bags()


@pytest.fixture(scope="module")
def trained(bags):
    torch.set_num_threads(1)
    return train(bags, RUN, device="cpu", seed=3)


def test_the_loss_falls_clearly(trained):
    loss = trained.metrics.groupby("epoch")["loss"].mean()
    assert len(loss) == 20
    assert loss.iloc[-1] < loss.iloc[0] - 0.5


def test_metrics_are_those_of_the_format(trained):
    metrics = trained.metrics
    assert list(metrics) == [field.name for field in PRETRAIN_METRICS.fields]
    assert [str(kind) for kind in metrics.dtypes] == [f.dtype for f in PRETRAIN_METRICS.fields]
    assert metrics["step"].tolist() == list(range(60))
    assert metrics["epoch"].tolist() == [step // 3 for step in range(60)]
    assert metrics["learning_rate"].max() == RUN.learning_rate
    assert metrics["teacher_momentum"].is_monotonic_increasing
    assert metrics["seconds"].is_monotonic_increasing
    assert np.isfinite(metrics.to_numpy(dtype=float)).all()
    assert metrics["teacher_entropy"].between(0, np.log(64) + 1e-5).all()


def nearest_of_the_same_kind(vectors):
    """Mean cosine of two slides, and share of slides whose nearest neighbour is of their kind."""
    assert np.isfinite(vectors).all()
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosine = unit @ unit.T
    mean = cosine[~np.eye(len(cosine), dtype=bool)].mean()
    np.fill_diagonal(cosine, -np.inf)
    return mean, np.mean(KINDS[cosine.argmax(axis=1)] == KINDS)


def test_embeddings_are_not_collapsed_and_tell_the_kinds_of_unseen_slides(trained, bags):
    more = make_bags(60)  # the 12 that were trained on, and 48 that were not
    np.testing.assert_array_equal(more.tile_features[11], bags.tile_features[11])
    untrained = initial_network(bags, RUN, 3).encoder.eval()
    _, before = nearest_of_the_same_kind(embeddings(untrained, more))
    cosine, after = nearest_of_the_same_kind(embeddings(trained.encoder, more))
    assert cosine < 0.9
    assert after >= 0.95
    assert after > before


def test_the_encoder_is_ready_for_use(trained, bags):
    assert not trained.encoder.training
    assert not any(parameter.requires_grad for parameter in trained.encoder.parameters())
    everything = np.concatenate(bags.tile_features)
    np.testing.assert_allclose(
        trained.encoder.feature_mean.numpy(), everything.mean(axis=0), atol=1e-5
    )


def short(**changes):
    return RUN.model_copy(update={"epochs": 3, **changes})


def test_the_same_seed_gives_the_same_bits_and_leaves_the_callers_random_state(bags):
    states = []
    random_state = torch.get_rng_state()
    numpy_state = np.random.get_state()[1].copy()
    for caller_seed in (0, 1):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(caller_seed)
            before = torch.get_rng_state()
            result = train(bags, short(), device="cpu", seed=5)
            assert torch.equal(torch.get_rng_state(), before)
        states.append((result.encoder.state_dict(), result.metrics.drop(columns="seconds")))
    assert torch.equal(torch.get_rng_state(), random_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)
    (first, first_metrics), (second, second_metrics) = states
    assert all(torch.equal(first[name], second[name]) for name in first)
    pd.testing.assert_frame_equal(first_metrics, second_metrics, check_exact=True)
    other = train(bags, short(), device="cpu", seed=6).encoder.state_dict()
    assert not torch.equal(other["embed.weight"], first["embed.weight"])


def test_names_of_slides_do_not_matter(bags):
    renamed = ArrayBags(bags.slide_ids[::-1], bags.tile_coords, bags.steps, bags.tile_features)
    results = [train(b, short(epochs=1), device="cpu", seed=5).encoder for b in (bags, renamed)]
    assert torch.equal(results[0].embed.weight, results[1].embed.weight)


def test_prototypes_rest_in_the_first_epoch(bags, monkeypatch):
    seen = []

    def watch(teacher, student, momentum):
        seen.append((student.head.prototypes.detach().clone(), momentum))
        update_teacher(teacher, student, momentum)

    monkeypatch.setattr("slidemill.pretrain.train.update_teacher", watch)
    result = train(bags, short(epochs=2), device="cpu", seed=5)
    start = initial_network(bags, short(), 5).head.prototypes
    assert [torch.equal(prototypes, start) for prototypes, _ in seen] == [True] * 3 + [False] * 3
    assert [momentum for _, momentum in seen] == result.metrics["teacher_momentum"].tolist()


def test_a_teacher_that_never_moves_is_the_initial_network(bags):
    run = short(epochs=1, teacher_momentum=1.0 - 1e-12)
    start = initial_network(bags, run, 5).encoder.state_dict()
    kept = train(bags, run, device="cpu", seed=5).encoder.state_dict()
    moved = train(bags, short(epochs=1), device="cpu", seed=5).encoder.state_dict()
    assert all(torch.allclose(kept[name], start[name], atol=1e-7) for name in start)
    assert not torch.allclose(moved["embed.weight"], start["embed.weight"], atol=1e-5)


def test_progress_is_told_after_every_step(bags):
    told = []
    result = train(
        bags, short(epochs=1), device="cpu", seed=5, progress=lambda *args: told.append(args)
    )
    assert told == [(step + 1, 3, loss) for step, loss in enumerate(result.metrics["loss"])]


def test_global_crops_alone_and_whole_slides_as_crops(bags):
    crops = CropsConfig(global_crops=3, local_crops=0, global_scale=(1.0, 1.0))
    result = train(bags, short(epochs=1, crops=crops), device="cpu", seed=0)
    assert np.isfinite(result.metrics["loss"]).all()


def test_features_that_are_not_finite_are_named_as_the_cause(bags):
    features = [one.copy() for one in bags.tile_features]
    features[3][:-1] = np.nan
    broken = ArrayBags(bags.slide_ids, bags.tile_coords, bags.steps, features)
    with pytest.raises(CollapseError, match=r"(?s)step \d of 9.*nan.*learning_rate.*not finite"):
        train(broken, short(), device="cpu", seed=0)


def test_one_slide_is_too_few():
    with pytest.raises(CohortError, match="at least 2"):
        train(make_bags(1), RUN, device="cpu", seed=0)


@settings(max_examples=50)
@given(st.integers(2, 70), st.integers(2, 20), st.integers(0, 3))
def test_batches_hold_every_slide_once_and_never_one_alone(slides, batch_slides, epoch):
    batches = epoch_batches(slides, batch_slides, 1, epoch)
    assert sorted(np.concatenate(batches)) == list(range(slides))
    assert min(len(batch) for batch in batches) >= 2
    assert max(len(batch) for batch in batches) <= batch_slides + 1
    assert len(batches) == max(1, (slides + batch_slides - 2) // batch_slides)
    assert all(len(batch) == batch_slides for batch in batches[:-1])


def test_every_epoch_has_its_own_order():
    orders = {tuple(np.concatenate(epoch_batches(30, 8, 0, epoch))) for epoch in range(5)}
    assert len(orders) == 5


def test_padding_puts_zeros_behind():
    crops = [(np.full((n, 3), n, np.float32), np.full((n, 2), n, np.int64)) for n in (2, 4)]
    features, positions, valid = pad(crops)
    assert features.shape == (2, 4, 3) and positions.dtype == torch.int64
    assert valid.tolist() == [[True, True, False, False], [True] * 4]
    assert features[0, :, 0].tolist() == [2, 2, 0, 0]
    assert positions[0, :, 1].tolist() == [2, 2, 0, 0]
