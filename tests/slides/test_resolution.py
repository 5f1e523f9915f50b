import pytest

from slidemill.errors import SlideCode, SlideError
from slidemill.slides.reader import Slide
from slidemill.slides.resolution import is_plausible, objective_power, resolve_mpp

META = {"openslide.mpp-x": "0.25", "openslide.mpp-y": "0.26"}
POWER = {"openslide.objective-power": "40"}


def code(*arguments):
    with pytest.raises(SlideError) as caught:
        resolve_mpp(*arguments)
    return caught.value.code


def test_the_sheet_comes_before_the_metadata():
    found = resolve_mpp(META, 0.5, "refuse")
    assert (found.mpp_x, found.mpp_y, found.source) == (0.5, 0.5, "sheet")


def test_metadata_keep_x_and_y_apart():
    found = resolve_mpp(META, None, "refuse")
    assert (found.mpp_x, found.mpp_y, found.source) == (0.25, 0.26, "metadata:openslide.mpp-x")


def test_a_missing_mpp_is_never_guessed():
    assert code({}, None, "refuse") == SlideCode.MPP_MISSING
    assert code(POWER, None, "refuse") == SlideCode.MPP_MISSING
    assert code({}, None, "objective") == SlideCode.MPP_MISSING


def test_rules_for_a_missing_mpp_are_named_as_the_source():
    assert resolve_mpp(POWER, None, "objective").mpp_x == 0.25
    assert resolve_mpp(POWER, None, "objective").source == "objective"
    assert resolve_mpp({}, None, 0.5).source == "config"


@pytest.mark.parametrize("value", ["0", "352.8", "1000", "-0.5", "nan", "inf"])
def test_implausible_metadata_are_refused(value):
    meta = {"openslide.mpp-x": value, "openslide.mpp-y": value}
    assert code(meta, None, "refuse") == SlideCode.MPP_IMPLAUSIBLE
    assert not is_plausible(float(value))


def test_rubbish_in_the_metadata_is_no_mpp():
    meta = {"openslide.mpp-x": "n/a", "openslide.mpp-y": "n/a", "openslide.objective-power": "x"}
    assert code(meta, None, "objective") == SlideCode.MPP_MISSING
    assert objective_power(meta) is None


@pytest.mark.parametrize(
    ("properties", "expected", "key"),
    [
        ({"aperio.MPP": "0.2520"}, (0.252, 0.252), "aperio.MPP"),
        (
            {"openslide.mpp-x": "0.25", "openslide.mpp-y": "0.26", "aperio.MPP": "0.3"},
            (0.25, 0.26),
            "openslide.mpp-x",
        ),
        ({"ventana.ScanRes": "0.4650"}, (0.465, 0.465), "ventana.ScanRes"),
        (
            {
                "mirax.LAYER_0_LEVEL_0_SECTION.MICROMETER_PER_PIXEL_X": "0.2325",
                "mirax.LAYER_0_LEVEL_0_SECTION.MICROMETER_PER_PIXEL_Y": "0.2330",
            },
            (0.2325, 0.233),
            "mirax.LAYER_0_LEVEL_0_SECTION.MICROMETER_PER_PIXEL_X",
        ),
        (
            {"philips.DICOM_PIXEL_SPACING": '"0.000226907" "0.000226891"'},
            (0.226891, 0.226907),
            "philips.DICOM_PIXEL_SPACING",
        ),
        (
            {"openslide.comment": "<a><PixelSizeMicrons>0.2738</PixelSizeMicrons></a>"},
            (0.2738, 0.2738),
            "openslide.comment:PixelSizeMicrons",
        ),
        (
            {"ome.PhysicalSizeX": "0.5", "ome.PhysicalSizeY": "0.4"},
            (0.5, 0.4),
            "ome.PhysicalSizeX",
        ),
        (
            {
                "ome.PhysicalSizeX": "250",
                "ome.PhysicalSizeXUnit": "nm",
                "ome.PhysicalSizeY": "0.00025",
                "ome.PhysicalSizeYUnit": "mm",
            },
            (0.25, 0.25),
            "ome.PhysicalSizeX",
        ),
        (
            {"dicom.PixelSpacing-x": "0.499", "dicom.PixelSpacing-y": "0.5"},
            (0.499, 0.5),
            "dicom.PixelSpacing-x",
        ),
        (
            {
                "tiff.XResolution": "40000",
                "tiff.YResolution": "20000",
                "tiff.ResolutionUnit": "centimeter",
            },
            (0.25, 0.5),
            "tiff.XResolution",
        ),
        (
            {
                "tiff.XResolution": "50800",
                "tiff.YResolution": "50800",
                "tiff.ResolutionUnit": "inch",
            },
            (0.5, 0.5),
            "tiff.XResolution",
        ),
    ],
)
def test_every_key_that_vendors_use(properties, expected, key):
    found = resolve_mpp(properties, None, "refuse")
    assert (found.mpp_x, found.mpp_y) == pytest.approx(expected)
    assert found.source == f"metadata:{key}"


