"""Grids, exports, limits and bad files, on the real workflow and commands."""

import shutil
import subprocess
import sys

import h5py
import numpy as np
import pandas as pd
import pytest
import tifffile
import yaml

pytestmark = pytest.mark.slow

ONLY_TILES = {"pretrain": {}, "evaluate": {}}


def slidemill(project, *arguments, ok=True):
    code = "from slidemill.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=project.folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode == 0) == ok, done.stderr
    return done.stdout + done.stderr


def write_sheet(project, rows):
    pd.DataFrame(rows).to_csv(project.folder / "demo" / "slides.tsv", sep="\t", index=False)


def test_tridents_files_as_the_issue_asks_for_them(project, shared, tmp_path):
    slide = shared / "slides" / "CMU-1-Small-Region.svs"
    golden = shared / "golden"
    write_sheet(
        project,
        [
            {
                "slide_id": "CMU-1-Small-Region",
                "path": slide,
                "patient_id": "p",
                "tissue": golden / "trident_tissue_CMU-1-Small-Region.geojson",
            }
        ],
    )
    settings = {"tissue": {"method": "import"}, "features": {"encoders": ["rgb-mean"]}}
    tiles = {"magnification": 20, "tile_px": 256, "overlap_px": 0, "min_tissue": 0}
    cohort = {"sheet": "demo/slides.tsv"}
    config = tmp_path / "trident.yaml"
    config.write_text(
        yaml.safe_dump(settings | {"tiles": tiles | {"grid": "trident"}, "cohort": cohort})
    )
    # Snakemake takes the last word for a file too: see the files of the stages' names in the root.
    project.run("--configfile", str(config), "tiles")
    assert not (project.results / "features").exists()
    slidemill(project, "export", "trident", "--config", str(config), "--out", "out")
    path = project.folder / "out/20x_256px_0px_overlap/patches/CMU-1-Small-Region_patches.h5"
    with (
        h5py.File(path) as ours,
        h5py.File(golden / "trident_coords_CMU-1-Small-Region.h5") as theirs,
    ):
        assert ours["coords"][:].tolist() == theirs["coords"][:].tolist()
        assert ours["coords"].dtype == theirs["coords"].dtype
        said = {key: value for key, value in theirs["coords"].attrs.items() if key != "savetodir"}
        assert {key: ours["coords"].attrs[key] for key in said} == said
        assert "savetodir" in ours["coords"].attrs


def ages(project):
    found = project.results.glob("candidates/*/slides/*")
    return {path: path.stat().st_mtime_ns for path in found}


def test_a_changed_limit_reads_no_slide_again(project):
    project.configure(**ONLY_TILES, tiles={"tile_px": 128, "min_tissue": 0.1})
    project.run("tiles")
    before = {
        path: path.stat().st_mtime_ns for path in project.results.glob("candidates/*/slides/*")
    }
    assert before
    # Gone: whoever tried to read a slide would fail.
    shutil.move(project.folder / "demo" / "slides", project.folder / "elsewhere")
    project.configure(**ONLY_TILES, tiles={"tile_px": 128, "min_tissue": 0.6})
    project.run("tiles")
    after = {
        path: path.stat().st_mtime_ns for path in project.results.glob("candidates/*/slides/*")
    }
    assert after == before
    folders = sorted(project.results.glob("tiles/*"), key=lambda path: path.stat().st_ctime)
    loose, strict = (pd.read_parquet(folder / "manifest.parquet") for folder in folders)
    assert strict["count"].sum() < loose["count"].sum()
    reused = pd.read_parquet(project.one("candidates/*/manifest.parquet"))
    assert reused.loc[reused["status"] == "ok", "reused"].all()


def torn_in_the_middle(source, path):
    """Bytes of two tiles are zeroed, in the middle of level 0."""
    shutil.copy(source, path)
    with tifffile.TiffFile(path) as file:
        start, end = file.pages[0].dataoffsets[50], file.pages[0].dataoffsets[52]
    with path.open("r+b") as stream:
        stream.seek(start)
        stream.write(b"\0" * (end - start))


