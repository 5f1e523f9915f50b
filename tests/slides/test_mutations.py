"""A few structural mutations of every kind of slide; `benchmarks/mutations.py` runs many."""

import importlib.util
import sys
import warnings
from collections import Counter
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "mutations.py"
COUNT = 8


@pytest.fixture(scope="module")
def mutations():
    spec = importlib.util.spec_from_file_location("mutations", BENCHMARK)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def check(outcomes, tally):
    wrong = [one for one in outcomes if one.verdict == "WRONG"]
    assert not wrong, wrong
    tally.update(one.verdict for one in outcomes)


def test_no_damaged_copy_of_a_made_slide_is_read_as_something_else(mutations, tmp_path):
    tally = Counter()
    for source in mutations.synthetic(tmp_path):
        check(mutations.run(source, COUNT, 0, tmp_path), tally)
    assert tally["refused"] > 5, tally
    assert tally["errors"] > 5, tally


def test_no_damaged_copy_of_a_real_slide_is_read_as_something_else(mutations, shared, tmp_path):
    tally = Counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's, of odd values
        for name in mutations.REAL:
            check(mutations.run(shared / "slides" / name, COUNT, 0, tmp_path), tally)
    assert tally["refused"] > 5, tally


def test_a_reader_that_shows_other_pixels_is_found(mutations, tmp_path):
    source = next(mutations.synthetic(tmp_path))
    with mutations.Slide(source) as slide:
        sound = list(mutations.blocks(slide, mutations.box_of(slide.dimensions)))
        size = slide.dimensions
    other = [(x, y, 255 - pixels) for x, y, pixels in sound]
    assert mutations.judge(source, "", sound, size).verdict == "same"
    assert mutations.judge(source, "", other, size).verdict == "as references"
