import math

import numpy as np
import pandas as pd
import pytest

from evaluate.figures.frames import comparison, metrics, predictions, rows
from slidemill.evaluate.figures.data import (
    Estimate,
    Row,
    counts_text,
    main_rows,
    numbered,
    overall,
    patients_of,
    rows_of,
)


def test_without_units_on_all_patients_there_is_nothing_to_show() -> None:
    table = predictions("binary", sample="5-shot")
    with pytest.raises(ValueError, match="the predictions have no rows"):
        main_rows(table, "predictions")
    both = pd.concat([table, predictions("binary")])
    assert set(main_rows(both, "predictions")["sample"]) == {"all"}


def test_patients_are_of_the_first_repetition_and_slides_are_averaged() -> None:
    table = predictions("binary", patients=7, slides=3, repeats=2)
    (first, second) = rows_of(table)
    found = patients_of(table, second)
    assert list(found["patient_id"]) == sorted(f"p{i}" for i in range(7))
    mine = second.of(table)
    mine = mine[(mine["repeat"] == 0) & (mine["patient_id"] == "p3")]
    assert len(mine) == 3
    score = found.loc[found["patient_id"] == "p3", "score"].item()
    assert score == pytest.approx(mine["score"].mean())
    assert not found["score"].equals(patients_of(table, first)["score"])


def test_retrieval_is_no_prediction_of_a_label() -> None:
    table = predictions("binary")
    (row, _) = rows_of(table)
    table.loc[table["model"] == row.model, "label"] = np.nan
    assert patients_of(table, row).empty


def test_results_come_before_controls_in_the_tables_order() -> None:
    table = predictions("binary", of=[*rows(0, 2), *rows(3)], patients=9)
    assert [(n, bool(row.control)) for n, row in numbered(rows_of(table))] == [
        (0, False), (1, False), (2, False), (0, True), (1, True),
    ]  # fmt: skip


def test_the_overall_estimate_is_not_that_of_a_label_or_a_fold() -> None:
    table = metrics("multilabel", predictions("multilabel", patients=30))
    row = rows_of(table)[0]
    mine = row.of(table)
    mine = mine[(mine["metric"] == "auroc") & (mine["fold"] < 0)].set_index("target")
    assert overall(table, row, "auroc").value == mine.loc["macro", "estimate"]
    assert overall(table, row, "auroc", "KRAS").value == mine.loc["KRAS", "estimate"]
    assert math.isnan(overall(table, row, "no-such-metric").value)
    assert overall(table, Row("no", "such", ""), "auroc") == Estimate(*[math.nan] * 4)


def test_the_counts_of_rows_that_differ_are_a_range() -> None:
    found = [Estimate(n_patients=1200, n_positive=30), Estimate(n_patients=1198, n_positive=30)]
    assert counts_text(found, "positive") == "1,198 to 1,200 patients, 30 positive"
    assert counts_text([Estimate(n_patients=1)], "") == "1 patient"
    assert counts_text([Estimate()], "positive") == "no patients"


def test_the_comparison_of_the_helper_is_in_the_formats() -> None:
    from slidemill.artifacts.formats import METRICS, PREDICTIONS

    table, judged = comparison("survival", patients=20)
    assert set(table) == {item.name for item in PREDICTIONS.fields}
    assert set(judged) == {item.name for item in METRICS.fields}
