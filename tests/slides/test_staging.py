"""Copies of slides in a job's scratch folder: results, room, and what is left behind."""

import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from slidemill.errors import SlideCode, SlideError
from slidemill.slides import staging
from slidemill.slides.identity import slide_fingerprint
from slidemill.slides.reader import Slide
from slidemill.slides.staging import copy_slide, scratch_folder, sound_slide


@pytest.fixture
def slide(disc_slide, tmp_path):
    path = tmp_path / "slides" / "slide.tif"
    path.parent.mkdir()
    shutil.copy(disc_slide, path)
    return path


@pytest.fixture
def scratch(tmp_path):
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder


def facts(path):
    return {"slide_id": "s", "path": str(path), "fingerprint": slide_fingerprint(path)}


def test_a_copy_has_its_own_name_and_the_slides_bytes_and_is_gone_afterwards(slide, scratch):
    with sound_slide(facts(slide), scratch) as path:
        assert path.parent.parent == scratch
        assert path.name == slide.name
        assert path.read_bytes() == slide.read_bytes()
    assert list(scratch.iterdir()) == []
    with sound_slide(facts(slide), None) as path:
        assert path == slide


def test_a_source_that_is_replaced_after_it_was_copied_costs_nothing(slide, scratch):
    before = slide.read_bytes()
    with sound_slide(facts(slide), scratch) as path:
        slide.write_bytes(b"another")
        assert path.read_bytes() == before


def test_a_source_that_was_replaced_before_is_refused(slide, scratch):
    known = facts(slide)
    slide.write_bytes(b"II*\0 another")
    with pytest.raises(SlideError) as caught, sound_slide(known, scratch):
        pass
    assert caught.value.code == SlideCode.CHANGED
    slide.unlink()
    with pytest.raises(SlideError) as caught, sound_slide(known, scratch):
        pass
    assert caught.value.code == SlideCode.FILE_MISSING
    assert list(scratch.iterdir()) == []


def test_a_source_that_is_replaced_while_it_is_copied_is_refused(slide, scratch):
    known = facts(slide)

    def swap():
        slide.write_bytes(b"II*\0 another")

    assert copy_slide(slide, known["fingerprint"], scratch / "s", swap) is None
    assert list(scratch.iterdir()) == []


def test_a_fault_found_in_a_copy_names_the_slide(slide, scratch):
    with pytest.raises(SlideError) as caught, sound_slide(facts(slide), scratch) as path:
        raise SlideError(SlideCode.READ_ERROR, f"{path}: level 0 does not decode")
    assert caught.value.message == f"{slide}: level 0 does not decode"
    assert list(scratch.iterdir()) == []


def test_what_a_child_that_was_killed_left_is_removed_by_the_next(slide, scratch):
    (scratch / "s" / "deep").mkdir(parents=True)
    with sound_slide(facts(slide), scratch) as path:
        assert [one.name for one in (scratch / "s").iterdir()] == [path.name]


def test_a_dicom_series_is_copied_whole_and_reads_the_same(shared, tmp_path, scratch):
    folder = tmp_path / "dicom"
    shutil.copytree(shared / "slides" / "openslide-boxes-dcm", folder)
    shutil.copy(shared / "slides" / "camelyon_jpeg.dcm", folder)
    path = folder / "boxes_0.dcm"
    with sound_slide(facts(path), scratch) as copy:
        assert sorted(one.name for one in copy.parent.iterdir()) == ["boxes_0.dcm", "boxes_1.dcm"]
        with Slide(path) as one, Slide(copy) as two:
            assert one.properties == two.properties
            assert (one.read(0, 0, 0, 16, 16) == two.read(0, 0, 0, 16, 16)).all()


def test_a_mirax_slide_is_copied_with_its_folder(tmp_path, scratch):
    path = tmp_path / "m.mrxs"
    path.write_bytes(b"\xff\xd8\xff")
    (tmp_path / "m" / "deep").mkdir(parents=True)
    (tmp_path / "m" / "Slidedat.ini").write_text("[GENERAL]")
    (tmp_path / "m" / "deep" / "Data.dat").write_bytes(b"1234")
    with sound_slide(facts(path), scratch) as copy:
        assert (copy.parent / "m" / "Slidedat.ini").read_text() == "[GENERAL]"
        assert (copy.parent / "m" / "deep" / "Data.dat").read_bytes() == b"1234"


def test_what_is_not_known_to_be_whole_is_read_in_place(tmp_path, scratch, caplog):
    path = tmp_path / "s.vms"
    path.write_text("[Virtual Microscope Specimen]\n")
    with caplog.at_level(logging.INFO), sound_slide(facts(path), scratch) as read:
        assert read == path
    assert "read in place, since it is not known" in caplog.text


def test_without_room_a_slide_is_read_in_place(slide, scratch, caplog, monkeypatch):
    monkeypatch.setattr(staging, "RESERVE_BYTES", 2**60)
    with sound_slide(facts(slide), scratch) as read:
        assert read == slide
    assert "GB free" in caplog.text
    assert list(scratch.iterdir()) == []


def test_a_disk_that_fills_meanwhile_is_no_fault(slide, scratch, caplog, monkeypatch):
    slide.write_bytes(slide.read_bytes() + np.random.default_rng(0).bytes(200_000))
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(scratch)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if mounted.returncode:
        pytest.skip(f"needs the right to mount: {mounted.stderr.strip()}")
    monkeypatch.setattr(staging, "RESERVE_BYTES", -(2**40))
    try:
        with sound_slide(facts(slide), scratch) as read:
            assert read == slide
        assert "No space left" in caplog.text
        assert list(scratch.iterdir()) == []
    finally:
        subprocess.run(["umount", str(scratch)], check=True)


def test_a_jobs_folder_is_its_own_and_goes_with_it(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with scratch_folder(False) as none:
        assert none is None
    with scratch_folder(True) as one, scratch_folder(True) as two:
        assert one != two
        assert one.stat().st_mode & 0o077 == 0
        assert one.exists(), "another job does not take it for abandoned"
    assert list(tmp_path.iterdir()) == []


def test_the_folder_of_a_job_that_was_killed_is_removed_by_the_next(tmp_path):
    code = (
        "import os, time\n"
        "from slidemill.slides.staging import scratch_folder\n"
        "with scratch_folder(True) as folder:\n"
        "    (folder / 'slide').mkdir()\n"
        "    print(folder, flush=True)\n"
        "    time.sleep(600)\n"
    )
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    job = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment)
    folder = Path(job.stdout.readline().decode().strip())
    job.send_signal(signal.SIGKILL)
    job.wait()
    assert (folder / "slide").exists()
    staging._remove_abandoned(tmp_path)
    assert list(tmp_path.iterdir()) == []
