import cv2
import numpy as np
import pytest
from PIL import Image

from slidemill.slides.synthetic import SlideSpec, paint_slide
from slidemill.tissue.classes import TissueClass
from slidemill.tissue.exclude import components, find_excluded
from slidemill.tissue.find import find_tissue, optical_densities

MPP = 16.0
GLASS = (242, 242, 242)
INKS = {
    "red": (214, 34, 50),
    "pale red": (222, 104, 132),
    "green": (36, 150, 120),
    "pale green": (98, 193, 177),
    "blue": (50, 110, 200),
    "black": (22, 20, 26),
}
STAINS = {
    "eosin": (222, 130, 180),
    "blood": (185, 62, 75),
    "dense nuclei": (92, 62, 132),
    "haematoxylin": (150, 165, 205),
    "faint haematoxylin": (205, 214, 228),
    "DAB": (150, 102, 62),
    "heavy DAB": (95, 55, 28),
    "melanin": (105, 85, 70),
}


def canvas():
    rng = np.random.default_rng(0)
    pixels = np.array(GLASS) + rng.normal(0, 1.2, (260, 360, 3))
    return np.clip(pixels, 0, 255).astype(np.uint8)


def classify(pixels):
    return find_excluded(optical_densities(pixels, GLASS), MPP)


@pytest.mark.parametrize("ink", INKS)
def test_strokes_of_ink_are_pen(ink):
    pixels = canvas()
    if ink == "pale red":  # pale where the pen was quick; the stroke starts with a full dot
        cv2.circle(pixels, (60, 60), 12, INKS["red"], -1)
    stroke = np.zeros(pixels.shape[:2], np.uint8)
    cv2.polylines(stroke, [np.array([[60, 60], [180, 150], [300, 120]])], False, 1, 16)
    pixels[stroke > 0] = INKS[ink]
    classes = classify(pixels)
    assert (classes[stroke > 0] == TissueClass.PEN).mean() > 0.98
    far = cv2.dilate(stroke, np.ones((31, 31))) == 0
    assert (classes[far] == TissueClass.GLASS).all()


@pytest.mark.parametrize("stain", STAINS)
def test_stains_are_not_excluded(stain):
    pixels = canvas()
    rng = np.random.default_rng(1)
    colour = np.array(STAINS[stain]) * rng.normal(1, 0.06, (120, 160, 1))
    pixels[60:180, 80:240] = np.clip(colour, 0, 255)
    assert (classify(pixels)[60:180, 80:240] != TissueClass.GLASS).mean() < 0.02


def test_a_border_is_black_and_a_stroke_that_meets_it_is_not():
    pixels = canvas()
    pixels[:, :40] = 18
    pixels[-25:] = 25
    pixels[80:96, 100:220] = INKS["black"]
    pixels[:90, 296:312] = INKS["black"]
    classes = classify(pixels)
    assert (classes[:, :40] == TissueClass.BLACK).all()
    assert (classes[-25:] == TissueClass.BLACK).all()
    assert (classes[80:96, 100:220] == TissueClass.PEN).all()
    assert (classes[5:90, 296:312] == TissueClass.PEN).all()


def test_a_pitch_black_area_within_the_scan_is_black():
    pixels = canvas()
    pixels[100:160, 100:200] = 0
    assert (classify(pixels)[100:160, 100:200] == TissueClass.BLACK).all()


@pytest.mark.parametrize("level", [215, 150, 60])
def test_edges_and_rings_on_glass_are_other(level):
    pixels = canvas()
    marks = np.zeros(pixels.shape[:2], np.uint8)
    cv2.line(marks, (20, 0), (30, 259), 1, 2)
    cv2.circle(marks, (200, 130), 40, 1, 3)
    pixels[marks > 0] = level
    classes = classify(pixels)
    assert (classes[marks > 0] == TissueClass.OTHER).mean() > 0.95
    assert (classes[cv2.dilate(marks, np.ones((9, 9))) == 0] == TissueClass.GLASS).all()


