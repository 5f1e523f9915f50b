import copy

import pytest
import torch
from lightly.models.utils import update_momentum
from torch import nn

from slidemill.pretrain.average import update_average


@pytest.fixture
def student():
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 3))


def test_average_is_lightly_s_over_many_steps(student):
    ours = copy.deepcopy(student).requires_grad_(False)
    theirs = copy.deepcopy(student).requires_grad_(False)
    generator = torch.Generator().manual_seed(1)
    for momentum in (0.9, 0.996, 0.9999, 0.0, 0.5):
        with torch.no_grad():
            for parameter in student.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator))
        update_average(ours, student, momentum)
        update_momentum(student, theirs, momentum)
        for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(mine, other, atol=1e-6, rtol=1e-5)


def test_a_constant_student_is_approached_geometrically(student):
    teacher = copy.deepcopy(student).requires_grad_(False)
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.add_(1.0)
    for _ in range(10):
        update_average(teacher, student, 0.8)
    for mine, other in zip(teacher.parameters(), student.parameters(), strict=True):
        torch.testing.assert_close(mine, other + 0.8**10, atol=1e-6, rtol=1e-5)


def test_momentum_one_keeps_the_teacher_and_zero_copies_the_student(student):
    teacher = copy.deepcopy(student).requires_grad_(False)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(1.0)
    before = [parameter.clone() for parameter in teacher.parameters()]
    update_average(teacher, student, 1.0)
    for old, new in zip(before, teacher.parameters(), strict=True):
        assert torch.equal(old, new)
    update_average(teacher, student, 0.0)
    for mine, other in zip(teacher.parameters(), student.parameters(), strict=True):
        assert torch.equal(mine, other)


def test_buffers_and_the_student_stay_and_no_gradient_is_recorded(student):
    teacher = copy.deepcopy(student).requires_grad_(False)
    with torch.no_grad():
        student[1].running_mean.add_(1.0)
    before = [parameter.clone() for parameter in student.parameters()]
    update_average(teacher, student, 0.5)
    assert teacher[1].running_mean.abs().max() == 0.0
    for old, new in zip(before, student.parameters(), strict=True):
        assert torch.equal(old, new)
    assert all(parameter.grad_fn is None for parameter in teacher.parameters())
