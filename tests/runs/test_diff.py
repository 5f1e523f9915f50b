import json

import pytest

from runs.written import SLIDES, make, write
from slidemill.artifacts.manifest import manifest_row, write_manifest
from slidemill.runs import record
from slidemill.runs.diff import compare, load_run
from slidemill.runs.diff_tables import diff_json, print_diff


def run(plan, status="success", name="a", **written):
    """A run and its record; `name` keeps apart those of one second."""
    write(plan, **written)
    path = record.begin(plan, name)
    path = path.rename(path.with_name(f"{path.stem}{name}.json"))
    if status:
        record.end(plan, path, status)
    return path


def difference(old, new):
    return compare(load_run(old), load_run(new))


@pytest.fixture
def first(tmp_path):
    return run(make(tmp_path))


def stages(found):
    return {one.stage.one.stage: one for one in found.slides}


def test_a_run_does_not_differ_from_itself_or_from_its_repetition(tmp_path, first):
    for other in (first, run(make(tmp_path), name="b")):
        found = difference(first, other)
        assert not found.differs
        assert all(stage.same for stage in found.stages)
        assert found.config == found.metrics == found.unknown == ()
        assert len(found.slides) == 5


def test_a_changed_key_is_named_and_what_it_changed(tmp_path, first):
    found = difference(first, run(make(tmp_path, tiles={"mpp": 1.0}), name="b"))
    assert [(one.key, one.old, one.new) for one in found.config] == [("tiles.mpp", None, 1.0)]
    others = {one.one.stage: one for one in found.stages if not one.same}
    assert set(others) == {"candidates", "tiles", "features", "evaluate", "report"}
    assert [(c.key, c.old, c.new) for c in others["candidates"].changes] == [("mpp", 0.5, 1.0)]
    assert others["features"].changes == ()
    assert {path.split("/")[0] for path in others["features"].reads} == {"tiles"}
    # Another digest of the stage: every slide's digest is another, which says nothing of slides.
    assert stages(found)["features"].changed == ()


def test_what_holds_for_one_call_is_no_difference(tmp_path, first):
    other = run(make(tmp_path, recompute="features", until="features"), name="b")
    assert not difference(first, other).differs


def test_another_version_of_the_code_of_a_stage_is_a_reason(tmp_path, first, monkeypatch):
    monkeypatch.setattr("slidemill.versions.FEATURES", 99)
    found = difference(first, run(make(tmp_path), name="b"))
    (features,) = [one for one in found.stages if one.changes]
    assert [(c.key, c.new) for c in features.changes] == [("algorithm_version", 99)]


def test_an_encoder_more_is_a_stage_of_the_new_run_only(tmp_path, first):
    plan = make(tmp_path, features={"encoders": ["rgb-mean", "hed-texture"]})
    found = difference(first, run(plan, name="b"))
    new = {one.one.label for one in found.stages if one.old is None}
    assert "hed-texture" in new
    assert {one.one.label for one in found.stages if one.one.stage == "features" and one.same} == {
        "rgb-mean"
    }
    back = difference(found.new.path, first)
    assert {one.one.label for one in back.stages if one.new is None} == new


def test_a_replaced_slide_is_seen_in_every_stage(tmp_path, first):
    found = difference(first, run(make(tmp_path), name="b", content="s1"))
    assert {stage: one.changed for stage, one in stages(found).items()} == dict.fromkeys(
        ("cohort", "tissue", "candidates", "tiles", "features"), ("s1",)
    )
    assert not any(one.bytes_changed for one in found.slides)


def test_other_bytes_of_the_same_content_are_an_alarm(tmp_path, first):
    plan = make(tmp_path)
    second = run(plan, name="b")
    table = record.results_path(second)
    from slidemill.artifacts.formats import RUN_RESULTS
    from slidemill.artifacts.parquet import read_rows, write_rows
    from slidemill.artifacts.provenance import Stamp

    rows = read_rows(table, "run-results")
    for row in rows:
        if (row["stage"], row["slide_id"]) == ("features", "s3"):
            row["sha256"] = "0" * 16
    write_rows(table, rows, RUN_RESULTS, Stamp("d", "d"))
    found = difference(first, second)
    assert {stage: one.bytes_changed for stage, one in stages(found).items() if one.differs} == {
        "features": ("s3",)
    }


