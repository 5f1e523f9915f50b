"""Attention over a slide as colours: what the report and `slidemill export attention` share.

Arrays in, arrays or a figure out; reads and writes nothing.
"""

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from scipy.stats import rankdata

from slidemill.evaluate.figures.style import DPI, LINE, look
from slidemill.tiles.grid import Coords, TileGeometry

OPACITY = 0.55
"""How far the heat map covers the slide."""

COLOURS = "plasma"
"""Colour map: blue for low, yellow for high, and ever lighter between, also in print. Its low end
is a colour, which a slide in grey has none of."""

SMALLEST_PX = 600
"""Slides whose longer edge is shorter are shown enlarged, by whole pixels."""

LEAST_WIDTH = 5.0
"""Width of a figure at the least, inches: room for a title."""

_TISSUE = 0.75
"""Grey of tissue, 0 to 1, on which the colours of the bar are shown."""

_GAP = 0.49
"""Level-0 pixels that may be between neighbours; at a half, a tile might get a pixel too many."""

Float64Array = npt.NDArray[np.float64]


def percentiles(attention: npt.NDArray[np.floating]) -> Float64Array:
    """Share of a slide's other tiles that have less attention, of ties the half, in percent.

    Ranks are what can be compared between slides and models: raw attention falls with the number of
    tiles, and a few tiles may have nearly all of it.

    Args:
        attention: Weight of each tile, (N,).

    Returns:
        float64 (N,): 0 for the lowest, 100 for the highest, 50 where all tiles are alike.
    """
    if len(attention) < 2:
        return np.full(len(attention), 50.0)
    return np.asarray(100.0 * (rankdata(attention) - 1.0) / (len(attention) - 1), np.float64)


def tile_boxes(
    coords: Coords, geometry: TileGeometry, scale: float, corner: tuple[float, float] = (0.0, 0.0)
) -> Float64Array:
    """Where tiles are in a picture of a slide, for `heat_of`.

    Corners are rounded to whole level-0 pixels, so that there may be half of one between a tile and
    the next; tiles are longer by as much here, or such gaps would be lines in the picture.

    Args:
        coords: (N, 2) int64 top-left corners, level-0 pixels.
        geometry: Size of the tiles.
        scale: Level-0 pixels per pixel of the picture.
        corner: Corner of the picture, level-0 pixels.

    Returns:
        Left, top, right and bottom of each tile in pixels of the picture, float64 (N, 4).
    """
    near = coords - np.array(corner)
    far = near + np.array([geometry.width, geometry.height]) + _GAP
    return np.asarray(np.concatenate([near, far], axis=1) / scale, np.float64)


def heat_of(
    shape: tuple[int, int], boxes: Float64Array, values: npt.NDArray[np.floating]
) -> Float64Array:
    """Values of tiles as a picture; where tiles overlap, their mean.

    The last tile painted would hide those below it, and a sum would show where tiles overlap.

    Args:
        shape: Height and width of the picture, pixels.
        boxes: Left, top, right and bottom of each tile in those pixels, (N, 4). A pixel belongs to
            a tile that its centre is in; a tile that is smaller than a pixel has one all the same.
        values: A value of each tile, finite, (N,).

    Returns:
        float64 of that shape; nan where there is no tile.
    """
    height, width = shape
    edges = np.rint(boxes).astype(np.int64)
    edges[:, 2:] = np.maximum(edges[:, 2:], edges[:, :2] + 1)
    left, top, right, bottom = np.clip(edges, 0, [width, height, width, height]).T
    total = np.zeros((height + 1, width + 1))
    count = np.zeros((height + 1, width + 1), dtype=np.int64)
    # What changes at each corner of a box; summed along both axes it fills the box.
    for y, x, sign in ((top, left, 1), (top, right, -1), (bottom, left, -1), (bottom, right, 1)):
        np.add.at(total, (y, x), sign * values)
        np.add.at(count, (y, x), sign)
    total, count = (table.cumsum(axis=0).cumsum(axis=1)[:-1, :-1] for table in (total, count))
    return np.asarray(np.divide(total, count, out=np.full(shape, np.nan), where=count > 0))


def paint(pixels: npt.NDArray[np.uint8], heat: Float64Array) -> npt.NDArray[np.uint8]:
    """A slide in grey with heat over it, and pale where there is none.

    Args:
        pixels: The slide at low resolution, (H, W, 3) uint8.
        heat: Percent in each pixel, (H, W); nan where there is no tile.

    Returns:
        (H, W, 3) uint8.
    """
    grey = pixels.mean(axis=2, keepdims=True).repeat(3, axis=2)
    there = np.isfinite(heat)
    painted = 0.5 * grey + 127.5
    colours = 255.0 * mpl.colormaps[COLOURS](np.clip(heat[there] / 100.0, 0.0, 1.0))[:, :3]
    painted[there] = (1 - OPACITY) * grey[there] + OPACITY * colours
    return np.asarray(painted, np.uint8)


def attention_heat(
    pixels: npt.NDArray[np.uint8], boxes: Float64Array, attention: npt.NDArray[np.floating]
) -> npt.NDArray[np.uint8]:
    """A slide with the ranks of its tiles' attention over it, (H, W, 3) uint8.

    Args:
        pixels: The slide at low resolution, (H, W, 3) uint8.
        boxes: Left, top, right and bottom of each tile in pixels of `pixels`, (N, 4).
        attention: Weight of each tile, (N,).
    """
    return paint(pixels, heat_of(pixels.shape[:2], boxes, percentiles(attention)))


@look()
def heatmap_figure(painted: npt.NDArray[np.uint8], title: str) -> Figure:
    """A painted slide, pixel by pixel, with a title and a bar of its colours.

    Args:
        painted: From `attention_heat`, (H, W, 3) uint8.
        title: Lines above it.
    """
    zoom = max(1, SMALLEST_PX // max(painted.shape[:2]))
    height, width = (zoom * edge / DPI for edge in painted.shape[:2])
    edge, bar, lines = 0.15, 1.0, LINE * (title.count("\n") + 1)
    across = max(edge + width + bar, LEAST_WIDTH)
    down = 2 * edge + height + lines + edge
    figure = Figure(figsize=(across, down))
    axes = figure.add_axes((edge / across, edge / down, width / across, height / down))
    # Placed in whole pixels and not resampled: what is seen is what the tiles are.
    axes.imshow(painted, interpolation="nearest", aspect="auto")
    axes.set_axis_off()
    figure.text(edge / across, 1 - edge / down, title, va="top", ha="left")
    tall = min(height, 3.0)
    place = ((edge + width + 0.15) / across, (edge + height - tall) / down, 0.14 / across)
    side = figure.add_axes((*place, tall / down))
    colours = figure.colorbar(
        ScalarMappable(Normalize(0.0, 100.0), _bar()), cax=side, ticks=[0, 50, 100]
    )
    colours.outline.set_visible(False)
    colours.set_label("attention, rank within the slide, %")
    return figure


def _bar() -> ListedColormap:
    """The colours as they look on tissue."""
    colours = mpl.colormaps[COLOURS](np.linspace(0.0, 1.0, 256))[:, :3]
    return ListedColormap((1 - OPACITY) * _TISSUE + OPACITY * colours)
