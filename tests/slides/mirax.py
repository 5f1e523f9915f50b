"""A small MIRAX slide, written for tests: what was scanned lies on a larger canvas.

Facts of the format (Slidedat.ini, Index.dat, data files) are those that OpenSlide reads. One image
is one camera position, without overlap; images that nothing was scanned of are not stored.
"""

import struct
from pathlib import Path

import cv2
import numpy as np

VERSION, SLIDE_ID = b"01.02", b"slidemilltest"
TILE = 250
"""Edge of an image; no step of a usual grid divides it, so a grid shows where it begins."""


def write_mirax(
    path: Path,
    pixels: np.ndarray,
    *,
    at: tuple[int, int],
    canvas: tuple[int, int],
    levels=3,
    mpp=0.5,
) -> None:
    """Write `path` and the folder beside it.

    Args:
        path: A .mrxs.
        pixels: (H, W, 3) uint8, whole images of `TILE` px: what was scanned.
        at: Column and row of its first image on the canvas.
        canvas: Columns and rows of images.
        levels: Zoom levels, each half of the one before.
        mpp: um per pixel.
    """
    folder = path.with_suffix("")
    folder.mkdir(parents=True)
    path.write_bytes(_jpeg(pixels[:TILE, :TILE]))
    whole = np.full((canvas[1] * TILE, canvas[0] * TILE, 3), 255, np.uint8)
    x, y = at[0] * TILE, at[1] * TILE
    whole[y : y + pixels.shape[0], x : x + pixels.shape[1]] = pixels
    scanned = np.zeros(canvas[::-1], bool)
    scanned[at[1] : at[1] + pixels.shape[0] // TILE, at[0] : at[0] + pixels.shape[1] // TILE] = True
    data, pages = bytearray(b"\0" * 16), []
    for level in range(levels):
        step = 2**level
        size = (whole.shape[1] // step, whole.shape[0] // step)
        small = cv2.resize(whole, size, interpolation=cv2.INTER_AREA)
        records = []
        for row in range(0, canvas[1], step):
            for column in range(0, canvas[0], step):
                if not scanned[row : row + step, column : column + step].any():
                    continue
                top, left = row // step * TILE, column // step * TILE
                image = _jpeg(small[top : top + TILE, left : left + TILE])
                records.append((row * canvas[0] + column, len(data), len(image), 0))
                data += image
        pages.append(records)
    (folder / "Data0000.dat").write_bytes(data)
    (folder / "Index.dat").write_bytes(_index(pages))
    (folder / "Slidedat.ini").write_text(_slidedat(canvas, levels, mpp))


def _jpeg(image: np.ndarray) -> bytes:
    fitted = np.full((TILE, TILE, 3), 255, np.uint8)
    fitted[: image.shape[0], : image.shape[1]] = image
    bgr = cv2.cvtColor(fitted, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()


def _index(pages: list[list[tuple[int, int, int, int]]]) -> bytes:
    """A table of pointers to levels, and one page of records for each."""
    head = VERSION + SLIDE_ID
    root = len(head) + 8
    table = b""
    body = b""
    start = root + 4 * len(pages)
    for records in pages:
        at = start + len(body)
        table += struct.pack("<i", at)
        body += struct.pack("<iiii", 0, at + 8, len(records), 0)
        body += b"".join(struct.pack("<iiii", *record) for record in records)
    return head + struct.pack("<ii", root, 0) + table + body


def _slidedat(canvas: tuple[int, int], levels: int, mpp: float) -> str:
    sections = {
        "GENERAL": {
            "SLIDE_VERSION": "01.02", "SLIDE_ID": SLIDE_ID.decode(),
            "IMAGENUMBER_X": canvas[0], "IMAGENUMBER_Y": canvas[1],
            "OBJECTIVE_MAGNIFICATION": 20, "CameraImageDivisionsPerSide": 1,
        },
        "HIERARCHICAL": {
            "HIER_COUNT": 1, "NONHIER_COUNT": 0, "INDEXFILE": "Index.dat",
            "HIER_0_NAME": "Slide zoom level", "HIER_0_COUNT": levels,
            **{f"HIER_0_VAL_{i}_SECTION": f"LAYER_0_LEVEL_{i}_SECTION" for i in range(levels)},
        },
        "DATAFILE": {"FILE_COUNT": 1, "FILE_0": "Data0000.dat"},
    } | {
        f"LAYER_0_LEVEL_{i}_SECTION": {
            "OVERLAP_X": 0, "OVERLAP_Y": 0, "IMAGE_FORMAT": "JPEG",
            "MICROMETER_PER_PIXEL_X": mpp * 2**i, "MICROMETER_PER_PIXEL_Y": mpp * 2**i,
            "IMAGE_FILL_COLOR_BGR": 16777215, "IMAGE_CONCAT_FACTOR": min(i, 1),
            "DIGITIZER_WIDTH": TILE, "DIGITIZER_HEIGHT": TILE,
        }
        for i in range(levels)
    }  # fmt: skip
    return "".join(
        f"[{name}]\n" + "".join(f"{key} = {value}\n" for key, value in keys.items())
        for name, keys in sections.items()
    )
