"""Slides as they come: pictures of what makes tissue hard to find, with the truth about it.

Every picture starts from a painted slide (`slidemill.slides.synthetic`), which is unmixed into its
two stains. Tissue is then cut to shape, stained otherwise, put under a lamp of its own, and ink,
bubbles, edges and borders are laid over it as layers that absorb light (Beer-Lambert; vectors of
Ruifrok and Johnston, 2001). The truth follows from the construction: tissue that is not under
opaque ink, with holes below `SMALLEST_HOLE_MM2` filled. The same name and seed give the same
picture. Reads and writes no file.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from slidemill.slides.synthetic import SlideSpec, paint_slide

Field = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Pixels = npt.NDArray[np.uint8]

CONDITIONS: tuple[str, ...] = (
    "normal",
    "faint",
    "ihc-brown",
    "ihc-faint",
    "dark-background",
    "pen",
    "holes",
    "fragments",
    "biopsy",
    "biopsy-tiny",
    "black-border",
    "bubble",
    "coverslip-edge",
    "glass",
)
MPP = 8.0
"""Resolution of the pictures, um per pixel."""
SMALLEST_HOLE_MM2 = 0.005
"""Smaller holes count as tissue."""

_STEP_UM = 4.0  # everything is laid out at twice the resolution of the picture
_HAEMATOXYLIN = np.array([0.65, 0.70, 0.29], np.float32)
_DAB = np.array([0.27, 0.57, 0.78], np.float32)
_EOSIN = np.array([0.07, 0.99, 0.11], np.float32) + 0.7 * _DAB  # as the painted slides have it
_LAMP = (241.0, 241.0, 242.0)
_INKS = {
    "red": (0.88, 0.14, 0.20),
    "green": (0.15, 0.62, 0.50),
    "blue": (0.14, 0.33, 0.74),
    "black": (0.10, 0.09, 0.11),
}
"""Light that passes a full layer of ink, by channel."""


@dataclass
class _Scene:
    """Layers of a picture at `_STEP_UM`, (H, W): optical densities (log10) of what absorbs."""

    haematoxylin: Field
    eosin: Field
    tissue: Mask
    rng: np.random.Generator

    def __post_init__(self) -> None:
        self.dab = np.zeros_like(self.eosin)
        self.over = np.zeros((*self.eosin.shape, 3), np.float32)
        self.lamp = np.ones_like(self.over) * np.array(_LAMP, np.float32)

    @property
    def size_um(self) -> tuple[float, float]:
        """Width and height."""
        return self.eosin.shape[1] * _STEP_UM, self.eosin.shape[0] * _STEP_UM

    def keep(self, shape: Field) -> None:
        """Cut the tissue to a shape, (H, W) in 0 to 1."""
        for dye in (self.haematoxylin, self.eosin):
            dye *= shape
        self.tissue &= shape > 0.5

    def expose(self) -> tuple[Pixels, Mask]:
        """The picture and where tissue is, at `MPP`."""
        density = self.over.copy()
        for dye, vector in (
            (self.haematoxylin, _HAEMATOXYLIN),
            (self.eosin, _EOSIN),
            (self.dab, _DAB),
        ):
            density += dye[..., None] * vector
        light = self.lamp * np.exp(np.float32(-math.log(10)) * density)
        size = (self.eosin.shape[1] // 2, self.eosin.shape[0] // 2)
        light = cv2.resize(light, size, interpolation=cv2.INTER_AREA)
        light = light + self.rng.standard_normal(light.shape, np.float32) * np.float32(0.8)
        truth = cv2.resize(self.tissue.astype(np.float32), size, interpolation=cv2.INTER_AREA)
        return np.clip(np.rint(light), 0, 255).astype(np.uint8), _filled(truth >= 0.5)


def paint_condition(name: str, seed: int) -> tuple[Pixels, Mask, float]:
    """Paint a slide under a condition.

    Args:
        name: One of `CONDITIONS`.
        seed: Decides everything that the name leaves open.

    Returns:
        Picture, (H, W, 3) uint8 RGB; where tissue is, (H, W); and um per pixel.

    Raises:
        ValueError: If there is no such condition.
    """
    if name not in CONDITIONS:
        raise ValueError(f"no condition {name!r}; there are {', '.join(CONDITIONS)}")
    wide = name == "biopsy"
    scene = _scene(seed, (9600.0, 2400.0) if wide else (4800.0, 3600.0), name == "glass")
    paint = {
        "faint": _fade,
        "ihc-brown": _stain_brown,
        "ihc-faint": _stain_blue,
        "dark-background": _dim,
        "pen": _mark,
        "holes": _punch,
        "fragments": _crumble,
        "biopsy": _core,
        "biopsy-tiny": _tiny_core,
        "black-border": _frame,
        "bubble": _trap_air,
        "coverslip-edge": _cover,
    }.get(name)
    if paint is not None:
        paint(scene)
    return (*scene.expose(), MPP)


def _scene(seed: int, size_um: tuple[float, float], glass: bool) -> _Scene:
    """A painted slide as layers that may be changed."""
    haematoxylin, eosin, tissue = _stains(seed, size_um, glass)
    rng = np.random.default_rng([seed, 0x511DE])
    return _Scene(haematoxylin.copy(), eosin.copy(), tissue.copy(), rng)


@lru_cache(maxsize=4)
def _stains(seed: int, size_um: tuple[float, float], glass: bool) -> tuple[Field, Field, Mask]:
    """A painted slide, unmixed by least squares: haematoxylin, eosin and where tissue is.

    Kept, because most conditions of a seed start from the same slide.
    """
    width, height = (round(edge / _STEP_UM) for edge in size_um)
    painted = paint_slide(SlideSpec(width, height, _STEP_UM, _STEP_UM, False, not glass), seed)
    density = np.log10(np.float32(242.0) / np.maximum(painted.pixels, 1).astype(np.float32))
    unmix = np.linalg.pinv(np.stack([_HAEMATOXYLIN, _EOSIN])).astype(np.float32)
    dyes = np.maximum(density @ unmix, 0.0)
    # Camera noise of the painted glass is no stain.
    near = cv2.dilate(painted.tissue_mask.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    dyes *= near[..., None]
    return (
        np.ascontiguousarray(dyes[..., 0]),
        np.ascontiguousarray(dyes[..., 1]),
        painted.tissue_mask,
    )


def _filled(mask: Mask) -> Mask:
    """A mask without its holes below `SMALLEST_HOLE_MM2`."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats((~mask).astype(np.uint8), connectivity=4)
    small = stats[:, cv2.CC_STAT_AREA] < SMALLEST_HOLE_MM2 * 1e6 / MPP**2
    small[0] = False
    filled: Mask = mask | small[labels]
    return filled


