import os
import time
from pathlib import Path

import pytest
import yaml

from runs.written import CONFIG, SLIDES, make, write
from slidemill.errors import UserError
from slidemill.runs import gc, leftovers
from slidemill.runs.record import begin, end

OLD = time.time() - 2 * leftovers.OLD_SECONDS


@pytest.fixture
def plan(tmp_path):
    made = make(tmp_path)
    write(made)
    return made


@pytest.fixture
def other(tmp_path, plan):
    """Another configuration, of which nobody has kept a record."""
    made = make(tmp_path, tiles={"mpp": 1.0})
    write(made)
    return made


def run(plan, name, status="success"):
    configs = plan.results / "configs"
    configs.mkdir(exist_ok=True)
    (configs / f"{name}.json").write_text("{}")
    path = begin(plan, name)
    if status:
        end(plan, path, status)
    # Two runs within a second of one process would have one name.
    return path.rename(path.with_name(f"{path.stem}{name}.json"))


def names(folders):
    return {f"{one.path.parent.name}/{one.path.name}" for one in folders}


def only_of(plan, other):
    mine = {(stage.stage, stage.name) for stage in plan.all_stages()}
    return {
        f"{stage.stage}/{stage.name}"
        for stage in other.all_stages()
        if (stage.stage, stage.name) not in mine
    }


def everything(results):
    return {path: path.stat().st_mtime_ns for path in results.rglob("*") if path.is_file()}


def test_what_no_configuration_in_use_refers_to_is_found_and_finding_changes_nothing(plan, other):
    before = everything(plan.results)
    found = gc.find([plan], ["a"])
    assert names(found.folders) == only_of(plan, other)
    assert found.in_use == len(plan.all_stages())
    assert all(one.used_by is None and one.size_bytes > 0 for one in found.folders)
    assert gc.find([plan, other], ["a", "b"]).folders == ()
    assert everything(plan.results) == before


def test_deleting_takes_that_and_no_more(plan, other):
    kept = everything(plan.results)
    found = gc.find([plan], ["a"])
    freed, problems = gc.delete(found, also_earlier=False, slides=False)
    assert problems == []
    assert freed == sum(one.size_bytes for one in found.folders)
    gone = {folder.path for folder in found.folders}
    left = {path for path in kept if not gone & set(path.parents)}
    assert set(everything(plan.results)) == left
    assert gc.find([plan], ["a"]).folders == ()


def test_what_an_earlier_configuration_used_is_spared_unless_asked_for(plan, other):
    path = run(other, "b")
    found = gc.find([plan], ["a"])
    assert {one.used_by for one in found.folders} == {gc_started(path)}
    assert found.deletable(also_earlier=False) == []
    (earlier,) = found.earlier
    assert earlier.path.name == "b.json"
    assert earlier.folders == len(found.folders)
    assert gc.delete(found, also_earlier=False, slides=False) == (0, [])
    assert gc.delete(found, also_earlier=True, slides=False)[0] > 0
    assert gc.find([plan], ["a"]).folders == ()


def gc_started(path):
    from slidemill.runs.record import read_record

    return read_record(path).started


def test_the_configuration_in_use_is_no_earlier_one(plan):
    run(plan, "a")
    assert gc.find([plan], ["a"]).earlier == ()


def test_an_earlier_configuration_of_which_no_record_is_left_stops_the_deletion(plan, other):
    run(other, "b").write_text("damaged")
    found = gc.find([plan], ["a"])
    assert found.earlier[0].run is None
    with pytest.raises(UserError, match=r"b\.json.*--also-earlier.*Nothing was deleted"):
        gc.delete(found, also_earlier=False, slides=False)
    assert gc.find([plan], ["a"]).folders == found.folders
    gc.delete(found, also_earlier=True, slides=False)
    assert gc.find([plan], ["a"]).folders == ()


def test_foreign_folders_and_links_are_listed_and_never_touched(plan, tmp_path):
    mine = plan.results / "features" / "my-own-notes"
    mine.mkdir()
    (mine / "note.txt").write_text("keep")
    far = tmp_path / "far" / "features" / "x-0123456789"
    far.mkdir(parents=True)
    (far / "dataset.json").write_text("{}")
    link = plan.results / "features" / "linked-0123456789"
    link.symlink_to(far)
    found = gc.find([plan], ["a"])
    assert {(one.path.name, one.why) for one in found.foreign} == {
        ("my-own-notes", "no dataset.json"),
        ("linked-0123456789", "a link"),
    }
    gc.delete(found, also_earlier=True, slides=True)
    assert (mine / "note.txt").exists()
    assert link.is_symlink()
    assert (far / "dataset.json").exists()


def test_a_stage_that_is_a_link_is_not_looked_into(plan, other, tmp_path):
    stage = plan.results / "tiles"
    stage.rename(tmp_path / "far")
    stage.symlink_to(tmp_path / "far")
    found = gc.find([plan], ["a"])
    assert [one.why for one in found.foreign] == ["a link, not looked into"]
    assert "tiles" not in {one.path.parent.name for one in found.folders}


