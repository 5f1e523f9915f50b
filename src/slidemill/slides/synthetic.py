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
from itertools import pairwise
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from scipy.ndimage import distance_transform_edt, gaussian_filter, map_coordinates
from scipy.spatial import cKDTree
from shapely import affinity
from shapely.geometry import LineString, Point, Polygon, box
from shapely.geometry.base import BaseGeometry
from shapely.ops import substring, unary_union
from skimage.color import rgb_from_hed

Field = npt.NDArray[np.float32]

LUMINA_PER_MM2 = 14.0
NUCLEI_PER_MM2 = 1700.0
"""Nuclei that are proposed outside foci on a slide of usual cellularity."""
FOCUS_DENSITY = 3.5
"""Nuclei that are proposed in a focus per one outside; crowding leaves about three."""
FOCUS_SIZE = 1.15
"""Length of a nucleus in a focus over the length outside."""
CROWDING_UM = 5.5
"""Of nuclei whose centres are closer than this, um, only one is kept."""
_LAYOUT_UM = 4.0  # wanted step of the grid on which everything smooth is laid out
_FIBRE_UM = 1.0  # wanted step of the grid of the fibres and edges
_NUCLEUS_REACH_UM = 8.0  # half the edge of the patch in which a nucleus is drawn
_BAND_PX = 64  # rows of pixels that are exposed at once
_INKS = {"blue": (0.15, 0.36, 0.76), "green": (0.12, 0.56, 0.34), "black": (0.11, 0.11, 0.13)}


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

    Raises:
        ValueError: If a slide without tissue is positive or blurred.
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

    def __post_init__(self) -> None:
        if not self.tissue and (self.positive or self.blurred):
            raise ValueError("a slide without tissue can be neither positive nor blurred")


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


class _Grid:
    """Square cells of `factor` level-0 pixels from the top-left corner, about `step_um` wide."""

    def __init__(self, spec: SlideSpec, step_um: float) -> None:
        self.factor = max(1, round(step_um / spec.mpp_x))
        self.shape = (-(-spec.height_px // self.factor), -(-spec.width_px // self.factor))
        self.step_um = (self.factor * spec.mpp_y, self.factor * spec.mpp_x)  # (y, x), as arrays

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
        for polygon in _polygons(geometry):
            xy = np.asarray(polygon.exterior.coords) / self.step_um[::-1] - 0.5
            draw.polygon(xy.ravel().tolist(), fill=1)
        return np.asarray(image)

    def depth(self, geometry: BaseGeometry) -> Field:
        """Distance to the outline in um, positive inside and negative outside."""
        inside = self.raster(geometry)
        inner = distance_transform_edt(np.pad(inside, 1), sampling=self.step_um)[1:-1, 1:-1]
        if inside.all() or not inside.any():
            return np.where(inside, inner, -1e6).astype(np.float32)
        outer = distance_transform_edt(~inside, sampling=self.step_um)
        # The distance between whole cells has steps, which would show in the outline.
        smooth: Field = gaussian_filter((inner - outer).astype(np.float32), 1.2)
        return smooth

    def onto(self, other: "_Grid", field: npt.NDArray[np.floating]) -> Field:
        """A field of this grid on a finer one, interpolated."""
        scale = other.factor / self.factor
        height, width = other.shape
        part = (min(width * scale, self.shape[1]), min(height * scale, self.shape[0]))
        image = Image.fromarray(np.ascontiguousarray(field, dtype=np.float32))
        return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR, (0, 0, *part)))


