import builtins
import math

import numpy as np
import pytest
import torch
from torch import nn

from slidemill.config import MilConfig
from slidemill.errors import ConfigError
from slidemill.evaluate.mil.bags import ListBags
from slidemill.evaluate.mil.torchmil_networks import INSTANCES, SUPPORTS, build, smooth_svm
from slidemill.evaluate.mil.train import cross_fit
from slidemill.evaluate.mil.units import BagUnit, Settings
from slidemill.splits.targets import Targets, TaskType

NAMES = sorted(SUPPORTS)
OUTPUTS = {"binary": 1, "multiclass": 4, "multilabel": 3, "regression": 1, "survival": 5}
CASES = [(name, kind) for name in NAMES for kind in sorted(SUPPORTS[name])]


def network(name: str, outputs: int, *, dropout: float = 0.0, width: int = 16) -> nn.Module:
    torch.manual_seed(0)
    return build(name, 6, outputs, width, dropout)


def target_of(kind: TaskType) -> torch.Tensor:
    if kind == "multilabel":
        return torch.tensor([1.0, math.nan, 0.0], dtype=torch.float64)
    return torch.tensor([2.0 if kind == "multiclass" else 1.0], dtype=torch.float64)


@pytest.mark.parametrize("tiles", [1, 2, 3, 5, 9, 10, 17, 100])
@pytest.mark.parametrize(("name", "kind"), CASES)
def test_outputs_and_attention(name: str, kind: str, tiles: int) -> None:
    model = network(name, OUTPUTS[kind]).eval()
    found, attention = model(torch.randn(tiles, 6))
    assert found.shape == (OUTPUTS[kind],)
    assert found.isfinite().all()
    if name == "transmil":
        assert attention is None
    else:
        assert attention.shape == (tiles,)
        assert (attention >= 0).all()
        assert float(attention.detach().sum()) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_gradients_reach_every_parameter(name: str, kind: TaskType) -> None:
    model = network(name, OUTPUTS[kind]).train()
    bag = torch.randn(30, 6)
    found, _ = model(bag)
    loss = found.square().sum()
    if hasattr(model, "auxiliary_loss"):
        loss = loss + model.auxiliary_loss(bag, found, target_of(kind))
    loss.backward()
    # The unknown label of a multilabel task teaches its own critical tile nothing.
    excused = {f"streams.1.inst_classifier.{end}" for end in ("weight", "bias")}
    silent = {
        key for key, value in model.named_parameters() if value.grad is None or not value.grad.any()
    }
    assert silent == (excused if (name, kind) == ("dsmil", "multilabel") else set())


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_tiles(name: str) -> None:
    """It changes nothing but for transmil, which lays tiles on a grid in their order."""
    model = network(name, 2).eval()
    bag, order = torch.randn(25, 6), torch.randperm(25)
    found, attention = model(bag)
    moved, of_moved = model(bag[order])
    if name == "transmil":
        assert not torch.allclose(found, moved, atol=1e-4)
        return
    assert torch.allclose(found, moved, atol=1e-6)
    assert torch.allclose(attention[order], of_moved, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_the_seed_decides_the_weights(name: str) -> None:
    first, again = network(name, 1), network(name, 1)
    torch.manual_seed(1)
    other = build(name, 6, 1, 16, 0.0)
    same = [torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True)]
    assert all(same)
    assert not torch.equal(next(first.parameters()), next(other.parameters()))


@pytest.mark.parametrize("width", [4, 7, 12])
@pytest.mark.parametrize("name", NAMES)
def test_any_width(name: str, width: int) -> None:
    found, _ = network(name, 1, width=width, dropout=0.5).train()(torch.randn(20, 6))
    assert found.isfinite().all()


def test_smooth_svm_by_hand() -> None:
    """log(1 + exp(1 + other - true)) of each row."""
    logits = torch.tensor([[0.3, -0.2], [2.0, 5.0]])
    expected = (math.log1p(math.exp(1 + 0.3 + 0.2)) + math.log1p(math.exp(1 + 5.0 - 2.0))) / 2
    assert float(smooth_svm(logits, torch.tensor([True, False]))) == pytest.approx(expected)


