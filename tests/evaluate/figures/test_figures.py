import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.legend import Legend

from evaluate.figures.frames import NAMES, comparison, metrics, predictions, rows
from slidemill.evaluate.figures import figures_of, save
from slidemill.evaluate.figures.style import WIDTH, look

KINDS = {
    "binary": {"roc", "pr", "calibration", "confusion", "forest"},
    "multiclass": {"roc", "pr", "calibration", "confusion", "forest"},
    "multilabel": {"roc", "pr", "calibration", "forest"},
    "regression": {"scatter", "forest"},
    "survival": {"kaplan-meier", "forest"},
}


def with_thinned(kind: str, of, patients: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    tables = [
        predictions(kind, of=of, patients=patients, slides=1, sample=sample, draws=draws)
        for sample, draws in (("all", 1), ("5%", 2), ("5-shot", 1))
    ]
    table = pd.concat(tables, ignore_index=True)
    return table, metrics(kind, table)


@pytest.mark.parametrize("kind", KINDS)
def test_a_type_has_the_figures_that_make_sense(kind: str) -> None:
    table, judged = comparison(kind, of=rows(2, 1), patients=20)
    assert set(figures_of(kind, NAMES[kind], table, judged)) == KINDS[kind]


def test_controls_of_slide_encoders_are_in_the_forest_alone() -> None:
    control = ("abmil", "uni/dino", "random-init")
    table, judged = comparison("binary", of=[*rows(2, 1), control], patients=20)
    figures = figures_of("binary", NAMES["binary"], table, judged)
    assert b"random-init" in save(figures["forest"])["svg"]
    for name in ("roc", "pr", "calibration", "confusion"):
        assert b"random-init" not in save(figures[name])["svg"], name


def test_ratio_is_there_where_units_were_thinned() -> None:
    table, judged = with_thinned("survival", rows(1), 20)
    assert set(figures_of("survival", NAMES["survival"], table, judged)) == {
        "kaplan-meier", "forest", "ratio",
    }  # fmt: skip
    thin = table["sample"] != "all"
    with pytest.raises(ValueError, match="no rows of models that trained on all patients"):
        figures_of("survival", NAMES["survival"], table[thin], judged)


def test_the_same_tables_give_the_same_bytes() -> None:
    for kind in ("regression", "survival"):
        table, judged = comparison(kind, of=rows(2, 1), patients=15, slides=1)
        one, two = (figures_of(kind, NAMES[kind], table, judged) for _ in range(2))
        for name in one:
            assert save(one[name]) == save(two[name])


SAVE_ALL = """
import hashlib, sys
from evaluate.figures.frames import NAMES, comparison, rows
from slidemill.evaluate.figures import figures_of, save
for kind in ("multiclass", "regression", "survival"):
    table, judged = comparison(kind, of=rows(3, 1), patients=30, slides=1)
    for name, figure in figures_of(kind, NAMES[kind], table, judged).items():
        for ending, data in save(figure).items():
            print(kind, name, ending, hashlib.sha256(data).hexdigest())
"""


@pytest.mark.slow
def test_other_processes_give_the_same_bytes() -> None:
    folder = str(Path(__file__).parents[2])
    command = [sys.executable, "-c", SAVE_ALL]
    found = {
        subprocess.run(
            command,
            env=os.environ | {"PYTHONPATH": folder, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in "123"
    }
    assert len(found) == 1
    assert "survival kaplan-meier svg" in found.pop()


def test_a_figure_that_is_saved_twice_is_the_same() -> None:
    table, judged = comparison("survival", of=rows(2), patients=15, slides=1)
    figure = figures_of("survival", NAMES["survival"], table, judged)["kaplan-meier"]
    assert save(figure) == save(figure)


@look()
def assert_tidy(figure: Figure, name: str) -> None:
    """Nothing is cut off, and no legend covers a panel."""
    figure.draw_without_rendering()
    box = figure.get_tightbbox()
    width, height = figure.get_size_inches()
    assert width == WIDTH, name
    assert min(box.x0, box.y0) > -0.03, (name, box)
    assert box.x1 < width + 0.03, (name, box)
    assert box.y1 < height + 0.03, (name, box)
    for legend in figure.findobj(Legend):
        for axes in figure.axes:
            found, panel = legend.get_window_extent(), axes.get_window_extent()
            overlap = (
                min(found.x1, panel.x1) - max(found.x0, panel.x0),
                min(found.y1, panel.y1) - max(found.y0, panel.y0),
            )
            assert min(overlap) <= 1.0, (name, overlap)


@pytest.mark.parametrize(
    ("kind", "count", "patients"), [("binary", 2, 12), ("binary", 12, 30), ("survival", 5, 20)]
)
def test_many_rows_and_long_names_stay_within_the_figure(
    kind: str, count: int, patients: int
) -> None:
    table, judged = with_thinned(kind, rows(count, 2), patients)
    for name, figure in figures_of(kind, NAMES[kind], table, judged).items():
        assert_tidy(figure, name)


def test_seven_classes_of_long_names_stay_within_the_figure() -> None:
    names = tuple(f"a class with quite a long name, number {i}" for i in range(7))
    table = predictions("multiclass", names, of=rows(3, 1), patients=28, slides=1)
    figures = figures_of("multiclass", names, table, metrics("multiclass", table))
    for name, figure in figures.items():
        assert_tidy(figure, name)


def test_names_of_all_kinds_are_shown_as_they_are() -> None:
    of = [("a$b", "c$d_e^{2}", ""), ("m" * 90, "--<&>\n", "")]
    table = predictions("binary", ("$x_1$",), of=of, patients=12, slides=1)
    figures = figures_of("binary", ("$x_1$",), table, metrics("binary", table))
    for name, figure in figures.items():
        assert_tidy(figure, name)
    assert b"<svg" in save(figures["roc"])["svg"]