def paint_slide(spec: SlideSpec, seed: int) -> PaintedSlide:
    """Paint a slide.

    Args:
        spec: What to paint.
        seed: Decides everything that the spec leaves open.
    """
    rng = np.random.default_rng(seed)
    layout, full = _Grid(spec, _LAYOUT_UM), _Grid(spec, spec.mpp_x)
    pieces = _pieces(spec, rng) if spec.tissue else Polygon()
    foci = _foci(pieces, rng) if spec.positive else Polygon()
    depth = np.full(layout.shape, -1e6, dtype=np.float32)
    haematoxylin = eosin = np.zeros(full.shape, dtype=np.float32)
    if spec.tissue:
        count = max(3, round(pieces.area * LUMINA_PER_MM2 / 1e6))
        widest = 0.1 * math.sqrt(pieces.area)
        lumina = unary_union([_lumen(p, widest, rng) for p in _inner_points(pieces, count, rng)])
        wall = -layout.depth(lumina)
        rough = 7.0 * layout.noise(rng, 12.0) + 12.0 * layout.noise(rng, 45.0)
        depth = np.minimum(layout.depth(pieces) + rough, wall + 0.25 * rough)
        haematoxylin, eosin = _stroma(spec, layout, pieces, depth, wall, rng)
        _add_nuclei(haematoxylin, spec, layout, layout.raster(foci), depth, wall, rng)
    lamp = layout.onto(full, 241.0 + 1.2 * layout.noise(rng, 400.0))
    pixels = _expose(lamp, haematoxylin, eosin, rng)
    if spec.blurred:
        _blur_patch(pixels, spec, pieces, rng)
    if spec.pen is not None:
        _draw_pen(pixels, spec, _INKS[spec.pen], layout, pieces, rng)
    to_px = affinity.scale(foci, 1 / spec.mpp_x, 1 / spec.mpp_y, origin=(0, 0))
    return PaintedSlide(pixels, depth > 0, layout.factor, _polygons(to_px))


def _polygons(geometry: BaseGeometry) -> tuple[Polygon, ...]:
    parts = getattr(geometry, "geoms", [geometry])
    return tuple(part for part in parts if isinstance(part, Polygon) and not part.is_empty)


def _blob(
    rng: np.random.Generator, x: float, y: float, radius_x: float, radius_y: float, rough: float
) -> Polygon:
    """A smooth irregular outline about a centre, star-shaped, um."""
    angle = np.linspace(0, 2 * math.pi, 120, endpoint=False)
    order = np.arange(2, 9)[:, None]
    waves = np.cos(order * angle + rng.uniform(0, 2 * math.pi, order.shape)) / order
    radius = (1 + rough * (waves * rng.standard_normal(order.shape)).sum(axis=0)).clip(0.55, 1.45)
    return Polygon(
        np.stack([x + radius_x * radius * np.cos(angle), y + radius_y * radius * np.sin(angle)], 1)
    )


