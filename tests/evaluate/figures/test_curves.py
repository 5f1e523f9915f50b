"""ROC and precision-recall curves."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from sklearn.metrics import precision_recall_curve, roc_auc_score, roc_curve

from evaluate.figures.frames import NAMES, comparison, metrics, predictions, rows
from slidemill.evaluate.figures.data import patients_of, rows_of
from slidemill.evaluate.figures.panels import MAX_PANELS
from slidemill.evaluate.figures.pr import pr_figure
from slidemill.evaluate.figures.roc import roc_figure
from slidemill.evaluate.figures.style import GREY


def texts_of(figure: Figure) -> str:
    return "\n".join(t.get_text() for t in figure.findobj(Text) if isinstance(t, Text))


@pytest.mark.parametrize("kind", ["binary", "multiclass", "multilabel"])
def test_lines_are_scikit_learns(kind: str) -> None:
    names = NAMES[kind]
    table, judged = comparison(kind, of=rows(2, 1), patients=40, repeats=2)
    roc, pr = (f(names, table, judged) for f in (roc_figure, pr_figure))
    assert len(roc.axes) == len(pr.axes) == len(names)
    for i, name in enumerate(names):
        for row in rows_of(judged):
            patients = patients_of(table, row, name)
            (line,) = [one for one in roc.axes[i].lines if one.get_label() == row.label]
            fpr, tpr, _ = roc_curve(patients["label"], patients["score"])
            assert np.array_equal(line.get_xdata(), fpr)
            assert np.array_equal(line.get_ydata(), tpr)
            area = np.trapezoid(np.asarray(line.get_ydata()), np.asarray(line.get_xdata()))
            assert area == pytest.approx(roc_auc_score(patients["label"], patients["score"]))
            assert (line.get_color() == GREY) == bool(row.control)
            (line,) = [one for one in pr.axes[i].lines if one.get_label() == row.label]
            precision, recall, _ = precision_recall_curve(patients["label"], patients["score"])
            assert np.array_equal(line.get_xdata(), recall)
            assert np.array_equal(line.get_ydata(), precision)
            assert line.get_drawstyle() == "steps-post"


def test_references_are_the_diagonal_and_the_prevalence() -> None:
    table, judged = comparison("binary", patients=30)
    diagonal = roc_figure(("met",), table, judged).axes[0].lines[0]
    assert list(diagonal.get_xdata()) == list(diagonal.get_ydata()) == [0, 1]
    prevalence = pr_figure(("met",), table, judged).axes[0].lines[0]
    assert list(prevalence.get_ydata()) == pytest.approx([1 / 3, 1 / 3])


def test_the_legend_has_the_tables_numbers() -> None:
    table, judged = comparison("binary", patients=30)
    headline = (judged["metric"] == "auroc") & (judged["fold"] < 0)
    judged.loc[headline, ["estimate", "low", "high"]] = (0.625, 0.5, 0.75)
    judged.loc[headline & (judged["model"] == "linear-probe"), "estimate"] = np.nan
    text = texts_of(roc_figure(("met",), table, judged))
    assert "0.62 [0.50, 0.75]   abmil-4heads on conch_v1.5+conch_v1.5/dinov2-compact" in text
    assert "undefined   linear-probe on" in text
    assert "10 of 30 patients positive" in text


def test_one_class_says_why_there_is_no_curve() -> None:
    table = predictions("multilabel", patients=20)
    table.loc[table["target"] == "KRAS", "label"] = 1.0
    for make in (roc_figure, pr_figure):
        figure = make(NAMES["multilabel"], table, metrics("multilabel", table))
        assert "No curve: every patient is\npositive." in texts_of(figure)
        assert len(figure.axes[1].lines) <= 1
        assert len(figure.axes[0].lines) == 3


def test_a_label_that_nobody_has_says_so() -> None:
    table = predictions("multilabel", patients=20)
    judged = metrics("multilabel", table)
    figure = roc_figure((*NAMES["multilabel"], "ALK"), table, judged)
    assert "No patient is tested." in texts_of(figure)


def test_controls_of_something_else_have_no_line() -> None:
    table, judged = comparison("binary", of=rows(2), patients=20)
    other = predictions("binary", ("site B",), of=[("linear-probe", "uni", "site")], patients=20)
    both = pd.concat([table, other]), pd.concat([judged, metrics("binary", other)])
    figure = roc_figure(("met",), *both)
    assert len(figure.axes[0].lines) == 3
    assert "(site)" not in texts_of(figure)


def test_only_so_many_classes_have_a_panel_and_the_figure_says_it() -> None:
    names = tuple(f"class {i}" for i in range(MAX_PANELS + 3))
    table = predictions("multiclass", names, of=rows(1), patients=45, slides=1)
    figure = roc_figure(names, table, metrics("multiclass", table))
    assert len(figure.axes) == MAX_PANELS
    assert "3 more not shown" in texts_of(figure)
