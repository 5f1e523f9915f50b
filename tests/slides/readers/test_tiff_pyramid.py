"""Levels are what the file says, and what the pixels confirm."""

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest
import tifffile
from typer.testing import CliRunner

from slidemill.cli import app
from slidemill.errors import SlideCode, SlideError
from slidemill.slides.overview import read_overview
from slidemill.slides.reader import Slide
from slides.readers.scenes import TILE, padded, reduced, tissue, write

SLIDE = tissue(1, 500, 400)
OTHER = tissue(2, 500, 400)
SMALLER = {"subfiletype": 1}
STRIPS = {"tile": None, "rowsperstrip": 16}
JPEG = {"compression": "jpeg", "compressionargs": {"level": 30}}


def levels(path, reader="tiff", scene=None):
    with Slide(path, reader, scene) as slide:
        return slide.level_dimensions, slide.level_downsamples, slide.left_out


@pytest.mark.parametrize("options", [{}, JPEG])
@pytest.mark.parametrize("marked", [{}, SMALLER])
def test_true_levels_are_kept_whatever_the_file_says_of_them(tmp_path, options, marked):
    images = [(reduced(SLIDE, factor), options | marked) for factor in (2, 4)]
    path = write(tmp_path / "a.tif", (SLIDE, options), *images)
    assert levels(path) == (((500, 400), (250, 200), (125, 100)), (1.0, 2.0, 4.0), ())


@pytest.mark.parametrize("method", ["every second", "dark", "bright"])
def test_ways_of_making_levels(tmp_path, method):
    level = SLIDE[::2, ::2] if method == "every second" else reduced(SLIDE, 2)
    change = {"dark": -8, "bright": 8}.get(method, 0)
    level = (level.astype(int) + change).clip(0, 255).astype(np.uint8)
    assert levels(write(tmp_path / "a.tif", SLIDE, level))[0] == ((500, 400), (250, 200))


@pytest.mark.parametrize("marked", [{}, SMALLER])
def test_what_shows_something_else_is_no_level(tmp_path, marked):
    grey = np.full((200, 250, 3), 233, np.uint8)  # a macro, bare but for a label
    grey[60:120, 60:130] = (180, 120, 160)
    inverted = 255 - reduced(SLIDE, 2)
    crop = SLIDE[200:400, 250:500]
    shifted = reduced(np.roll(SLIDE, 60, axis=1), 2)
    for image in (reduced(OTHER, 2), crop, grey, inverted, shifted):
        path = write(tmp_path / "a.tif", SLIDE, (image, marked), (reduced(SLIDE, 4), marked))
        sizes, scales, left_out = levels(path)
        assert sizes == ((500, 400), (125, 100))
        assert scales == (1.0, 4.0)
        assert len(left_out) == 1
        assert "directory 2 (250 x 200)" in left_out[0]
        assert "something else" in left_out[0]


def test_a_directory_that_is_not_marked_among_marked_ones_is_no_level(tmp_path):
    path = write(tmp_path / "a.tif", SLIDE, reduced(SLIDE, 2), (reduced(SLIDE, 4), SMALLER))
    sizes, _, left_out = levels(path)
    assert sizes == ((500, 400), (125, 100))
    assert "not mark it as a reduced image" in left_out[0]


def test_a_least_downsample(tmp_path):
    cores = [reduced(SLIDE, 1.01), reduced(SLIDE, 1.1)]
    sizes, _, left_out = levels(write(tmp_path / "a.tif", SLIDE, *cores))
    assert sizes == ((500, 400),)
    assert len(left_out) == 2
    assert all("1.2 times" in one for one in left_out)


def test_glass_says_nothing_and_sparse_tissue_is_found(tmp_path):
    sparse = np.full((1600, 2000, 3), 242, np.uint8)
    sparse[1100:1220, 300:420] = tissue(3, 120, 120, share=1.0)
    elsewhere = np.full((1600, 2000, 3), 242, np.uint8)
    elsewhere[300:420, 1500:1620] = tissue(3, 120, 120, share=1.0)
    path = write(tmp_path / "a.tif", sparse, reduced(sparse, 2))
    assert levels(path)[0] == ((2000, 1600), (1000, 800))
    path = write(tmp_path / "b.tif", sparse, reduced(elsewhere, 2))
    assert levels(path)[0] == ((2000, 1600),)
    glass = np.full((400, 500, 3), 242, np.uint8)
    path = write(tmp_path / "c.tif", glass, reduced(glass, 2))
    assert levels(path)[0] == ((500, 400), (250, 200))


@pytest.mark.parametrize("options", [STRIPS | SMALLER, STRIPS, SMALLER, {}])
def test_the_largest_image_is_level_0_wherever_it_stands(tmp_path, options):
    images = [(reduced(SLIDE, 5), options), SLIDE, (reduced(SLIDE, 2), SMALLER)]
    path = write(tmp_path / "a.tif", *images)
    with Slide(path, "tiff") as slide:
        assert slide.level_dimensions[:2] == ((500, 400), (250, 200))
        assert (slide.read(0, 0, 0, 500, 400) == SLIDE).all()