def _pieces(spec: SlideSpec, rng: np.random.Generator) -> BaseGeometry:
    """One to three pieces of tissue side by side, um."""
    width, height = spec.width_px * spec.mpp_x, spec.height_px * spec.mpp_y
    edges = np.cumsum([0.0, *rng.uniform(0.8, 1.2, int(rng.integers(1, 4)))])
    edges *= width / edges[-1]
    outlines = [
        _blob(
            rng,
            (left + right) / 2,
            height * rng.uniform(0.44, 0.56),
            (right - left) * rng.uniform(0.36, 0.44),
            height * rng.uniform(0.33, 0.42),
            rough=0.3,
        )
        for left, right in pairwise(edges.tolist())
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


def _lumen(centre: Point, widest: float, rng: np.random.Generator) -> Polygon:
    """A hole about a centre with a radius of about 20 um and at most `widest`, um."""
    radius = min(float(rng.lognormal(math.log(20.0), 0.5)), widest)
    stretch = rng.uniform(0.75, 1.35)
    return _blob(rng, centre.x, centre.y, radius * stretch, radius / stretch, 0.25)


def _foci(pieces: BaseGeometry, rng: np.random.Generator) -> BaseGeometry:
    """One to three foci that are 12 to 22 % of the pieces together, clear of the rim, um."""
    share = rng.uniform(0.12, 0.22)
    ground = pieces.buffer(-min(15.0, 0.02 * math.sqrt(pieces.area)))
    blobs: list[Polygon] = []
    for _ in range(int(rng.integers(1, 4))):
        candidates = _inner_points(ground, 30, rng)
        clear = [
            min([p.distance(ground.boundary), *(p.distance(other) / 2 for other in blobs)])
            for p in candidates
        ]
        centre = candidates[int(np.argmax(clear))]
        radius = math.sqrt(pieces.area * 0.03) * rng.uniform(0.75, 1.25)
        stretch = rng.uniform(0.85, 1.15)
        blobs.append(_blob(rng, centre.x, centre.y, radius * stretch, radius / stretch, 0.15))
    low, high = 0.1, 10.0
    for _ in range(20):
        scale = math.sqrt(low * high)
        foci = unary_union([affinity.scale(b, scale, scale, origin="centroid") for b in blobs])
        foci = foci & ground
        low, high = (scale, high) if foci.area < share * pieces.area else (low, scale)
    return foci


def _stroma(
    spec: SlideSpec,
    layout: _Grid,
    pieces: BaseGeometry,
    depth: Field,
    wall: Field,
    rng: np.random.Generator,
) -> tuple[Field, Field]:
    """Haematoxylin and eosin of tissue without its nuclei, optical density at level 0."""
    fine, full = _Grid(spec, _FIBRE_UM), _Grid(spec, spec.mpp_x)
    strength = 1.0 + 0.12 * layout.noise(rng, 250.0)
    red = 1.0 + 0.15 * layout.noise(rng, 120.0)
    spread = math.sqrt(pieces.area)
    for centre in _inner_points(pieces, int(rng.integers(1, 4)), rng):
        # A patch of stronger stain: it is in both classes, so colour is no sign of a focus.
        radius_x, radius_y = (spread * rng.uniform(0.1, 0.22, 2)).tolist()
        patch = _blob(rng, centre.x, centre.y, radius_x, radius_y, 0.25)
        soft = 0.5 + 0.5 * np.tanh(layout.depth(patch) / 40.0)
        field = red if rng.random() < 0.5 else strength
        field += soft * rng.uniform(0.25, 0.45)
    # Glandular cells around a lumen: bluer, less fibrous than stroma.
    gland = np.exp(-np.abs(wall - 9.0) / 7.0, dtype=np.float32)
    fibres = _fibres(fine, layout, rng) * (1.0 - 0.7 * layout.onto(fine, gland))
    cover = np.clip(layout.onto(fine, depth) / 4.0 + 0.5 + 0.25 * fibres, 0.0, 1.0)
    dye = cover * layout.onto(fine, strength)
    body = np.clip(1.0 + 0.34 * fibres, 0.08, 1.8)
    eosin = dye * body * layout.onto(fine, red) * (0.165 * spec.eosin)
    ground = layout.onto(fine, 0.045 + 0.13 * gland)
    blue = dye * ground * (0.6 + 0.4 * body) * spec.haematoxylin
    return fine.onto(full, blue).copy(), fine.onto(full, eosin)


def _fibres(fine: _Grid, layout: _Grid, rng: np.random.Generator) -> Field:
    """Wavy fibres: noise that is stretched along a direction and bent; mean 0, deviation about 1.

    Fibrils, the bundles that they run in and a fine grain are read from one periodic noise.
    """
    white = rng.standard_normal((1024, 1024), dtype=np.float32)
    texture = gaussian_filter(white, 1.5, mode="wrap") * (1.5 * math.sqrt(4 * math.pi))
    y, x = np.ogrid[: fine.shape[0], : fine.shape[1]]
    y, x = (y * fine.step_um[0]).astype(np.float32), (x * fine.step_um[1]).astype(np.float32)
    angle = rng.uniform(0, math.pi)
    # Gradients of the bend stay below 1: where it undid the direction, fibres would end in a pool.
    bend = 55.0 * layout.noise(rng, 140.0) + 5.0 * layout.noise(rng, 26.0)
    across = layout.onto(fine, bend) + (y * math.cos(angle) - x * math.sin(angle))
    along = x * math.cos(angle) + y * math.sin(angle)
    result = np.zeros(fine.shape, dtype=np.float32)
    scales = ((0.9, 9.0, 0.65), (3.2, 30.0, 0.6), (0.7, 0.9, 0.45))
    for width_um, length_um, weight in scales:
        at = np.stack([across / width_um, along / length_um])
        result += weight * map_coordinates(texture, at, order=1, mode="grid-wrap", prefilter=False)
    return result


def _add_nuclei(
    haematoxylin: Field,
    spec: SlideSpec,
    layout: _Grid,
    focus: npt.NDArray[np.bool_],
    depth: Field,
    wall: Field,
    rng: np.random.Generator,
) -> None:
    """Lay nuclei over the haematoxylin, in place."""
    cell_mm2 = layout.step_um[0] * layout.step_um[1] / 1e6
    rate = NUCLEI_PER_MM2 * rng.lognormal(0.0, 0.3) * np.exp(0.3 * layout.noise(rng, 50.0))
    rate *= np.where(focus, FOCUS_DENSITY, 1.0) * (1.0 + 2.0 * np.exp(-(((wall - 8.0) / 4.0) ** 2)))
    row, column = np.nonzero(depth > 3.0)
    times = rng.poisson(rate[row, column] * cell_mm2)
    row, column = np.repeat(row, times), np.repeat(column, times)
    order = rng.permutation(row.size)
    row, column = row[order], column[order]
    at = (np.stack([row, column], 1) + rng.random((row.size, 2))) * layout.step_um
    pairs = cKDTree(at).query_pairs(CROWDING_UM, output_type="ndarray")
    keep = np.setdiff1d(np.arange(row.size), pairs[:, 1])  # the later one of each pair
    larger = np.where(focus[row[keep], column[keep]], FOCUS_SIZE, 1.0)
    strength = spec.haematoxylin * rng.uniform(0.5, 0.85, keep.size)
    for first in range(0, keep.size, 256):
        some = slice(first, first + 256)
        _stamp(haematoxylin, spec, at[keep[some]], larger[some], strength[some], rng)


def _stamp(
    haematoxylin: Field,
    spec: SlideSpec,
    at: npt.NDArray[np.float64],
    larger: npt.NDArray[np.float64],
    strength: npt.NDArray[np.float64],
    rng: np.random.Generator,
) -> None:
    """Draw elliptic nuclei, 8 to 10 um long outside foci, at centres (y, x) in um."""
    mpp = np.array([spec.mpp_y, spec.mpp_x])
    half = math.ceil(_NUCLEUS_REACH_UM / mpp.min())
    centre = np.floor(at / mpp).astype(np.int64)
    offset = np.arange(-half, half + 1)
    shift = (at - (centre + 0.5) * mpp)[:, :, None, None]
    count = len(at)
    v = offset[:, None] * mpp[0] - shift[:, 0]
    u = offset[None, :] * mpp[1] - shift[:, 1]
    turn = rng.uniform(0, math.pi, (count, 1, 1))
    length = rng.uniform(8.0, 10.0, count) * larger
    ratio = np.where(rng.random(count) < 0.3, rng.uniform(0.4, 0.55, count), 0.0)
    ratio = np.where(ratio > 0, ratio, rng.uniform(0.62, 0.9, count))
    a, b = (length / 2)[:, None, None], (length * ratio / 2)[:, None, None]
    p = u * np.cos(turn) + v * np.sin(turn)
    q = v * np.cos(turn) - u * np.sin(turn)
    q = q + rng.normal(0.0, 0.02, (count, 1, 1)) * (p**2 - a**2 / 2)  # bent a little
    radius = np.hypot(p / a, q / b)
    inside = np.clip((1.0 - radius) * b / 0.55 + 0.5, 0.0, 1.0)
    clumps = gaussian_filter(rng.standard_normal(radius.shape), (0, *(0.55 / mpp)))
    clumps *= math.sqrt(4 * math.pi) * 0.55 / mpp.mean()
    chromatin = 0.86 + 0.16 * clumps + 0.2 * np.clip(radius, 0, 1) ** 4
    density = inside * chromatin * strength[:, None, None]
    for (cy, cx), patch in zip(centre.tolist(), density, strict=True):
        top, left = max(0, cy - half), max(0, cx - half)
        ground = haematoxylin[top : cy + half + 1, left : cx + half + 1]
        y, x = top - (cy - half), left - (cx - half)
        ground[:] = np.maximum(ground, patch[y : y + ground.shape[0], x : x + ground.shape[1]])


def _expose(
    lamp: Field, haematoxylin: Field, eosin: Field, rng: np.random.Generator
) -> npt.NDArray[np.uint8]:
    """Light through both stains (Beer-Lambert), with the noise of a camera."""
    # Eosin on a slide is warmer than its vector; part of the third vector stands for that.
    vectors = (rgb_from_hed[0], rgb_from_hed[1] + 0.7 * rgb_from_hed[2])
    pixels = np.empty((*lamp.shape, 3), dtype=np.uint8)
    for top in range(0, len(lamp), _BAND_PX):  # whole-slide temporaries cost more than the sums
        rows = slice(top, top + _BAND_PX)
        grain = rng.standard_normal(lamp[rows].shape, dtype=np.float32) * np.float32(1.6)
        for channel, tint in enumerate((1.003, 1.0, 1.006)):
            blue, red = (np.float32(-math.log(10) * vector[channel]) for vector in vectors)
            light = np.exp(blue * haematoxylin[rows] + red * eosin[rows])
            light *= lamp[rows] * np.float32(tint)
            light += grain
            pixels[rows, :, channel] = np.clip(np.rint(light), 0, 255)
    return pixels


def _blur_patch(
    pixels: npt.NDArray[np.uint8], spec: SlideSpec, pieces: BaseGeometry, rng: np.random.Generator
) -> None:
    """Put a round patch out of focus, in place."""
    centre = _inner_points(pieces, 1, rng)[0]
    radius = 0.14 * math.sqrt(pieces.area) * rng.uniform(0.9, 1.4)
    left, right = ((centre.x + side * radius) / spec.mpp_x for side in (-1, 1))
    top, bottom = ((centre.y + side * radius) / spec.mpp_y for side in (-1, 1))
    rows = slice(max(0, round(top)), max(0, round(bottom)))
    columns = slice(max(0, round(left)), max(0, round(right)))
    sharp = pixels[rows, columns].astype(np.float32)
    sigma = 3.0
    soft = gaussian_filter(sharp, (sigma / spec.mpp_y, sigma / spec.mpp_x, 0), truncate=3.0)
    y = (np.arange(sharp.shape[0]) + rows.start + 0.5)[:, None] * spec.mpp_y - centre.y
    x = (np.arange(sharp.shape[1]) + columns.start + 0.5)[None, :] * spec.mpp_x - centre.x
    weight = np.clip((1.0 - np.hypot(x, y) / radius) * 4.0, 0.0, 1.0)[..., None]
    pixels[rows, columns] = np.rint(sharp + (soft - sharp) * weight)


def _draw_pen(
    pixels: npt.NDArray[np.uint8],
    spec: SlideSpec,
    ink_light: tuple[float, float, float],
    layout: _Grid,
    pieces: BaseGeometry,
    rng: np.random.Generator,
) -> None:
    """Draw one to three strokes of ink along the tissue's edge or on the glass, in place."""
    width_um, height_um = spec.width_px * spec.mpp_x, spec.height_px * spec.mpp_y
    size_um = math.sqrt(width_um * height_um)
    strokes = []
    for _ in range(int(rng.integers(1, 4))):
        if spec.tissue:
            outline = LineString(max(_polygons(pieces), key=lambda piece: piece.area).exterior)
            start = rng.uniform(0.0, 0.85)
            line = substring(outline, start, start + rng.uniform(0.06, 0.14), normalized=True)
            line = affinity.translate(line, *rng.normal(0.0, 0.02 * size_um, 2).tolist())
        else:
            x, y = rng.uniform(0.2, 0.8, 2) * (width_um, height_um)
            line = LineString([(x, y), (x + rng.uniform(0.1, 0.3) * size_um, y)])
        strokes.append(line.buffer(rng.uniform(0.012, 0.024) * size_um))
    edge = layout.depth(unary_union(strokes)) + 3.0 * layout.noise(rng, 8.0)
    ink = np.clip(edge / 6.0 + 0.5, 0.0, 1.0) * (0.85 + 0.08 * layout.noise(rng, 14.0))
    amount = layout.onto(_Grid(spec, spec.mpp_x), ink)
    for channel, passed in enumerate(ink_light):
        light = pixels[..., channel] * np.exp(np.float32(math.log(passed)) * amount)
        pixels[..., channel] = np.clip(np.rint(light), 0, 255)
