"""The tissue stage: what it writes, by every kind of method."""

import io
import json
import re
import shutil

import h5py
import numpy as np
import pytest
import tifffile
from PIL import Image
from shapely.geometry import box, mapping, shape

from slidemill.artifacts import formats
from slidemill.artifacts.folder import StageId
from slidemill.artifacts.manifest import SlideTask
from slidemill.config import TissueConfig, UnetConfig
from slidemill.errors import ArtifactError, SlideCode, SlideError
from slidemill.slides.identity import slide_fingerprint
from slidemill.slides.overview import read_overview
from slidemill.slides.pyramid import write_pyramid
from slidemill.slides.reader import Slide
from slidemill.tissue import stage
from slidemill.tissue.classes import TissueClass

STAGE = StageId("tissue", "t", formats.TISSUE, 1, {})


def run(slide_path, folder, config=None, tissue_file=None, load=None, mpp=0.5, exclude=None):
    with Slide(slide_path) as slide:
        reader = slide.reader
    facts = {
        "slide_id": "s",
        "path": str(slide_path),
        "fingerprint": slide_fingerprint(slide_path),
        "reader": reader,
        "mpp_x": mpp,
        "mpp_y": mpp,
        "tissue": str(tissue_file) if tissue_file else None,
        "exclude": exclude,
    }
    path = folder / "s.h5"
    stage.compute(
        SlideTask("s", facts, None, path, STAGE.stamp("s", {})), config or TissueConfig(), load
    )
    return path


def classes_of(path):
    with h5py.File(path) as file:
        assert (file["mask"][:] == (file["classes"][:] == TissueClass.TISSUE)).all()
        return file["classes"][:], dict(file.attrs)


@pytest.mark.parametrize("method", ["otsu", "hsv", "entropy"])
def test_a_disc_is_found_and_all_three_files_are_of_it(disc_slide, tmp_path, method):
    path = run(disc_slide, tmp_path, TissueConfig(method=method))
    classes, attributes = classes_of(path)
    area = np.pi * 0.15**2
    assert attributes["tissue_mm2"] == pytest.approx(area, rel=0.2)
    assert (attributes["pieces"], attributes["mpp"], attributes["downsample_x"]) == (1, 8.0, 16.0)
    assert classes.shape == (50, 63)
    (feature,) = json.loads(path.with_suffix(".geojson").read_text())["features"]
    assert (
        shape(feature["geometry"]).centroid.distance(shape(mapping(box(499, 399, 501, 401)))) < 12
    )
    picture = Image.open(io.BytesIO(path.with_suffix(".jpg").read_bytes()))
    assert picture.size == (1000, 800)  # so small a slide is shown as it is
    assert stage.read_stamp(path)["count"] == 1
    path.with_suffix(".jpg").unlink()
    with pytest.raises(ArtifactError, match="Run tissue"):
        stage.read_stamp(path)


def test_glass_is_a_fault_that_says_what_to_try(tmp_path):
    slide = tmp_path / "glass.tif"
    write_pyramid(slide, np.full((800, 1000, 3), 241, np.uint8), mpp_x=0.5, mpp_y=0.5)
    with pytest.raises(SlideError, match="entropy") as caught:
        run(slide, tmp_path)
    assert caught.value.code == SlideCode.NO_TISSUE
    assert "hsv and entropy find none either" in caught.value.message
    assert not (tmp_path / "s.h5").exists()
    # What people need to judge it by.
    assert max(Image.open(tmp_path / "s.jpg").size) == 1000
    with pytest.raises(ArtifactError):
        stage.read_stamp(tmp_path / "s.h5")


def test_advice_fits_the_method_and_was_tried(tmp_path):
    """Texture without colour: of the methods entropy alone finds it."""
    rng = np.random.default_rng(0)
    pixels = np.full((800, 1000, 3), 241, np.uint8)
    cells = np.repeat(np.repeat(rng.integers(150, 241, (16, 18)), 32, 0), 32, 1)
    pixels[100:612, 100:676] = cells[..., None]
    slide = tmp_path / "grey.tif"
    write_pyramid(slide, pixels, mpp_x=0.5, mpp_y=0.5)
    with pytest.raises(SlideError, match=r"set tissue\.method entropy: it finds 0\.\d\d square mm"):
        run(slide, tmp_path)
    config = TissueConfig(method="entropy", min_area_mm2=0.5)
    with pytest.raises(SlideError) as caught:
        run(slide, tmp_path, config)
    assert "entropy:" not in caught.value.message
    assert "lower tissue.min_area_mm2" in caught.value.message


