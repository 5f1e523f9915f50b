import numpy as np
import pytest

from evaluate.figures.frames import comparison, rows
from slidemill.evaluate.figures.forest import forest_figure
from slidemill.evaluate.figures.style import COLOURS, GREY


def test_rows_are_in_order_with_controls_apart_below() -> None:
    _, judged = comparison("binary", of=[*rows(0, 1), *rows(3)], patients=30)
    headline = (judged["metric"] == "auroc") & (judged["fold"] < 0)
    values = np.array([[0.4, 0.3, 0.5], [0.9, 0.8, 1.0], [0.7, 0.6, 0.8], [0.6, 0.5, 0.7]])
    judged.loc[headline, ["estimate", "low", "high"]] = values
    figure = forest_figure("binary", judged)
    axes, right = figure.axes
    names = [label.get_text().split("\n")[0] for label in axes.get_yticklabels()]
    assert names == [
        "abmil-4heads", "linear-probe", "clam-sb", "abmil-4heads (shuffled-labels)",
    ]  # fmt: skip
    places = axes.get_yticks()
    assert places[3] - places[2] > places[2] - places[1]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]
    points = [line for line in axes.lines if line.get_marker() == "s"]
    assert [line.get_xdata()[0] for line in points] == [0.9, 0.7, 0.6, 0.4]
    assert [line.get_color() for line in points] == [COLOURS[0]] * 3 + [GREY]
    spans = [line.get_xdata() for line in axes.lines if len(line.get_xdata()) == 2]
    assert [0.8, 1.0] in [list(span) for span in spans]
    assert [0.5, 0.5] in [list(span) for span in spans], "the line of chance"
    numbers = [label.get_text() for label in right.get_yticklabels()]
    assert numbers[0] == "0.90 [0.80, 1.00]"
    assert "30 patients, 10 positive" in axes.get_xlabel()


def test_what_is_undefined_has_the_word_and_no_point() -> None:
    _, judged = comparison("survival", patients=30)
    judged.loc[judged["model"] == "linear-probe", ["estimate", "low", "high"]] = np.nan
    axes, right = forest_figure("survival", judged).axes
    assert len([line for line in axes.lines if line.get_marker() == "s"]) == 1
    assert right.get_yticklabels()[1].get_text() == "undefined"
    assert "with event" in axes.get_xlabel()
    judged[["estimate", "low", "high", "chance"]] = np.nan
    axes, _ = forest_figure("survival", judged).axes
    assert [text.get_text() for text in axes.texts] == ["Undefined for every row."]


def test_without_the_headline_it_is_an_error() -> None:
    _, judged = comparison("binary", patients=20)
    with pytest.raises(ValueError, match="no pearson"):
        forest_figure("regression", judged)
