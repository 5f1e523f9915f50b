"""Embeddings of all slides on disk.

Reads a slide encoder's checkpoint and the features of slides; writes `slides/<slide>.h5`, one after
the other. An embedding that is there, of the same checkpoint and the same features, is kept, so
that a job that was killed goes on with the next slide. A slide that cannot be embedded is a failed
row and has no file.
"""

import logging
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from slidemill.artifacts.digest import file_sha256
from slidemill.artifacts.formats import EMBEDDING
from slidemill.artifacts.hdf5 import read_attributes, write_hdf5
from slidemill.artifacts.manifest import failure, manifest_row
from slidemill.artifacts.parquet import Row
from slidemill.artifacts.provenance import Stamp
from slidemill.errors import ArtifactError, SlideError
from slidemill.features.store import FeatureStore
from slidemill.plan import PretrainPlan
from slidemill.pretrain.bags import Float32Array, grid_positions
from slidemill.pretrain.checkpoint import embedding_stamp, load_checkpoint
from slidemill.pretrain.embedding import embed_with_controls
from slidemill.pretrain.encoder import SlideEncoder
from slidemill.pretrain.train import initial_encoder

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Embedder:
    """Embeds the slides of a store by the checkpoint of one training.

    Attributes:
        unit: The training.
        folder: Its folder, with `checkpoint.safetensors`.
        stamp: Provenance of the checkpoint.
        store: Features of the slides.
        device: Where to compute.
        not_before: Embeddings of before this time (seconds since the epoch) do not count.
    """

    unit: PretrainPlan
    folder: Path
    stamp: Stamp
    store: FeatureStore
    device: str
    not_before: float

    def run(self) -> list[Row]:
        """Embed every slide of the store; returns their rows of the manifest."""
        return [self._row(i) for i in range(len(self.store))]

    @cached_property
    def _checkpoint(self) -> str:
        return file_sha256(self.folder / "checkpoint.safetensors")

    @cached_property
    def _encoders(self) -> tuple[SlideEncoder, SlideEncoder]:
        """The trained encoder, and the same before its first step."""
        trained = load_checkpoint(self.folder / "checkpoint.safetensors")
        initial = initial_encoder(self.unit.run, self.store.dim, self.unit.run.seed)
        initial.feature_mean.copy_(trained.feature_mean)
        initial.feature_std.copy_(trained.feature_std)
        return trained, initial

    def _row(self, i: int) -> Row:
        """Embed a slide, unless its embedding is there."""
        started = time.perf_counter()
        slide_id = self.store.slide_ids[i]
        digest = self.store.item_digests[i]
        item = embedding_stamp(self.unit.stage, slide_id, digest, self.stamp.item_digest)
        path = self.folder / "slides" / f"{slide_id}.h5"
        reused = self._is_done(path, item)
        if not reused:
            try:
                arrays = self._embed(i)
            except SlideError as error:
                log.warning("pretrain %s: %s: %s", self.unit.stage.label, slide_id, error)
                # A result of an earlier run would be taken for its own.
                path.unlink(missing_ok=True)
                return failure(slide_id, "pretrain", error, time.perf_counter() - started)
            write_hdf5(path, arrays, EMBEDDING, item, self._facts())
        return manifest_row(
            slide_id,
            status="ok",
            item_digest=item.item_digest,
            seconds=None if reused else time.perf_counter() - started,
            path=f"slides/{slide_id}.h5",
            sha256=file_sha256(path),
            count=1,
            reused=reused,
        )

    def _is_done(self, path: Path, item: Stamp) -> bool:
        """Whether the embedding is there, by this very checkpoint, and new enough."""
        try:
            found = read_attributes(path)
        except ArtifactError:
            return False
        wanted = {"item_digest": item.item_digest} | self._facts()
        same = all(found.get(key) == value for key, value in wanted.items())
        return same and path.stat().st_mtime >= self.not_before

    def _facts(self) -> dict[str, str]:
        """The format's own attributes."""
        return {
            "slide_encoder": self.unit.stage.label,
            "encoder": self.unit.encoder.encoder.spec.name,
            "checkpoint_sha256": self._checkpoint,
            "patients": self.unit.run.patients,
        }

    def _embed(self, i: int) -> dict[str, Float32Array]:
        trained, initial = self._encoders
        return embed_with_controls(
            trained,
            initial,
            self.store.stored(i),
            grid_positions(self.store.coords(i), self.store.step(i)),
            seed=self.unit.run.seed,
            slide_id=self.store.slide_ids[i],
            device=self.device,
            precision=self.unit.run.precision,
        )