@pytest.fixture(scope="module")
def inked(tmp_path_factory):
    """A pink disc of 1 mm and as much in even blue."""
    pixels = np.full((1600, 2400, 3), 242, np.uint8)
    y, x = np.mgrid[:1600, :2400]
    pixels[(x - 600) ** 2 + (y - 800) ** 2 < 450**2] = (200, 120, 180)
    pixels[400:1200, 1400:2200] = (50, 110, 200)
    path = tmp_path_factory.mktemp("inked") / "inked.tif"
    write_pyramid(path, pixels, mpp_x=0.5, mpp_y=0.5)
    return path


def test_much_that_was_left_out_is_remarked_and_a_key_keeps_it(inked, tmp_path):
    path = run(inked, tmp_path)
    classes, attributes = classes_of(path)
    assert (classes == TissueClass.PEN).any()
    remark = attributes["remark"]
    assert re.search(r"5\d% pen was left out", remark)
    assert "take pen out of tissue.exclude" in remark
    assert stage.read_stamp(path)["remark"] == remark
    for own in ({"config": TissueConfig(exclude=("border",))}, {"exclude": "edge, bubble"}):
        classes, attributes = classes_of(run(inked, tmp_path, **own))
        assert not (classes == TissueClass.PEN).any()
        assert attributes["remark"] == ""
        assert attributes["tissue_mm2"] == pytest.approx(0.16 + np.pi * 0.225**2, rel=0.15)
    assert stage.read_stamp(path)["remark"] is None


def test_a_slide_that_is_all_ink_says_which_key_keeps_it(tmp_path):
    pixels = np.full((800, 1000, 3), 242, np.uint8)
    pixels[200:600, 200:800] = (50, 110, 200)
    slide = tmp_path / "ink.tif"
    write_pyramid(slide, pixels, mpp_x=0.5, mpp_y=0.5)
    with pytest.raises(
        SlideError, match=r"take pen out of tissue\.exclude.* gives 0\.07 square mm"
    ):
        run(slide, tmp_path)
    assert (tmp_path / "s.jpg").is_file()


def test_what_is_excluded_of_a_slide_is_part_of_its_digest():
    config = TissueConfig()
    assert stage.inputs({"tissue": None, "exclude": None}, config) == {}
    given = [stage.inputs({"tissue": None, "exclude": e}, config) for e in ("pen,edge", "edge pen")]
    assert given[0] == given[1] == {"exclude": "pen edge"}
    assert stage.inputs({"tissue": None, "exclude": "none"}, config) == {"exclude": "none"}
    assert TissueConfig(exclude=("bubble", "pen", "pen")) == TissueConfig(exclude=("pen", "bubble"))


def test_what_does_not_decode_is_a_class_and_no_tissue(disc_pixels, tmp_path):
    slide = tmp_path / "torn.tif"
    write_pyramid(slide, disc_pixels, mpp_x=0.5, mpp_y=0.5, levels=1)
    with tifffile.TiffFile(slide) as file:
        damaged = file.pages[0].dataoffsets[5]
    with slide.open("r+b") as stream:
        stream.seek(damaged)
        stream.write(b"\0" * 64)
    classes, _ = classes_of(run(slide, tmp_path))
    lost = classes == TissueClass.UNREADABLE
    assert lost[17:31, 17:31].all()
    # Blocks of 128 px, 8 of the mask, are not cut further.
    around = lost.copy()
    around[8:40, 8:40] = False
    assert not around.any()
    assert (classes == TissueClass.TISSUE).any()


def test_imported_polygons_are_kept_as_they_are(disc_slide, tmp_path):
    polygons = [box(100.5, 60.25, 500, 400), box(600, 300, 900, 700)]
    file = tmp_path / "tissue.geojson"
    features = [
        {"type": "Feature", "properties": {}, "geometry": mapping(polygon)} for polygon in polygons
    ]
    file.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    config = TissueConfig(method="import")
    path = run(disc_slide, tmp_path, config, file)
    written = json.loads(path.with_suffix(".geojson").read_text())["features"]
    assert [shape(f["geometry"]).equals(p) for f, p in zip(written, polygons, strict=True)] == [
        True,
        True,
    ]
    _, attributes = classes_of(path)
    assert attributes["tissue_mm2"] == pytest.approx(sum(p.area for p in polygons) / 4e6, rel=0.05)
    assert np.isnan(attributes["threshold"])
    before = stage.inputs({"tissue": str(file)}, config)
    file.write_text(file.read_text().replace("900", "901"))
    assert stage.inputs({"tissue": str(file)}, config) != before
    assert stage.inputs({"tissue": str(file)}, TissueConfig()) == {}
    with pytest.raises(SlideError, match="column is empty") as caught:
        run(disc_slide, tmp_path, config)
    assert caught.value.code == SlideCode.TISSUE_FILE
    with pytest.raises(SlideError, match="outside") as caught:
        far = tmp_path / "far.geojson"
        far.write_text(json.dumps(mapping(box(5000, 5000, 6000, 6000))))
        run(disc_slide, tmp_path / "far", config, far)
    assert caught.value.code == SlideCode.TISSUE_FILE
    assert [file.name for file in (tmp_path / "far").iterdir()] == ["s.jpg"]


