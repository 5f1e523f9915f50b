import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import entropy as scipy_entropy

from slidemill.config import PretrainRun
from slidemill.errors import CollapseError
from slidemill.pretrain.monitors import (
    CollapseWatch,
    Signs,
    entropy,
    kl_to_uniform,
    mean_pairwise_cosine,
    rankme,
)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_uniform_and_certain_targets():
    uniform = torch.full((2, 3, 50), 0.02)
    assert entropy(uniform).item() == pytest.approx(math.log(50), rel=1e-6)
    assert kl_to_uniform(uniform).item() == pytest.approx(0.0, abs=1e-5)
    one = torch.zeros(2, 4, 8)
    one[..., 3] = 1.0
    assert entropy(one).item() == 0.0
    assert kl_to_uniform(one).item() == pytest.approx(math.log(8), rel=1e-6)
    each = torch.eye(8)
    assert entropy(each).item() == 0.0
    assert kl_to_uniform(each).item() == pytest.approx(0.0, abs=1e-6)


@given(seed=st.integers(0, 2**31), rows=st.integers(1, 10), prototypes=st.integers(2, 30))
@settings(max_examples=30, deadline=None)
def test_entropy_and_divergence_are_scipy_s_and_never_exceed_log_k(seed, rows, prototypes):
    targets = np.random.default_rng(seed).dirichlet(np.full(prototypes, 0.2), rows)
    mean_entropy = entropy(torch.from_numpy(targets)).item()
    divergence = kl_to_uniform(torch.from_numpy(targets)).item()
    assert mean_entropy == pytest.approx(scipy_entropy(targets, axis=1).mean(), abs=1e-5)
    uniform = np.full(prototypes, 1 / prototypes)
    expected = scipy_entropy(targets.mean(axis=0), uniform)
    assert divergence == pytest.approx(expected, abs=1e-5)
    assert mean_entropy + divergence <= math.log(prototypes) + 1e-5


def test_equal_embeddings_have_rank_and_cosine_one():
    rows = torch.linspace(-1, 2, 24).expand(16, 24)
    assert rankme(rows).item() == pytest.approx(1.0, abs=1e-3)
    assert mean_pairwise_cosine(rows).item() == pytest.approx(1.0, abs=1e-6)
    assert mean_pairwise_cosine(torch.arange(1.0, 5.0)[:, None] * rows[:4]).item() > 1 - 1e-6


@pytest.mark.parametrize("rows", [2, 5, 24])
def test_an_orthonormal_frame_has_rank_n_and_cosine_zero(rows):
    square = torch.randn(24, 24, generator=torch.Generator().manual_seed(0))
    frame = torch.linalg.qr(square).Q[:rows]
    assert rankme(frame).item() == pytest.approx(rows, rel=1e-4)
    assert mean_pairwise_cosine(frame).item() == pytest.approx(0.0, abs=1e-6)


def test_opposite_embeddings_and_a_known_spectrum():
    assert mean_pairwise_cosine(torch.tensor([[1.0, 0.0], [-3.0, 0.0]])).item() == -1.0
    spectrum = torch.diag(torch.tensor([6.0, 3.0, 1.0]))
    expected = math.exp(scipy_entropy([0.6, 0.3, 0.1]))
    assert rankme(spectrum).item() == pytest.approx(expected, rel=1e-5)
    assert rankme(100 * spectrum).item() == pytest.approx(expected, rel=1e-5)


@given(seed=st.integers(0, 2**31), rows=st.integers(2, 12), width=st.integers(1, 12))
@settings(max_examples=30, deadline=None)
def test_cosine_is_the_mean_over_pairs_and_rank_within_its_bounds(seed, rows, width):
    points = np.random.default_rng(seed).normal(size=(rows, width)).astype(np.float32)
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    pairs = [unit[i] @ unit[j] for i in range(rows) for j in range(rows) if i != j]
    cosine = mean_pairwise_cosine(torch.from_numpy(points)).item()
    assert cosine == pytest.approx(np.mean(pairs), abs=1e-5)
    assert 1.0 - 1e-3 <= rankme(torch.from_numpy(points)).item() <= min(rows, width) + 1e-3


def test_embeddings_that_are_not_finite_have_no_rank_and_too_few_are_refused():
    rows = torch.eye(4)
    rows[1, 1] = math.nan
    assert math.isnan(rankme(rows).item())
    assert math.isnan(mean_pairwise_cosine(rows).item())
    rows[1, 1] = math.inf
    assert math.isnan(rankme(rows).item())
    with pytest.raises(ValueError, match="0 embedding"):
        rankme(torch.zeros(0, 4))
    with pytest.raises(ValueError, match="takes at least 2"):
        mean_pairwise_cosine(torch.zeros(1, 4))


