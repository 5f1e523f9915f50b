import pandas as pd
import pytest

from slidemill.errors import CohortError
from slidemill.splits.labels import encode_binary, shuffle_patient_labels


def test_the_later_label_is_positive_unless_another_is_named():
    values = pd.Series(["low", "high", "low"])
    assert encode_binary(values, None)[0].tolist() == [1, 0, 1]
    codes, classes = encode_binary(values, "high")
    assert (codes.tolist(), classes) == ([0, 1, 0], ("low", "high"))


@pytest.mark.parametrize(("values", "positive"), [("aaa", None), ("abc", None), ("ab", "x")])
def test_anything_but_two_classes_is_refused(values, positive):
    with pytest.raises(CohortError):
        encode_binary(pd.Series(list(values)), positive)


def test_shuffling_keeps_counts_and_patients_together():
    rows = pd.DataFrame(
        {
            "slide_id": [f"s{i}" for i in range(40)],
            "patient_id": [f"p{i // 2}" for i in range(40)],
            "label": ["0"] * 20 + ["1"] * 20,
        }
    )
    shuffled = shuffle_patient_labels(rows, 0)
    assert shuffled["label"].tolist() != rows["label"].tolist()
    assert (shuffled.groupby("patient_id")["label"].nunique() == 1).all()
    assert shuffled["label"].value_counts().to_dict() == {"0": 20, "1": 20}
    assert shuffle_patient_labels(rows, 0).equals(shuffled)
    again = shuffle_patient_labels(rows.iloc[::-1], 0).iloc[::-1]
    assert again.equals(shuffled)