@pytest.mark.parametrize("place", ["elsewhere/x-0123456789", "tiles/a/b-0123456789", "tiles"])
def test_nothing_is_deleted_outside_of_the_stages_folders(plan, place):
    folder = plan.results / place
    folder.mkdir(parents=True, exist_ok=True)
    from slidemill.errors import ArtifactError

    with pytest.raises(ArtifactError):
        gc.remove_folder(plan.results, folder)
    assert folder.exists()


def test_a_killed_gc_leaves_no_half_dataset_and_the_next_one_takes_the_rest(
    plan, other, monkeypatch
):
    found = gc.find([plan], ["a"])

    def killed(path):
        next(Path(path).glob("*.json")).unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(gc.shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            gc.delete(found, also_earlier=False, slides=False)
    again = gc.find([plan], ["a"])
    assert len(again.folders) == len(found.folders) - 1
    assert [left.what for left in again.leftovers] == ["trash"]
    gc.delete(again, also_earlier=False, slides=False)
    assert not list(plan.results.glob("*/.trash-*"))


def test_old_temporary_files_go_and_young_ones_stay(plan):
    folder = plan.tissue.folder(plan.results)
    old, young = (folder / "slides" / f".s{i}.h5.12-0123abcd.tmp" for i in (1, 2))
    other = folder / ".hidden"
    for path in (old, young, other):
        path.write_bytes(b"123")
    os.utime(old, (OLD, OLD))
    os.utime(other, (OLD, OLD))
    found = gc.find([plan], ["a"])
    (left,) = found.leftovers
    assert (left.what, left.paths, left.size_bytes) == ("temporary", (old,), 3)
    gc.delete(found, also_earlier=False, slides=False)
    assert (old.exists(), young.exists(), other.exists()) == (False, True, True)


def test_old_marks_of_killed_jobs_go(plan):
    marks = plan.results / "running"
    marks.mkdir()
    text = '{"host": "gone", "pid": 1, "slurm_job_id": null, "started": "2026-01-01T00:00:00"}'
    old, young = marks / "tissue-a.json", marks / "tissue-b.json"
    for path in (old, young):
        path.write_text(text)
    os.utime(old, (OLD, OLD))
    found = gc.find([plan], ["a"])
    assert [left.paths for left in found.leftovers] == [(old,)]


def test_slides_that_left_the_sheet_are_counted_and_deleted_only_on_request(plan, tmp_path):
    fewer = make(tmp_path, SLIDES[:3])
    found = gc.find([fewer], ["a"])
    assert {one.folder.parent.name for one in found.stale} == {
        "tissue", "candidates", "tiles", "features",
    }  # fmt: skip
    assert all(one.slides == 1 and one.size_bytes == 32 for one in found.stale)
    gc.delete(found, also_earlier=False, slides=False)
    slides = plan.tissue.folder(plan.results) / "slides"
    assert (slides / "s3.h5").exists()
    gc.delete(found, also_earlier=False, slides=True)
    assert sorted(path.name for path in slides.iterdir()) == ["s0.h5", "s1.h5", "s2.h5"]


@pytest.mark.parametrize("status", ["success", "error", None])
def test_slides_that_an_earlier_configuration_may_have_are_not_stale(plan, tmp_path, status):
    run(make(tmp_path, tissue={"mpp": 4.0}), "c")
    run(plan, "b", status)
    fewer = make(tmp_path, SLIDES[:3])
    assert gc.find([fewer], ["a"]).stale == ()
    assert len(gc.find([fewer], ["a"], also_earlier=True).stale) == 4


def test_a_folder_that_cannot_be_deleted_is_said_and_the_others_go(plan, other, monkeypatch):
    found = gc.find([plan], ["a"])
    first = found.folders[0].path
    (first / "dataset.json").unlink()
    freed, problems = gc.delete(found, also_earlier=False, slides=False)
    assert problems == [f"{first}: no dataset.json"]
    assert freed == sum(one.size_bytes for one in found.folders[1:])
    assert first.exists()


def test_a_configuration_that_cannot_be_planned_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make(tmp_path)
    Path("a.yaml").write_text(yaml.safe_dump(CONFIG))
    Path("b.yaml").write_text(yaml.safe_dump(CONFIG | {"cohort": {"sheet": "none.tsv"}}))
    Path("c.yaml").write_text(yaml.safe_dump(CONFIG | {"results": "elsewhere"}))
    assert len(gc.load_plans([Path("a.yaml")])) == 1
    with pytest.raises(UserError, match=r"b\.yaml cannot be planned, so nobody knows"):
        gc.load_plans([Path("a.yaml"), Path("b.yaml")])
    with pytest.raises(UserError, match="different results"):
        gc.load_plans([Path("a.yaml"), Path("c.yaml")])
