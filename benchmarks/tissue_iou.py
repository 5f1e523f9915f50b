"""How well tissue and ink are found: tables of intersection over union.

Without `--slide`: every method under every painted condition. With `--slide`: a real H&E slide, its
two stains recombined as others, with and without a stroke of ink half over the tissue.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from slidemill.slides.conditions import CONDITIONS, paint_condition
from slidemill.slides.overview import read_overview
from slidemill.slides.reader import Slide
from slidemill.tissue.classes import TissueClass
from slidemill.tissue.find import Method, find_tissue, glass_colour

METHODS: tuple[Method, ...] = ("otsu", "hsv", "entropy")
MPP = 8.0
HE = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]])
"""Absorption of haematoxylin and eosin, by channel (Ruifrok and Johnston, 2001)."""
STAINS: dict[str, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "H&E": ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11)),
    "Giemsa": ((0.80, 0.56, 0.20), (0.40, 0.85, 0.25)),
    "toluidine blue": ((0.78, 0.58, 0.22), (0.72, 0.62, 0.30)),
    "methylene blue": ((0.85, 0.48, 0.12), (0.80, 0.50, 0.15)),
    "Feulgen, light green": ((0.15, 0.92, 0.36), (0.75, 0.25, 0.45)),
    "DAB, methyl green": ((0.80, 0.30, 0.45), (0.27, 0.57, 0.78)),
    "trichrome, blue": ((0.55, 0.75, 0.35), (0.85, 0.48, 0.15)),
    "trichrome, green": ((0.55, 0.75, 0.35), (0.82, 0.30, 0.42)),
    "PAS": ((0.65, 0.70, 0.29), (0.18, 0.91, 0.37)),
    "Alcian blue, red": ((0.10, 0.80, 0.55), (0.87, 0.43, 0.20)),
    "silver": ((0.60, 0.58, 0.55), (0.50, 0.58, 0.64)),
}
"""What takes the places of haematoxylin and eosin: rough directions of absorption."""
INKS = {
    "red": (0.88, 0.14, 0.20),
    "green": (0.15, 0.62, 0.50),
    "blue": (0.14, 0.33, 0.74),
    "black": (0.10, 0.09, 0.11),
}
"""Light that passes a full layer of ink, by channel."""
STROKE_UM = 240.0

Pixels = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]


def main() -> None:
    """Print a table: mean and least of the seeds; for glass, square mm of false tissue."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3, help="slides per condition")
    parser.add_argument("--first-seed", type=int, default=100, help="thresholds were tuned below")
    parser.add_argument("--slide", type=Path, action="append", default=[], help="an H&E slide")
    parser.add_argument("--mpp", type=float, default=0.5, help="um per pixel of those slides")
    arguments = parser.parse_args()
    if arguments.slide:
        for path in arguments.slide:
            stains(
                path,
                arguments.mpp,
                range(arguments.first_seed, arguments.first_seed + arguments.seeds),
            )
        return
    first, seeds = arguments.first_seed, arguments.seeds
    print(f"{'condition':<16}" + "".join(f"{method:>20}" for method in METHODS))
    for name in CONDITIONS:
        painted = [paint_condition(name, seed) for seed in range(first, first + seeds)]
        cells = []
        for method in METHODS:
            scores = []
            for pixels, truth, mpp in painted:
                found = find_tissue(
                    pixels, mpp, method=method, min_area_mm2=0.02, min_hole_mm2=0.005
                ).mask
                if truth.any():
                    scores.append(iou(found, truth))
                else:
                    scores.append(found.sum() * (mpp / 1000) ** 2)
            worst = max(scores) if name == "glass" else min(scores)
            unit = " mm2" if name == "glass" else ""
            cells.append(f"{np.mean(scores):.3f} ({worst:.3f}){unit}".rjust(20))
        print(f"{name:<16}" + "".join(cells), flush=True)


def stains(path: Path, mpp: float, seeds: range) -> None:
    """Print tissue's IoU without ink, and tissue's and ink's IoU with a stroke of every ink."""
    with Slide(path) as slide:
        scale = MPP / mpp
        pixels = read_overview(slide, scale, scale).pixels
    truth = classes_of(pixels) == TissueClass.TISSUE
    print(f"{path.name}\n{'stain':<22}{'no ink':>10}" + "".join(f"{ink:>16}" for ink in INKS))
    for stain in STAINS:
        plain = classes_of(recombined(pixels, stain)) == TissueClass.TISSUE
        cells = [f"{iou(plain, truth):.3f}".rjust(10)]
        for ink in INKS:
            scores = []
            for seed in seeds:
                marked, stroke = with_stroke(recombined(pixels, stain), truth, ink, seed)
                classes = classes_of(marked)
                tissue = iou(classes == TissueClass.TISSUE, truth & ~stroke)
                # A black stroke along an edge counts as a border.
                inked = (classes == TissueClass.PEN) | (classes == TissueClass.BLACK)
                scores.append((tissue, iou(inked, stroke)))
            cells.append("{:.3f} / {:.3f}".format(*np.mean(scores, axis=0)).rjust(16))
        print(f"{stain:<22}" + "".join(cells), flush=True)


def recombined(pixels: Pixels, stain: str) -> Pixels:
    """An H&E picture in other stains, by Beer-Lambert."""
    glass = np.array(glass_colour(pixels), np.float64)
    density = np.maximum(-np.log(np.maximum(pixels, 1) / glass), 0)
    unit = HE / np.linalg.norm(HE, axis=1, keepdims=True)
    amounts = np.maximum(density @ np.linalg.pinv(unit), 0)
    others = np.array(STAINS[stain])
    others = others / np.linalg.norm(others, axis=1, keepdims=True)
    light = glass * np.exp(-(amounts @ others))
    noise = np.random.default_rng(0).normal(0, 0.8, light.shape)
    return np.asarray(np.clip(np.rint(light + noise), 0, 255), np.uint8)


def with_stroke(pixels: Pixels, tissue: Mask, ink: str, seed: int) -> tuple[Pixels, Mask]:
    """A picture with a stroke of ink from glass into tissue, and where it is."""
    rng = np.random.default_rng([seed, len(ink)])
    ys, xs = np.nonzero(tissue)
    middle = np.array([np.median(xs), np.median(ys)])
    height, width = tissue.shape
    points = [middle]
    for _ in range(2):
        points.append(rng.uniform((0, 0), (width, height)))
    stroke = np.zeros(tissue.shape, np.uint8)
    lines = [np.rint(points).astype(np.int32)]
    cv2.polylines(stroke, lines, False, 1, round(STROKE_UM / MPP))
    soft = cv2.GaussianBlur(stroke.astype(np.float32), (0, 0), 1.0)
    # A pen gives more here and less there, over lengths of half a stroke's width.
    uneven = cv2.GaussianBlur(rng.standard_normal(soft.shape).astype(np.float32), (0, 0), 20)
    layer = soft * np.clip(1 + 0.15 * uneven / uneven.std(), 0.6, 1.4)
    absorbed = layer[..., None] * -np.log(np.array(INKS[ink]))
    return np.asarray(np.rint(pixels * np.exp(-absorbed)), np.uint8), stroke > 0


def classes_of(pixels: Pixels) -> Pixels:
    """Class map by Otsu's method with the defaults."""
    return find_tissue(pixels, MPP, method="otsu", min_area_mm2=0.02, min_hole_mm2=0.005).classes


def iou(found: Mask, truth: Mask) -> float:
    """Intersection over union."""
    return float((found & truth).sum() / max((found | truth).sum(), 1))


if __name__ == "__main__":
    main()
