from types import SimpleNamespace

import pytest

from slidemill.evaluate.encoder_rows import EncoderRows, RowKey
from slidemill.report.encoders import verdict
from slidemill.report.rows import Estimate, transductive

CLS = RowKey("linear-probe", "uni/dino", "")
RANDOM = RowKey("linear-probe", "uni/dino", "random-init")
SHUFFLED = RowKey("linear-probe", "uni/dino", "shuffled-coordinates")
MEAN = RowKey("linear-probe", "uni", "")
ROWS = EncoderRows(
    SimpleNamespace(),  # type: ignore[arg-type]
    {"cls": CLS, "random-init": RANDOM, "shuffled-coordinates": SHUFFLED},
    MEAN,
    None,
)


def said(**differences: tuple[float | None, float | None, float | None]) -> str:
    others = {"random": RANDOM, "mean": MEAN, "shuffled": SHUFFLED}
    found = {(CLS.label, others[n].label): Estimate(*given) for n, given in differences.items()}
    return verdict(ROWS, found)


def test_an_interval_with_zero_in_it_is_no_gain() -> None:
    text = said(random=(0.02, -0.05, 0.09))
    assert "pretraining adds nothing over a random encoder (+0.02 [-0.05, 0.09])" in text
    assert "pretraining adds nothing" in said(random=(0.0, 0.0, 0.0))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"random": (0.2, 0.1, 0.3)}, "pretraining adds something over a random encoder"),
        ({"random": (-0.2, -0.3, -0.1)}, "pretraining makes it worse than a random encoder"),
        ({"mean": (0.2, 0.1, 0.3)}, "it adds something over the mean of the tiles"),
        ({"mean": (0.1, -0.1, 0.3)}, "it adds nothing over the mean of the tiles"),
        ({"shuffled": (0.2, 0.1, 0.3)}, "where tiles lie adds something (+0.20 [0.10, 0.30])"),
        ({"shuffled": (0.0, -0.1, 0.1)}, "where tiles lie adds nothing (+0.00 "),
        ({"shuffled": (-0.2, -0.3, -0.1)}, "it is worse than with shuffled coordinates"),
    ],
)
def test_the_sentence_follows_the_interval(
    given: dict[str, tuple[float, float, float]], words: str
) -> None:
    assert words in said(**given)


def test_what_is_not_defined_is_not_judged() -> None:
    assert said() == ""
    assert said(random=(None, None, None)) == ""
    assert said(random=(0.1, None, None)) == ""


def test_an_encoder_of_all_patients_is_marked() -> None:
    def cell(*policies: str) -> SimpleNamespace:
        runs = [SimpleNamespace(run=SimpleNamespace(patients=p)) for p in policies]
        return SimpleNamespace(pretrain=dict(enumerate(runs)))

    assert "saw the test patients" in transductive(cell("all"))  # type: ignore[arg-type]
    assert transductive(cell("per-fold", "per-fold")) == ""  # type: ignore[arg-type]
    assert transductive(cell()) == ""  # type: ignore[arg-type]
