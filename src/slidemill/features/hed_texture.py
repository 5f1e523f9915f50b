"""`hed-texture`: colour and texture statistics of separated stains, a tile encoder without weights.

It is deterministic, needs no download, and says what each of its columns means; it is the baseline
that every foundation model has to beat. A tile's row depends on that tile alone. Lengths are in
pixels and were chosen for 0.5 um a pixel (blobs, openings and binary patterns are computed on
haematoxylin averaged to half size, which loses nothing of that size and three quarters of the
time); at another resolution the columns keep their definition
and change their meaning for nuclei.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from skimage.feature import graycomatrix, graycoprops, local_binary_pattern

from slidemill.features.stain import separate_stains

Image = npt.NDArray[np.float32]

GLASS = 220
"""Pixels with no channel below this are glass."""
NUCLEAR_DENSITY = 0.45
"""Haematoxylin above this optical density counts as nuclear."""
BLOB_SIGMAS = (3.0, 5.0)
"""Widths of the blob filter, pixels; 5 suits nuclei of 8 um at 0.5 um a pixel."""
BLOB_RESPONSE = 0.12
"""A local maximum of the wider blob filter above this is a nucleus."""
BLOB_REACH = 9
"""Edge of the window in which a maximum has to be the largest, pixels."""
OPENINGS = (5, 9, 17)
"""Edges of the squares of the granulometry, pixels."""
GREY_LEVELS = 16
MAX_DENSITY = 1.6
"""Optical density at the top of the fixed range that is cut into grey levels."""
DISTANCES = (1, 4)
"""Distances of the co-occurrence matrices, pixels."""
LBP_BINS = 10
_STAINS = ("haematoxylin", "eosin", "residual")
_HARALICK = ("contrast", "homogeneity", "energy", "correlation")


@dataclass(frozen=True)
class Column:
    """One number of a feature.

    Attributes:
        name: Its name.
        unit: Its unit.
        meaning: What it is.
    """

    name: str
    unit: str
    meaning: str


def _columns() -> tuple[Column, ...]:
    rows: list[Column] = []
    for stain in _STAINS:
        rows += [
            Column(f"{stain}_mean", "OD", f"mean {stain}"),
            Column(f"{stain}_std", "OD", f"standard deviation of {stain}"),
            Column(f"{stain}_p10", "OD", f"10th percentile of {stain}"),
            Column(f"{stain}_p50", "OD", f"median {stain}"),
            Column(f"{stain}_p90", "OD", f"90th percentile of {stain}"),
            Column(f"{stain}_skewness", "1", f"skewness of {stain}; 0 where it is constant"),
        ]
    for colour in ("red", "green", "blue"):
        rows.append(Column(f"{colour}_mean", "0 to 1", f"mean {colour}"))
        rows.append(Column(f"{colour}_std", "0 to 1", f"standard deviation of {colour}"))
    rows += [
        Column("saturation_mean", "0 to 1", "mean saturation, (max - min) / max of the channels"),
        Column("saturation_std", "0 to 1", "standard deviation of saturation"),
        Column("glass_fraction", "0 to 1", f"pixels with no channel below {GLASS}"),
        Column(
            "nuclear_fraction", "0 to 1", f"pixels with haematoxylin above {NUCLEAR_DENSITY} OD"
        ),
        Column("nuclear_fraction_relative", "0 to 1", "pixels above mean + 1 std of haematoxylin"),
        Column(
            "nuclear_density",
            "per 10,000 px",
            f"local maxima above {BLOB_RESPONSE} OD of the blob filter of {BLOB_SIGMAS[1]:g} px",
        ),
    ]
    rows += [
        Column(
            f"blob_{sigma:g}",
            "OD",
            f"mean positive part of -s^2 x Laplacian of Gaussian of haematoxylin, s = {sigma:g} px",
        )
        for sigma in BLOB_SIGMAS
    ]
    rows += [
        Column(
            f"opening_{edge}", "OD", f"mean haematoxylin removed by opening with {edge} x {edge} px"
        )
        for edge in OPENINGS
    ]
    rows += [
        Column(f"{stain}_edges", "OD / px", f"mean length of the Sobel gradient of {stain}")
        for stain in _STAINS[:2]
    ]
    rows.append(
        Column("haematoxylin_share", "0 to 1", "haematoxylin / (haematoxylin + eosin), means")
    )
    rows += [
        Column(
            f"{stain}_{name}_{distance}",
            "1",
            f"Haralick {name} of {stain} in {GREY_LEVELS} levels of 0 to {MAX_DENSITY} OD, "
            f"{distance} px apart, mean of four angles",
        )
        for stain in _STAINS[:2]
        for distance in DISTANCES
        for name in _HARALICK
    ]
    rows += [
        Column(
            f"lbp_{number}",
            "0 to 1",
            "share of pixels of haematoxylin at half size with "
            + (
                f"a uniform binary pattern of {number} brighter neighbours of 8"
                if number < LBP_BINS - 1
                else "a pattern that is not uniform"
            ),
        )
        for number in range(LBP_BINS)
    ]
    return tuple(rows)


COLUMNS = _columns()
"""What each number of a feature is, in order."""
DIM = len(COLUMNS)
"""Length of a feature."""


def encode(tiles: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Features of tiles.

    Args:
        tiles: RGB, (N, T, T, 3) uint8, T at least 32.

    Returns:
        (N, DIM) float32, finite.

    Raises:
        ValueError: If the array is not of that kind.
    """
    if (
        tiles.dtype != np.uint8
        or tiles.ndim != 4
        or tiles.shape[-1] != 3
        or min(tiles.shape[1:3]) < 32
    ):
        raise ValueError(
            f"tiles have to be (N, T, T, 3) uint8, T >= 32, not {tiles.shape} {tiles.dtype}"
        )
    if len(tiles) == 0:
        return np.empty((0, DIM), np.float32)
    return np.stack([_encode_one(tile) for tile in tiles])


