"""What the cohort stage says of slides that change under its hands."""

import shutil

import cv2
import numpy as np
import pytest
import tifffile

from slidemill.artifacts import formats
from slidemill.artifacts.folder import StageId
from slidemill.cohort import stage
from slidemill.cohort.sheet import SheetRow
from slidemill.config import CohortConfig
from slidemill.slides.identity import slide_fingerprint
from slidemill.slides.reader import Slide

COHORT = StageId("cohort", "c", formats.COHORT, 1, {})


@pytest.fixture
def slide(disc_slide, tmp_path):
    path = tmp_path / "slide.tif"
    shutil.copy(disc_slide, path)
    return path


def describe(path):
    row = SheetRow("s", str(path), "p", None, None, None, {})
    return stage.describe(COHORT, row, CohortConfig())


def test_a_sound_slide_has_its_fingerprint(slide):
    row = describe(slide)
    assert row["status"] == "ok"
    assert row["fingerprint"] == slide_fingerprint(slide)
    assert row["size_bytes"] == slide.stat().st_size


@pytest.mark.parametrize(("becomes", "code"), [("another", "changed"), ("gone", "file-missing")])
def test_facts_are_never_of_another_file_than_the_fingerprint(slide, monkeypatch, becomes, code):
    def opened(path, reader, scene):
        found = Slide(path, reader, scene)
        if becomes == "gone":
            path.unlink()
        else:
            other = path.with_name("other")
            other.write_bytes(path.read_bytes() + b"more")
            other.replace(path)
        return found

    monkeypatch.setattr(stage, "Slide", opened)
    row = describe(slide)
    assert (row["status"], row["error_code"], row["failed_stage"]) == ("failed", code, "cohort")
    assert row["item_digest"] is None


def test_a_slide_that_opens_and_fails_leaves_its_picture(tmp_path, disc_pixels):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, disc_pixels, photometric="rgb", tile=(256, 256))
    row = SheetRow("a", str(path), "p", None, None, None, {})
    found = stage.describe(COHORT, row, CohortConfig(), tmp_path / "slides")
    assert found["error_code"] == "mpp-missing"
    picture = cv2.imread(str(tmp_path / "slides" / "a.jpg"))
    assert max(picture.shape) == 800
    middle = picture[picture.shape[0] // 2, picture.shape[1] // 2, ::-1]
    assert np.abs(middle.astype(int) - (200, 120, 180)).max() < 12


def test_faults_of_files_that_cannot_be_read_keep_their_codes(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty.svs").touch()
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    codes = {
        name: describe(tmp_path / name)["error_code"]
        for name in ("nothing.svs", "folder", "empty.svs", "circle")
    }
    assert codes == {
        "nothing.svs": "file-missing", "folder": "not-a-file", "empty.svs": "empty",
        "circle": "symlink-loop",
    }  # fmt: skip
