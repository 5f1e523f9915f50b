import copy
import math

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax

from slidemill.pretrain.dino import DinoHead, DinoLoss, DinoNetwork, update_teacher
from slidemill.pretrain.encoder import SlideTransformer


def loss_of(prototypes, student_temperature=0.1, teacher_temperature=0.04, centre_momentum=0.9):
    return DinoLoss(
        prototypes,
        student_temperature=student_temperature,
        teacher_temperature=teacher_temperature,
        centre_momentum=centre_momentum,
    )


def test_loss_is_the_mean_over_pairs_by_hand():
    rng = np.random.default_rng(0)
    views, globals_, slides, prototypes = 5, 2, 3, 4
    student = rng.uniform(-1, 1, (views, slides, prototypes)).astype(np.float32)
    teacher = rng.uniform(-1, 1, (globals_, slides, prototypes)).astype(np.float32)
    centre = rng.uniform(-0.2, 0.2, prototypes).astype(np.float32)
    criterion = loss_of(prototypes)
    criterion.centre.copy_(torch.from_numpy(centre))
    terms = criterion(torch.from_numpy(student), torch.from_numpy(teacher))
    pairs = [
        -np.sum(softmax((teacher[g, b] - centre) / 0.04) * log_softmax(student[v, b] / 0.1))
        for g in range(globals_)
        for v in range(views)
        if v != g
        for b in range(slides)
    ]
    assert len(pairs) == (2 * 5 - 2) * 3
    assert terms.loss.item() == pytest.approx(np.mean(pairs), rel=1e-5)
    target = softmax((teacher.astype(float) - centre) / 0.04, axis=-1)
    entropy = -(target * np.log(target)).sum(axis=-1).mean()
    mean = target.reshape(-1, prototypes).mean(axis=0)
    assert terms.teacher_entropy.item() == pytest.approx(entropy, rel=1e-4)
    assert terms.kl_to_uniform.item() == pytest.approx((mean * np.log(4 * mean)).sum(), rel=1e-4)
    expected = 0.9 * centre + 0.1 * teacher.reshape(-1, prototypes).mean(axis=0)
    np.testing.assert_allclose(criterion.centre.numpy(), expected, rtol=1e-5)


def test_uniform_outputs_give_log_k():
    terms = loss_of(50)(torch.zeros(2, 3, 50), torch.zeros(2, 3, 50))
    assert terms.loss.item() == pytest.approx(math.log(50), rel=1e-6)
    assert terms.teacher_entropy.item() == pytest.approx(math.log(50), rel=1e-6)
    assert terms.kl_to_uniform.item() == pytest.approx(0.0, abs=1e-5)


def test_teacher_equal_to_student_gives_the_entropy():
    outputs = torch.linspace(-1, 1, 6).expand(2, 4, 6)
    terms = loss_of(6, student_temperature=0.3, teacher_temperature=0.3)(outputs, outputs)
    assert terms.loss.item() == pytest.approx(terms.teacher_entropy.item(), rel=1e-6)


def test_one_prototype_for_all_views_shows_as_kl_log_k():
    outputs = torch.full((2, 4, 8), -100.0)
    outputs[:, :, 3] = 100.0
    terms = loss_of(8)(outputs, outputs)
    assert terms.kl_to_uniform.item() == pytest.approx(math.log(8), rel=1e-6)
    assert terms.teacher_entropy.item() == 0.0


def test_a_view_is_never_compared_with_itself():
    teacher = torch.zeros(2, 1, 4)
    student = torch.zeros(2, 1, 4, requires_grad=True)
    teacher[0, 0, 1] = 1.0  # only view 1 of the student is compared with teacher view 0
    loss_of(4)(student, teacher).loss.backward()
    assert student.grad[0].abs().max() < 1e-6
    assert student.grad[1, 0, 1] < -0.1


def test_the_centre_is_updated_after_its_use_and_no_gradient_reaches_the_teacher():
    criterion = loss_of(4, centre_momentum=0.75)
    teacher = torch.eye(4).reshape(2, 2, 4).requires_grad_()
    student = torch.zeros(2, 2, 4, requires_grad=True)
    first = criterion(student, teacher)
    first.loss.backward()
    assert teacher.grad is None
    assert first.teacher_entropy.item() < 0.01  # the centre was still 0
    np.testing.assert_allclose(criterion.centre.numpy(), np.full(4, 0.25 * 0.25), rtol=1e-6)
    criterion(student, teacher)
    np.testing.assert_allclose(criterion.centre.numpy(), np.full(4, 0.4375 * 0.25), rtol=1e-6)


def test_head_gives_cosines_with_prototypes_of_any_length():
    generator = torch.Generator().manual_seed(0)
    head = DinoHead(16, 40)
    embedding = torch.randn(5, 16, generator=generator)
    outputs = head(embedding)
    assert outputs.shape == (5, 40)
    assert outputs.abs().max() <= 1.0 + 1e-6
    cosines = torch.cosine_similarity(head.mlp(embedding)[:, None], head.prototypes[None], dim=-1)
    torch.testing.assert_close(outputs, cosines)
    with torch.no_grad():
        head.prototypes.mul_(torch.arange(1.0, 41.0)[:, None])
    torch.testing.assert_close(head(embedding), outputs)


def test_the_teacher_is_a_moving_average_of_parameters_only():
    torch.manual_seed(0)
    student = DinoNetwork(SlideTransformer(3, 8, 1, 2), DinoHead(8, 8))
    teacher = copy.deepcopy(student).requires_grad_(False)
    before = [p.clone() for p in teacher.parameters()]
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(1.0)
        student.encoder.feature_mean.add_(1.0)
    update_teacher(teacher, student, 0.9)
    for old, new in zip(before, teacher.parameters(), strict=True):
        torch.testing.assert_close(new, old + 0.1)
    assert teacher.encoder.feature_mean.abs().max() == 0.0
    update_teacher(teacher, student, 1.0)
    for old, new in zip(before, teacher.parameters(), strict=True):
        torch.testing.assert_close(new, old + 0.1)