def test_scenes_are_chosen_by_number_and_the_others_named(tmp_path):
    second = tissue(4, 480, 300)
    path = write(tmp_path / "a.tif", second, reduced(second, 2), SLIDE, reduced(SLIDE, 2))
    with Slide(path) as slide:
        assert (slide.scene, slide.other_scenes) == ("2", ("1",))
        assert slide.level_dimensions == ((500, 400), (250, 200))
    with Slide(path, scene="1") as slide:
        assert (slide.scene, slide.other_scenes) == ("1", ("2",))
        assert slide.level_dimensions == ((480, 300), (240, 150))
        assert (slide.read(0, 0, 0, 480, 300) == second).all()
    with (
        pytest.raises(SlideError, match=r"no scene '3'.*'1', '2'") as caught,
        Slide(path, scene="3"),
    ):
        pass
    assert caught.value.code == SlideCode.UNSUPPORTED


def test_images_of_ome_are_scenes_with_levels_of_their_own(tmp_path):
    first, second = (tissue(seed, 300, 300) for seed in (5, 6))
    path = tmp_path / "a.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as writer:
        for name, image, mpp in (("core A", first, 0.25), ("core B", second, 0.5)):
            sizes = {"PhysicalSizeX": mpp, "PhysicalSizeY": mpp, "Name": name}
            common = {"tile": TILE, "photometric": "rgb"}
            writer.write(image, subifds=1, metadata=sizes, **common)
            writer.write(reduced(image, 2), subfiletype=1, **common)
    with Slide(path) as slide:
        assert (slide.scene, slide.other_scenes) == ("core A", ("core B",))  # of equals the first
        assert slide.level_dimensions == ((300, 300), (150, 150))
        assert slide.properties["ome.PhysicalSizeX"] == "0.25"
    for scene in ("core B", "2"):
        with Slide(path, scene=scene) as slide:
            assert (slide.scene, slide.other_scenes) == ("core B", ("core A",))
            assert slide.properties["ome.PhysicalSizeX"] == "0.5"
            assert (slide.read(0, 0, 0, 300, 300) == second).all()
            assert (slide.read(1, 0, 0, 150, 150) == reduced(second, 2)).all()
    with pytest.raises(SlideError, match="'core A', 'core B'"), Slide(path, scene="core C"):
        pass


def test_aperio_names_what_is_no_level(tmp_path):
    head = "Aperio Image Library v11\r\n500x400 (64x64)"
    images = [(SLIDE, {"description": f"{head} JPEG|AppMag = 20|MPP = 0.5"})]
    for level, text in (
        (reduced(SLIDE, 2), "Aperio Image Library v11\r\nmacro 250x200"),
        (reduced(SLIDE, 2.5), "Aperio Image Library v11\r\nlabel 200x160"),
        (reduced(SLIDE, 4), f"{head} -> 125x100 JPEG|AppMag = 20"),
    ):
        images.append((level, {"description": text}))
    sizes, scales, left_out = levels(write(tmp_path / "a.svs", *images))
    assert (sizes, scales) == (((500, 400), (125, 100)), (1.0, 4.0))
    assert [one.partition(": ")[2] for one in left_out] == [
        "the file calls it macro",
        "the file calls it label",
    ]


@pytest.mark.parametrize("value", [255, 0])
@pytest.mark.parametrize("marked", [{}, SMALLER])
def test_padded_levels_have_the_scale_that_the_pixels_have(tmp_path, marked, value):
    # 5 is not what the padded size suggests: 100 of 128 pixels are there, and 500 / 128 is 3.9.
    for factors in ((2, 4, 8, 16), (5, 10)):
        true = [(reduced(SLIDE, f), marked) for f in factors]
        images = [(padded(image, value=value), options) for image, options in true]
        path = write(tmp_path / "padded.tif", SLIDE, *images)
        twin = write(tmp_path / "true.tif", SLIDE, *true)
        sizes, scales, _ = levels(path)
        assert scales == (1.0, *map(float, factors))
        assert (sizes, scales) == levels(twin)[:2]
        with Slide(path) as one, Slide(twin) as other:
            for level, (width, height) in enumerate(sizes):
                box = (level, -3, -3, width + 40, height + 40)
                assert (one.read(*box) == other.read(*box)).all()


def test_levels_that_state_their_resolution(tmp_path):
    def at(scale):
        return {"resolution": (20000 / scale, 20000 / scale), "resolutionunit": 3}

    images = [(padded(reduced(SLIDE, f)), SMALLER | at(f)) for f in (2, 4)]
    with Slide(write(tmp_path / "a.tif", (SLIDE, at(1)), *images)) as slide:
        assert [(s.downsample, s.source) for s in slide.level_scales[1:]] == [
            (2.0, "stated"),
            (4.0, "stated"),
        ]
        assert slide.level_dimensions == ((500, 400), (250, 200), (125, 100))