def test_slides_that_fail_now_or_no_longer(tmp_path):
    old = run(make(tmp_path), failed=["s0", "s1"])
    new = run(make(tmp_path), name="b", failed=["s1", "s2"])
    found = stages(difference(old, new))
    assert found["features"].failed == {"s2": "tissue: no-tissue"}
    assert found["features"].fixed == ("s0",)
    assert (found["features"].old, found["features"].new) == ((2, 2, 10), (2, 2, 10))
    assert not found["cohort"].differs


def test_slides_of_one_sheet_only_are_no_slides_of_both(tmp_path, first):
    other = run(make(tmp_path, [*SLIDES[1:], "s9"]), name="b")
    found = difference(first, other)
    assert (found.added, found.removed) == (("s9",), ("s0",))
    assert stages(found)["features"].old == (3, 0, 15)
    assert {one.key for one in found.sheet} == {"sheet.digest"}


def test_metrics_stand_side_by_side(tmp_path, first):
    (metric,) = difference(first, run(make(tmp_path), name="b", auroc=0.5)).metrics
    assert metric.key["metric"] == "auroc"
    assert metric.old[:2] == (0.75, 0.65)
    assert metric.new[:2] == (0.5, 0.4)


def test_a_stage_that_only_one_run_finished(tmp_path, first):
    plan = make(tmp_path)
    write(plan)
    plan.report_path().unlink()
    plan.manifest_path(plan.tissue).unlink()
    path = record.begin(plan, "b").rename(first.with_name("2.json"))
    record.end(plan, path, "error")
    found = difference(first, path)
    assert [(one.stage.one.stage, one.old, one.new) for one in found.done] == [
        ("tissue", True, False),
        ("report", True, False),
    ]
    assert stages(found)["tissue"].lost == SLIDES
    assert stages(difference(path, first))["tissue"].gained == SLIDES


def test_of_a_killed_run_only_its_beginning_is_compared(tmp_path, first):
    killed = run(make(tmp_path, tiles={"mpp": 1.0}), None, "b")
    found = difference(first, killed)
    assert found.differs
    assert "has no end" in found.unknown[0]
    assert [one.key for one in found.config] == ["tiles.mpp"]
    assert found.slides == found.added == found.metrics == ()
    assert difference(killed, killed).differs


@pytest.mark.parametrize("change", ["metrics", "slides", "stages", "nothing"])
def test_people_and_programs_are_told_the_same(tmp_path, first, capsys, change):
    plans = {"stages": {"tissue": {"mpp": 4.0}}}
    written = {
        "metrics": {"auroc": 0.5},
        "slides": {"failed": ["s1"], "content": "s2"},
        "stages": {},
        "nothing": {},
    }[change]
    found = difference(first, run(make(tmp_path, **plans.get(change, {})), name="b", **written))
    print_diff(found)
    printed = capsys.readouterr().out
    assert all(len(line) <= 100 for line in printed.splitlines())
    facts = json.loads(diff_json(found))
    assert facts["differs"] is (change != "nothing")
    words = {
        "metrics": "0.750 [",
        "slides": "1 slide newly failed (tissue: no-tissue): s1",
        "stages": "mpp: 8.0 -> 4.0",
        "nothing": "no difference in configuration and results",
    }[change]
    assert words in printed
    if change == "slides":
        tissue = next(one for one in facts["slides"] if one["stage"] == "tissue")
        assert tissue["newly_failed"] == {"s1": "tissue: no-tissue"}
        assert tissue["changed"] == ["s2"]


def test_embeddings_of_an_encoder_trained_again_are_not_slides_of_other_content(tmp_path, capsys):
    plan = make(tmp_path, pretrain={"runs": [{"name": "dino", "patients": "all"}]})
    (unit,) = plan.pretrain
    made = []
    for content in ("", "s1"):
        write(plan, content=content)
        digest = unit.stage.item_digest(content)
        rows = [manifest_row(name, status="ok", item_digest=digest) for name in SLIDES]
        write_manifest(plan.manifest_path(unit.stage), rows, unit.stage)
        path = record.begin(plan, content)
        made.append(path.rename(path.with_name(f"{path.stem}-{content}.json")))
        record.end(plan, made[-1], "success")
    found = difference(*made)
    assert stages(found)["pretrain"].changed == SLIDES
    print_diff(found)
    printed = capsys.readouterr().out
    assert "1 slide made from other content: s1\n" in printed
    assert f"1 slide encoder trained again: {unit.stage.name}\n" in printed
