import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pretrain.methods.cases import (
    SEPARATE,
    TEMPERATURE,
    build,
    by_hand,
    grow,
    load,
    make_bags,
    make_run,
    weighted,
)
from pretrain.methods.two_methods import RUNS, step
from pretrain.processes import run_two
from slidemill.config.pretrain import CropsConfig, IbotConfig
from slidemill.pretrain.distributed import Ranks


def assert_same_gradients(ours, theirs, rtol=1e-3, atol=1e-5):
    assert {n for n, g in ours.items() if g is None} == {n for n, g in theirs.items() if g is None}
    for name, gradient in theirs.items():
        if gradient is not None:
            torch.testing.assert_close(ours[name], gradient, rtol=rtol, atol=atol)


@pytest.mark.parametrize("targets", ["centring", "sinkhorn"])
@pytest.mark.parametrize("regulariser", ["none", "koleo", "kde"])
@pytest.mark.parametrize("ibot", [IbotConfig(mask="block"), SEPARATE])
def test_the_loss_is_that_of_the_formulas(targets, regulariser, ibot):
    run = make_run("dinov2", targets=targets, regulariser=regulariser, ibot=ibot)
    method, batch = build(run), load(run)
    expected, wanted, embeddings = by_hand(method, batch)
    terms = method(batch, TEMPERATURE, 5)
    assert set(terms.parts) == set(expected) >= {"dino_loss", "ibot_loss"}
    for name, part in terms.parts.items():
        assert part.item() == pytest.approx(expected[name], rel=1e-4, abs=1e-5)
        assert not part.requires_grad
    assert terms.loss.item() == pytest.approx(weighted(run, expected), rel=1e-4)
    np.testing.assert_allclose(terms.targets.numpy(), wanted, atol=1e-4)
    torch.testing.assert_close(terms.embeddings, embeddings, rtol=0, atol=1e-5)


@pytest.mark.parametrize("crops", [{"global_crops": 3, "local_crops": 2}, {"local_crops": 0}])
@pytest.mark.parametrize("method", ["dinov2", "dinov2-compact"])
def test_any_number_of_crops(method, crops):
    run = make_run(method, crops=CropsConfig(min_tiles=2, **crops))
    built, batch = build(run), load(run)
    expected, *_ = by_hand(built, batch)
    terms = built(batch, TEMPERATURE, 5)
    assert terms.loss.item() == pytest.approx(weighted(run, expected), rel=1e-4)


@pytest.mark.parametrize("targets", ["centring", "sinkhorn"])
def test_a_student_that_tells_nothing_apart_loses_log_k_a_masked_crop(targets):
    run = make_run("dinov2", targets=targets, regulariser="none", ibot=IbotConfig(weight=2.0))
    method, batch = build(run), load(run)
    with torch.no_grad():
        method.student.head.prototypes.copy_(torch.ones(24, 8))
    terms = method(batch, TEMPERATURE, 5)
    masked = sum(mask.any().item() for mask in batch.hidden.split(batch.globals.sequences.lengths))
    assert masked == 5
    assert terms.parts["dino_loss"].item() == pytest.approx(math.log(24), rel=1e-6)
    assert terms.parts["ibot_loss"].item() == pytest.approx(0.5 * math.log(24), rel=1e-6)
    assert terms.loss.item() == pytest.approx(2.0 * math.log(24), rel=1e-6)


def test_every_parameter_learns_and_the_teacher_gets_no_gradient():
    run = make_run("dinov2", ibot=SEPARATE)
    method = build(run, apart=False)
    _, gradients = grow(run, load(run), method)
    assert {name.split(".")[0] for name in gradients} == {"encoder", "head", "tile_head"}
    assert all(g.isfinite().all() and g.abs().max() > 0 for g in gradients.values())
    assert all(p.grad is None and not p.requires_grad for p in method.teacher.parameters())


def test_features_of_hidden_tiles_reach_the_loss_through_the_teacher_alone(monkeypatch):
    run = make_run("dinov2", crops=CropsConfig(local_crops=0))
    method, batch = build(run), load(run)
    seen = {}
    for name in ("student", "teacher"):
        encoder = getattr(method, name).encoder

        def encode(bags, hidden=None, *, layers=False, name=name, plain=encoder.encode):
            seen[name] = (bags.positions, hidden)
            return plain(bags, hidden, layers=layers)

        monkeypatch.setattr(encoder, "encode", encode)
    method(batch, TEMPERATURE, 5)
    assert seen["teacher"][1] is None
    assert torch.equal(seen["student"][1], batch.hidden)
    assert torch.equal(seen["teacher"][0], batch.teacher_positions)
    assert torch.equal(seen["student"][0], batch.globals.positions)