def test_a_resolution_that_the_size_contradicts_says_nothing(tmp_path):
    images = [(reduced(SLIDE, 2), SMALLER | {"resolution": (5000, 5000), "resolutionunit": 3})]
    base = (SLIDE, {"resolution": (20000, 20000), "resolutionunit": 3})
    with Slide(write(tmp_path / "a.tif", base, *images)) as slide:
        assert [(s.downsample, s.source) for s in slide.level_scales] == [
            (1.0, "whole"),
            (2.0, "whole"),
        ]


CASES = {
    "macro-second.tif": ((2048, 2048), (1024, 1024), (512, 512)),
    "slide-overview.ome.tif": ((2048, 2048),),
    "striped-thumb-first.tif": ((2048, 2048), (1024, 1024), (512, 512)),
    "three.ome.tif": ((1500, 1500),),
    "two-scenes.tif": ((2048, 2048),),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("reader", ["auto", "openslide"])
def test_shared_cases(shared, name, reader):
    path = shared / "cases" / "not-a-level" / name
    if reader == "openslide" and name == "striped-thumb-first.tif":
        with pytest.raises(SlideError), Slide(path, reader):
            pass
        return
    sizes, scales, left_out = levels(path, reader)
    assert sizes == CASES[name]
    assert scales == (1.0, 2.0, 4.0)[: len(sizes)]
    assert bool(left_out) == (name != "striped-thumb-first.tif")


def test_shared_scenes(shared):
    path = shared / "cases" / "not-a-level" / "three.ome.tif"
    with Slide(path) as slide:
        assert (slide.scene, slide.other_scenes) == ("core 0", ("core 1", "core 2"))
    with Slide(path, scene="core 2") as slide:
        assert slide.dimensions == (1480, 1480)


@pytest.mark.parametrize("reader", ["auto", "openslide"])
def test_the_padded_twin(shared, reader):
    with (
        Slide(shared / "cases/padded-levels/padded.tif", reader) as one,
        Slide(shared / "cases/padded-levels/true.tif", reader) as other,
    ):
        # OpenSlide has two levels of one size, and which is which is not told.
        kept = 5 if reader == "auto" else 3
        assert one.level_dimensions == other.level_dimensions[:kept]
        assert one.level_downsamples == (1.0, 2.0, 4.0, 8.0, 16.0)[:kept]
        for downsample in (1, 2, 3, 4, 7) if reader == "openslide" else (2, 3, 8, 16, 20):
            found = [read_overview(slide, downsample, downsample).pixels for slide in (one, other)]
            # They differ only where JPEG saw the padding in the blocks at the edge.
            assert np.abs(found[0].astype(int) - found[1]).mean() < 0.1
            assert (found[0][:-8, :-8] == found[1][:-8, :-8]).all()


def test_the_padded_twin_has_the_same_tissue_and_tiles(shared, tmp_path, monkeypatch):
    folder = shared / "cases" / "padded-levels"
    sheet = [f"{name},{folder / name}.tif,{name}" for name in ("padded", "true")]
    (tmp_path / "s.csv").write_text("\n".join(["slide_id,path,patient_id", *sheet]))
    (tmp_path / "c.yaml").write_text(
        "cohort: {sheet: s.csv}\nfeatures: {encoders: [rgb-mean]}\n"
        "pretrain: {runs: []}\nevaluate: {tasks: []}\n"
    )
    monkeypatch.chdir(tmp_path)
    for stage in ("cohort", "tissue", "tiles"):
        done = CliRunner().invoke(app, [stage, "--config", "c.yaml"])
        assert done.exit_code == 0, done.output

    def outputs(name):
        tissue_file = next(tmp_path.glob(f"results/tissue/*/slides/{name}.h5"))
        with h5py.File(tissue_file) as file:
            mask = file["mask"][:]
        tiles = next(tmp_path.glob(f"results/tiles/*/slides/{name}.parquet"))
        return mask, pq.read_table(tiles).select(["x", "y", "keep"])

    (mask, tiles), (true_mask, true_tiles) = outputs("padded"), outputs("true")
    assert mask.any()
    assert (mask == true_mask).all()
    assert tiles.num_rows > 0
    assert tiles.equals(true_tiles)


REAL = {
    "CMU-1-Small-Region.svs": ((2220, 2967),),
    "TCGA-CR-7395-01A-01-TS1.svs": ((4443, 3567), (2221, 1783)),
    "OS-1-detail.ome.tif": ((1101, 1101),),
    "OS-2-ndpi-Ki67.ome.tif": ((2202, 2202),),
    "OS-2-vsi-Ki67.ome.tif": ((1445, 1445),),
    "openslide-boxes.tiff": ((300, 250), (150, 125), (75, 62), (37, 31)),
}


@pytest.mark.parametrize("name", REAL)
def test_real_slides_keep_their_levels(shared, name):
    with Slide(shared / "slides" / name) as slide:
        assert slide.level_dimensions == REAL[name]
        assert slide.level_downsamples == (1.0, 2.0, 4.0, 8.0)[: len(REAL[name])]
        assert (slide.scene, slide.other_scenes, slide.left_out) == (None, (), ())
