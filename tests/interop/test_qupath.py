import json

from shapely.geometry import shape

from interop.runs import Given
from slidemill.interop.stage import export


def test_tissue_is_annotations_and_kept_tiles_are_tiles(make_run, tmp_path):
    run = make_run(Given("a", mpp_x=0.25, mpp_y=0.5, kept=((0, 0), (512, 256))))
    run.write()
    assert export(run.plan, "qupath", tmp_path) == 1
    text = (tmp_path / "a.geojson").read_text()
    features = json.loads(text)["features"]
    assert "NaN" not in text
    kinds = [feature["properties"]["objectType"] for feature in features]
    assert kinds == ["annotation", "tile", "tile"]
    assert features[0]["properties"]["name"] == "tissue 0"
    assert shape(features[0]["geometry"]).interiors
    assert shape(features[2]["geometry"]).bounds == (512, 256, 1024, 512)
    first, second = (feature["properties"]["measurements"] for feature in features[1:])
    assert first["tissue_fraction"] == 0.75
    assert first["focus"] == 12.5
    assert first["read_error"] == 0.0
    assert "focus" not in second
    assert not {"x", "y", "keep"} & set(first)


def test_a_run_without_tissue_gives_its_tiles(make_run, tmp_path):
    run = make_run(Given("a"))
    run.write()
    (run.plan.tissue.folder(run.plan.results) / "slides" / "a.geojson").unlink()
    export(run.plan, "qupath", tmp_path)
    features = json.loads((tmp_path / "a.geojson").read_text())["features"]
    assert [feature["properties"]["objectType"] for feature in features] == ["tile"] * 3
