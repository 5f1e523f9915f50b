"""Pictures of the report: arrays in, JPEG or SVG out.

The same arrays give the same bytes.
"""

import io
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from PIL import Image

from slidemill.report.heatmap import attention_heat


def attention_overlay(
    pixels: npt.NDArray[np.uint8],
    boxes: npt.NDArray[np.float64],
    attention: npt.NDArray[np.float32],
) -> bytes:
    """Attention over a slide: colours are ranks within the slide, blue for low, yellow for high.

    Args:
        pixels: The slide at low resolution, (H, W, 3) uint8.
        boxes: Left, top, right and bottom of each tile in pixels of `pixels`, (N, 4).
        attention: Weight of each tile, (N,).

    Returns:
        A JPEG.
    """
    return jpeg(Image.fromarray(attention_heat(pixels, boxes, attention)))


def jpeg(image: Image.Image, longest: int = 900) -> bytes:
    """A picture as JPEG, at most so many pixels long."""
    copy = image.convert("RGB")
    copy.thumbnail((longest, longest), Image.Resampling.BOX)
    buffer = io.BytesIO()
    copy.save(buffer, "JPEG", quality=82)
    return buffer.getvalue()


def loss_curves(curves: dict[str, Sequence[npt.NDArray[np.float64]]]) -> str:
    """Loss of every pretraining by epoch, one colour a run, one thin line a fold; an SVG."""
    with mpl.rc_context({"svg.hashsalt": "slidemill", "font.size": 9.5}):
        figure = Figure(figsize=(7.2, 2.9), layout="constrained")
        axes = figure.add_subplot()
        for number, (label, lines) in enumerate(curves.items()):
            colour = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")[number % 4]
            for i, line in enumerate(lines):
                axes.plot(
                    np.arange(1, len(line) + 1),
                    line,
                    color=colour,
                    linewidth=1.2,
                    alpha=0.75,
                    label=label if i == 0 else None,
                )
        axes.set(xlabel="epoch", ylabel="loss")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
        return _svg(figure)


def histogram(values: npt.NDArray[np.int64], xlabel: str) -> str:
    """A small histogram; an SVG."""
    with mpl.rc_context({"svg.hashsalt": "slidemill", "font.size": 9.5}):
        figure = Figure(figsize=(4.6, 2.2), layout="constrained")
        axes = figure.add_subplot()
        axes.hist(
            values, bins=min(20, max(5, len(values) // 3)), color="#56708a", edgecolor="white"
        )
        axes.set(xlabel=xlabel, ylabel="slides")
        axes.spines[["top", "right"]].set_visible(False)
        return _svg(figure)


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return inline_svg(buffer.getvalue())


def inline_svg(text: str) -> str:
    """The `<svg>` element of an SVG file, without its XML head, which HTML does not take."""
    return text[text.index("<svg") :]
