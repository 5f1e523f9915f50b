import numpy as np
import pytest

from slidemill.errors import CohortError, LeakError
from slidemill.evaluate.mil.bags import moments_of
from slidemill.evaluate.summary import check_same_content, check_seen_content, summarise


def slides(*arrays: np.ndarray) -> list[tuple[str, str, np.ndarray]]:
    return [(f"S{i}", f"d{i}", array) for i, array in enumerate(arrays)]


def test_moments_are_those_of_the_stored_values() -> None:
    rng = np.random.default_rng(0)
    stored = [rng.standard_normal((n, 3)).astype(np.float16) for n in (5, 8)]
    found = summarise(slides(*stored))
    expected = moments_of([one.astype(np.float32) for one in stored])
    assert found.moments.count.tolist() == [5, 8]
    assert np.allclose(found.moments.mean, expected.mean)
    assert np.allclose(found.moments.m2, expected.m2)
    assert np.array_equal(found.maximum, [one.max(axis=0) for one in stored])
    assert found.maximum.dtype == np.float32
    assert found.slide_ids == ("S0", "S1")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_features_that_are_not_finite_are_named(bad: float) -> None:
    good, torn = np.ones((3, 2), np.float32), np.ones((3, 2), np.float32)
    torn[1, 1] = bad
    with pytest.raises(CohortError, match=r"2 slides: S1, S2.*Nothing was trained") as error:
        summarise(slides(good, torn, torn))
    assert "S0" not in str(error.value)


def test_the_same_content_under_two_names_is_a_leak() -> None:
    a, b = np.ones((3, 2), np.float32), np.zeros((3, 2), np.float32)
    found = summarise(slides(a, b, a.copy()))
    with pytest.raises(LeakError, match=r"S0 = S2"):
        check_same_content(found, ["S0", "S1", "S2"])
    check_same_content(found, ["S0", "S1"])
    check_same_content(summarise(slides(a, b)), ["S0", "S1"])


def test_the_order_of_tiles_is_content() -> None:
    a = np.arange(6, dtype=np.float32).reshape(3, 2)
    check_same_content(summarise(slides(a, a[::-1])), ["S0", "S1"])


def test_a_tested_slide_under_another_name_is_found_among_those_trained_on() -> None:
    a, b = np.ones((3, 2), np.float32), np.zeros((3, 2), np.float32)
    found = summarise(slides(a, b, a.copy()))
    with pytest.raises(LeakError, match=r"dino was trained on .* 1 slide: S2 = S0"):
        check_seen_content(found, ["S0"], ["S1", "S2"], "dino")
    check_seen_content(found, ["S1"], ["S0", "S2"], "dino")
