"""Structural damage to slides: is one read as if it were sound, with pixels that are not its own?

Values of tags and of DICOM attributes, places and lengths of pieces are changed, swapped, repeated,
zeroed and removed, one a copy. What slidemill makes of a copy is compared with the sound slide;
what differs is right only where OpenSlide and tifffile, as many as read it, give the same.

    python benchmarks/mutations.py --slides ../shared/slides

Ends with 1 if a slide was read with pixels that are neither the sound ones nor every reference's.
"""

import argparse
import io
import shutil
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import openslide
import pydicom
import tifffile

from slidemill.errors import SlideError
from slidemill.slides.reader import Slide

REAL = (
    "CMU-1-Small-Region.svs",
    "TCGA-CR-7395-01A-01-TS1.svs",
    "OS-1-detail.ome.tif",
    "OS-2-vsi-Ki67.ome.tif",
    "openslide-boxes.tiff",
    "camelyon_jpeg.dcm",
    "camelyon_jpeg2000.dcm",
    "highdicom-sm_image.dcm",
)
BOX, BLOCK = 768, 128
"""Edges of what is read of level 0, and of what is compared at once, pixels."""
MEAN, WORST = 1.0, 24
"""Differences that decoders of JPEG may make, grey levels."""
MAX_REFERENCE = 200_000_000
"""Bytes of the largest image that a reference decodes whole."""
ATTRIBUTES = (
    "Rows",
    "Columns",
    "NumberOfFrames",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "PlanarConfiguration",
    "BitsStored",
    "TotalPixelMatrixColumns",
    "TotalPixelMatrixRows",
    "ImageType",
    "DimensionOrganizationType",
    "PixelData",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
    "OpticalPathSequence",
)

RGB = npt.NDArray[np.uint8]
Mutate = Callable[[Path, np.random.Generator], str]


@dataclass(frozen=True)
class Outcome:
    """What became of a damaged copy.

    Attributes:
        verdict: `refused`, `errors`, `same`, `as references` or `WRONG`.
        damage: What was done to it.
        detail: What was found.
    """

    verdict: str
    damage: str
    detail: str = ""


