from itertools import combinations

import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from slidemill.evaluate.oracles import UNIT_TESTS, ShiftedMean

PUBLISHED = {
    (1.0, 1): (0.726, 0.695, 0.641, 0.663),
    (2.0, 1): (0.954, 0.909, 0.871, 0.789),
    (3.0, 1): (0.999, 0.993, 0.983, 0.878),
    (1.0, 4): (0.951, 0.903, 0.865, 0.788),
}
"""AUROC of the four scores at R = 3, S from 15 to 45, by shift and number of shifted features.

Of 8000 simulated bags, so that they are not exact: in the limit the second row is .948, .902, .862,
.786.
"""


def deviation(auroc: float, each: int) -> float:
    """Standard deviation of an AUROC with so many bags a class (Hanley & McNeil 1982)."""
    first, second = auroc / (2 - auroc), 2 * auroc**2 / (1 + auroc)
    spread = (each - 1) * (first + second - 2 * auroc**2)
    return float(np.sqrt((auroc * (1 - auroc) + spread) / each**2))


@pytest.mark.parametrize(("delta", "shifted"), PUBLISHED)
def test_the_four_scores_have_their_auroc(delta: float, shifted: int) -> None:
    """To three deviations of 8000 bags."""
    family = ShiftedMean(delta, shifted, dim=shifted)
    drawn = family.bags(60_000, seed=0)
    scores = family.scores(drawn.bags).values()
    for score, expected in zip(scores, PUBLISHED[delta, shifted], strict=True):
        found = roc_auc_score(drawn.labels, score)
        assert found == pytest.approx(expected, abs=3 * deviation(expected, 4000))


def test_mean_pool_and_max_pool_in_closed_form() -> None:
    family = ShiftedMean()
    drawn = family.bags(20000, seed=1)
    sizes = np.arange(15, 46)
    # P(mean of a positive bag > mean of a negative one), over both bags' sizes.
    means = [
        norm.cdf(2.0 * 3 / of_positive / np.sqrt(1 / of_positive + 1 / of_negative))
        for of_positive in sizes
        for of_negative in sizes
    ]
    # The same of the largest tile: an integral over its distribution in a negative bag.
    grid = np.linspace(-4, 8, 4001)
    below_negative = np.mean([norm.cdf(grid) ** size for size in sizes], axis=0)
    below_positive = np.mean(
        [norm.cdf(grid) ** (size - 3) * norm.cdf(grid - 2.0) ** 3 for size in sizes], axis=0
    )
    largest = np.sum((1 - (below_positive[1:] + below_positive[:-1]) / 2) * np.diff(below_negative))
    scores = family.scores(drawn.bags)
    assert roc_auc_score(drawn.labels, scores["mean-pool"]) == pytest.approx(
        np.mean(means), abs=0.01
    )
    assert roc_auc_score(drawn.labels, scores["max-pool"]) == pytest.approx(largest, abs=0.01)
    assert np.mean(means) == pytest.approx(0.786, abs=5e-4)
    assert largest == pytest.approx(0.862, abs=5e-4)


def test_the_best_scores_are_ratios_of_likelihoods() -> None:
    """By the densities themselves, over all places and all subsets."""
    family = ShiftedMean(1.5, 2, run=3, sizes=(7, 7), dim=3)
    bag = family.bags(1, seed=0).bags[0]
    each = norm.logpdf(bag[:, :2], 1.5).sum(1) - norm.logpdf(bag[:, :2]).sum(1)
    places = [each[i : i + 3].sum() for i in range(5)]
    subsets = [sum(each[i] for i in chosen) for chosen in combinations(range(7), 3)]
    assert family.bayes([bag])[0] == pytest.approx(logsumexp(places) - np.log(5), rel=1e-6)
    assert family.order_blind([bag])[0] == pytest.approx(logsumexp(subsets) - np.log(35), rel=1e-6)


