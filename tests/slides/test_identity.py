"""Slides that are replaced, changed or deleted between the stages, and what belongs to a slide."""

import errno
import os
import shutil
import time
from pathlib import Path

import pytest

from slidemill.artifacts.digest import fingerprint
from slidemill.errors import SlideCode, SlideError
from slidemill.slides import identity
from slidemill.slides.identity import check_same, files_beside, same_slide, slide_fingerprint
from slidemill.slides.readers.choice import system_fault


@pytest.fixture
def slide(disc_slide, tmp_path):
    path = tmp_path / "slide.tif"
    shutil.copy(disc_slide, path)
    return path


@pytest.fixture
def mrxs(tmp_path):
    """Files that lie as a MIRAX slide's do."""
    path = tmp_path / "m.mrxs"
    path.write_bytes(b"\xff\xd8\xff a picture of the label")
    (tmp_path / "m").mkdir()
    for name in ("Slidedat.ini", "Index.dat", "Data0000.dat"):
        (tmp_path / "m" / name).write_bytes(name.encode() * 100)
    return path


def replace(path):
    """Another file of the same length under the same name."""
    data = bytearray(path.read_bytes())
    data[-1] ^= 255
    other = path.with_name("other")
    other.write_bytes(data)
    other.replace(path)


@pytest.fixture
def series(shared, tmp_path):
    folder = tmp_path / "dicom"
    shutil.copytree(shared / "slides" / "openslide-boxes-dcm", folder)
    shutil.copy(shared / "slides" / "camelyon_jpeg.dcm", folder / "another.dcm")
    (folder / "notes.txt").write_text("not DICOM")
    return folder


def test_a_slide_in_one_file_has_the_fingerprint_of_the_file(slide):
    assert files_beside(slide) == ()
    assert slide_fingerprint(slide) == fingerprint(slide)


def test_what_belongs_to_a_slide_of_several_files(mrxs, series):
    assert [path.name for path in files_beside(mrxs)] == [
        "Data0000.dat", "Index.dat", "Slidedat.ini",
    ]  # fmt: skip
    assert [path.name for path in files_beside(series / "boxes_0.dcm")] == ["boxes_1.dcm"]
    assert files_beside(series / "another.dcm") == ()


def test_of_what_is_not_known_nothing_is_guessed(tmp_path, series, monkeypatch):
    path = tmp_path / "s.vms"
    path.write_text("[Virtual Microscope Specimen]\nImageFile=a.jpg\n")
    assert files_beside(path) is None
    assert slide_fingerprint(path) == fingerprint(path)
    monkeypatch.setattr(identity, "MAX_BESIDE", 2)
    assert files_beside(series / "boxes_0.dcm") is None


@pytest.mark.parametrize("part", ["Data0000.dat", "Slidedat.ini"])
def test_a_change_of_any_of_its_files_changes_a_slide(mrxs, part):
    seen = slide_fingerprint(mrxs)
    replace(mrxs.with_suffix("") / part)
    assert slide_fingerprint(mrxs) != seen
    shutil.rmtree(mrxs.with_suffix(""))
    mrxs.with_suffix("").mkdir()
    assert slide_fingerprint(mrxs) != seen


def test_another_instance_of_a_series_changes_it(series):
    seen = slide_fingerprint(series / "boxes_0.dcm")
    replace(series / "another.dcm")
    assert slide_fingerprint(series / "boxes_0.dcm") == seen
    (series / "boxes_1.dcm").unlink()
    assert slide_fingerprint(series / "boxes_0.dcm") != seen


def test_the_same_slide_passes_also_by_another_name_and_time(slide):
    seen = slide_fingerprint(slide)
    os.utime(slide, (0, 0))
    with same_slide(slide, seen):
        slide.rename(slide.with_name("b.tif"))
        shutil.copy(slide.with_name("b.tif"), slide)


def test_a_slide_that_was_replaced_or_deleted_before_is_refused(slide):
    seen = slide_fingerprint(slide)
    replace(slide)
    with pytest.raises(SlideError, match="run again: the cohort stage looks at it anew") as caught:
        check_same(slide, seen)
    assert caught.value.code == SlideCode.CHANGED
    slide.unlink()
    with pytest.raises(SlideError, match="no such file") as caught:
        check_same(slide, seen)
    assert caught.value.code == SlideCode.FILE_MISSING


def test_a_slide_that_is_replaced_or_deleted_while_it_is_read_is_refused(slide):
    seen = slide_fingerprint(slide)
    with pytest.raises(SlideError) as caught, same_slide(slide, seen):
        replace(slide)
    assert caught.value.code == SlideCode.CHANGED
    seen = slide_fingerprint(slide)
    with pytest.raises(SlideError) as caught, same_slide(slide, seen):
        slide.unlink()
    assert caught.value.code == SlideCode.FILE_MISSING


def test_what_goes_wrong_with_a_slide_that_was_replaced_is_put_down_to_that(slide):
    seen = slide_fingerprint(slide)
    with pytest.raises(SlideError) as caught, same_slide(slide, seen):
        raise SlideError(SlideCode.READ_ERROR, "does not decode")
    assert caught.value.code == SlideCode.READ_ERROR
    with pytest.raises(SlideError) as caught, same_slide(slide, seen):
        replace(slide)
        raise SlideError(SlideCode.READ_ERROR, "does not decode")
    assert caught.value.code == SlideCode.CHANGED


def test_a_stale_handle_and_a_failing_disk_come_out_as_words(slide):
    stale = system_fault(slide, OSError(errno.ESTALE, "Stale file handle"))
    assert stale.code == SlideCode.CHANGED
    assert "file server" in stale.message
    assert system_fault(slide, OSError(errno.EIO, "I/O error")).code == SlideCode.UNREADABLE
    with pytest.raises(OSError, match="memory"):
        system_fault(slide, OSError(errno.ENOMEM, "no memory"))


def test_a_comparison_reads_a_mebibyte_of_a_large_slide(tmp_path):
    path = tmp_path / "large.tif"
    path.write_bytes(b"II*\0")
    os.truncate(path, 2**33)
    with Path("/proc/self/io").open() as io:
        before = int(io.read().split()[1])
    started = time.perf_counter()
    slide_fingerprint(path)
    with Path("/proc/self/io").open() as io:
        read = int(io.read().split()[1]) - before
    assert read < 1.2 * 2**20
    assert time.perf_counter() - started < 5