def synthetic(folder: Path, seed: int = 0) -> Iterator[Path]:
    """Slides of other layouts: smooth noise, so that every piece is unlike the others."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:520, :712]
    waves = [np.sin(rows / p + q) + np.cos(columns / r) for p, q, r in rng.uniform(9, 60, (3, 3))]
    noise = rng.normal(0, 6, (520, 712, 3))
    pixels = np.clip(150 + 40 * np.dstack(waves) + noise, 0, 255).astype(np.uint8)
    tiles = {"tile": (128, 128), "photometric": "rgb"}
    kinds: dict[str, dict[str, object]] = {
        "pyramid-jpeg.tif": {**tiles, "compression": "jpeg"},
        "deflate.tif": {**tiles, "compression": "deflate", "predictor": 2},
        "big-plain.tif": {**tiles, "bigtiff": True},
        "strips-lzw.tif": {"photometric": "rgb", "rowsperstrip": 40, "compression": "lzw"},
        "planes.ome.tif": {**tiles, "planarconfig": "separate", "compression": "lzw"},
        "strips-plain.tif": {"photometric": "rgb", "rowsperstrip": 40},
    }
    for name, options in kinds.items():
        big = bool(options.pop("bigtiff", False))
        separate = "planarconfig" in options
        with tifffile.TiffWriter(folder / name, bigtiff=big, ome=".ome." in name) as writer:
            writer.write(np.moveaxis(pixels, 2, 0) if separate else pixels, **options)
            if name.startswith("pyramid"):
                writer.write(pixels[::2, ::2], subfiletype=1, **options)
        yield folder / name


def mutate_tiff(path: Path, rng: np.random.Generator) -> str:
    """Change one tag of a directory of a TIFF, mostly of the first."""
    with tifffile.TiffFile(path) as file:
        number = 0 if rng.random() < 0.8 else int(rng.integers(len(file.pages)))
        tags = [tag for tag in _full(file.pages[number]).tags if tag.code < 60000]
        order = "little" if file.byteorder == "<" else "big"
        tables = [tag for tag in tags if tag.code in (273, 279, 324, 325)]
        numbers = [tag for tag in tags if tag.dtype in (1, 3, 4, 5, 13, 16)]
        kinds = tables if rng.random() < 0.45 else numbers
        chosen = kinds[int(rng.integers(len(kinds)))]
        size = {1: 1, 3: 2, 4: 4, 5: 4, 13: 4, 16: 8}[chosen.dtype]
        count = chosen.count * (2 if chosen.dtype == 5 else 1)
        entry, place, name = chosen.offset, chosen.valueoffset, f"{number}:{chosen.name}"
    with path.open("r+b") as stream:
        stream.seek(place)
        data = stream.read(size * count)
        values = [int.from_bytes(data[i : i + size], order) for i in range(0, len(data), size)]
        kind = str(rng.choice(["remove", "value", "value", "value"]))
        if kind == "remove":
            stream.seek(entry)
            stream.write((65111).to_bytes(2, order))
            return f"{name} removed"
        said = _change(values, rng)
        stream.seek(place)
        stream.write(b"".join((v % 256**size).to_bytes(size, order) for v in values))
    return f"{name} {said}"


def _full(page: object) -> tifffile.TiffPage:
    return page if isinstance(page, tifffile.TiffPage) else page.aspage()


def _change(values: list[int], rng: np.random.Generator) -> str:
    """Change one value, or of a table a run of them; what was done, in words."""
    at, other = (int(rng.integers(len(values))) for _ in range(2))
    if len(values) > 3:
        kind = str(rng.choice(["swap", "repeat", "zero", "zero run", "shift", "odd"]))
        if kind == "swap":
            values[at], values[other] = values[other], values[at]
        elif kind == "repeat":
            values[at] = values[other]
        elif kind == "shift":
            values[:] = [*values[1:], values[0]]
        elif kind.startswith("zero"):
            end = at + (1 if kind == "zero" else len(values) // 2)
            values[at:end] = [0] * len(values[at:end])
        else:
            values[at] += int(rng.choice([-1, 1, 64]))
        return f"{kind} at {at} ({other})"
    old = values[at]
    new = [0, 1, 2, old + 1, old - 1, old * 2, old // 2, old + 16, old - 16, 8, 65535, 65504]
    values[at] = int(rng.choice([value for value in new if value != old and value >= 0]))
    return f"{old} -> {values[at]}"


def mutate_dicom(path: Path, rng: np.random.Generator) -> str:
    """Change or remove one attribute of a DICOM file, or an item of its frames."""
    dataset = pydicom.dcmread(path)
    names = [name for name in ATTRIBUTES if name in dataset]
    name = str(rng.choice(names))
    old = dataset[name].value
    if rng.random() < 0.25 and name != "PixelData":
        del dataset[name]
        said = "removed"
    elif name == "PixelData":
        data = bytearray(old)
        at = int(rng.integers(len(data) // 2))
        if rng.random() < 0.5:
            data[at : at + 512] = bytes(len(data[at : at + 512]))
            said = f"zeros at {at}"
        else:  # the table of offsets, where there is one
            data[8:16] = data[12:16] + data[8:12]
            said = "offsets swapped"
        dataset.PixelData = bytes(data)
    elif isinstance(old, int):
        new = [0, 1, old + 1, old - 1, old * 2, old // 2, 16, 12, 3]
        value = int(rng.choice([v for v in new if v != old and v >= 0]))
        setattr(dataset, name, value)
        said = f"{old} -> {value}"
    elif isinstance(old, pydicom.Sequence):
        setattr(dataset, name, pydicom.Sequence(list(old)[:0] if len(old) < 2 else list(old)[::-1]))
        said = "emptied" if len(old) < 2 else "reversed"
    else:
        words = ["RGB", "YBR_FULL", "MONOCHROME2", "TILED_FULL", "TILED_SPARSE", "DERIVED"]
        value = str(rng.choice(words))
        setattr(dataset, name, value)
        said = f"-> {value}"
    with io.BytesIO() as stream:
        dataset.save_as(stream)
        path.write_bytes(stream.getvalue())
    return f"{name} {said}"


def box_of(size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The middle of a slide: left, top, width and height, pixels."""
    wide, high = min(BOX, size[0]), min(BOX, size[1])
    return (size[0] - wide) // 2, (size[1] - high) // 2, wide, high


def blocks(slide: Slide, box: tuple[int, int, int, int]) -> Iterator[tuple[int, int, RGB | None]]:
    """What a slide shows in a box, block by block; None where it says that it cannot."""
    left, top, wide, high = box
    for y in range(top, top + high, BLOCK):
        for x in range(left, left + wide, BLOCK):
            edges = min(BLOCK, left + wide - x), min(BLOCK, top + high - y)
            try:
                yield x, y, slide.read(0, x, y, *edges)
            except SlideError:
                yield x, y, None