def _noise(scene: _Scene, sigma_um: float) -> Field:
    """Smooth noise of mean 0 and standard deviation 1."""
    height, width = scene.eosin.shape
    step = max(1, int(sigma_um / _STEP_UM / 4))  # smooth noise needs no fine grid
    shape = (height // step + 2, width // step + 2)
    white = scene.rng.standard_normal(shape, np.float32)
    smooth = cv2.GaussianBlur(white, (0, 0), sigma_um / _STEP_UM / step)
    smooth = cv2.resize(smooth, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.asarray(smooth / smooth.std(), np.float32)


def _soft(scene: _Scene, sharp: npt.NDArray[np.uint8], rough_um: float) -> Field:
    """A shape with a soft and somewhat rough outline, 0 to 1."""
    reach = max(3.0, rough_um)
    depth = cv2.distanceTransform(sharp, cv2.DIST_L2, 5) - cv2.distanceTransform(
        1 - sharp, cv2.DIST_L2, 5
    )
    depth = depth * _STEP_UM + rough_um * _noise(scene, 40.0)
    return np.asarray(np.clip(depth / reach + 0.5, 0.0, 1.0), np.float32)


def _blob(scene: _Scene, x: float, y: float, radius: float, rough: float = 0.2) -> Field:
    """A filled irregular outline about a centre, um."""
    angle = np.linspace(0, 2 * math.pi, 90, endpoint=False)
    order = np.arange(2, 7)[:, None]
    waves = np.cos(order * angle + scene.rng.uniform(0, 2 * math.pi, order.shape)) / order
    reach = radius * (1 + rough * (waves * scene.rng.standard_normal(order.shape)).sum(axis=0))
    xy = np.stack([x + reach * np.cos(angle), y + reach * np.sin(angle)], 1) / _STEP_UM
    sharp = np.zeros(scene.eosin.shape, np.uint8)
    cv2.fillPoly(sharp, [np.rint(xy).astype(np.int32)], 1)
    return sharp.astype(np.float32)


def _band(scene: _Scene, xy_um: npt.NDArray[np.float64], width_um: float) -> npt.NDArray[np.uint8]:
    """A line of points (n, 2) drawn with a width, uint8 0 or 1."""
    sharp = np.zeros(scene.eosin.shape, np.uint8)
    points = np.rint(xy_um / _STEP_UM * 8).astype(np.int32)
    cv2.polylines(sharp, [points], False, 1, max(1, round(width_um / _STEP_UM)), shift=3)
    return sharp


def _fade(scene: _Scene) -> None:
    """H&E that is nearly gone."""
    for dye in (scene.haematoxylin, scene.eosin):
        dye *= np.float32(0.11)


def _stain_brown(scene: _Scene) -> None:
    """Blue nuclei and patches of DAB; what eosin showed is but a blush."""
    positive = np.clip(0.5 + 0.8 * _noise(scene, 350.0), 0.0, 1.0)
    scene.dab[:] = scene.eosin * (0.04 + 1.3 * positive) + scene.haematoxylin * 0.6 * positive
    scene.haematoxylin *= np.float32(0.5)
    scene.haematoxylin += 0.12 * scene.eosin
    scene.eosin[:] = 0.0


def _stain_blue(scene: _Scene) -> None:
    """Weak haematoxylin alone: no antigen, no eosin."""
    scene.haematoxylin[:] = 0.22 * scene.haematoxylin + 0.16 * scene.eosin
    scene.dab[:] = 0.02 * scene.eosin
    scene.eosin[:] = 0.0


def _dim(scene: _Scene) -> None:
    """Brownish grey glass under a lamp that falls off to the corners."""
    height, width = scene.eosin.shape
    y, x = np.mgrid[:height, :width].astype(np.float32)
    cx, cy = scene.rng.uniform(0.4, 0.6, 2) * (width, height)
    far = ((x - cx) ** 2 + (y - cy) ** 2) / (0.25 * (width**2 + height**2))
    glass = np.array([172.0, 164.0, 150.0]) * scene.rng.uniform(0.85, 1.1)
    # The lamp's colour drifts a little with its brightness.
    for channel, fall in enumerate((0.27, 0.28, 0.295)):
        scene.lamp[..., channel] = glass[channel] * (1 - fall * far)


def _mark(scene: _Scene) -> None:
    """A stroke of every ink, along the rim of the tissue or over glass."""
    contours, _ = cv2.findContours(
        scene.tissue.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
    )
    rim = max(contours, key=len)[:, 0].astype(np.float64) * _STEP_UM
    for number, ink in enumerate(_INKS):
        start = int((number + scene.rng.uniform(0, 0.5)) / len(_INKS) * len(rim))
        part = np.take(rim, np.arange(start, start + len(rim) // 9), axis=0, mode="wrap")
        part = np.stack([_smooth(part[:, axis]) for axis in (0, 1)], 1)
        part += scene.rng.normal(0, 120.0, 2)
        layer = _soft(scene, _band(scene, part, scene.rng.uniform(180, 380)), 8.0)
        # Ink pools along a stroke's rim and is thinner where the pen was quick.
        layer *= np.clip(0.85 + 0.12 * _noise(scene, 150.0), 0.5, 1.15)
        scene.over += layer[..., None] * -np.log10(np.array(_INKS[ink], np.float32))
        scene.tissue &= layer < 0.4


def _smooth(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    kernel = np.hanning(91) / np.hanning(91).sum()
    return np.convolve(np.pad(values, 45, mode="edge"), kernel, mode="valid")


def _punch(scene: _Scene) -> None:
    """Round holes of 0.002 square mm, which count as tissue, and of 0.012 and 0.1, which do not."""
    rows, columns = np.nonzero(scene.tissue)
    for area, count in ((0.002, 12), (0.012, 8), (0.1, 4)):
        radius = math.sqrt(area * 1e6 / math.pi)
        for index in scene.rng.integers(0, len(rows), count):
            x, y = columns[index] * _STEP_UM, rows[index] * _STEP_UM
            scene.keep(1 - _blob(scene, x, y, radius, 0.1))


def _crumble(scene: _Scene) -> None:
    """Crumbs of 0.15 to 0.5 mm, each larger than the smallest piece that counts."""
    width, height = scene.size_um
    crumbs = np.zeros_like(scene.eosin)
    for x in np.arange(500, width - 400, 700.0):
        for y in np.arange(500, height - 400, 700.0):
            radius = scene.rng.uniform(110, 250)
            dx, dy = scene.rng.uniform(-100, 100, 2)
            crumbs = np.maximum(crumbs, _blob(scene, x + dx, y + dy, radius))
    scene.keep(_soft(scene, crumbs.astype(np.uint8), 6.0))
    _drop_small(scene)


def _core(scene: _Scene) -> None:
    """A needle core of about 8 mm by 0.9 mm that broke here and there."""
    width, height = scene.size_um
    x = np.linspace(0.08 * width, 0.92 * width, 200)
    bend = 150.0 * np.sin(x / width * 2 * math.pi * scene.rng.uniform(0.5, 1.2))
    y = height / 2 + bend
    scene.keep(_soft(scene, _band(scene, np.stack([x, y], 1), 900.0), 14.0))
    _drop_small(scene)


def _tiny_core(scene: _Scene) -> None:
    """A fragment of 1 mm by 0.35 mm and nothing else."""
    depth = cv2.distanceTransform(scene.tissue.astype(np.uint8), cv2.DIST_L2, 5)
    depth = cv2.GaussianBlur(depth, (0, 0), 25)
    y, x = (at * _STEP_UM for at in np.unravel_index(int(depth.argmax()), depth.shape))
    turn = scene.rng.uniform(0, math.pi)
    along = np.linspace(-320, 320, 50)[:, None] * [math.cos(turn), math.sin(turn)]
    scene.keep(_soft(scene, _band(scene, along + np.array([x, y]), 350.0), 8.0))
    _drop_small(scene)


def _drop_small(scene: _Scene) -> None:
    """Wipe off what is too small to count, so that the truth is plain."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(scene.tissue.astype(np.uint8))
    small = stats[:, cv2.CC_STAT_AREA] < 0.03 * 1e6 / _STEP_UM**2
    small[0] = False
    bits = cv2.dilate(small[labels].astype(np.uint8), np.ones((9, 9), np.uint8))
    rest = (scene.tissue & ~small[labels]).astype(np.uint8)
    scene.keep((1 - bits * (1 - rest)).astype(np.float32))
    scene.tissue &= ~small[labels]


def _frame(scene: _Scene) -> None:
    """A dark holder along two to three sides, its inner corners round."""
    height, width = scene.eosin.shape
    left, top, right, bottom = scene.rng.uniform(0.0, 0.09, 4) * [width, height, width, height]
    bounds = np.array([max(left, 0.04 * width), top, width - right, height - bottom]).astype(int)
    window: npt.NDArray[np.uint8] = np.zeros((height, width), np.uint8)
    window[bounds[1] : bounds[3], bounds[0] : bounds[2]] = 1
    corner = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (81, 81))
    rounded = cv2.morphologyEx(np.pad(window, 60), cv2.MORPH_OPEN, corner)
    window = np.asarray(rounded, np.uint8)[60:-60, 60:-60]
    shade = 1 - cv2.GaussianBlur(window.astype(np.float32), (0, 0), 3)
    scene.over += shade[..., None] * np.float32(1.5 + 0.1 * scene.rng.random())
    scene.tissue &= shade < 0.3


def _trap_air(scene: _Scene) -> None:
    """Air bubbles: a dark ring, a bright seam within it, and glass inside."""
    width, height = scene.size_um
    far = cv2.distanceTransform((~scene.tissue).astype(np.uint8), cv2.DIST_L2, 5) * _STEP_UM
    for _ in range(5):
        candidates = scene.rng.uniform(0.04, 0.96, (30, 2)) * (width, height)
        clear = [far[int(y / _STEP_UM), int(x / _STEP_UM)] for x, y in candidates]
        x, y = candidates[int(np.argmax(clear))]
        radius = scene.rng.uniform(120, 420)
        ring = _ring(scene, x, y, radius)
        thick = scene.rng.uniform(22, 45)
        dark = np.exp(-((ring / thick) ** 2)) * scene.rng.uniform(0.35, 0.7)
        seam = np.exp(-(((ring + 1.6 * thick) / 12.0) ** 2)) * 0.012
        scene.over += (dark - seam).astype(np.float32)[..., None]
        far[np.abs(ring) < 200] = 0


def _ring(scene: _Scene, x: float, y: float, radius: float) -> Field:
    """Distance of every cell to a circle that is not quite round, um, negative inside."""
    v, u = np.mgrid[: scene.eosin.shape[0], : scene.eosin.shape[1]].astype(np.float32) * _STEP_UM
    angle = np.arctan2(v - y, u - x)
    bent = 1 + 0.06 * np.cos(2 * angle + scene.rng.uniform(0, 6)) + 0.03 * np.cos(3 * angle)
    return np.asarray(np.hypot(u - x, v - y) - radius * bent, np.float32)


def _cover(scene: _Scene) -> None:
    """Two edges of a coverslip: thin grey lines right across, greyer glass on their inner side."""
    width, height = scene.size_um
    for across in (False, True):
        at, tilt = scene.rng.uniform(0.03, 0.09), scene.rng.normal(0, 0.015)
        v, u = np.mgrid[: scene.eosin.shape[0], : scene.eosin.shape[1]].astype(np.float32)
        u, v = u * _STEP_UM, v * _STEP_UM
        side = (v - at * height - tilt * u) if across else (u - at * width - tilt * v)
        dark = np.exp(-((side / 14.0) ** 2)) * scene.rng.uniform(0.2, 0.5)
        dark += np.exp(-(((side - 70.0) / 9.0) ** 2)) * 0.08
        dark += np.clip(side / 8.0, 0, 1) * 0.012
        scene.over += dark.astype(np.float32)[..., None]
