import numpy as np
import pytest

from evaluate.figures.frames import comparison, predictions, rows
from slidemill.evaluate.figures.data import overall, patients_of, rows_of
from slidemill.evaluate.figures.scatter import MANY, scatter_figure
from slidemill.evaluate.figures.style import number


def test_points_are_patients_and_titles_have_the_tables_numbers() -> None:
    table, judged = comparison("regression", of=rows(2, 1), patients=30)
    figure = scatter_figure(table, judged)
    assert len(figure.axes) == 2
    for axes, row in zip(figure.axes, rows_of(judged), strict=False):
        patients = patients_of(table, row)
        points = axes.lines[1]
        assert np.array_equal(points.get_xdata(), patients["label"])
        assert np.array_equal(points.get_ydata(), patients["score"])
        assert axes.get_xlim() == axes.get_ylim()
        title = axes.get_title(loc="left")
        assert "30 patients" in title
        for metric in ("pearson", "spearman", "r2"):
            assert number(overall(judged, row, metric).value) in title


def test_thousands_of_points_are_pixels_in_the_svg() -> None:
    table, judged = comparison("regression", of=rows(1), patients=MANY + 1, slides=1)
    assert scatter_figure(table, judged).axes[0].lines[1].get_rasterized()


def test_one_patient_and_undefined_numbers() -> None:
    table = predictions("regression", of=rows(1), patients=1, slides=1)
    _, judged = comparison("regression", of=rows(1), patients=9)
    judged["estimate"] = np.nan
    title = scatter_figure(table, judged).axes[0].get_title(loc="left")
    assert "1 patient, Pearson undefined" in title


def test_without_units_on_all_patients_it_is_an_error() -> None:
    table, judged = comparison("regression", of=rows(1), patients=9, sample="5%")
    with pytest.raises(ValueError, match="no rows of models"):
        scatter_figure(table, judged)