def alike(one: RGB, other: RGB) -> bool:
    """Whether pixels are the same but for rounding."""
    if one.shape != other.shape:
        return False
    off = np.abs(one.astype(int) - other)
    return bool(off.mean() <= MEAN and off.max() <= WORST)


def references(path: Path, box: tuple[int, int, int, int]) -> list[RGB]:
    """What other readers show in a box, as many as show it."""
    left, top, wide, high = box
    found = []
    with suppress(Exception), openslide.OpenSlide(path) as handle:
        rgba = np.asarray(handle.read_region((left, top), 0, (wide, high))).astype(int)
        alpha = rgba[..., 3:]
        found.append(((rgba[..., :3] * alpha + 255 * (255 - alpha)) // 255).astype(np.uint8))
    with suppress(Exception), tifffile.TiffFile(path) as file:
        page = max((_full(page) for page in file.pages), key=lambda page: page.size)
        if page.nbytes <= MAX_REFERENCE:
            whole = page.asarray()
            whole = np.moveaxis(whole, 0, -1) if whole.shape[0] == 3 else whole
            whole = np.repeat(whole[..., None], 3, 2) if whole.ndim == 2 else whole[..., :3]
            found.append(np.ascontiguousarray(whole[top : top + high, left : left + wide]))
    return found


def judge(
    path: Path, damage: str, sound: list[tuple[int, int, RGB | None]], size: object
) -> Outcome:
    """Compare a damaged copy with the sound slide, and with what others make of the copy."""
    try:
        slide = Slide(path)
    except SlideError as error:
        return Outcome("refused", damage, error.code.value)
    with slide:
        box = box_of(slide.dimensions)
        found = list(blocks(slide, box))
        lost = sum(pixels is None for _, _, pixels in found)
        places = {(x, y): pixels for x, y, pixels in sound}
        odd = [
            (x, y, pixels)
            for x, y, pixels in found
            if pixels is not None
            and (slide.dimensions != size or not alike(pixels, places.get((x, y), pixels[:0])))
        ]
    if not odd:
        return Outcome("errors" if lost else "same", damage, f"{lost} of {len(found)} lost")
    others = references(path, box)
    for x, y, pixels in odd:
        high, wide = pixels.shape[:2]
        row, column = y - box[1], x - box[0]
        for other in others:
            if not alike(pixels, other[row : row + high, column : column + wide]):
                return Outcome("WRONG", damage, f"({x}, {y}) unlike a reference ({slide.reader})")
    verdict = "as references" if others else "WRONG"
    return Outcome(verdict, damage, f"{len(odd)} odd blocks, {len(others)} references")


def run(source: Path, count: int, seed: int, folder: Path) -> list[Outcome]:
    """Damage copies of a slide, one by one, and judge each."""
    mutate: Mutate = mutate_dicom if source.suffix == ".dcm" else mutate_tiff
    with Slide(source) as slide:
        sound, size = list(blocks(slide, box_of(slide.dimensions))), slide.dimensions
    outcomes = []
    for turn in range(count):
        rng = np.random.default_rng([seed, turn, *source.name.encode()])
        path = folder / f"copy-{source.name}"
        shutil.copyfile(source, path)
        damage = mutate(path, rng)
        outcomes.append(judge(path, damage, sound, size))
        path.unlink()
    return outcomes


def main() -> int:
    """Run all, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slides", type=Path, required=True)
    parser.add_argument("--count", type=int, default=60, help="copies of each slide")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    verdicts = ("refused", "errors", "same", "as references", "WRONG")
    print("| slide |", " | ".join(verdicts), "|\n|---|", "---|" * len(verdicts), sep="")
    total: Counter[str] = Counter()
    wrong = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = list(synthetic(folder))
        for source in [options.slides / one for one in REAL] + made:
            outcomes = run(source, options.count, options.seed, folder)
            tally = Counter(one.verdict for one in outcomes)
            total += tally
            wrong += [(source.name, one) for one in outcomes if one.verdict == "WRONG"]
            print(
                f"| {source.name} |", " | ".join(str(tally[v]) for v in verdicts), "|", flush=True
            )
    print("| all |", " | ".join(str(total[v]) for v in verdicts), "|")
    for slide, one in wrong:
        print(f"WRONG {slide}: {one.damage}: {one.detail}")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
