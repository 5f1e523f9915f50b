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
from scipy.ndimage import distance_transform_edt, gaussian_filter, map_coordinates
from scipy.spatial import cKDTree
from shapely import affinity
from shapely.geometry import Point, Polygon, box
from shapely.geometry.base import BaseGeometry
from shapely.ops import unary_union
from skimage.color import rgb_from_hed

Field = npt.NDArray[np.float32]

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
        return np.asarray(inner - outer, dtype=np.float32)

    def onto(self, other: "_Grid", field: Field) -> Field:
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
    foci = _foci(pieces, rng) if spec.positive and spec.tissue else Polygon()
    depth = np.full(layout.shape, -1e6, dtype=np.float32)
    haematoxylin = eosin = np.zeros(full.shape, dtype=np.float32)
    if spec.tissue:
        lumina = unary_union([_lumen(p, rng) for p in _inner_points(pieces, pieces.area, rng)])
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
        _draw_pen(pixels, spec, layout, pieces, rng)
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
        for left, right in zip(edges[:-1], edges[1:], strict=True)
    ]
    margin = 0.02 * min(width, height)
    return unary_union(outlines) & box(margin, margin, width - margin, height - margin)


def _inner_points(
    geometry: BaseGeometry, area_um2: float, rng: np.random.Generator, per_mm2: float = 14.0
) -> list[Point]:
    """Uniform random points in a geometry, um; at least 3."""
    left, top, right, bottom = geometry.bounds
    points: list[Point] = []
    while len(points) < max(3, area_um2 * per_mm2 / 1e6):
        point = Point(rng.uniform(left, right), rng.uniform(top, bottom))
        if geometry.contains(point):
            points.append(point)
    return points


def _lumen(centre: Point, rng: np.random.Generator) -> Polygon:
    radius = float(rng.lognormal(math.log(20.0), 0.5))
    stretch = rng.uniform(0.75, 1.35)
    return _blob(rng, centre.x, centre.y, radius * stretch, radius / stretch, 0.25)


def _foci(pieces: BaseGeometry, rng: np.random.Generator) -> BaseGeometry:
    """One to three foci that are 12 to 22 % of the pieces together, clear of the rim, um."""
    share = rng.uniform(0.12, 0.22)
    ground = pieces.buffer(-min(15.0, 0.02 * math.sqrt(pieces.area)))
    blobs: list[Polygon] = []
    for _ in range(int(rng.integers(1, 4))):
        candidates = _inner_points(ground, 30.0, rng, per_mm2=1e6)
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
    for centre in _inner_points(pieces, 0.0, rng)[: int(rng.integers(1, 4))]:
        # A patch of stronger stain: it is in both classes, so colour is no sign of a focus.
        patch = _blob(rng, centre.x, centre.y, *(spread * rng.uniform(0.1, 0.22, 2)), 0.25)
        soft = 0.5 + 0.5 * np.tanh(layout.depth(patch) / 40.0)
        field = red if rng.random() < 0.5 else strength
        field += soft * rng.uniform(0.25, 0.45)
    # Glandular cells around a lumen: bluer, less fibrous than stroma.
    gland = np.exp(-np.abs(wall - 9.0) / 7.0, dtype=np.float32)
    fibres = _fibres(fine, layout, rng) * (1.0 - 0.7 * layout.onto(fine, gland))
    cover = np.clip(layout.onto(fine, depth) / 4.0 + 0.5 + 0.25 * fibres, 0.0, 1.0)
    dye = cover * layout.onto(fine, strength)
    body = np.clip(1.0 + 0.36 * fibres, 0.08, 1.8)
    eosin = dye * body * layout.onto(fine, red) * (0.19 * spec.eosin)
    blue = dye * layout.onto(fine, 0.045 + 0.10 * gland) * (0.6 + 0.4 * body) * spec.haematoxylin
    return fine.onto(full, blue).copy(), fine.onto(full, eosin)