@pytest.mark.parametrize(("outputs", "label"), [(1, 0), (1, 1), (3, 2)])
def test_clam_clusters_the_tiles_of_most_and_least_attention(outputs: int, label: int) -> None:
    model = network("clam-sb", outputs).train()
    bag = torch.randn(40, 6)
    found, attention = model(bag)
    loss = model.auxiliary_loss(bag, found, torch.tensor([float(label)]))
    order = attention.argsort(descending=True)
    embedded = model.clam.feat_ext(bag)
    most, least = embedded[order[:INSTANCES]], embedded[order[-INSTANCES:]]
    yes, no = torch.ones(INSTANCES, dtype=torch.bool), torch.zeros(INSTANCES, dtype=torch.bool)
    classifiers = model.clam.inst_classifiers
    assert len(classifiers) == max(2, outputs)
    own = classifiers[label]
    expected = [(smooth_svm(own(most), yes) + smooth_svm(own(least), no)) / 2]
    expected += [smooth_svm(one(most), no) for one in classifiers if one is not own]
    assert float(loss.detach()) == pytest.approx(
        float(sum(expected).detach()) / len(classifiers) * 0.3 / 0.7
    )


def test_clam_does_not_cluster_a_single_tile() -> None:
    model = network("clam-sb", 1).train()
    bag = torch.randn(1, 6)
    assert float(model.auxiliary_loss(bag, model(bag)[0], torch.tensor([1.0]))) == 0.0


def test_dsmil_has_a_loss_of_the_critical_tile() -> None:
    """And predicts the mean of both streams."""
    model = network("dsmil", 1)
    bag, target = torch.randn(12, 6), torch.tensor([1.0], dtype=torch.float64)
    tiles = model.streams[0].inst_classifier(model.embed(bag)).max()
    of_bag = model.train()(bag)[0]
    loss = model.auxiliary_loss(bag, of_bag, target)
    assert float(loss.detach()) == pytest.approx(
        float(-torch.nn.functional.logsigmoid(tiles)), rel=1e-5
    )
    assert float(model.eval()(bag)[0]) == pytest.approx(float(of_bag + tiles) / 2, rel=1e-5)


def test_dsmil_learns_nothing_from_labels_that_are_all_missing() -> None:
    model = network("dsmil", 2).train()
    bag = torch.randn(5, 6)
    loss = model.auxiliary_loss(bag, model(bag)[0], torch.tensor([math.nan, math.nan]))
    assert float(loss) == 0.0


@pytest.mark.parametrize("name", ["clam-sb", "dsmil"])
def test_an_auxiliary_loss_is_of_a_bag_in_training(name: str) -> None:
    model = network(name, 1).eval()
    bag = torch.randn(5, 6)
    with pytest.raises(ValueError, match="in training"):
        model.auxiliary_loss(bag, model(bag)[0], torch.tensor([1.0]))


def test_without_torchmil_the_message_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = builtins.__import__

    def refuse(name: str, *args: object, **kwargs: object) -> object:
        if name.startswith("torchmil"):
            raise ModuleNotFoundError("No module named 'torchmil'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ConfigError, match=r"dsmil needs torchmil.*slidemill\[torchmil\]"):
        build("dsmil", 6, 1, 16, 0.0)


@pytest.mark.parametrize("name", NAMES)
def test_it_learns_planted_tiles_in_the_plain_loop(name: str) -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 2
    bags = [rng.standard_normal((20, 6)).astype(np.float32) for _ in labels]
    for bag, label in zip(bags, labels, strict=True):
        bag[:6] += 3.0 * label
    targets = Targets("binary", ("yes",), labels.astype(np.float64)[:, None])
    none = np.zeros(0, dtype=np.int64)
    unit = BagUnit("all", np.arange(40), none, np.arange(40, 60), 3)
    settings = Settings(MilConfig(width=16, epochs=8, learning_rate=3e-3, dropout=0.1))
    result = cross_fit(name, ListBags(bags), targets, [unit], settings, seed=0)[0]
    found = result.scores[:, 0]
    assert found[labels[40:] == 1].min() > found[labels[40:] == 0].max()
