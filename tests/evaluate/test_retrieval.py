import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slidemill.errors import CohortError
from slidemill.evaluate.names import metric_label, retrieval_names
from slidemill.evaluate.retrieval import retrieve


def at_angles(*degrees: float) -> np.ndarray:
    """Vectors in the plane, of different lengths, which must not matter."""
    radians = np.radians(degrees)
    lengths = np.arange(1, len(degrees) + 1)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1) * lengths[:, None]


def one_query(key_labels, ks, key_patients=None):
    """A query of class 0 at angle 0, and keys in the order of their distance."""
    keys = at_angles(*range(1, len(key_labels) + 1))
    patients = key_patients or [f"k{i}" for i in range(len(key_labels))]
    found = retrieve(at_angles(0), keys, [0], key_labels, ["q"], patients, ks)
    return {name: float(values[0]) for name, values in found.items()}


def test_by_hand() -> None:
    """Hits at ranks 1 and 3 of 5; 3 keys are of the class."""
    found = one_query([0, 1, 0, 1, 1, 0], [1, 3, 5])
    assert found == pytest.approx(
        {
            "acc@1": 1,
            "mv@1": 1,
            "map@1": 1,
            "map@1/k": 1,
            "acc@3": 1,
            "mv@3": 1,
            "map@3": (1 + 2 / 3) / 3,
            "map@3/k": (1 + 2 / 3) / 3,
            "acc@5": 1,
            "mv@5": 0,
            "map@5": (1 + 2 / 3) / 3,
            "map@5/k": (1 + 2 / 3) / 5,
        }
    )


def test_a_perfect_ranking_is_one_by_the_textbook_and_less_over_k() -> None:
    found = one_query([0, 0, 1, 1, 1], [5])
    assert found["map@5"] == 1.0
    assert found["map@5/k"] == pytest.approx(2 / 5)


@pytest.mark.parametrize(
    ("labels", "right"), [([0, 1], 1), ([1, 0], 0), ([1, 0, 0, 1], 0), ([0, 1, 1, 0], 1)]
)
def test_of_tied_classes_the_nearest_wins(labels, right) -> None:
    assert one_query(labels, [len(labels)])[f"mv@{len(labels)}"] == right


def test_a_patients_own_slides_are_never_found() -> None:
    """The two nearest keys are the query's own patient's, and of its class."""
    found = one_query([0, 0, 1, 0], [1, 2], ["q", "q", "a", "b"])
    assert found["acc@1"] == 0
    assert found["mv@2"] == 0
    assert found["map@2"] == pytest.approx(0.5 / 1)


def test_fewer_keys_than_neighbours() -> None:
    found = one_query([1, 0, 0], [10], ["a", "b", "q"])
    assert found["acc@10"] == 1
    assert found["mv@10"] == 0
    assert found["map@10"] == pytest.approx(0.5)
    assert found["map@10/k"] == pytest.approx(0.05)


def test_a_class_that_nobody_else_has_is_never_found() -> None:
    assert set(one_query([1, 1, 0], [2], ["a", "b", "q"]).values()) == {0.0}


def test_equal_similarities_stay_in_the_order_of_the_keys() -> None:
    """Equal vectors at many places of a matrix product."""
    rng = np.random.default_rng(0)
    vector = rng.normal(0, 1, 67)
    keys = np.stack([vector * (1 + 0.1 * i) for i in range(41)])
    labels = np.arange(41)
    for first in range(41):
        order = np.roll(labels, -first)
        found = retrieve(
            rng.normal(0, 1, (1, 67)), keys, [first], order, ["q"], [f"k{i}" for i in labels], [1]
        )
        assert found["acc@1"][0] == 1


def test_a_query_without_another_patient_is_refused() -> None:
    vectors = at_angles(0, 1, 2)
    with pytest.raises(CohortError, match="for a"):
        retrieve(vectors[:1], vectors[1:], [0], [0, 1], ["a"], ["a", "a"], [1])


@pytest.mark.parametrize("bad", [0.0, np.nan, np.inf])
def test_vectors_without_a_direction_are_refused_by_patient(bad) -> None:
    vectors = at_angles(0, 1, 2)
    vectors[1] = bad
    with pytest.raises(CohortError, match="p1"):
        retrieve(vectors, vectors, [0, 1, 0], [0, 1, 0], *[["p0", "p1", "p2"]] * 2, [1])


@pytest.mark.parametrize("ks", [[], [0], [1, -1]])
def test_neighbours_are_at_least_one(ks) -> None:
    with pytest.raises(ValueError, match="neighbours"):
        one_query([0, 1], ks)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_is_the_plain_loop(data) -> None:
    n = data.draw(st.integers(3, 12))
    rng = np.random.default_rng(data.draw(st.integers(0, 10_000)))
    vectors, labels = rng.normal(0, 1, (n, 3)), rng.integers(0, 3, n)
    patients = ["first", "second", *(f"p{i}" for i in rng.integers(0, 5, n - 2))]
    k = data.draw(st.integers(1, n + 2))
    found = retrieve(vectors, vectors, labels, labels, patients, patients, [k])
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    for i in range(n):
        others = [j for j in range(n) if patients[j] != patients[i]]
        ranked = sorted(others, key=lambda j: -float(units[i] @ units[j]))
        near = [int(labels[j]) for j in ranked[:k]]
        hits = [label == labels[i] for label in near]
        total = sum(sum(hits[: rank + 1]) / (rank + 1) for rank, hit in enumerate(hits) if hit)
        relevant = sum(labels[j] == labels[i] for j in others)
        winner = max(near, key=lambda label: (near.count(label), -near.index(label)))
        assert found[f"acc@{k}"][i] == any(hits)
        assert found[f"mv@{k}"][i] == (winner == labels[i])
        assert found[f"map@{k}"][i] == pytest.approx(total / max(1, min(k, relevant)))
        assert found[f"map@{k}/k"][i] == pytest.approx(total / k)


def test_names_say_what_is_divided_by() -> None:
    assert list(retrieval_names(5)) == ["acc@5", "mv@5", "map@5", "map@5/k"]
    assert metric_label("map@5/k") == "mAP@5 (over 5)"
    assert metric_label("map@5") == "mAP@5 (over possible hits)"
    assert metric_label("auroc") == "AUROC"
    assert metric_label("other@x") == "other@x"
