"""Random bytes of real slides are corrupted a few hundred times, and every stage is run on them.

Each must end as a result or as a fault of that slide: no error of another kind, no hang, and no
death of more than the child process that worked on it.
"""

import shutil
from collections import Counter

import numpy as np
import pytest

from slidemill.artifacts import formats
from slidemill.artifacts.folder import StageId
from slidemill.artifacts.manifest import SlideTask
from slidemill.artifacts.workers import Lost, work_apart
from slidemill.cohort.sheet import SheetRow
from slidemill.cohort.stage import describe
from slidemill.config import CohortConfig, TissueConfig
from slidemill.errors import SlideError
from slidemill.tiles import candidates
from slidemill.tissue import stage as tissue

SLIDES = (
    "OS-1-detail.ome.tif",
    "OS-2-vsi-Ki67.ome.tif",
    "CMU-1-Small-Region.svs",
    "openslide-small.svs",
    "openslide-boxes.tiff",
    "TCGA-CR-7395-01A-01-TS1.svs",
    "fluorescence-dapi.ndpi",
    "camelyon_jpeg.dcm",
    "camelyon_jpeg2000.dcm",
    "highdicom-sm_image.dcm",
)
ROUNDS = 32
"""Corruptions of each slide; 320 in all."""
COHORT = StageId("cohort", "c", formats.COHORT, 1, {})
SETTINGS = candidates.GridSettings(256, 1.0, 0, "exact", "pixels")


def corrupt(path, seed):
    """Write over a few bytes: in the head, in the tail, or anywhere."""
    rng = np.random.default_rng(seed)
    size = path.stat().st_size
    near = min(size, int(rng.choice([64, 4096, size])))
    from_end = bool(rng.integers(2))
    with path.open("r+b") as stream:
        for offset in rng.integers(0, near, int(rng.integers(1, 64))):
            stream.seek(size - 1 - int(offset) if from_end else int(offset))
            stream.write(rng.bytes(int(rng.integers(1, 9))))


def work(item):
    """Run the stages on one corrupted slide; what became of it, in a word."""
    path, folder = item
    row = SheetRow(path.stem, str(path), "p", 0.5, None, None, {})
    facts = describe(COHORT, row, CohortConfig())
    if facts["status"] != "ok":
        return facts["error_code"]
    stamp = COHORT.stamp(path.stem, {})
    mask = folder / f"{path.stem}.h5"
    try:
        tissue.compute(
            SlideTask(path.stem, facts, None, mask, stamp), TissueConfig(min_area_mm2=0.0)
        )
        tiles = SlideTask(path.stem, facts, mask, folder / f"{path.stem}.parquet", stamp)
        candidates.compute(tiles, SETTINGS, None)
    except SlideError as error:
        return error.code.value
    return "ok"


@pytest.mark.slow
def test_no_corruption_does_more_than_fail_its_slide(shared, tmp_path):
    items = []
    for number, name in enumerate(SLIDES):
        for turn in range(ROUNDS):
            path = tmp_path / f"{number}-{turn}-{name}"
            shutil.copy(shared / "slides" / name, path)
            corrupt(path, number * ROUNDS + turn)
            items.append((path, tmp_path))
    # A sound slide after every seventh: none of them may be lost.
    sound = shared / "slides" / "OS-1-detail.ome.tif"
    for position in range(0, len(items), 7):
        copy = tmp_path / f"sound-{position}.ome.tif"
        copy.symlink_to(sound)
        items.insert(position, (copy, tmp_path))
    found = dict(work_apart(work, items, 2, seconds=60.0))
    outcomes = Counter()
    for number, (path, _) in enumerate(items):
        result = found[number]
        lost = isinstance(result, Lost)
        assert not (lost and result.timed_out), f"{path.name} hangs"
        outcomes["crashed" if lost else result] += 1
        if path.name.startswith("sound"):
            assert result == "ok", f"{path.name}: {result}"
    assert sum(outcomes.values()) == len(items) >= 300
    assert len(outcomes) > 3, outcomes