@pytest.mark.parametrize("targets", ["centring", "sinkhorn"])
def test_a_separate_head_is_that_of_tiles_alone(targets):
    shared = make_run("dinov2", targets=targets)
    separate = make_run("dinov2", targets=targets, ibot=SEPARATE)
    assert build(shared).student.tile_head is None
    assert len(build(shared).prototypes()) == 1
    method, batch = build(separate), load(separate)
    assert len(method.prototypes()) == 2
    assert method.student.of_tiles() is method.student.tile_head
    before = method(batch, TEMPERATURE, 5).parts
    for network in (method.student, method.teacher):
        with torch.no_grad():
            network.tile_head.prototypes.copy_(network.tile_head.prototypes.roll(1, 1))
        after = method(batch, TEMPERATURE, 5).parts
        assert torch.equal(after["dino_loss"], before["dino_loss"])
        assert not torch.equal(after["ibot_loss"], before["ibot_loss"])
        before = after
    with torch.no_grad():
        method.student.head.prototypes.copy_(method.student.head.prototypes.roll(1, 1))
    after = method(batch, TEMPERATURE, 5).parts
    assert torch.equal(after["ibot_loss"], before["ibot_loss"])
    assert not torch.equal(after["dino_loss"], before["dino_loss"])


@pytest.mark.parametrize("targets", ["centring", "sinkhorn"])
@pytest.mark.parametrize(("budget", "chunk"), [(50, 10**6), (10**6, 3), (1, 1)])
def test_passes_and_chunks_give_the_same(targets, budget, chunk):
    run = make_run("dinov2", targets=targets, ibot=SEPARATE)
    batch, one = load(run), build(run)
    whole, gradients = grow(run, batch, one, momentum=0.9)
    method = build(run)
    method.token_budget, method.chunk = budget, chunk
    parts, theirs = grow(run, batch, method, momentum=0.9)
    assert parts.loss.item() == pytest.approx(whole.loss.item(), rel=1e-5)
    torch.testing.assert_close(parts.targets, whole.targets, rtol=0, atol=1e-5)
    assert_same_gradients(theirs, gradients)
    for name, value in one.state_dict().items():
        torch.testing.assert_close(method.state_dict()[name], value, rtol=0, atol=1e-5)


def test_a_share_is_of_the_slides_that_it_is_told():
    run = make_run("dinov2")
    method, batch = build(run), load(run)
    one, half = (method(batch, TEMPERATURE, slides) for slides in (5, 10))
    torch.testing.assert_close(half.loss, one.loss / 2)
    for name, part in one.parts.items():
        torch.testing.assert_close(half.parts[name], part / 2)


def test_a_finished_step_moves_the_teacher_and_both_centres():
    run = make_run("dinov2", targets="centring", ibot=SEPARATE)
    method, batch = build(run), load(run)
    student, teacher = (
        [p.detach().clone() for p in network.parameters()]
        for network in (method.student, method.teacher)
    )
    centres = [method.centring.centre.clone(), method.tile_centring.centre.clone()]
    with torch.no_grad():
        cls, tokens = method.encode(method.teacher.encoder, batch.for_teacher())
        means = [
            method.teacher.head(cls).mean(dim=0),
            method.teacher.tile_head(tokens[batch.hidden]).mean(dim=0),
        ]
    grow(run, batch, method, momentum=0.7)
    for centring, before, mean in zip(
        (method.centring, method.tile_centring), centres, means, strict=True
    ):
        torch.testing.assert_close(centring.centre, 0.9 * before + 0.1 * mean)
        assert centring.window_count == 0.0
    for now, t, s in zip(method.teacher.parameters(), teacher, student, strict=True):
        torch.testing.assert_close(now, 0.7 * t + 0.3 * s)


