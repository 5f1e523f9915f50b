import os
from pathlib import Path

import pytest

from slidemill.config import parse_config
from slidemill.errors import ConfigError
from slidemill.planner import make_plan

SHEET = "slide_id\tpath\tpatient_id\tlabel\n" + "".join(
    f"s{i}\ts{i}.svs\tp{i}\t{i % 2}\n" for i in range(10)
)
BASE = {
    "cohort": {"sheet": "s.tsv"},
    "features": {"encoders": ["rgb-mean"]},
    "pretrain": {"runs": [{"name": "dino"}]},
    "evaluate": {"tasks": [{"name": "t", "column": "label"}]},
}


@pytest.fixture
def plan(tmp_path):
    (tmp_path / "s.tsv").write_text(SHEET)

    def make(sheet=SHEET, **sections):
        (tmp_path / "s.tsv").write_text(sheet)
        return make_plan(parse_config(BASE | sections, "test"), tmp_path)

    return make


def bucket_with(plan, slide_id):
    return next(
        name for name, rows in plan.buckets.items() if any(row.slide_id == slide_id for row in rows)
    )


def digests(plan):
    return {
        "tissue": plan.tissue.digest,
        "tiles": plan.encoders[0].tiles.digest,
        "features": plan.encoders[0].features.digest,
        "splits": plan.splits["t"].digest,
        "pretrain": plan.pretrain[0].stage.digest,
        "evaluate": plan.evaluate["t"].digest,
    }


@pytest.mark.parametrize(
    ("sections", "changed"),
    [
        ({"results": "elsewhere", "buckets": 9}, set()),
        ({"features": {"encoders": ["rgb-mean"], "batch_size": 7, "device": "cpu"}}, set()),
        ({"pretrain": {"runs": [{"name": "other"}]}}, set()),
        ({"tiles": {"mpp": 0.5}}, set()),
        ({"tiles": {"magnification": 20}}, set()),
        ({"tissue": {"mpp": 4.0}}, {"tissue", "tiles", "features", "pretrain", "evaluate"}),
        ({"tiles": {"min_tissue": 0.5}}, {"tiles", "features", "pretrain", "evaluate"}),
        ({"features": {"encoders": ["hed-texture"]}}, {"features", "pretrain", "evaluate"}),
        ({"pretrain": {"runs": [{"name": "dino", "epochs": 5}]}}, {"pretrain", "evaluate"}),
        (
            {"evaluate": BASE["evaluate"] | {"seed": 1}},
            {"splits", "pretrain", "evaluate"},
        ),
        ({"evaluate": BASE["evaluate"] | {"bootstrap": 200}}, {"evaluate"}),
    ],
)
def test_a_change_reaches_what_depends_on_it_and_nothing_else(plan, sections, changed):
    before, after = digests(plan()), digests(plan(**sections))
    assert {stage for stage in before if before[stage] != after[stage]} == changed


def test_a_new_row_changes_training_and_no_slides_stage(plan):
    before, after = digests(plan()), digests(plan(SHEET + "s10\ts10.svs\tp10\t0\n"))
    changed = {stage for stage in before if before[stage] != after[stage]}
    assert changed == {"splits", "pretrain", "evaluate"}


def test_the_order_of_rows_changes_nothing(plan):
    lines = SHEET.splitlines(keepends=True)
    assert digests(plan("".join([lines[0], *reversed(lines[1:])]))) == digests(plan())


def test_every_slide_is_in_one_bucket(plan):
    made = plan(buckets=3)
    ids = [row.slide_id for rows in made.buckets.values() for row in rows]
    assert sorted(ids) == sorted(made.slide_ids)
    assert all(name.endswith("-of-3") for name in made.buckets)


def test_a_change_of_the_sheet_shows_in_one_bucket(plan):
    def changed(before, after):
        assert before.keys() == after.keys()
        return [bucket for bucket in before if before[bucket] != after[bucket]]

    old = plan(buckets=3)
    fixed = plan(SHEET.replace("s4.svs", "moved/s4.svs"), buckets=3)
    grown = plan(SHEET + "s10\ts10.svs\tp10\t0\n", buckets=3)
    relabelled = plan(SHEET.replace("p4\t0", "p4\t1"), buckets=3)
    assert changed(old.bucket_digests, fixed.bucket_digests) == [bucket_with(old, "s4")]
    assert changed(old.bucket_digests, grown.bucket_digests) == [bucket_with(grown, "s10")]
    assert changed(old.bucket_digests, relabelled.bucket_digests) == []
    assert old.sheet_digest() != relabelled.sheet_digest()


