import math

import numpy as np
import pytest
import torch

from pretrain.methods.cases import (
    TEMPERATURE,
    build,
    by_hand,
    grow,
    load,
    make_bags,
    make_run,
    weighted,
)
from slidemill.config.pretrain import CropsConfig
from slidemill.pretrain.distributed import Ranks
from slidemill.pretrain.methods import METHODS, make_method
from slidemill.pretrain.methods.dino import Dino
from slidemill.pretrain.methods.dinov2 import Dinov2
from slidemill.pretrain.vit import SlideTransformer


@pytest.mark.parametrize("targets", ["centring", "sinkhorn"])
@pytest.mark.parametrize("regulariser", ["none", "koleo", "kde"])
def test_the_loss_is_that_of_the_formulas(targets, regulariser):
    run = make_run("dino", targets=targets, regulariser=regulariser)
    method, batch = build(run), load(run)
    expected, wanted, embeddings = by_hand(method, batch)
    terms = method(batch, TEMPERATURE, 5)
    assert set(terms.parts) == set(expected)
    assert ("regulariser" in terms.parts) == (regulariser != "none")
    for name, part in terms.parts.items():
        assert part.item() == pytest.approx(expected[name], rel=1e-4, abs=1e-5)
        assert not part.requires_grad
    assert terms.loss.item() == pytest.approx(weighted(run, expected), rel=1e-4)
    assert terms.targets.shape == (2 * 5, 24)
    np.testing.assert_allclose(terms.targets.numpy(), wanted, atol=1e-4)
    torch.testing.assert_close(terms.embeddings, embeddings, rtol=0, atol=1e-5)
    assert not terms.targets.requires_grad
    assert not terms.embeddings.requires_grad


@pytest.mark.parametrize("crops", [{"global_crops": 3, "local_crops": 2}, {"local_crops": 0}])
def test_any_number_of_crops(crops):
    run = make_run("dino", crops=CropsConfig(min_tiles=2, **crops), regulariser="koleo")
    method, batch = build(run), load(run)
    expected, *_ = by_hand(method, batch)
    terms = method(batch, TEMPERATURE, 5)
    assert (batch.locals is None) == (run.crops.local_crops == 0)
    assert terms.loss.item() == pytest.approx(weighted(run, expected), rel=1e-4)


@pytest.mark.parametrize("targets", ["centring", "sinkhorn"])
def test_a_student_that_tells_nothing_apart_loses_log_k(targets):
    run = make_run("dino", targets=targets, regulariser="none")
    method = build(run)
    with torch.no_grad():
        method.student.head.prototypes.copy_(torch.ones(24, 8))
    terms = method(load(run), TEMPERATURE, 5)
    assert terms.loss.item() == pytest.approx(math.log(24), rel=1e-6)


def test_a_teacher_that_tells_nothing_apart_gives_uniform_targets_by_sinkhorn():
    run = make_run("dino", targets="sinkhorn")
    method = build(run)
    with torch.no_grad():
        method.teacher.head.prototypes.copy_(torch.ones(24, 8))
    targets = method(load(run), TEMPERATURE, 5).targets
    torch.testing.assert_close(targets, torch.full((10, 24), 1 / 24))


def test_the_teacher_starts_as_the_student_and_gets_no_gradient():
    run = make_run("dino")
    method = build(run, apart=False)
    pairs = zip(method.student.parameters(), method.teacher.parameters(), strict=True)
    for one, other in pairs:
        assert torch.equal(one, other)
        assert one.data_ptr() != other.data_ptr()
    _, gradients = grow(run, load(run), method)
    assert all(p.grad is None and not p.requires_grad for p in method.teacher.parameters())
    # Nothing is hidden, so that the mask token has no part in the loss.
    assert [name for name, g in gradients.items() if g is None] == ["encoder.mask_token"]
    assert all(g is None or (g.isfinite().all() and g.abs().max() > 0) for g in gradients.values())


def test_the_teacher_stays_in_eval_mode():
    method = build(make_run("dino")).train()
    assert method.student.training
    assert not any(module.training for module in method.teacher.modules())