def test_only_the_bayes_score_sees_the_order() -> None:
    family = ShiftedMean()
    bag = family.bags(1, seed=3).bags[0]
    moved = bag[np.random.default_rng(0).permutation(len(bag))]
    for name, score in family.scores([bag, moved]).items():
        assert (score[0] == pytest.approx(score[1])) == (name != "bayes")


def test_bags_of_shifted_mean() -> None:
    drawn = ShiftedMean(50.0, 2, dim=4).bags(400, seed=0)
    assert {len(bag) for bag in drawn.bags} == set(range(15, 46))
    assert 0.4 < drawn.labels.mean() < 0.6
    for bag, label, signal in zip(drawn.bags, drawn.labels, drawn.signal, strict=True):
        assert bag.dtype == np.float32
        assert bag.shape == (len(signal), 4)
        where = np.flatnonzero(signal)
        assert len(where) == 3 * label
        assert label == 0 or where[-1] - where[0] == 2
        assert ((bag[:, :2] > 25).all(1) == signal).all()
        assert (np.abs(bag[:, 2:]) < 25).all()


@pytest.mark.parametrize("name", UNIT_TESTS)
@pytest.mark.parametrize("train", [True, False])
def test_bags_of_the_unit_tests(name: str, train: bool) -> None:
    drawn = UNIT_TESTS[name](400, 16, train, 0)
    assert drawn.labels.tolist() == [0, 1] * 200
    for bag, label, signal in zip(drawn.bags, drawn.labels, drawn.signal, strict=True):
        means = bag.mean(1)
        poison = (means < -9).sum()
        assert poison == (name != "false-frequency" and label != train)
        assert signal.any() == (label == 1)
        if name == "single-concept":
            assert len(bag) == 10 + signal.sum() + poison
            assert signal.sum() <= 3
            continue
        two, three = (np.abs(means - 2) < 0.4).sum(), (np.abs(means - 3) < 0.4).sum()
        if label:
            assert two == three == signal.sum() / 2
        else:
            assert min(two, three) == 0
            expected = {1} if train or name == "multi-concept" else set(range(35, 45))
            assert max(two, three) in expected


@pytest.mark.parametrize("name", UNIT_TESTS)
def test_the_shortcut_turns_around(name: str) -> None:
    """The absence of poison, or the number of tiles of concepts."""
    aurocs = []
    for train in (True, False):
        drawn = UNIT_TESTS[name](400, 16, train, 0)
        means = [bag.mean(1) for bag in drawn.bags]
        shortcut = [(m > 1.5).sum() if name == "false-frequency" else m.min() for m in means]
        aurocs.append(roc_auc_score(drawn.labels, shortcut))
    assert aurocs[0] > 0.99
    assert aurocs[1] < 0.01


@pytest.mark.parametrize("name", ["multi-concept", "false-frequency"])
def test_both_concepts_are_a_solution_that_holds(name: str) -> None:
    for train in (True, False):
        drawn = UNIT_TESTS[name](400, 16, train, 0)
        means = [bag.mean(1) for bag in drawn.bags]
        both = [(np.abs(m - 2) < 0.4).any() and (np.abs(m - 3) < 0.4).any() for m in means]
        assert roc_auc_score(drawn.labels, both) == 1.0


def test_the_seed_decides_the_bags() -> None:
    for draw in (ShiftedMean().bags, lambda count, seed: UNIT_TESTS["multi-concept"](
        count, 4, True, seed
    )):  # fmt: skip
        first, again, other = draw(20, 5), draw(20, 5), draw(20, 6)
        assert all(np.array_equal(a, b) for a, b in zip(first.bags, again.bags, strict=True))
        assert not np.array_equal(first.bags[0], other.bags[0])


def test_training_and_test_bags_are_drawn_apart() -> None:
    draw = UNIT_TESTS["single-concept"]
    assert not np.array_equal(draw(2, 4, True, 0).bags[1][:5], draw(2, 4, False, 0).bags[1][:5])


def test_means_of_bags() -> None:
    drawn = ShiftedMean(dim=3).bags(4, seed=0)
    assert np.allclose(drawn.means()[2], drawn.bags[2].mean(0), atol=1e-6)