def _encode_one(tile: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    stains = separate_stains(tile)
    haematoxylin, eosin = stains[0], stains[1]
    values = [value for stain in stains for value in _moments(stain)]
    values += _colour(tile)
    half = _halved(haematoxylin)
    values += _nuclei(haematoxylin, half)
    values += [float((half - _opened(half, edge)).mean()) for edge in OPENINGS]
    values += [_edges(haematoxylin), _edges(eosin)]
    total = float(haematoxylin.mean() + eosin.mean())
    values.append(float(haematoxylin.mean()) / total if total > 0 else 0.0)
    values += _haralick(haematoxylin) + _haralick(eosin)
    values += _binary_patterns(half)
    return np.asarray(values, dtype=np.float32)


def _moments(stain: Image) -> list[float]:
    """Mean, standard deviation, three percentiles, skewness."""
    mean = float(stain.mean(dtype=np.float64))
    centred = stain.ravel() - np.float32(mean)
    square = centred * centred
    std = float(np.sqrt(square.mean(dtype=np.float64)))
    third = float((square * centred).mean(dtype=np.float64))
    skewness = third / std**3 if std > 1e-6 else 0.0
    return [mean, std, *np.percentile(stain, (10, 50, 90)).tolist(), skewness]


def _colour(tile: npt.NDArray[np.uint8]) -> list[float]:
    """Mean and deviation of the channels and of saturation, share of glass."""
    planes = np.ascontiguousarray(tile.reshape(-1, 3).T)
    channels = [
        float(value) / 255.0
        for plane in planes
        for value in (plane.mean(dtype=np.float64), plane.std(dtype=np.float64))
    ]
    darkest = np.minimum(np.minimum(planes[0], planes[1]), planes[2])
    brightest = np.maximum(np.maximum(planes[0], planes[1]), planes[2])
    saturation = (brightest - darkest) / np.maximum(brightest, 1).astype(np.float32)
    glass = float((darkest >= GLASS).mean())
    return [*channels, float(saturation.mean()), float(saturation.std()), glass]


def _halved(stain: Image) -> Image:
    """Means of 2 x 2 pixels; an odd last row or column is left out."""
    height, width = (edge // 2 * 2 for edge in stain.shape)
    blocks = stain[:height, :width].reshape(height // 2, 2, width // 2, 2)
    half: Image = blocks.mean(axis=(1, 3))
    return half


def _nuclei(haematoxylin: Image, half: Image) -> list[float]:
    """Nuclear fractions, density of blobs, mean response to blobs of two sizes."""
    threshold = haematoxylin.mean() + haematoxylin.std()
    # s^2 of the half-size image belongs to its own pixels: the response is the same at any size.
    widths = [sigma / 2 for sigma in BLOB_SIGMAS]
    responses = [-(s**2) * ndimage.gaussian_laplace(half, s, truncate=3.0) for s in widths]
    wide = responses[1]
    window = BLOB_REACH // 2 + 1
    peaks = (wide == ndimage.maximum_filter(wide, size=window)) & (wide > BLOB_RESPONSE)
    return [
        float((haematoxylin > NUCLEAR_DENSITY).mean()),
        float((haematoxylin > threshold).mean()),
        float(peaks.sum() * 1e4 / haematoxylin.size),
        *(float(np.maximum(response, 0).mean()) for response in responses),
    ]


def _opened(stain: Image, edge: int) -> Image:
    # The edge is in pixels of the tile; the image has half its size.
    size = edge // 2 + 1
    opened: Image = ndimage.grey_opening(stain, size=(size, size))
    return opened


def _edges(stain: Image) -> float:
    # Sobel's weights sum to 8: divided by it, the gradient is per pixel.
    across, down = ndimage.sobel(stain, axis=1), ndimage.sobel(stain, axis=0)
    return float(np.hypot(across, down).mean() / 8.0)


def _haralick(stain: Image) -> list[float]:
    """Haralick's statistics (1973, IEEE Trans. SMC 3:610), means over four angles."""
    levels = np.minimum(stain * (GREY_LEVELS / MAX_DENSITY), GREY_LEVELS - 1).astype(np.uint8)
    angles = [0, np.pi / 4, np.pi / 2, 3 * np.pi / 4]
    matrix = graycomatrix(
        levels, DISTANCES, angles, levels=GREY_LEVELS, symmetric=True, normed=True
    )
    found = {name: graycoprops(matrix, name).mean(axis=1) for name in _HARALICK}
    return [float(found[name][i]) for i in range(len(DISTANCES)) for name in _HARALICK]


def _binary_patterns(stain: Image) -> list[float]:
    """Uniform local binary patterns (Ojala et al. 2002, IEEE TPAMI 24:971), 8 at 1 px."""
    grey = np.minimum(stain * (255.0 / MAX_DENSITY), 255.0).astype(np.uint8)
    patterns = local_binary_pattern(grey, P=8, R=1, method="uniform").astype(np.int64)
    shares: list[float] = (
        np.bincount(patterns.ravel(), minlength=LBP_BINS) / patterns.size
    ).tolist()
    return shares


def columns_table() -> str:
    """The columns as a Markdown table."""
    lines = ["| # | name | unit | meaning |", "|---|---|---|---|"]
    lines += [f"| {i} | `{c.name}` | {c.unit} | {c.meaning} |" for i, c in enumerate(COLUMNS)]
    return "\n".join(lines)
