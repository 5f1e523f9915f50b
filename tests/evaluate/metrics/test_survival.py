import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sksurv.datasets import load_gbsg2, load_veterans_lung_cancer, load_whas500
from sksurv.metrics import concordance_index_censored, concordance_index_ipcw
from sksurv.util import Surv
from torchsurv.metrics.cindex import ConcordanceIndex

from slidemill.evaluate.metrics import metrics_of

HARRELL = metrics_of("survival")["c_harrell"].function
UNO = metrics_of("survival")["c_uno"].function


def uno_of_sksurv(time, event, risk) -> float:
    both = Surv.from_arrays(event, time)
    return concordance_index_ipcw(both, both, risk)[0]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 6), st.booleans(), st.integers(0, 5)), min_size=2, max_size=25
    )
)
def test_both_are_scikit_survivals_with_ties_and_censoring(rows) -> None:
    time, event, risk = (np.array(column) for column in zip(*rows, strict=True))
    y, scores = np.stack([time, event], axis=1).astype(float), risk[:, None] / 7
    comparable = event[:, None] & ((time[:, None] < time) | ((time[:, None] == time) & ~event))
    if not comparable.any():
        assert math.isnan(HARRELL(y, scores))
        assert math.isnan(UNO(y, scores))
        return
    expected = concordance_index_censored(event, time, scores[:, 0])[0]
    assert HARRELL(y, scores) == pytest.approx(expected)
    last = time == time.max()
    # scikit-survival refuses events at which the censoring estimate is 0.
    assume(not (event[last].any() and not event[last].all()))
    assert UNO(y, scores) == pytest.approx(uno_of_sksurv(time.astype(float), event, scores[:, 0]))


@pytest.mark.parametrize("load", [load_gbsg2, load_whas500, load_veterans_lung_cancer])
def test_both_are_scikit_survivals_on_its_cohorts(load) -> None:
    x, outcome = load()
    event, time = (outcome[name] for name in outcome.dtype.names)
    time = time.astype(float)
    risk = x["age" if "age" in x else "Age_in_years"].astype(float).to_numpy()
    y = np.stack([time, event], axis=1).astype(float)
    expected = concordance_index_censored(event, time, risk)[0]
    assert HARRELL(y, risk[:, None]) == pytest.approx(expected)
    assert UNO(y, risk[:, None]) == pytest.approx(uno_of_sksurv(time, event, risk))


def test_harrell_is_torchsurvs_where_single_precision_does() -> None:
    rng = np.random.default_rng(0)
    time, event, risk = rng.integers(1, 9, 40), rng.random(40) < 0.6, rng.integers(0, 6, 40) / 7
    y = np.stack([time, event], axis=1).astype(float)
    ours = ConcordanceIndex()(*(torch.tensor(each) for each in (risk, event, time.astype(float))))
    assert HARRELL(y, risk[:, None]) == pytest.approx(float(ours))


def test_risks_that_differ_little_are_no_ties() -> None:
    """The reason not to use torchsurv: any increasing function of the risk has the same C."""
    rng = np.random.default_rng(1)
    y = np.stack([rng.exponential(1, 50), rng.random(50) < 0.5], axis=1).astype(float)
    risk = rng.normal(0, 1, (50, 1))
    assert HARRELL(y, 1000 + 1e-6 * risk) == HARRELL(y, risk)
    assert UNO(y, 1000 + 1e-6 * risk) == UNO(y, risk)


def test_by_hand() -> None:
    """Times 1, 2, 3 with the second one censored: 2 comparable pairs, both of the first."""
    y = np.array([[1.0, 1.0], [2.0, 0.0], [3.0, 1.0]])
    assert HARRELL(y, np.array([[3.0], [1.0], [3.0]])) == pytest.approx(0.75)
    # With another event before the censoring, at G = 1, and one after it, at G = 2/3.
    y = np.array([[1.0, 1.0], [2.0, 0.0], [3.0, 1.0], [4.0, 0.0]])
    risk = np.array([[3.0], [1.0], [0.0], [2.0]])
    assert HARRELL(y, risk) == pytest.approx(3 / 4)
    assert UNO(y, risk) == pytest.approx(3 / (3 + 9 / 4))


def test_an_event_that_censoring_hides_is_left_out() -> None:
    """At the last time one patient has the event and one is censored: G is 0 there."""
    y = np.array([[1.0, 1.0], [2.0, 1.0], [2.0, 0.0]])
    risk = np.array([[3.0], [1.0], [2.0]])
    assert HARRELL(y, risk) == pytest.approx(2 / 3)
    assert UNO(y, risk) == 1.0


def test_nobody_with_an_event_is_nan() -> None:
    y = np.array([[1.0, 0.0], [2.0, 0.0]])
    assert math.isnan(HARRELL(y, np.array([[1.0], [2.0]])))