def _fibres(fine: _Grid, layout: _Grid, rng: np.random.Generator) -> Field:
    """Wavy fibres: noise that is stretched along a direction and bent; mean 0, deviation about 1.

    Both sums of a coarse and a fine texture are read from one periodic field of noise.
    """
    white = rng.standard_normal((1024, 1024), dtype=np.float32)
    texture = gaussian_filter(white, 1.5, mode="wrap") * (1.5 * math.sqrt(4 * math.pi))
    y, x = np.ogrid[: fine.shape[0], : fine.shape[1]]
    y, x = (y * fine.step_um[0]).astype(np.float32), (x * fine.step_um[1]).astype(np.float32)
    angle = rng.uniform(0, math.pi)
    bend = 90.0 * layout.noise(rng, 130.0) + 14.0 * layout.noise(rng, 28.0)
    across = layout.onto(fine, bend) + (y * math.cos(angle) - x * math.sin(angle))
    along = x * math.cos(angle) + y * math.sin(angle)
    result = np.zeros(fine.shape, dtype=np.float32)
    for width_um, length_um, weight in ((1.2, 14.0, 0.65), (4.5, 45.0, 0.75)):
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
    rate = NUCLEI_PER_MM2 * rng.lognormal(0.0, 0.22) * np.exp(0.3 * layout.noise(rng, 50.0))
    rate *= np.where(focus, FOCUS_DENSITY, 1.0) * (1.0 + 2.0 * np.exp(-(((wall - 8.0) / 4.0) ** 2)))
    row, column = np.nonzero(depth > 3.0)
    times = rng.poisson(rate[row, column] * cell_mm2)
    row, column = np.repeat(row, times), np.repeat(column, times)
    order = rng.permutation(row.size)
    row, column = row[order], column[order]
    at = (np.stack([row, column], 1) + rng.random((row.size, 2))) * layout.step_um
    pairs = cKDTree(at).query_pairs(CROWDING_UM, output_type="ndarray")
    keep = np.setdiff1d(np.arange(row.size), pairs.max(axis=1)) if pairs.size else order.argsort()
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
    height, width = haematoxylin.shape
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
    vectors = (rgb_from_hed[0], rgb_from_hed[1] + 0.45 * rgb_from_hed[2])
    grain = rng.standard_normal(lamp.shape, dtype=np.float32) * 1.6
    pixels = np.empty((*lamp.shape, 3), dtype=np.uint8)
    for channel, tint in enumerate((1.003, 1.0, 1.006)):
        blue, red = (np.float32(-math.log(10) * vector[channel]) for vector in vectors)
        light = lamp * np.exp(blue * haematoxylin + red * eosin) * np.float32(tint) + grain
        pixels[..., channel] = np.clip(np.rint(light), 0, 255)
    return pixels


def _blur_patch(
    pixels: npt.NDArray[np.uint8], spec: SlideSpec, pieces: BaseGeometry, rng: np.random.Generator
) -> None:
    """Put a round patch out of focus, in place."""
    centre = _inner_points(pieces, 0.0, rng)[0]
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
    layout: _Grid,
    pieces: BaseGeometry,
    rng: np.random.Generator,
) -> None:
    """Draw one to three strokes of ink along the tissue's edge or on the glass, in place."""
    size_um = math.sqrt(spec.width_px * spec.mpp_x * spec.height_px * spec.mpp_y)
    image = Image.new("L", layout.shape[::-1])
    draw = ImageDraw.Draw(image)
    outline = max(_polygons(pieces), key=lambda p: p.area).exterior if spec.tissue else None
    for _ in range(int(rng.integers(1, 4))):
        start, span = rng.random(), rng.uniform(0.06, 0.14)
        along = np.linspace(start, start + span, 24)
        if outline is None:
            line = np.stack([along, np.full(24, rng.random())], 1) % 1.0 * size_um
        else:
            line = np.array([outline.interpolate(s % 1.0, normalized=True).coords[0] for s in along])
            line += rng.normal(0.0, 0.02 * size_um, 2)
        cells = line / layout.step_um[::-1]
        width = max(2, round(rng.uniform(0.014, 0.03) * size_um / layout.step_um[1]))
        draw.line(cells.ravel().tolist(), fill=255, width=width, joint="curve")
    ink = gaussian_filter(np.asarray(image, dtype=np.float32) / 255, 1.5)
    ink *= np.clip(0.9 + 0.08 * layout.noise(rng, 10.0), 0.0, 1.0)
    top, left = (int(np.flatnonzero((ink > 0.01).any(axis=a))[0]) for a in (1, 0))
    strokes = layout.onto(_Grid(spec, spec.mpp_x), ink)
    del top, left
    for channel, passed in enumerate(_INKS[spec.pen or "black"]):
        light = pixels[..., channel] * np.exp(np.float32(math.log(passed)) * strokes)
        pixels[..., channel] = np.rint(light)


