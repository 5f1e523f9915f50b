import numpy as np
from matplotlib.text import Text
from sklearn.metrics import confusion_matrix

from evaluate.figures.frames import NAMES, comparison, metrics, predictions, rows
from slidemill.evaluate.figures.confusion import confusion_figure, matrix_of
from slidemill.evaluate.figures.data import patients_of, rows_of


def test_binary_is_at_a_half() -> None:
    table = predictions("binary", of=rows(1), patients=9, slides=1)
    table["score"] = [0.5, 0.1, 0.2, 0.9, 0.5, 0.4, 0.49, 0.7, 0.1]
    table["label"] = [1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0]
    patients = patients_of(table, rows_of(table)[0])
    assert matrix_of(("met",), patients).tolist() == [[3, 2], [2, 2]]
    figure = confusion_figure(("met",), table, metrics("binary", table))
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts == ["3\n60 %", "2\n40 %", "2\n50 %", "2\n50 %"]
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["not met", "met"]


def test_multiclass_is_the_most_probable_class_in_the_classes_order() -> None:
    names = ("z", "a", "m")
    table, _ = comparison("multiclass", names=names, of=rows(1), patients=45)
    patients = patients_of(table, rows_of(table)[0])
    true, predicted = (
        patients.pivot(index="patient_id", columns="target", values=value)[list(names)]
        .to_numpy()
        .argmax(axis=1)
        for value in ("label", "score")
    )
    assert np.array_equal(matrix_of(names, patients), confusion_matrix(true, predicted))


def test_text_is_light_on_dark_and_dark_on_light() -> None:
    table, judged = comparison("multiclass", of=rows(2), patients=90, strength=5.0)
    axes = confusion_figure(NAMES["multiclass"], table, judged).axes[0]
    colours = [text.get_color() for text in axes.texts]
    assert colours[0] == colours[4] == colours[8] == "white"
    assert "white" not in colours[1:4]


def test_many_classes_have_colours_alone_and_a_bar() -> None:
    names = tuple(f"class {i}" for i in range(12))
    table = predictions("multiclass", names, of=rows(1), patients=36, slides=1)
    figure = confusion_figure(names, table, metrics("multiclass", table))
    assert not figure.axes[0].texts
    assert len(figure.axes) == 2


def test_a_class_that_nobody_has_is_a_row_without_shares() -> None:
    table = predictions("binary", of=rows(2), patients=9)
    table["label"] = 0.0
    judged = metrics("binary", table)
    figure = confusion_figure(("met",), table[table["model"] != "linear-probe"], judged)
    assert [text.get_text() for text in figure.axes[0].texts][2:] == ["0", "0"]
    assert "No patient is tested." in [t.get_text() for t in figure.findobj(Text)]