def test_a_changed_file_shows_in_its_bucket_alone(plan, tmp_path):
    for i in range(10):
        (tmp_path / f"s{i}.svs").write_text("pixels")
    before = plan(buckets=3)
    sheet, slides = before.bucket_digests, before.slide_digests
    os.utime(tmp_path / "s4.svs", ns=(1, 1))
    (tmp_path / "s5.svs").unlink()
    after = plan(buckets=3)
    assert after.bucket_digests == sheet
    changed = {bucket for bucket in slides if after.slide_digests[bucket] != slides[bucket]}
    assert changed == {bucket_with(after, "s4"), bucket_with(after, "s5")}


def test_an_mrxs_changes_with_its_folder(plan, tmp_path):
    sheet = SHEET.replace("s4.svs", "s4.MRXS")
    (tmp_path / "s4.MRXS").touch()
    (tmp_path / "s4").mkdir()
    before = plan(sheet, buckets=3).slide_digests
    os.utime(tmp_path / "s4", ns=(1, 1))
    after = plan(sheet, buckets=3)
    changed = {bucket for bucket in before if after.slide_digests[bucket] != before[bucket]}
    assert changed == {bucket_with(after, "s4")}


def test_files_beside_a_slide_belong_to_the_bucket(plan, tmp_path):
    sheet = "slide_id\tpath\tpatient_id\tlabel\ttissue\n" + "".join(
        f"s{i}\ts{i}.svs\tp{i}\t{i % 2}\t{'s3.geojson' if i == 3 else ''}\n" for i in range(10)
    )
    tiles = {"grid": "import", "coordinates": "given"}
    before = plan(sheet, buckets=3, tiles=tiles).bucket_digests
    (tmp_path / "s3.geojson").write_text("{}")
    outlined = plan(sheet, buckets=3, tiles=tiles)
    assert {b for b in before if before[b] != outlined.bucket_digests[b]} == {
        bucket_with(outlined, "s3")
    }
    (tmp_path / "given").mkdir()
    (tmp_path / "given" / "s7.parquet").write_text("x")
    placed = plan(sheet, buckets=3, tiles=tiles).bucket_digests
    assert {b for b in placed if placed[b] != outlined.bucket_digests[b]} == {
        bucket_with(outlined, "s7")
    }


def test_a_second_encoder_leaves_the_first_alone(plan):
    one, two = plan(), plan(features={"encoders": ["rgb-mean", "hed-texture"]})
    assert two.encoders[0].features.digest == one.encoders[0].features.digest
    assert next(cell.stage.digest for cell in one.cells) in [c.stage.digest for c in two.cells]
    assert len(two.tiles) == 1
    assert {cell.source for cell in two.cells if not cell.control} == {
        "rgb-mean", "rgb-mean/dino", "hed-texture", "hed-texture/dino",
    }  # fmt: skip


def test_one_encoder_a_fold_by_default_and_one_for_all_where_asked(plan):
    assert [(u.repeat, u.fold) for u in plan().pretrain] == [(0, fold) for fold in range(5)]
    alone = plan(pretrain={"runs": [{"patients": "all"}]})
    assert [(u.repeat, u.fold) for u in alone.pretrain] == [(-1, -1)]


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"pretrain": {"runs": [{"patients": "split"}]}}, "split = pretrain"),
        ({"evaluate": {}}, "per-fold needs folds"),
        ({"evaluate": BASE["evaluate"] | {"splits": "none.csv"}}, "there is no such file"),
        ({"evaluate": {"tasks": [{"name": "t", "column": "x"}]}}, "It has: label"),
    ],
)
def test_a_configuration_that_does_not_fit_the_sheet_is_refused(plan, sections, words):
    with pytest.raises(ConfigError, match=words):
        plan(**sections)


def test_auto_takes_the_encoders_own_tiles(plan):
    made = plan(tiles={"tile_px": "auto", "mpp": "auto"})
    assert made.encoders[0].tiles.digest == plan().encoders[0].tiles.digest
    assert isinstance(made.results, Path)