def test_a_strand_and_grey_debris_are_not_other():
    pixels = canvas()
    cv2.line(pixels, (20, 20), (300, 200), (205, 140, 185), 3)
    cv2.circle(pixels, (300, 60), 4, (150, 150, 150), -1)
    assert (classify(pixels) == TissueClass.GLASS).all()


def test_components_have_their_areas_also_when_there_are_many():
    few = np.zeros((20, 30), np.uint8)
    few[2:5, 2:6] = few[5:8, 6:9] = 255
    labels, area = components(few, 4)
    assert sorted(area[1:].tolist()) == [9, 12]
    assert area.sum() == few.size
    assert (labels == 0).sum() == area[0]
    assert components(few, 8)[1][1:].tolist() == [21]
    many = np.zeros((600, 600), np.uint8)
    many[::2, ::2] = 1
    labels, area = components(many, 4)
    assert len(area) == 90_001
    assert labels.max() == 90_000
    assert (area[1:] == 1).all()


@pytest.mark.parametrize(
    ("name", "least"),
    [("diagnostic-slide-thumb-rgb", 0.12), ("wsi-blue-pen", 0.02), ("no-tissue-green-pen", 0.5)],
)
def test_real_pen_marks(shared, name, least):
    path = shared / "tiles" / "histolab_fixtures" / f"{name}.png"
    if not path.is_file():
        pytest.skip("no thumbnails with pen marks")
    pixels = np.asarray(Image.open(path).convert("RGB"))
    found = find_tissue(pixels, MPP, method="otsu", min_area_mm2=0.02, min_hole_mm2=0.005)
    assert (found.classes == TissueClass.PEN).mean() > least
    densities = -np.log(np.maximum(pixels, 1) / 240.0)
    clear = (densities[..., 0] > 0.8) & (densities[..., 0] > 1.8 * densities[..., 1])
    clear |= (densities[..., 1] > 1.4) & (densities[..., 0] < 0.12)
    assert found.mask[clear].mean() < 0.03


@pytest.mark.parametrize(("pen", "seed"), [("black", 0), ("black", 2), ("black", 5), ("blue", 5)])
def test_thin_strokes_over_tissue_are_ink(pen, seed):
    """Strokes 60 um wide, as on the demo's small slides, with tissue on both sides of them."""
    spec = SlideSpec(4096, 3072, mpp_x=0.5, mpp_y=0.5, positive=False, pen=pen)
    pixels = paint_slide(spec, seed).pixels
    small = cv2.resize(pixels, None, fx=1 / 16, fy=1 / 16, interpolation=cv2.INTER_AREA)
    found = find_tissue(small, 8.0, method="otsu", min_area_mm2=0.02, min_hole_mm2=0.005)
    light = small.astype(int)
    ink = light.max(axis=2) < 80
    if pen == "blue":
        ink = (light[..., 0] < 110) & (light[..., 0] < light[..., 2] - 40)
    assert ink.sum() > 300
    assert (ink & found.mask).sum() < 0.05 * ink.sum()


def test_what_is_not_listed_is_not_left_out():
    pixels = canvas()
    cv2.line(pixels, (40, 60), (300, 60), INKS["blue"], 16)
    pixels[-25:] = 18
    cv2.line(pixels, (20, 90), (330, 100), (120, 120, 120), 2)
    cv2.circle(pixels, (200, 170), 40, (120, 120, 120), 3)
    places = {"pen": (60, 150), "border": (250, 150), "edge": (95, 175), "bubble": (170, 240)}
    densities = optical_densities(pixels, GLASS)
    every = find_excluded(densities, MPP)
    assert all(every[place] != TissueClass.GLASS for place in places.values())
    for kind, place in places.items():
        classes = find_excluded(densities, MPP, [k for k in places if k != kind])
        assert classes[place] == TissueClass.GLASS
        others = [classes[where] == every[where] for k, where in places.items() if k != kind]
        assert all(others)
    assert (find_excluded(densities, MPP, []) == TissueClass.GLASS).all()
