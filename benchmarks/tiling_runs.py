"""Tissue and tiles of one slide by one tool, in a process of its own; for `tiling.py`.

`python tiling_runs.py TOOL SLIDE OUT` prints one line of JSON: seconds of work after all imports,
and the number of tiles (`TOOL:memory` is the same tool, for a run whose memory is watched). Tiles
are 256 px at 0.5 um per pixel with at least a tenth of tissue.
"""

import json
import sys
import time
from pathlib import Path

TILE_PX, MPP, MIN_TISSUE = 256, 0.5, 0.1


def slidemill(slide: Path, out: Path, qc: str = "overview") -> tuple[float, int]:
    """The jobs of the cohort, tissue and tiles stages; the first is not counted as work."""
    import openslide  # noqa: F401 - imported where a slide is opened, which is not work

    import slidemill.slides.readers.tiff
    import slidemill.tiles.candidates
    import slidemill.tissue.stage  # noqa: F401
    from slidemill import jobs
    from slidemill.artifacts.workers import available_cpus
    from slidemill.config import parse_config
    from slidemill.planner import make_plan

    out.mkdir(parents=True)
    (out / "slides.tsv").write_text(f"slide_id\tpath\tpatient_id\nbig\t{slide}\tp\n")
    tiles = {"tile_px": TILE_PX, "mpp": MPP, "min_tissue": MIN_TISSUE, "qc": qc}
    settings = {
        "buckets": 1,
        "cohort": {"sheet": "slides.tsv"},
        "tiles": tiles,
        "features": {"encoders": ["rgb-mean"]},
    }
    plan = make_plan(parse_config(settings, "benchmark"), out)
    cpus = available_cpus()
    stage = next(iter(plan.tiles.values()))
    jobs.cohort(plan, plan.buckets, cpus)
    started = time.perf_counter()
    jobs.tissue(plan, plan.buckets, cpus)
    jobs.tiles(plan, stage, plan.buckets, cpus)
    seconds = time.perf_counter() - started
    from slidemill.artifacts.parquet import read_rows

    rows = read_rows(plan.bucket_path(plan.candidates[stage.name], "0-of-1"), "manifest")
    return seconds, int(rows[0]["count"])


def slidemill_pixels(slide: Path, out: Path) -> tuple[float, int]:
    """The same with every column of quality from the tiles' own pixels."""
    return slidemill(slide, out, "pixels")


def plain(slide: Path, out: Path) -> tuple[float, int]:
    """What one writes in a notebook: a thumbnail, Otsu on saturation, a grid."""
    import numpy as np
    import openslide
    from PIL import Image
    from skimage.color import rgb2hsv
    from skimage.filters import threshold_otsu

    started = time.perf_counter()
    with openslide.OpenSlide(slide) as handle:
        mpp = float(handle.properties["openslide.mpp-x"])
        width, height = handle.dimensions
        thumbnail = handle.get_thumbnail((width // 32, height // 32))
    saturation = rgb2hsv(np.asarray(thumbnail))[..., 1]
    tissue = saturation > threshold_otsu(saturation)
    size = TILE_PX * MPP / mpp
    columns, rows = int(width // size), int(height // size)
    share = Image.fromarray(tissue.astype(np.float32)).resize((columns, rows), Image.Resampling.BOX)
    row, column = np.nonzero(np.asarray(share) >= MIN_TISSUE)
    coords = (np.stack([column, row], axis=1) * size).astype(np.int64)
    out.mkdir(parents=True)
    np.save(out / "coords.npy", coords)
    return time.perf_counter() - started, len(coords)


def hs2p(slide: Path, out: Path) -> tuple[float, int]:
    """hs2p with its own hsv segmentation."""
    import hs2p as tool

    started = time.perf_counter()
    found = tool.tile_slide(
        tool.SlideSpec(sample_id="big", image_path=slide),
        tiling=tool.TilingConfig(
            requested_spacing_um=MPP, requested_tile_size_px=TILE_PX, tolerance=0.05, overlap=0.0
        ),
        segmentation=tool.SegmentationConfig(method="hsv", downsample=64),
        masks=tool.MaskSamplingConfig(
            pixel_mapping={"background": (0,), "tissue": (1,)},
            colors={"background": None, "tissue": (157, 219, 129)},
            min_coverage={"tissue": MIN_TISSUE},
        ),
    )
    out.mkdir(parents=True)
    tool.save_tiling_result(found, output_dir=out)
    return time.perf_counter() - started, len(found.x)


def lazyslide(slide: Path, out: Path) -> tuple[float, int]:
    """LazySlide's Otsu and tiles."""
    import lazyslide as tool
    from wsidata import open_wsi

    started = time.perf_counter()
    handle = open_wsi(slide, store=str(out))
    tool.pp.find_tissues(handle)
    tool.pp.tile_tissues(handle, TILE_PX, mpp=MPP, background_fraction=1 - MIN_TISSUE)
    handle.write()
    return time.perf_counter() - started, len(handle.shapes["tiles"])


if __name__ == "__main__":
    seconds, count = globals()[sys.argv[1].removesuffix(":memory")](
        Path(sys.argv[2]).resolve(), Path(sys.argv[3])
    )
    print(json.dumps({"work_s": seconds, "tiles": count}))