@pytest.mark.parametrize("regulariser", ["koleo", "kde"])
def test_passes_under_a_token_budget_give_the_same(regulariser):
    run = make_run("dino", regulariser=regulariser)
    batch = load(run)
    whole, gradients = grow(run, batch, build(run))
    method = build(run)
    method.token_budget = 50
    parts, theirs = grow(run, batch, method)
    assert parts.loss.item() == pytest.approx(whole.loss.item(), rel=1e-5)
    torch.testing.assert_close(parts.targets, whole.targets, rtol=0, atol=1e-5)
    for name, gradient in gradients.items():
        if gradient is not None:
            torch.testing.assert_close(theirs[name], gradient, rtol=1e-3, atol=1e-5)


def test_a_share_is_of_the_slides_that_it_is_told():
    run = make_run("dino", regulariser="koleo")
    method, batch = build(run), load(run)
    one, half = (method(batch, TEMPERATURE, slides) for slides in (5, 10))
    torch.testing.assert_close(half.loss, one.loss / 2)
    for name, part in one.parts.items():
        torch.testing.assert_close(half.parts[name], part / 2)


def test_a_finished_step_moves_the_teacher_and_the_centre():
    run = make_run("dino", targets="centring", centre_momentum=0.8)
    method, batch = build(run), load(run)
    student = [p.detach().clone() for p in method.student.parameters()]
    teacher = [p.clone() for p in method.teacher.parameters()]
    centre = method.centring.centre.clone()
    with torch.no_grad():
        cls, _ = method.encode(method.teacher.encoder, batch.for_teacher())
        mean = method.teacher.head(cls).mean(dim=0)
    grow(run, batch, method)
    assert torch.equal(method.centring.centre, centre)
    method.finish_step(0.7)
    torch.testing.assert_close(method.centring.centre, 0.8 * centre + 0.2 * mean)
    assert method.centring.window_count == 0.0
    for now, t, s in zip(method.teacher.parameters(), teacher, student, strict=True):
        torch.testing.assert_close(now, 0.7 * t + 0.3 * s)
    for now, s in zip(method.student.parameters(), student, strict=True):
        assert torch.equal(now, s)


def test_the_centre_of_accumulated_batches_is_that_of_all():
    run = make_run("dino", targets="centring", batch_slides=3)
    bags = make_bags()
    method = build(run)
    logits = []
    for step in (0, 1):
        batch = load(run, bags, step=step)
        method(batch, TEMPERATURE, 5)
        with torch.no_grad():
            cls, _ = method.encode(method.teacher.encoder, batch.for_teacher())
            logits.append(method.teacher.head(cls))
    before = method.centring.centre.clone()
    method.finish_step(1.0)
    expected = 0.9 * before + 0.1 * torch.cat(logits).mean(dim=0)
    torch.testing.assert_close(method.centring.centre, expected)


def test_sinkhorn_has_no_centre_to_keep():
    assert build(make_run("dino", targets="sinkhorn")).centring is None
    names = {name.split(".")[0] for name in build(make_run("dino")).state_dict()}
    assert names == {"student", "teacher"}


def test_bf16_is_of_encoder_and_head_and_not_of_the_loss():
    plain = make_run("dino", regulariser="koleo")
    batch, dtypes = load(plain), []
    method = build(plain.model_copy(update={"precision": "bf16"}))
    method.student.head.mlp.register_forward_hook(lambda *a: dtypes.append(a[2].dtype))
    terms, gradients = grow(plain, batch, method)
    expected, wanted = grow(plain, batch, build(plain))
    assert dtypes == [torch.bfloat16]
    assert {t.dtype for t in (*terms.parts.values(), *terms[2:])} == {torch.float32}
    assert terms.loss.item() != expected.loss.item()
    assert terms.loss.item() == pytest.approx(expected.loss.item(), rel=0.02)
    both = [(g.flatten(), wanted[n].flatten()) for n, g in gradients.items() if g is not None]
    ours, theirs = (torch.cat(parts) for parts in zip(*both, strict=True))
    assert torch.cosine_similarity(ours, theirs, dim=0) > 0.98


def test_prototypes_are_those_of_the_student():
    method = build(make_run("dino"))
    assert [p is method.student.head.prototypes for p in method.prototypes()] == [True]


def test_a_method_is_found_by_its_name():
    assert dict(METHODS) == {"dino": Dino, "dinov2": Dinov2, "dinov2-compact": Dinov2}
    for name, kind in METHODS.items():
        method = make_method(make_run(name), SlideTransformer(6, 16, 1, 2), Ranks())
        assert type(method) is kind
        assert method.student.encoder.width == 16
        head = method.student.head
        assert head.prototypes.shape == (24, 8)