def test_a_slide_coarser_than_the_mask_has_its_own_resolution(disc_slide, tmp_path):
    _, attributes = classes_of(run(disc_slide, tmp_path, mpp=20.0))
    assert (attributes["mpp"], attributes["downsample_x"]) == (20.0, 1.0)


def test_a_network_of_the_users_decides(disc_slide, tmp_path):
    """Random weights, but for the last layer, which is made to tell dark from bright."""
    import segmentation_models_pytorch as smp
    import torch
    from safetensors.torch import save_file

    from slidemill.tissue.unet import load_segmenter

    network = smp.Unet("resnet18", encoder_weights=None, classes=2)
    with torch.no_grad():
        network.segmentation_head[0].weight.zero_()
        network.segmentation_head[0].bias.copy_(torch.tensor([0.0, 1.0]))
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    unet = UnetConfig(
        checkpoint="w.safetensors",
        architecture="unet",
        backbone="resnet18",
        classes=("glass", "tissue"),
        mpp=8.0,
        tile_px=64,
        device="cpu",
    )
    config = TissueConfig(method="unet", unet=unet)
    segmenter = load_segmenter(unet, tmp_path / "w.safetensors", "cpu")
    classes, _ = classes_of(run(disc_slide, tmp_path, config, load=lambda: segmenter))
    assert (classes == TissueClass.TISSUE).all()
    turned = unet.model_copy(update={"classes": ("tissue", "glass")})
    segmenter = load_segmenter(turned, tmp_path / "w.safetensors", "cpu")
    with pytest.raises(SlideError, match="method unet finds no tissue"):
        run(disc_slide, tmp_path, config, load=lambda: segmenter)


def known(path):
    with Slide(path) as slide:
        reader = slide.reader
    seen = slide_fingerprint(path)
    facts = {"slide_id": "s", "path": str(path), "fingerprint": seen, "reader": reader}
    return facts | {"mpp_x": 0.5, "mpp_y": 0.5, "tissue": None}


@pytest.mark.parametrize("when", ["before", "meanwhile"])
@pytest.mark.parametrize(("becomes", "code"), [("another", "changed"), ("gone", "file-missing")])
def test_a_slide_that_was_replaced_or_deleted_has_no_result(
    disc_slide, tmp_path, monkeypatch, when, becomes, code
):
    path = tmp_path / "slide.tif"
    shutil.copy(disc_slide, path)
    task = SlideTask("s", known(path), None, tmp_path / "s.h5", STAGE.stamp("s", {}))

    def swap():
        if becomes == "gone":
            path.unlink(missing_ok=True)
        else:
            write_pyramid(
                tmp_path / "b.tif", np.full((800, 1000, 3), 200, np.uint8), mpp_x=0.5, mpp_y=0.5
            )
            (tmp_path / "b.tif").replace(path)

    def read(*args):
        found = read_overview(*args)
        swap()
        return found

    if when == "before":
        swap()
    else:
        monkeypatch.setattr(stage, "read_overview", read)
    with pytest.raises(SlideError) as caught:
        stage.compute(task, TissueConfig())
    assert caught.value.code == code
    assert not list(tmp_path.glob("s.*"))


def test_a_copy_in_the_scratch_folder_changes_no_byte(disc_slide, tmp_path):
    (tmp_path / "scratch").mkdir()
    results = []
    for scratch in (None, tmp_path / "scratch"):
        path = tmp_path / f"{bool(scratch)}" / "s.h5"
        task = SlideTask("s", known(disc_slide), None, path, STAGE.stamp("s", {}), scratch=scratch)
        stage.compute(task, TissueConfig())
        results.append([path.with_suffix(e).read_bytes() for e in (".h5", ".jpg", ".geojson")])
    assert results[0] == results[1]
    assert list((tmp_path / "scratch").iterdir()) == []
