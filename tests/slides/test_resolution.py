import pytest

from slidemill.errors import SlideCode, SlideError
from slidemill.slides.resolution import is_plausible, objective_power, resolve_mpp

META = {"openslide.mpp-x": "0.25", "openslide.mpp-y": "0.26"}
POWER = {"openslide.objective-power": "40"}


def code(*arguments):
    with pytest.raises(SlideError) as caught:
        resolve_mpp(*arguments)
    return caught.value.code


def test_the_sheet_comes_before_the_metadata():
    found = resolve_mpp(META, 0.5, "refuse")
    assert (found.mpp_x, found.mpp_y, found.source) == (0.5, 0.5, "sheet")


def test_metadata_keep_x_and_y_apart():
    found = resolve_mpp(META, None, "refuse")
    assert (found.mpp_x, found.mpp_y, found.source) == (0.25, 0.26, "metadata:openslide.mpp-x")


def test_a_missing_mpp_is_never_guessed():
    assert code({}, None, "refuse") == SlideCode.MPP_MISSING
    assert code(POWER, None, "refuse") == SlideCode.MPP_MISSING
    assert code({}, None, "objective") == SlideCode.MPP_MISSING


def test_rules_for_a_missing_mpp_are_named_as_the_source():
    assert resolve_mpp(POWER, None, "objective").mpp_x == 0.25
    assert resolve_mpp(POWER, None, "objective").source == "objective"
    assert resolve_mpp({}, None, 0.5).source == "config"


@pytest.mark.parametrize("value", ["0", "352.8", "1000", "-0.5", "nan", "inf"])
def test_implausible_metadata_are_refused(value):
    meta = {"openslide.mpp-x": value, "openslide.mpp-y": value}
    assert code(meta, None, "refuse") == SlideCode.MPP_IMPLAUSIBLE
    assert not is_plausible(float(value))


def test_rubbish_in_the_metadata_is_no_mpp():
    meta = {"openslide.mpp-x": "n/a", "openslide.mpp-y": "n/a", "openslide.objective-power": "x"}
    assert code(meta, None, "objective") == SlideCode.MPP_MISSING
    assert objective_power(meta) is None
