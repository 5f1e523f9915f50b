import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from slidemill.config import AbmilConfig
from slidemill.evaluate.abmil import GatedAbmil, fit_abmil, segment_softmax

CFG = AbmilConfig(epochs=60, width=16, attention_width=8)
RNG = np.random.default_rng(0)


def planted(n, seed):
    """Bags of noise; in the positive ones a tenth of the tiles is shifted."""
    rng = np.random.default_rng(seed)
    bags, labels, truth = [], np.arange(n) % 2, []
    for label in labels:
        bag = rng.standard_normal((40, 6)).astype(np.float32)
        marked = np.zeros(40, bool)
        marked[rng.choice(40, 4, replace=False)] = label == 1
        bag[marked] += 3
        bags.append(bag)
        truth.append(marked)
    return bags, labels.astype(np.int64), truth


def test_attention_sums_to_one_in_every_bag():
    lengths = torch.tensor([3, 1, 5])
    weights = segment_softmax(torch.randn(9), lengths)
    assert torch.allclose(
        torch.stack([part.sum() for part in weights.split([3, 1, 5])]), torch.ones(3)
    )


def test_packed_bags_are_bags_one_by_one():
    model = GatedAbmil(4, 8, 5, 0.5).eval()
    features, lengths = torch.randn(12, 4), torch.tensor([5, 4, 3])
    with torch.no_grad():
        logits, attention = model(features, lengths)
        parts = [
            model(part, torch.tensor([len(part)])) for part in features.split(lengths.tolist())
        ]
    assert torch.allclose(logits, torch.cat([p[0] for p in parts]), atol=1e-6)
    assert torch.allclose(attention, torch.cat([p[1] for p in parts]), atol=1e-6)


def test_it_finds_planted_tiles():
    bags, labels, _ = planted(40, 0)
    fitted = fit_abmil(bags, labels, CFG, seed=0)
    test, answers, truth = planted(20, 1)
    probabilities, attention = fitted.predict(test)
    assert roc_auc_score(answers, probabilities) >= 0.95
    ratios = [
        weights[marked].mean() / weights[~marked].mean()
        for weights, marked in zip(attention, truth, strict=True)
        if marked.any()
    ]
    assert np.mean(ratios) > 3


def test_the_same_seed_gives_the_same_bits_and_leaves_torchs_own_alone():
    bags, labels, _ = planted(10, 0)
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    runs = [fit_abmil(bags, labels, CFG, seed=3).predict(bags)[0] for _ in range(2)]
    assert torch.equal(torch.rand(3), expected)
    assert (runs[0] == runs[1]).all()
    assert (fit_abmil(bags, labels, CFG, seed=4).predict(bags)[0] != runs[0]).any()


def test_scale_and_offset_of_features_do_not_matter():
    bags, labels, _ = planted(10, 0)
    plain = fit_abmil(bags, labels, CFG, seed=0).predict(bags)[0]
    moved = [bag * np.float32(1000) + np.float32(50) for bag in bags]
    scaled = fit_abmil(moved, labels, CFG, seed=0).predict(moved)[0]
    assert np.abs(plain - scaled).max() < 0.05
