"""A finished run, made of the real plan and of artifacts that the real writers wrote."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from shapely.geometry import Polygon, mapping

from slidemill.artifacts.digest import file_sha256
from slidemill.artifacts.folder import StageId
from slidemill.artifacts.formats import COHORT, FEATURES, MANIFEST, TILES
from slidemill.artifacts.hdf5 import write_hdf5
from slidemill.artifacts.manifest import write_manifest
from slidemill.artifacts.parquet import write_parquet
from slidemill.artifacts.provenance import Stamp
from slidemill.plan import Plan
from slidemill.tiles.grid import TileGeometry, tile_geometry

BLANK = {"str": "", "int64": 0, "float64": 0.0, "float32": 0.0, "bool": False}
RING = [(10, 10), (900, 20), (880, 700), (30, 690)]
HOLE = [(200, 200), (300, 200), (300, 300), (200, 300)]


@dataclass(frozen=True)
class Given:
    """A slide of a run: its facts, and the tiles that it has."""

    slide_id: str
    width: int = 2220
    height: int = 2967
    mpp_x: float = 0.499
    mpp_y: float = 0.499
    kept: tuple[tuple[int, int], ...] = ((0, 0), (256, 0), (0, 256))
    dropped: tuple[tuple[int, int], ...] = ((512, 0),)
    failed: bool = False


def row_of(spec, **values):
    """A row of a format with nothing in it but what is given."""
    blank = {item.name: None if item.nullable else BLANK[item.dtype] for item in spec.fields}
    return blank | values


def stamp_of(stage: StageId) -> Stamp:
    return Stamp(digest=stage.digest, item_digest=stage.digest)


@dataclass
class Run:
    """A run's folder; the parts of it are written one by one."""

    folder: Path
    plan: Plan
    slides: tuple[Given, ...]

    def write(self, geometry: TileGeometry | None = None) -> None:
        """Cohort, tissue and tiles, then the features of every encoder."""
        self.write_cohort()
        self.write_tissue()
        for stage in self.plan.tiles.values():
            self.write_tiles(stage, geometry)
        for number, unit in enumerate(self.plan.encoders):
            self.write_features(unit, 3 + number)

    def write_cohort(self) -> None:
        rows = [
            row_of(
                COHORT,
                slide_id=slide.slide_id,
                patient_id=slide.slide_id,
                width=slide.width,
                height=slide.height,
                mpp_x=slide.mpp_x,
                mpp_y=slide.mpp_y,
                status="ok",
                item_digest="c" * 64,
            )
            for slide in self.slides
        ]
        path, stage = self.plan.manifest_path(self.plan.cohort), self.plan.cohort
        write_parquet(path, pd.DataFrame(rows), COHORT, stamp_of(stage))

    def _manifest(self, stage: StageId, suffix: str) -> None:
        rows = []
        for slide in self.slides:
            path = stage.folder(self.plan.results) / "slides" / f"{slide.slide_id}{suffix}"
            if slide.failed:
                values = {
                    "status": "failed",
                    "failed_stage": "tissue",
                    "error_code": "no-tissue",
                    "message": "none",
                }
            else:
                values = {
                    "status": "ok",
                    "path": f"slides/{path.name}",
                    "sha256": file_sha256(path),
                    "count": 1,
                    "item_digest": stage.digest,
                }
            rows.append(row_of(MANIFEST, slide_id=slide.slide_id, **values))
        write_manifest(self.plan.manifest_path(stage), rows, stage)

    def write_tissue(self) -> None:
        stage = self.plan.tissue
        folder = stage.folder(self.plan.results) / "slides"
        folder.mkdir(parents=True)
        feature = {
            "type": "Feature",
            "geometry": mapping(Polygon(RING, [HOLE])),
            "properties": {"objectType": "annotation", "name": "tissue 0", "tissue_id": 0},
        }
        for slide in self.slides:
            (folder / f"{slide.slide_id}.h5").write_bytes(b"only its path is asked for")
            text = json.dumps({"type": "FeatureCollection", "features": [feature]})
            (folder / f"{slide.slide_id}.geojson").write_text(text)
        self._manifest(stage, ".h5")

    def write_tiles(self, stage: StageId, geometry: TileGeometry | None = None) -> None:
        folder = stage.folder(self.plan.results) / "slides"
        for slide in self.slides:
            coords = [*slide.kept, *slide.dropped]
            rows = [
                row_of(
                    TILES,
                    x=x,
                    y=y,
                    tissue_fraction=0.75,
                    focus=None if number else 12.5,
                    keep=number < len(slide.kept),
                )
                for number, (x, y) in enumerate(coords)
            ]
            own = geometry or self.geometry_of(stage, slide)
            path = folder / f"{slide.slide_id}.parquet"
            extra = {"geometry": own.as_dict()}
            frame = pd.DataFrame(rows).astype({"focus": "Float32"})
            write_parquet(path, frame, TILES, stamp_of(stage), extra)
        self._manifest(stage, ".parquet")

    def geometry_of(self, stage: StageId, slide: Given) -> TileGeometry:
        (candidates,) = stage.upstream
        tile_px, mpp = candidates.parameters["tile_px"], candidates.parameters["mpp"]
        return tile_geometry(tile_px, mpp, 0, slide.mpp_x, slide.mpp_y)

    def write_features(self, unit, dim: int, scale: float = 1.0) -> None:
        folder = unit.features.folder(self.plan.results) / "slides"
        attributes = {name: 0 for name, _ in FEATURES.attributes}
        for slide in self.slides:
            write_hdf5(
                folder / f"{slide.slide_id}.h5",
                {
                    "features": self.features_of(slide, dim) * np.float32(scale),
                    "coords": np.array(slide.kept, np.int64),
                },
                FEATURES,
                stamp_of(unit.features),
                attributes,
            )
        self._manifest(unit.features, ".h5")

    def features_of(self, slide: Given, dim: int) -> np.ndarray:
        seed = sum(slide.slide_id.encode())
        return np.random.default_rng(seed).random((len(slide.kept), dim), dtype=np.float32)
