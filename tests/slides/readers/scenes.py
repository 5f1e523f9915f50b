"""Pictures with texture, and TIFFs of several directories, for the tests of levels."""

import cv2
import numpy as np
import tifffile

TILE = (64, 64)


def tissue(seed: int, width: int, height: int, share: float = 0.7) -> np.ndarray:
    """Smooth pink texture on glass; another seed is another slide."""
    rng = np.random.default_rng(seed)

    def noise(sigma: float) -> np.ndarray:
        values = rng.standard_normal((height, width)).astype(np.float32)
        smooth = cv2.GaussianBlur(values, (0, 0), sigma)
        return smooth / smooth.std()

    dense = np.clip(0.5 + 0.3 * noise(3) + 0.2 * noise(9), 0, 1)
    where = noise(width / 10) > np.quantile(noise(width / 10), 1 - share)
    absorbed = dense[..., None] * np.array([60, 140, 80]) * where[..., None]
    return (242 - absorbed).clip(0, 255).astype(np.uint8)


def reduced(pixels: np.ndarray, factor: float) -> np.ndarray:
    """A true level: sizes rounded down, by area."""
    size = (int(pixels.shape[1] / factor), int(pixels.shape[0] / factor))
    extent = pixels[: int(size[1] * factor), : int(size[0] * factor)]
    return cv2.resize(extent, size, interpolation=cv2.INTER_AREA)


def padded(pixels: np.ndarray, tile: int = TILE[0], value: int = 255) -> np.ndarray:
    """An image that is padded to whole tiles."""
    below, right = (-pixels.shape[0] % tile, -pixels.shape[1] % tile)
    return np.pad(pixels, ((0, below), (0, right), (0, 0)), constant_values=value)


def write(path, *images, **kind):
    """Write directories: arrays, or arrays with options; options of the file by name."""
    with tifffile.TiffWriter(path, **kind) as writer:
        for image in images:
            pixels, options = image if isinstance(image, tuple) else (image, {})
            options = {"tile": TILE, "photometric": "rgb", "compression": "deflate"} | options
            if options["tile"] is None:
                options.pop("tile")
            writer.write(pixels, **({"metadata": None} if not kind.get("ome") else {}) | options)
    return path