def _depth(
    grid: _Grid, pieces: BaseGeometry, rng: np.random.Generator
) -> tuple[Field, npt.NDArray[np.bool_]]:
    """Depth of each cell within the tissue, um, negative outside, and the rims of lumina."""
    lumina = np.zeros(grid.shape, dtype=np.bool_)
    for point in _inner_points(pieces, max(2, round(pieces.area * 14e-6)), rng):
        radius = rng.uniform(10.0, 42.0)
        blob = _blob(rng, point.x, point.y, radius, radius * rng.uniform(0.5, 1.0), 0.35)
        lumina |= grid.raster(blob)
    inside = grid.raster(pieces) & ~lumina
    depth = distance_transform_edt(inside, sampling=grid.step_um)
    depth -= distance_transform_edt(~inside, sampling=grid.step_um)
    ragged = 2.0 * grid.noise(rng, 9.0) + 2.5 * grid.noise(rng, 30.0)
    rim = distance_transform_edt(~lumina, sampling=grid.step_um) < 13.0
    return (gaussian_filter(depth, 1.0) + ragged).astype(np.float32), rim & inside


def _stains(
    spec: SlideSpec,
    grid: _Grid,
    pieces: BaseGeometry,
    foci: BaseGeometry,
    depth: Field,
    rim: npt.NDArray[np.bool_],
    rng: np.random.Generator,
) -> tuple[Field, Field]:
    """Concentrations of haematoxylin and eosin at level 0, in optical density."""
    size = (spec.height_px, spec.width_px)
    texture, angle = _fibres(spec, rng)
    density = rng.uniform(0.75, 1.3) * np.exp(0.25 * grid.noise(rng, 90.0))
    density = density * np.where(rim, 1.8, 1.0)
    nuclei = _nuclei(spec, grid, density, grid.raster(foci), depth, angle, rng)
    strong, pink = _patches(grid, pieces, rng), _patches(grid, pieces, rng)
    epithelial = gaussian_filter(rim.astype(np.float32), 1.0)
    gain = np.exp(0.10 * grid.noise(rng, 150.0)) * (1 + 0.45 * strong)
    eosin = spec.eosin * gain * (1 + 0.6 * pink) * np.exp(0.12 * grid.noise(rng, 40.0))
    blue = spec.haematoxylin * gain * (0.045 + 0.09 * epithelial)
    cover = np.clip(0.5 + grid.enlarge(depth, *size) / 2.0, 0, 1)
    body = cover * (1 + texture)
    haematoxylin = grid.enlarge(blue, *size) * body
    haematoxylin += nuclei * grid.enlarge(spec.haematoxylin * gain, *size)
    # Chromatin leaves little room for what eosin binds to.
    body *= 1 - 0.7 * np.minimum(nuclei / 0.4, 1)
    body *= grid.enlarge(0.26 * eosin, *size)
    return haematoxylin, body


def _patches(grid: _Grid, pieces: BaseGeometry, rng: np.random.Generator) -> Field:
    """Up to three soft patches, 0 to 1, somewhere in the tissue."""
    patches = np.zeros(grid.shape, dtype=np.float32)
    for point in _inner_points(pieces, int(rng.integers(1, 4)), rng):
        radius = math.sqrt(pieces.area) * rng.uniform(0.08, 0.2)
        patches[grid.raster(_blob(rng, point.x, point.y, radius, radius, 0.3))] = rng.uniform(0.5, 1)
    return gaussian_filter(patches, [25.0 / step for step in grid.step_um])


def _fibres(spec: SlideSpec, rng: np.random.Generator) -> tuple[Field, Field]:
    """Relative variation of the stroma at level 0, and the fibres' angle on their own grid, rad."""
    grid = _grid(spec, FIBRE_UM)
    y, x = (np.fft.fftfreq(_FIBRE_PERIOD, step)[:, None] for step in (grid.step_um[0],) * 2)
    x = x.T
    bank = np.empty((_FIBRE_ORIENTATIONS, _FIBRE_PERIOD, _FIBRE_PERIOD), dtype=np.float32)
    for k in range(_FIBRE_ORIENTATIONS):
        turn = math.pi * k / _FIBRE_ORIENTATIONS
        along = x * math.cos(turn) + y * math.sin(turn)
        across = y * math.cos(turn) - x * math.sin(turn)
        # Fine fibrils and the bundles that they run in.
        fine = np.exp(-2 * math.pi**2 * ((18.0 * along) ** 2 + (1.1 * across) ** 2))
        bundle = np.exp(-2 * math.pi**2 * ((32.0 * along) ** 2 + (3.2 * across) ** 2))
        white = np.fft.fft2(rng.standard_normal(bank.shape[1:], dtype=np.float32))
        wave = np.fft.ifft2(white * (fine + 2.0 * bundle)).real
        bank[k] = wave / wave.std()
    coarse = _grid(spec, LAYOUT_UM)
    real, imaginary = (coarse.noise(rng, 70.0) for _ in range(2))
    ratio = coarse.factor / grid.factor
    del ratio
    height, width = grid.shape
    return bank[0, :height, :width], np.arctan2(real, imaginary)