@pytest.mark.parametrize("targets", ["centring", "sinkhorn"])
@pytest.mark.parametrize("method", ["dinov2", "dinov2-compact"])
def test_slides_of_one_tile_hide_nothing_and_are_learnt_from(method, targets):
    """The loss is DINO's; what only hidden tiles have a part in gets a gradient of 0."""
    run = make_run(method, targets=targets, ibot=SEPARATE)
    built, batch = build(run), load(run, make_bags((1, 1, 1, 1, 1)))
    assert not batch.hidden.any()
    assert len(batch.weights) == 0
    centre = None if built.tile_centring is None else built.tile_centring.centre.clone()
    expected, *_ = by_hand(built, replace(batch, hidden=None))
    terms, gradients = grow(run, batch, built, momentum=0.9)
    assert terms.parts["ibot_loss"].item() == 0.0
    assert terms.loss.item() == pytest.approx(weighted(run, expected), rel=1e-4)
    assert all(g is not None and g.isfinite().all() for g in gradients.values())
    silent = {name for name, g in gradients.items() if g.abs().max() == 0.0}
    assert silent == {n for n in gradients if n.startswith(("tile_head", "encoder.mask_token"))}
    if centre is not None:
        assert torch.equal(built.tile_centring.centre, centre)


def test_a_slide_without_hidden_tiles_among_others():
    run = make_run("dinov2", ibot=IbotConfig(masked_crops=1.0, ratio=(0.5, 0.5)))
    method, batch = build(run), load(run, make_bags((1, 17, 2, 25, 3)))
    expected, *_ = by_hand(method, batch)
    terms, gradients = grow(run, batch, method)
    assert terms.loss.item() == pytest.approx(weighted(run, expected), rel=1e-4)
    assert all(g is not None and g.isfinite().all() for g in gradients.values())


def test_bf16_heads_compute_in_bf16_and_losses_in_float32():
    run = make_run("dinov2", ibot=SEPARATE)
    batch, dtypes = load(run), []
    method = build(run.model_copy(update={"precision": "bf16"}))
    for network in (method.student, method.teacher):
        for head in (network.head, network.tile_head):
            head.mlp.register_forward_hook(lambda *a: dtypes.append(a[2].dtype))
    terms, gradients = grow(run, batch, method)
    expected, wanted = grow(run, batch, build(run))
    assert set(dtypes) == {torch.bfloat16}
    assert {t.dtype for t in (*terms.parts.values(), *terms[2:])} == {torch.float32}
    assert terms.loss.item() == pytest.approx(expected.loss.item(), rel=0.02)
    assert all(gradient.abs().max() > 0 for gradient in gradients.values())
    ours, theirs = (torch.cat([g.flatten() for g in x.values()]) for x in (gradients, wanted))
    assert torch.cosine_similarity(ours, theirs, dim=0) > 0.98


# --- two processes -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What two gloo processes give of three and of two slides."""
    return run_two(Path(__file__).with_name("two_methods.py"), tmp_path_factory.mktemp("methods"))


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_are_one(ranks, name):
    """Shares add up to its loss, gradients, centres and teachers are its own."""
    one, two = step(name, Ranks()), [rank[name] for rank in ranks]
    assert [len(rank["embeddings"]) for rank in two] == [3, 2]
    total = two[0]["loss"] + two[1]["loss"]
    torch.testing.assert_close(total, one["loss"], rtol=1e-5, atol=1e-6)
    assert set(one["parts"]) == set(two[0]["parts"]) == set(two[1]["parts"])
    for part, value in one["parts"].items():
        shares = two[0]["parts"][part] + two[1]["parts"][part]
        torch.testing.assert_close(shares, value, rtol=1e-5, atol=1e-6)
    for rank, own in zip(two, (slice(0, 5, 2), slice(1, 5, 2)), strict=True):
        torch.testing.assert_close(rank["targets"], one["targets"][:, own], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(rank["embeddings"], one["embeddings"][own], rtol=0, atol=1e-5)
        assert_same_gradients(rank["gradients"], one["gradients"], rtol=1e-3, atol=1e-5)
        assert set(rank["state"]) == set(one["state"])
        for key, value in one["state"].items():
            torch.testing.assert_close(rank["state"][key], value, rtol=0, atol=1e-6)
    for part in ("gradients", "state"):
        for key, value in two[0][part].items():
            assert torch.equal(value, two[1][part][key])


def test_one_of_the_processes_hid_nothing():
    """What makes the case of the compact run a case."""
    run = RUNS["dinov2-compact"]
    counts = [len(load(run, rank=rank, size=2).weights) for rank in (0, 1)]
    assert min(counts) == 0 < max(counts)