@pytest.mark.parametrize("dpi", [72, 96, 150, 300, 600, 1200])
def test_what_printers_and_screens_say_is_no_resolution(dpi):
    tags = {"tiff.XResolution": str(dpi), "tiff.YResolution": str(dpi)}
    assert code(tags | {"tiff.ResolutionUnit": "inch"}, None, "refuse") == (
        SlideCode.MPP_IMPLAUSIBLE
    )
    per_cm = {key: str(dpi / 2.54) for key in tags} | {"tiff.ResolutionUnit": "centimeter"}
    assert code(per_cm, None, "refuse") == SlideCode.MPP_IMPLAUSIBLE


def test_libvips_default_and_tags_without_a_unit():
    tags = {"tiff.XResolution": "10", "tiff.YResolution": "10"}
    assert code(tags | {"tiff.ResolutionUnit": "centimeter"}, None, "refuse") == (
        SlideCode.MPP_IMPLAUSIBLE
    )
    assert code(tags | {"tiff.ResolutionUnit": "none"}, None, "refuse") == SlideCode.MPP_MISSING


def test_an_implausible_key_gives_way_to_the_next():
    properties = {"openslide.mpp-x": "1000", "openslide.mpp-y": "1000", "aperio.MPP": "0.25"}
    assert resolve_mpp(properties, None, "refuse").source == "metadata:aperio.MPP"
    stretched = {"openslide.mpp-x": "0.25", "openslide.mpp-y": "25"}
    assert code(stretched, None, "refuse") == SlideCode.MPP_IMPLAUSIBLE


def test_real_slides_have_the_mpp_that_they_are_known_to_have(shared, brightfield_ndpi):
    known = {
        "CMU-1-Small-Region.svs": (0.499, "metadata:aperio.MPP"),
        "OS-1-detail.ome.tif": (0.2271, "metadata:ome.PhysicalSizeX"),
        "OS-2-vsi-Ki67.ome.tif": (0.3461, "metadata:ome.PhysicalSizeX"),
        "camelyon_jpeg.dcm": (28.97, "metadata:openslide.mpp-x"),
    }
    known = {shared / "slides" / name: value for name, value in known.items()}
    known[brightfield_ndpi] = (0.2282, "metadata:openslide.mpp-x")
    for path, (mpp, source) in known.items():
        with Slide(path) as slide:
            found = resolve_mpp(slide.properties, None, "refuse")
        assert found.mpp_x == pytest.approx(mpp, rel=1e-3)
        assert found.source == source
    for name, expected in (
        ("TCGA-CR-7395-01A-01-TS1.svs", SlideCode.MPP_MISSING),
        ("openslide-boxes.tiff", SlideCode.MPP_IMPLAUSIBLE),
    ):
        for reader in ("auto", "openslide"):
            with Slide(shared / "slides" / name, reader) as slide:
                assert code(slide.properties, None, "refuse") == expected
    with Slide(shared / "slides" / "camelyon_jpeg.dcm", "wsidicom") as slide:
        found = resolve_mpp(slide.properties, None, "refuse")
    assert found.mpp_x == pytest.approx(28.97, rel=1e-3)


