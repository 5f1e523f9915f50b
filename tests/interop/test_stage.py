import json
import logging
import subprocess
import sys
from dataclasses import replace

import h5py
import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from interop.runs import Given
from slidemill.errors import ArtifactError
from slidemill.interop.commands import export_app, import_app
from slidemill.interop.read import safe_name
from slidemill.interop.stage import export

TOOLS = ("trident", "clam", "stamp", "qupath")


@pytest.mark.parametrize("tool", TOOLS)
def test_failed_slides_are_named_and_left_out(make_run, tmp_path, caplog, tool):
    run = make_run(Given("good"), Given("bad", failed=True))
    run.write()
    with caplog.at_level(logging.WARNING):
        assert export(run.plan, tool, tmp_path / "out") == 1
    assert "bad is left out: it failed in tissue" in caplog.text
    names = [path.name for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert any("good" in name for name in names)
    assert not any("bad" in name for name in names)


@pytest.mark.parametrize("tool", TOOLS)
def test_a_run_without_tiles_says_what_to_run(make_run, tmp_path, tool):
    run = make_run(Given("a"))
    run.write()
    for stage in run.plan.tiles.values():
        run.plan.manifest_path(stage).unlink()
    with pytest.raises(ArtifactError, match="Run the stage that makes it"):
        export(run.plan, tool, tmp_path)


@pytest.mark.parametrize("tool", ["trident", "clam", "stamp"])
def test_features_of_other_tiles_are_never_exported(make_run, tmp_path, tool):
    run = make_run(Given("a"))
    run.write()
    run.slides = (Given("a", kept=((0, 0), (0, 256), (256, 0))),)
    run.write_features(run.plan.encoders[0], 3)
    with pytest.raises(ArtifactError, match="not of the tiles that are kept now"):
        export(run.plan, tool, tmp_path)


def test_tiles_that_did_not_decode_have_no_features_and_cost_no_others(make_run, tmp_path):
    run = make_run(Given("a", kept=((0, 0), (256, 0), (0, 256), (256, 256))))
    run.write()
    unit = run.plan.encoders[0]
    run.write_features(unit, 3)
    path = unit.features.folder(run.plan.results) / "slides" / "a.h5"
    with h5py.File(path, "a") as file:
        features, coords = (np.delete(file[name][:], 1, axis=0) for name in ("features", "coords"))
        for name, values in (("features", features), ("coords", coords)):
            del file[name]
            file[name] = values
        file.attrs["tiles_left_out"] = 1
    for tool in ("trident", "clam", "stamp"):
        assert export(run.plan, tool, tmp_path / tool) == 1
    job = tmp_path / "trident" / "20x_256px_0px_overlap"
    with h5py.File(job / "features_rgb-mean" / "a.h5") as file:
        assert file["coords"][:].tolist() == coords.tolist()
        assert (file["features"][:] == features).all()
    with h5py.File(job / "patches" / "a_patches.h5") as file:
        assert len(file["coords"]) == 4
    with h5py.File(tmp_path / "clam" / "h5_files" / "a.h5") as file:
        assert file["coords"][:].tolist() == coords.tolist()
    with h5py.File(path, "a") as file:
        file.attrs["tiles_left_out"] = 0
    with pytest.raises(ArtifactError, match="Run features again"):
        export(run.plan, "trident", tmp_path / "again")


def test_tiles_without_features_are_exported_where_the_tool_has_coordinates(make_run, tmp_path):
    run = make_run(Given("a"))
    run.write()
    run.plan.manifest_path(run.plan.encoders[0].features).unlink()
    assert export(run.plan, "trident", tmp_path / "t") == 1
    assert export(run.plan, "clam", tmp_path / "c") == 1
    assert not list((tmp_path / "t").rglob("features_*"))
    assert not (tmp_path / "c" / "pt_files").exists()


def test_every_encoder_has_a_place_of_its_own(make_run, tmp_path):
    run = make_run(Given("a"), encoders=("rgb-mean", "hed-texture"))
    run.write()
    for tool in ("trident", "clam", "stamp"):
        export(run.plan, tool, tmp_path / tool)
    job = tmp_path / "trident" / "20x_256px_0px_overlap"
    with h5py.File(job / "features_hed-texture" / "a.h5") as file:
        assert file["features"].shape == (3, 4)
    with h5py.File(job / "features_rgb-mean" / "a.h5") as file:
        assert file["features"].shape == (3, 3)
    assert (tmp_path / "clam" / "features_hed-texture" / "pt_files" / "a.pt").is_file()
    assert (tmp_path / "clam" / "patches" / "a.h5").is_file()
    assert (tmp_path / "stamp" / "rgb-mean" / "a.h5").is_file()
    assert (tmp_path / "stamp" / "hed-texture" / "a.h5").is_file()


def test_two_tilings_never_write_the_same_file(make_run, tmp_path):
    run = make_run(Given("a"), encoders=("rgb-mean", "hed-texture"))
    first, second = run.plan.encoders
    coarse = dict(second.candidates.parameters) | {"mpp": 1.0, "tile_px": 128}
    candidates = replace(second.candidates, label="128px-1mpp", parameters=coarse)
    other = replace(second.tiles, label="128px-1mpp", upstream=(candidates,))
    run.plan = replace(run.plan, encoders=(first, replace(second, tiles=other)))
    run.write()
    for tool in TOOLS:
        assert export(run.plan, tool, tmp_path / tool) == 1
    names = sorted(path.parent.parent.name for path in (tmp_path / "clam").rglob("patches/a.h5"))
    assert names == sorted([first.tiles.name, other.name])
    assert len(list((tmp_path / "qupath").rglob("a.geojson"))) == 2
    folders = {path.parent.parent.name for path in (tmp_path / "trident").rglob("*_patches.h5")}
    assert folders == {"20x_256px_0px_overlap", "10x_128px_0px_overlap"}


def test_names_are_safe_as_parts_of_paths():
    assert safe_name("timm:vit/../../x y") == "timm-vit-..-..-x-y"
    assert safe_name("../..") == "encoder"
    assert safe_name("hed-texture") == "hed-texture"


def test_commands_write_and_read_back(make_run, monkeypatch):
    run = make_run(Given("a"))
    run.write()
    config = {"cohort": {"sheet": "slides.tsv"}, "features": {"encoders": ["rgb-mean"]}}
    (run.folder / "config.yaml").write_text(json.dumps(config))
    monkeypatch.chdir(run.folder)
    app = typer.Typer()
    app.add_typer(export_app, name="export")
    app.add_typer(import_app, name="import")
    runner = CliRunner()
    for tool in TOOLS:
        done = runner.invoke(app, ["export", tool, "--out", f"out/{tool}"])
        assert done.exit_code == 0, done.output
        assert f"1 slides for {tool}" in done.output
    for tool in ("trident", "clam"):
        arguments = ["import", tool, "--from", f"out/{tool}", "--out", f"back/{tool}"]
        done = runner.invoke(app, [*arguments, "-c", "config.yaml"])
        assert done.exit_code == 0, done.output
        assert (run.folder / "back" / tool / "a.parquet").is_file()
    done = runner.invoke(app, ["import", "clam", "--from", "nowhere", "--out", "back"])
    assert done.exit_code == 2


def test_asking_for_help_imports_nothing_heavy():
    code = (
        "import sys; from slidemill.interop import commands\n"
        "print([n for n in ('torch', 'h5py', 'shapely', 'pandas', 'numpy') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_only_kept_tiles_go_out(make_run, tmp_path):
    run = make_run(Given("a", dropped=((512, 0), (768, 0))))
    run.write()
    export(run.plan, "trident", tmp_path)
    (path,) = tmp_path.rglob("*_patches.h5")
    with h5py.File(path) as file:
        assert np.array_equal(file["coords"][:], run.slides[0].kept)