def test_every_bad_file_costs_itself_alone(project, shared, tmp_path):
    """All of the issue's list in one cohort, with sound slides between them."""
    real = shared / "slides"
    cmu = real / "CMU-1-Small-Region.svs"
    odd = tmp_path / "Präparat 7, 病理 切片"
    for folder in (odd, tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
    shutil.copy(cmu, odd / "scan é 1.svs")
    shutil.copy(cmu, tmp_path / "a" / "same.svs")
    shutil.copy(real / "OS-1-detail.ome.tif", tmp_path / "b" / "same.svs")
    (tmp_path / "empty.svs").touch()
    (tmp_path / "head.svs").write_bytes(cmu.read_bytes()[4096:])
    (tmp_path / "tail.svs").write_bytes(cmu.read_bytes()[:-100_000])
    torn_in_the_middle(cmu, tmp_path / "torn.svs")
    (tmp_path / "text.svs").write_text("this is not a slide\n" * 500)
    (tmp_path / "folder.svs").mkdir()
    (tmp_path / "loop.svs").symlink_to(tmp_path / "pool.svs")
    (tmp_path / "pool.svs").symlink_to(tmp_path / "loop.svs")
    shutil.copy(cmu, tmp_path / "absurd.svs")
    with tifffile.TiffFile(tmp_path / "absurd.svs", mode="r+b") as file:
        tag = file.pages[0].tags["ImageDescription"]
        tag.overwrite(tag.value.replace("MPP = 0.4990", "MPP = 352.80"))
    expected = {
        "empty": ("empty.svs", "empty"),
        "head": ("head.svs", "truncated"),
        "tail": ("tail.svs", "truncated"),
        "text": ("text.svs", "not-a-slide"),
        "undecodable": (real / "openslide-unreadable.svs", "read-error"),
        "compression": (real / "openslide-unopenable.tiff", "unsupported"),
        "folder": ("folder.svs", "not-a-file"),
        "loop": ("loop.svs", "symlink-loop"),
        "missing": ("missing.svs", "file-missing"),
        "nompp": (real / "TCGA-CR-7395-01A-01-TS1.svs", "mpp-missing"),
        "absurd": ("absurd.svs", "mpp-implausible"),
        "coarse": (real / "camelyon_jpeg.dcm", "too-coarse"),
        "dapi": (real / "fluorescence-dapi.ndpi", "unsupported"),
    }
    sound = {
        "odd": odd / "scan é 1.svs",
        "same-a": tmp_path / "a" / "same.svs",
        "same-b": tmp_path / "b" / "same.svs",
        "torn": tmp_path / "torn.svs",
    }
    paths = {name: tmp_path / path for name, (path, _) in expected.items()} | sound
    write_sheet(
        project,
        [{"slide_id": name, "path": paths[name], "patient_id": name} for name in sorted(paths)],
    )
    project.configure(
        **ONLY_TILES,
        cohort={"sheet": "demo/slides.tsv", "max_failed": 1.0},
        tiles={"tile_px": 128, "min_tissue": 0.25},
    )
    project.run("features")
    manifest = project.manifest("features/*/manifest.parquet")
    failed = manifest[manifest["status"] == "failed"]
    assert failed["error_code"].to_dict() == {name: code for name, (_, code) in expected.items()}
    for name, message in failed["message"].items():
        assert str(paths[name]) in message or name in ("nompp", "absurd"), message
        assert "\n" not in message
        assert any(stop in message for stop in (";", ". ")), f"no remedy: {message}"
    counts = manifest.loc[list(sound), "count"]
    assert (counts > 0).all()
    # Two pieces of 240 px are gone from one copy: their tiles are marked, the others are kept.
    tiles = {
        name: pd.read_parquet(project.one(f"tiles/*/slides/{name}.parquet"))
        for name in ("torn", "same-a")
    }
    lost = tiles["torn"]["read_error"]
    assert 4 <= lost.sum() <= 16
    assert not tiles["same-a"]["read_error"].any()
    whole = tiles["same-a"].set_index(["x", "y"])
    left = tiles["torn"][~lost].set_index(["x", "y"])
    np.testing.assert_array_equal(left["focus"], whole.loc[left.index, "focus"])
    said = slidemill(project, "status", ok=False)
    assert all(code in said for _, code in expected.values())
