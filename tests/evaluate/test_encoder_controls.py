"""A slide encoder through the evaluation: what is refused, and the rows that come out."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from evaluate.finished import RUN, make_run, trained_patients, write_encoder
from slidemill.artifacts.parquet import read_parquet
from slidemill.errors import ArtifactError, LeakError
from slidemill.evaluate.comparison import run_task
from slidemill.evaluate.controls import ENCODER_CONTROLS
from slidemill.evaluate.encoder_rows import encoder_rows
from slidemill.evaluate.stage import run_cell
from slidemill.plan import CellPlan, Plan
from slidemill.pretrain.checkpoint import METADATA_KEY, read_facts
from slidemill.report.html import ReportPage, render
from slidemill.report.tasks import task_section

SPLIT = {**RUN, "name": "own", "patients": "split"}
ALL = {**RUN, "name": "everyone", "patients": "all"}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    return make_run(tmp_path_factory.mktemp("run"), [RUN, SPLIT, ALL])


@pytest.fixture
def plan(made: Plan) -> Iterator[Plan]:
    """The run, for a test that damages it."""
    kept = made.folder / "kept"
    shutil.copytree(made.results, kept)
    yield made
    shutil.rmtree(made.results)
    kept.rename(made.results)


def cell_of(plan: Plan, source: str) -> CellPlan:
    """The controls of a slide encoder."""
    return next(cell for cell in plan.cells if cell.controls and cell.source == source)


def folder_of(plan: Plan, source: str) -> Path:
    """The folder of a slide encoder, of the first fold if there are several."""
    unit = next(iter(cell_of(plan, source).pretrain.values()))
    return unit.stage.folder(plan.results)


def alter(path: Path, **facts: object) -> None:
    """Change what a checkpoint says of itself."""
    save_file(load_file(path), path, {METADATA_KEY: json.dumps(read_facts(path) | facts)})


def refused(plan: Plan, source: str, kind: type[Exception], words: str) -> None:
    for cell in plan.cells:
        if cell.source == source:
            with pytest.raises(kind, match=words):
                run_cell(plan, cell, "cpu", 1)


def test_all_rows_come_out_and_are_compared(made: Plan) -> None:
    for cell in made.cells:
        run_cell(made, cell, "cpu", 1)
    run_task(made, "t")
    folder = made.evaluate["t"].folder(made.results)
    metrics = read_parquet(folder / "metrics.parquet", "metrics")
    assert not metrics.duplicated(["model", "input", "control", "metric", "repeat", "fold"]).any()
    source = "rgb-mean/dino"
    rows = metrics[(metrics["input"] == source) & (metrics["fold"] < 0)]
    assert set(rows["control"]) == {"", *ENCODER_CONTROLS} - {"cls"}
    predictions = read_parquet(folder / "predictions.parquet", "predictions")
    counts = predictions.groupby(["model", "input", "control"]).size()
    assert counts.nunique() == 1
    # A row reads what it is named for: no two are the same.
    scores = predictions[predictions["input"] == source].groupby("control")["score"]
    assert len({tuple(one) for _, one in scores}) == len(ENCODER_CONTROLS)
    control = read_parquet(folder / "controls.parquet", "comparisons")
    pairs = set(zip(control["a"], control["b"], strict=True))
    assert pairs == {(a.label, b.label) for e in encoder_rows(made.cells) for a, b in e.pairs()}
    assert (f"linear-probe on {source}", f"linear-probe on {source} (random-init)") in pairs
    estimate = metrics[(metrics["fold"] < 0) & (metrics["metric"] == "auroc")]
    estimate = estimate.set_index(["input", "control"])["estimate"]
    row = control[(control["a"] == f"linear-probe on {source}")
                  & control["b"].str.endswith("(random-init)")].iloc[0]  # fmt: skip
    expected = estimate[source, ""] - estimate[source, "random-init"]
    assert row["difference"] == pytest.approx(expected)
    # Differences between results stay what they were: three encoders and the mean of the tiles.
    assert len(read_parquet(folder / "comparisons.parquet", "comparisons")) == 6
    section = task_section(made, "t")
    check_section(section)
    check_page(section)


def check_section(section: object) -> None:
    tables = {table.title: table for table in section.tables}  # type: ignore[attr-defined]
    (title,) = [t for t in tables if t.startswith("Slide encoder rgb-mean/dino")]
    table = tables[title]
    assert [row.model for row in table.rows] == [
        "class token", "mean of tokens", "all layers", "class token + mean of tiles",
        "mean of tiles", "largest values of tiles",
    ]  # fmt: skip
    assert table.columns[:3] == ["trained", "random init", "shuffled"]
    assert table.rows[0].estimates[1].low is not None
    assert table.rows[-1].estimates[1] is None
    assert "random" in table.said
    for title, table in tables.items():
        for row in table.rows:
            marked = "saw the test patients" in row.note
            blind = row.model in ("mean of tiles", "largest values of tiles")
            assert marked == ("everyone" in title + row.source and not blind), (title, row)


def check_page(section: object) -> None:
    page = ReportPage(
        cohort="c", facts=[], protocol=[], tasks=[section], slides=[], attention_of="",
        cohort_rows=[], tiles_svg="", failures=[], pretraining=[], loss_svg="", stages=[],
    )  # type: ignore[list-item]  # fmt: skip
    text = render(page)
    assert text.count("Slide encoder rgb-mean/") == 3
    assert "random init" in text


def test_an_encoder_that_saw_a_tested_patient_is_refused(plan: Plan) -> None:
    unit = next(u for u in plan.pretrain if u.run.name == "dino" and u.fold == 1)
    honest = trained_patients(plan, unit)
    tested = sorted({f"p{i:02}" for i in range(24)} - honest)[0]
    write_encoder(plan, unit, honest | {tested})
    refused(plan, "rgb-mean/dino", LeakError, rf"1 patient .*dino-rgb-mean-t-r0f1.*: {tested}\.")


def test_an_encoder_of_its_own_cohort_may_see_no_tested_patient(plan: Plan) -> None:
    unit = next(u for u in plan.pretrain if u.run.name == "own")
    write_encoder(plan, unit, {"q0", "q1", "p03"})
    refused(plan, "rgb-mean/own", LeakError, "p03")


def test_a_tested_slide_under_another_name_is_a_leak(plan: Plan) -> None:
    """The same tiles under a patient of the pretraining cohort: names differ, features do not."""
    summary = plan.summary_path(plan.summaries["rgb-mean"])
    table = pd.read_parquet(summary)
    hashes = table.set_index("slide_id")["sha256"]
    footer = summary.read_bytes()
    from slidemill.artifacts.formats import SUMMARY
    from slidemill.artifacts.parquet import write_parquet

    table.loc[table["slide_id"] == "x0", "sha256"] = hashes["s05"]
    write_parquet(summary, table, SUMMARY, plan.summaries["rgb-mean"].stamp("", {}))
    assert summary.read_bytes() != footer
    refused(plan, "rgb-mean/own", LeakError, "own-rgb-mean was trained on slides .*s05 = x0")


def test_a_list_of_patients_that_was_mended_by_hand_is_refused(plan: Plan) -> None:
    path = folder_of(plan, "rgb-mean/own") / "checkpoint.safetensors"
    who = read_facts(path)["trained_on"]
    alter(path, trained_on=who | {"patients": who["patients"][1:]})
    refused(plan, "rgb-mean/own", ArtifactError, "patients that the checkpoint names are not")
    alter(path, trained_on={"patients": who["patients"][1:], "slides": who["slides"][1:]})
    refused(plan, "rgb-mean/own", ArtifactError, "not made from the slides that it names")
    alter(path, trained_on={"patients": who["patients"], "slides": [*who["slides"], "gone"]})
    refused(plan, "rgb-mean/own", ArtifactError, "not made from the slides that it names")


def test_a_file_beside_the_checkpoint_is_not_believed(plan: Plan) -> None:
    unit = next(u for u in plan.pretrain if u.run.name == "own")
    write_encoder(plan, unit, {"q0", "p03"})
    (folder_of(plan, "rgb-mean/own") / "patients.json").write_text('{"patients": ["q0"]}')
    refused(plan, "rgb-mean/own", LeakError, "p03")


def test_the_checkpoint_of_another_pretraining_is_refused(plan: Plan) -> None:
    here, there = folder_of(plan, "rgb-mean/dino"), folder_of(plan, "rgb-mean/own")
    shutil.copy(there / "checkpoint.safetensors", here / "checkpoint.safetensors")
    refused(plan, "rgb-mean/dino", ArtifactError, "checkpoint of another pretraining")


def test_a_checkpoint_of_other_features_is_refused(plan: Plan) -> None:
    path = folder_of(plan, "rgb-mean/everyone") / "checkpoint.safetensors"
    alter(path, item_digest="0" * 64)
    refused(plan, "rgb-mean/everyone", ArtifactError, "not made from the slides that it names")


def test_missing_and_silent_checkpoints_are_refused(plan: Plan) -> None:
    path = folder_of(plan, "rgb-mean/everyone") / "checkpoint.safetensors"
    alter(path, trained_on=None)
    refused(plan, "rgb-mean/everyone", ArtifactError, "does not say which patients")
    path.unlink()
    refused(plan, "rgb-mean/everyone", ArtifactError, "no such file")


def test_embeddings_of_another_checkpoint_are_refused(plan: Plan) -> None:
    """The same encoder trained again to other weights: its old embeddings are not its own."""
    path = folder_of(plan, "rgb-mean/everyone") / "checkpoint.safetensors"
    state, facts = load_file(path), read_facts(path)
    state["class_token"] += 1.0
    save_file(state, path, {METADATA_KEY: json.dumps(facts)})
    refused(plan, "rgb-mean/everyone", ArtifactError, "an embedding by another checkpoint")


@pytest.mark.parametrize("last", [False, True])
def test_every_embedding_that_is_read_is_checked(plan: Plan, last: bool) -> None:
    path = folder_of(plan, "rgb-mean/everyone") / "slides" / f"s{23 if last else 0:02}.h5"
    with h5py.File(path, "a") as file:
        file.attrs["checkpoint_sha256"] = "0" * 64
    refused(plan, "rgb-mean/everyone", ArtifactError, f"{path.name}.* by another checkpoint")


def test_an_embedding_of_another_slide_is_refused(plan: Plan) -> None:
    slides = folder_of(plan, "rgb-mean/everyone") / "slides"
    shutil.copy(slides / "s01.h5", slides / "s00.h5")
    refused(plan, "rgb-mean/everyone", ArtifactError, r"s00\.h5: an embedding of another slide")
    (slides / "s00.h5").unlink()
    refused(plan, "rgb-mean/everyone", ArtifactError, r"s00\.h5: there is no such file")


def test_layers_are_read_one_after_the_other(made: Plan) -> None:
    with h5py.File(folder_of(made, "rgb-mean/dino") / "slides" / "s00.h5") as file:
        assert file["layers"].shape == (3, 16)
        np.testing.assert_array_equal(file["layers"][-1], file["cls"][:])
        assert file["layers"][:].ravel()[-16:].tolist() == file["cls"][:].tolist()
