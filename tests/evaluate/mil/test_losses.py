import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch.nn import functional
from torchsurv.loss.cox import neg_partial_log_likelihood

from slidemill.config import SurvivalConfig
from slidemill.evaluate.mil.losses import Head, cox_loss, head_outputs
from slidemill.splits.targets import Targets

ALL = torch.ones((1, 6), dtype=torch.bool)
BAGS = np.arange(6)
ONE = torch.ones(1)


def head_of(targets: Targets, *, balanced: bool = True, survival: SurvivalConfig | None = None,
            train: np.ndarray | None = None) -> Head:  # fmt: skip
    mask = np.ones((1, len(targets)), dtype=bool) if train is None else train
    return Head.of(targets, mask, survival or SurvivalConfig(), balanced=balanced)


def test_classes_weigh_alike() -> None:
    y = np.array([0, 0, 0, 0, 1, 2], dtype=np.float64)
    head = head_of(Targets("multiclass", ("a", "b", "c"), y[:, None]))
    expected = compute_class_weight("balanced", classes=np.arange(3), y=y)
    assert np.allclose(head.weights[0], expected)
    outputs = torch.randn(1, 6, 3)
    loss = functional.cross_entropy(
        outputs[0], torch.tensor(y).long(), torch.tensor(expected).float(), reduction="none"
    ).sum()
    assert torch.allclose(head.loss(outputs, BAGS, ALL, ONE)[0], loss)


def test_positives_weigh_as_much_as_negatives() -> None:
    head = head_of(Targets("binary", ("a",), np.array([[1.0], [0], [0], [0], [1], [0]]), "b"))
    assert head.weights.tolist() == [[2.0]]
    plain = head_of(head.targets, balanced=False)
    assert plain.weights.tolist() == [[1.0]]


def test_missing_labels_are_left_out_of_the_loss() -> None:
    nan = np.nan
    values = np.array([[1, nan], [0, nan], [nan, 1], [1, 0], [0, 0], [nan, nan]])
    head = head_of(Targets("multilabel", ("a", "b"), values), balanced=False)
    outputs = torch.randn(1, 6, 2, requires_grad=True)
    loss = head.loss(outputs, BAGS, ALL, ONE)
    each = functional.binary_cross_entropy_with_logits(
        outputs[0], torch.tensor(values).nan_to_num().float(), reduction="none"
    )
    expected = each[0, 0] + each[1, 0] + each[2, 1] + each[3].mean() + each[4].mean()
    assert torch.allclose(loss[0], expected)
    loss.sum().backward()
    assert (outputs.grad[0, 5] == 0).all()
    assert outputs.grad[0, 0, 1] == 0


def test_only_own_bags_count() -> None:
    targets = Targets("binary", ("a",), np.array([[1.0], [0], [1], [0], [1], [0]]), "b")
    train = np.array([[True, True, False, False, True, True]])
    head = head_of(targets, train=train)
    own = torch.from_numpy(train)
    outputs = torch.randn(1, 6, 1)
    moved = outputs.clone()
    moved[0, 2:4] += 100
    both = [head.loss(o, BAGS, own, ONE) for o in (outputs, moved)]
    assert torch.equal(*both)


@pytest.mark.parametrize("seed", range(5))
def test_cox_is_the_partial_likelihood_without_ties(seed: int) -> None:
    rng = np.random.default_rng(seed)
    time, event = rng.random(6), (rng.random(6) < 0.7).astype(np.float64)
    event[0] = 1
    risk = torch.randn(1, 6)
    found = cox_loss(risk, torch.tensor(np.stack([time, event], axis=1)), ALL)
    expected = neg_partial_log_likelihood(
        risk[0], torch.tensor(event).bool(), torch.tensor(time).float(), reduction="sum"
    )
    assert torch.allclose(found[0], expected, atol=1e-5)


def test_cox_compares_own_bags_only_and_never_gives_nan() -> None:
    values = torch.tensor([[1.0, 1], [2, 1], [3, 0], [4, 1]], dtype=torch.float64)
    own = torch.tensor([[True, False, True, False], [False, False, False, True]])
    risk = torch.randn(2, 4, requires_grad=True)
    loss = cox_loss(risk, values, own)
    expected = torch.logsumexp(risk[0, [0, 2]], 0) - risk[0, 0]
    assert torch.allclose(loss[0], expected)
    assert loss[1] == 0
    loss.sum().backward()
    assert risk.grad.isfinite().all()


def test_the_discrete_likelihood_by_hand() -> None:
    values = np.array([[1.0, 1], [2, 1], [3, 1], [4, 1], [2.5, 0], [9, 0]])
    survival = SurvivalConfig(head="discrete-time", bins=2)
    head = head_of(Targets("survival", ("t",), values), survival=survival)
    assert head.edges.tolist() == [[2.5]]
    outputs = torch.randn(1, 6, 2)
    h = outputs[0].sigmoid()
    likelihood = torch.stack([
        h[0, 0], h[1, 0], (1 - h[2, 0]) * h[2, 1], (1 - h[3, 0]) * h[3, 1], 1 - h[4, 0],
        (1 - h[5, 0]) * (1 - h[5, 1]),
    ])  # fmt: skip
    found = head.loss(outputs, BAGS, ALL, ONE)[0]
    assert torch.allclose(found, -likelihood.log().sum(), atol=1e-5)
    survived = torch.stack([1 - h[:, 0], (1 - h[:, 0]) * (1 - h[:, 1])], 1)
    assert torch.allclose(head.scores(outputs)[0, :, 0].float(), -survived.sum(1), atol=1e-6)
    assert head_outputs(head.targets, survival) == 2


def test_regression_is_scaled_by_the_training_values() -> None:
    values = np.array([[10.0], [20], [30], [40], [1000], [2000]])
    train = np.array([[True, True, True, True, False, False]])
    head = head_of(Targets("regression", ("age",), values), train=train)
    assert head.scores(torch.zeros(1, 6, 1))[0, 0, 0] == pytest.approx(25)
    own = torch.from_numpy(train)
    zero = head.loss(torch.zeros(1, 6, 1), BAGS, own, ONE)
    assert zero[0] == pytest.approx(4, rel=1e-5)


def test_expected_bags_of_a_batch() -> None:
    targets = Targets("binary", ("a",), np.array([[1.0], [0], [1], [0], [1], [0]]), "b")
    train = np.array([[True, True, True, False, False, False]])
    assert head_of(targets).expected(train, 4).tolist() == [2.0]
    cox = SurvivalConfig(head="cox")
    values = np.array([[1.0, 1], [2, 0], [3, 1], [4, 1], [5, 0], [6, 0]])
    head = head_of(Targets("survival", ("t",), values), survival=cox)
    assert head.expected(train, 3).tolist() == [1.0]