def test_decimal_commas_and_units_as_scanners_and_people_write_them(shared):
    for reader in ("auto", "openslide"):
        with Slide(shared / "cases" / "mpp-text" / "comma.svs", reader) as slide:
            assert resolve_mpp(slide.properties, None, "refuse").mpp_x == 0.499
    spacing = {"philips.DICOM_PIXEL_SPACING": '"0,000226907" "0,000226891"'}
    assert resolve_mpp(spacing, None, "refuse").mpp_x == pytest.approx(0.226891)
    for text in ("0,25", "0.25 um", "250 nm", " 0.25 \N{MICRO SIGN}m/px "):
        assert resolve_mpp({"aperio.MPP": text}, None, "refuse").mpp_x == pytest.approx(0.25)
    for unit in ("micron", "\N{GREEK SMALL LETTER MU}m", ""):
        ome = {f"ome.PhysicalSize{axis}": "0,25" for axis in "XY"}
        units = {f"ome.PhysicalSize{axis}Unit": unit for axis in "XY"}
        assert resolve_mpp(ome | units, None, "refuse").mpp_x == 0.25


def test_the_objective_is_also_asked_for_by_the_keys_of_vendors():
    assert objective_power({"aperio.AppMag": "20x"}) == 20
    assert (
        objective_power({"openslide.objective-power": "-1", "hamamatsu.SourceLens": "40,0"}) == 40
    )
    assert objective_power({"aperio.AppMag": "0"}) is None
    assert objective_power({"aperio.AppMag": "inf"}) is None


@pytest.mark.parametrize(("mpp", "power"), [("12.6", "20"), ("0.499", "2.5"), ("1.0", "40x")])
def test_mpp_and_objective_that_disagree_are_not_chosen_between(mpp, power):
    properties = {"aperio.MPP": mpp, "aperio.AppMag": power}
    # Another key that would agree is no proof.
    properties |= {f"tiff.{axis}Resolution": repr(1e3 * float(power.strip("x"))) for axis in "XY"}
    properties["tiff.ResolutionUnit"] = "centimeter"
    with pytest.raises(SlideError) as caught:
        resolve_mpp(properties, None, "objective")
    assert caught.value.code == SlideCode.MPP_IMPLAUSIBLE
    for part in (f"{float(mpp):g} um", f"{power.strip('x')}x", "sheet's mpp column", "aperio.MPP"):
        assert part in caught.value.message
    assert resolve_mpp(properties, 0.5, "refuse").mpp_x == 0.5


@pytest.mark.parametrize(
    ("mpp", "power"),
    [
        ("0.25", "40"), ("0.5", "20"), ("0.228", "40"), ("0.1725", "40"), ("0.2325", "20"),
        ("0.19", "20"), ("0.65", "10"), ("1.0", "20"), ("0.1", "63"), ("28.97", "0"), ("8", "lens"),
    ],
)  # fmt: skip
def test_what_scanners_pair_agrees(mpp, power):
    properties = {"aperio.MPP": mpp, "aperio.AppMag": power}
    assert resolve_mpp(properties, None, "refuse").mpp_x == float(mpp)


def test_a_reduced_level_of_dicom_on_its_own_keeps_the_lens_of_its_scan():
    properties = {
        "dicom.PixelSpacing-x": "8",
        "dicom.PixelSpacing-y": "8",
        "dicom.ImageType[3]": "RESAMPLED",
        "openslide.objective-power": "40",
    }
    assert resolve_mpp(properties, None, "refuse").mpp_x == 8
    assert code(properties | {"dicom.ImageType[3]": "NONE"}, None, "refuse") == (
        SlideCode.MPP_IMPLAUSIBLE
    )
