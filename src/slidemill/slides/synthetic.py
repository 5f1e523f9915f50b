"""Painting H&E-like slides: tissue on glass with a signal that is known exactly.

A painted slide has pieces of fibrous tissue with lumina and nuclei. A positive slide has round
foci besides, in which nuclei are about three times as dense and a little larger: that alone is the
signal. Stain strength, overall cellularity and patches of stronger staining vary in both classes
alike, so mean colour does not give the label away. All sizes are in um, so they hold at every mpp.
Light is absorbed by the Beer-Lambert law along the stain vectors of Ruifrok and Johnston (2001,
Quantification of histochemical staining by color deconvolution), as scikit-image has them. The same
spec and seed give the same pixels.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from scipy.ndimage import distance_transform_edt, gaussian_filter
from scipy.spatial import cKDTree
from shapely import affinity
from shapely.geometry import MultiPolygon, Point, Polygon, box
from shapely.geometry.base import BaseGeometry
from shapely.ops import unary_union
from skimage.color import rgb_from_hed

Field = npt.NDArray[np.float32]

LAYOUT_UM = 4.0
"""Wanted step of the grid on which everything smooth is laid out, um."""
FIBRE_UM = 1.0
"""Wanted step of the grid of the fibres, um."""
NUCLEI_PER_MM2 = 1500.0
FOCUS_DENSITY = 3.4
"""Nuclei that are proposed in a focus per one outside; crowding leaves about three."""
FOCUS_SIZE = 1.15
"""Length of a nucleus in a focus over the length outside."""
CROWDING_UM = 5.5
"""Nuclei whose centres are closer than this are not both kept, um."""
_ORIENTATIONS = 16
_VARIANTS = 8
_FIBRE_ORIENTATIONS = 10
_FIBRE_PERIOD = 640
_INKS = {"blue": (0.16, 0.28, 0.72), "green": (0.10, 0.55, 0.30), "black": (0.10, 0.10, 0.12)}


@dataclass(frozen=True)
class SlideSpec:
    """What to paint.

    Attributes:
        width_px: Width of level 0, pixels.
        height_px: Height of level 0, pixels.
        mpp_x: um per pixel in x.
        mpp_y: um per pixel in y.
        positive: Whether the slide has foci.
        tissue: Whether there is tissue at all; without it the slide is bare glass.
        haematoxylin: Strength of the haematoxylin; 1 is usual.
        eosin: Strength of the eosin; 1 is usual.
        pen: Colour of a pen mark, or None.
        blurred: Whether a patch is out of focus.
    """

    width_px: int
    height_px: int
    mpp_x: float
    mpp_y: float
    positive: bool
    tissue: bool = True
    haematoxylin: float = 1.0
    eosin: float = 1.0
    pen: Literal["blue", "green", "black"] | None = None
    blurred: bool = False


@dataclass(frozen=True)
class PaintedSlide:
    """A painted slide and the truth about it.

    Attributes:
        pixels: RGB of level 0, (H, W, 3), uint8.
        tissue_mask: Where tissue is, without lumina, at a low resolution, (h, w), bool.
        tissue_downsample: Level-0 pixels per pixel of the mask, in x and in y.
        signal_regions: Outlines of the foci within the tissue, level-0 pixels; lumina count as in.
    """

    pixels: npt.NDArray[np.uint8]
    tissue_mask: npt.NDArray[np.bool_]
    tissue_downsample: int
    signal_regions: tuple[Polygon, ...]


@dataclass(frozen=True)
class _Grid:
    """A grid of square cells of `factor` level-0 pixels from the top-left corner."""

    factor: int
    shape: tuple[int, int]
    step_um: tuple[float, float]  # (y, x), as arrays are indexed

    def noise(self, rng: np.random.Generator, sigma_um: float) -> Field:
        """Smooth noise of mean 0 and standard deviation about 1."""
        sigma = [sigma_um / step for step in self.step_um]
        white = rng.standard_normal(self.shape, dtype=np.float32)
        # A Gaussian of width s leaves 1 / (4 pi s^2) of the variance of white noise.
        gain = math.sqrt(4 * math.pi * sigma[0] * sigma[1])
        smooth: Field = gaussian_filter(white, sigma, mode="reflect", truncate=3.0) * gain
        return smooth

    def raster(self, geometry: BaseGeometry) -> npt.NDArray[np.bool_]:
        """Cells in the polygons of a geometry in um; their holes are not looked at."""
        image = Image.new("1", self.shape[::-1])
        draw = ImageDraw.Draw(image)
        for polygon in getattr(geometry, "geoms", [geometry]):
            xy = np.asarray(polygon.exterior.coords) / self.step_um[::-1] - 0.5
            draw.polygon(xy.ravel().tolist(), fill=1)
        return np.asarray(image)

    def enlarge(self, field: npt.NDArray[np.generic], height: int, width: int) -> Field:
        """A field at level 0, interpolated."""
        size = (self.shape[1] * self.factor, self.shape[0] * self.factor)
        image = Image.fromarray(field.astype(np.float32)).resize(size, Image.Resampling.BILINEAR)
        return np.asarray(image)[:height, :width]


def paint_slide(spec: SlideSpec, seed: int) -> PaintedSlide:
    """Paint a slide.

    Args:
        spec: What to paint.
        seed: Decides everything that the spec leaves open.
    """
    rng = np.random.default_rng(seed)
    grid = _grid(spec, LAYOUT_UM)
    size = (spec.height_px, spec.width_px)
    pieces = _pieces(spec, rng) if spec.tissue else Polygon()
    foci = _foci(pieces, rng) if spec.positive and spec.tissue else Polygon()
    mask = np.zeros(grid.shape, dtype=np.bool_)
    white = 240.0 + grid.noise(rng, 400.0) * 1.2
    if spec.tissue:
        depth, rim = _depth(grid, pieces, rng)
        mask = depth > 0
        haematoxylin, eosin = _stains(spec, grid, pieces, foci, depth, rim, rng)
    else:
        haematoxylin = eosin = np.zeros(size, dtype=np.float32)
    light = grid.enlarge(white, *size)
    pixels = _expose(light, haematoxylin, eosin, rng)
    if spec.blurred and spec.tissue:
        _blur_patch(pixels, spec, pieces, rng)
    if spec.pen is not None:
        _draw_pen(pixels, spec, grid, pieces, rng)
    to_px = affinity.scale(foci, 1 / spec.mpp_x, 1 / spec.mpp_y, origin=(0, 0))
    return PaintedSlide(pixels, mask, grid.factor, _polygons(to_px))


def _grid(spec: SlideSpec, step_um: float) -> _Grid:
    factor = max(1, round(step_um / spec.mpp_x))
    shape = (math.ceil(spec.height_px / factor), math.ceil(spec.width_px / factor))
    return _Grid(factor, shape, (factor * spec.mpp_y, factor * spec.mpp_x))


def _polygons(geometry: BaseGeometry) -> tuple[Polygon, ...]:
    parts = geometry.geoms if isinstance(geometry, MultiPolygon) else [geometry]
    return tuple(part for part in parts if isinstance(part, Polygon) and not part.is_empty)


def _blob(
    rng: np.random.Generator, x: float, y: float, radius_x: float, radius_y: float, rough: float
) -> Polygon:
    """A smooth irregular outline about a centre, star-shaped, um."""
    angle = np.linspace(0, 2 * math.pi, 120, endpoint=False)
    order = np.arange(2, 9)[:, None]
    waves = np.cos(order * angle + rng.uniform(0, 2 * math.pi, order.shape)) / order
    radius = 1 + rough * (waves * rng.standard_normal(order.shape)).sum(axis=0)
    radius = radius.clip(0.55, 1.45)
    return Polygon(
        np.stack([x + radius_x * radius * np.cos(angle), y + radius_y * radius * np.sin(angle)], 1)
    )


def _pieces(spec: SlideSpec, rng: np.random.Generator) -> BaseGeometry:
    """One to three pieces of tissue side by side, um."""
    width, height = spec.width_px * spec.mpp_x, spec.height_px * spec.mpp_y
    count = int(rng.integers(1, 4))
    edges = np.cumsum([0.0, *rng.uniform(0.8, 1.2, count)])
    edges *= width / edges[-1]
    outlines = [
        _blob(
            rng,
            (left + right) / 2,
            height * rng.uniform(0.44, 0.56),
            (right - left) * rng.uniform(0.36, 0.44),
            height * rng.uniform(0.33, 0.42),
            rough=0.22,
        )
        for left, right in zip(edges[:-1], edges[1:], strict=True)
    ]
    margin = 0.02 * min(width, height)
    return unary_union(outlines) & box(margin, margin, width - margin, height - margin)


def _inner_points(geometry: BaseGeometry, count: int, rng: np.random.Generator) -> list[Point]:
    """Uniform random points in a geometry, um."""
    left, top, right, bottom = geometry.bounds
    points: list[Point] = []
    while len(points) < count:
        point = Point(rng.uniform(left, right), rng.uniform(top, bottom))
        if geometry.contains(point):
            points.append(point)
    return points


def _foci(pieces: BaseGeometry, rng: np.random.Generator) -> BaseGeometry:
    """One to three foci that are 12 to 22 % of the tissue together, um."""
    share = rng.uniform(0.12, 0.22)
    blobs: list[Polygon] = []
    for _ in range(int(rng.integers(1, 4))):
        candidates = _inner_points(pieces, 30, rng)
        clear = [
            min([p.distance(pieces.boundary), *(p.distance(other) / 2 for other in blobs)])
            for p in candidates
        ]
        centre = candidates[int(np.argmax(clear))]
        radius = math.sqrt(pieces.area * 0.03) * rng.uniform(0.75, 1.25)
        stretch = rng.uniform(0.85, 1.15)
        blobs.append(_blob(rng, centre.x, centre.y, radius * stretch, radius / stretch, 0.12))
    low, high = 0.1, 10.0
    for _ in range(24):
        scale = math.sqrt(low * high)
        foci = unary_union([affinity.scale(b, scale, scale, origin="centroid") for b in blobs])
        foci = foci & pieces
        low, high = (scale, high) if foci.area < share * pieces.area else (low, scale)
    return foci