RUN = PretrainRun(
    name="r",
    method="dino",
    targets="centring",
    regulariser="none",
    head={"prototypes": 1000},
)
LOG_K = math.log(1000)
STEPS = 3000
HEALTHY = Signs(5.0, 1.0, 0.6 * LOG_K, 0.01 * LOG_K, 0.9, 20.0)
UNIFORM = replace(HEALTHY, loss=LOG_K, teacher_entropy=0.9995 * LOG_K, kl_to_uniform=0.0)
ONE_ANSWER = replace(HEALTHY, loss=0.0, teacher_entropy=0.1, kl_to_uniform=LOG_K - 0.1)
ALIKE = replace(
    HEALTHY, teacher_entropy=0.5 * LOG_K, kl_to_uniform=0.495 * LOG_K, mean_cosine=0.9995
)


def feed(watch, signs, steps):
    for step in steps:
        watch.check(step, signs)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("field", ["loss", "gradient_norm"])
def test_what_is_not_finite_stops_at_once(field, value):
    with pytest.raises(CollapseError, match=r"'r' diverged at step 3 of 3000.*learning_rate"):
        CollapseWatch(RUN, STEPS).check(3, replace(HEALTHY, **{field: value}))


@pytest.mark.parametrize(
    ("signs", "message"),
    [
        (UNIFORM, r"same target, uniform.*a lower teacher_temperature"),
        (ONE_ANSWER, r"same target, on the same few prototypes.*a higher teacher_temperature"),
        (ALIKE, r"embeddings of different slides are all alike"),
    ],
)
def test_a_collapse_stops_after_grace_and_a_window_with_advice(signs, message):
    watch = CollapseWatch(RUN, STEPS)
    assert (watch.grace, watch.window) == (600, 300)
    feed(watch, signs, range(899))
    with pytest.raises(CollapseError, match=message) as caught:
        watch.check(899, signs)
    text = str(caught.value)
    assert "in every step from 600 to 899 of 3000" in text
    for key in ("targets: sinkhorn", "regulariser: koleo", "learning_rate", "teacher_momentum"):
        assert key in text
    assert "batch_slides (now 32)" in text
    assert "head.prototypes (now 1000)" in text


def test_advice_is_about_the_run_as_it_is():
    run = PretrainRun(targets="sinkhorn", regulariser="kde", head={"prototypes": 1000})
    with pytest.raises(CollapseError, match="a higher regulariser_weight") as caught:
        feed(CollapseWatch(run, STEPS), UNIFORM, range(STEPS))
    assert "targets:" not in str(caught.value)


@pytest.mark.parametrize(
    "signs",
    [
        HEALTHY,
        # A fresh encoder on slides of thousands of tiles: near, but told apart.
        replace(HEALTHY, teacher_entropy=0.998 * LOG_K, kl_to_uniform=0.0, mean_cosine=0.99),
        # Embeddings with a large common mean, which the head sees through.
        replace(HEALTHY, mean_cosine=0.9999),
        # Sinkhorn with many more prototypes than rows: high entropy, and informative all the same.
        replace(HEALTHY, teacher_entropy=0.8 * LOG_K, kl_to_uniform=0.0),
        # Monitors that are not finite show nothing.
        replace(HEALTHY, mean_cosine=math.nan, teacher_entropy=math.nan, rankme=math.nan),
    ],
)
def test_healthy_runs_go_on(signs):
    feed(CollapseWatch(RUN, STEPS), signs, range(STEPS))


def test_a_collapse_that_passes_in_grace_or_within_a_window_goes_on():
    watch = CollapseWatch(RUN, STEPS)
    feed(watch, UNIFORM, range(890))
    watch.check(890, HEALTHY)
    feed(watch, UNIFORM, range(891, 1190))
    with pytest.raises(CollapseError, match="from 891 to 1190"):
        watch.check(1190, UNIFORM)


def test_a_short_run_is_never_stopped_for_a_collapse():
    feed(CollapseWatch(RUN, 299), UNIFORM, range(299))
    with pytest.raises(CollapseError, match="from 200 to 299"):
        feed(CollapseWatch(RUN, 300), UNIFORM, range(300))


@pytest.mark.parametrize("killed", [0, 100, 600, 750, 898])
def test_a_resumed_watch_stops_where_an_uninterrupted_one_does(killed):
    watch = CollapseWatch(RUN, STEPS)
    feed(watch, UNIFORM, range(killed))
    state = json.loads(json.dumps(watch.state_dict()))
    resumed = CollapseWatch(RUN, STEPS)
    resumed.load_state_dict(state)
    feed(resumed, UNIFORM, range(killed, 899))
    with pytest.raises(CollapseError, match="from 600 to 899"):
        resumed.check(899, UNIFORM)


def test_the_watch_sees_what_the_measures_say_of_a_collapsed_batch():
    embeddings = torch.ones(32, 16) + 1e-4 * torch.randn(
        32, 16, generator=torch.Generator().manual_seed(0)
    )
    targets = torch.full((32, 1000), 1e-3)
    signs = Signs(
        LOG_K,
        1.0,
        entropy(targets).item(),
        kl_to_uniform(targets).item(),
        mean_pairwise_cosine(embeddings).item(),
        rankme(embeddings).item(),
    )
    with pytest.raises(CollapseError, match=r"all alike.*Mean cosine of slides 1\.0000"):
        feed(CollapseWatch(RUN, STEPS), signs, range(STEPS))
