"""The pretrain stage: one slide encoder, and what it makes of all slides.

Reads the features of one tile encoder, the cohort's table and, where it is trained per fold, the
folds. Writes `checkpoint.safetensors`, which says who it was trained on, `metrics.parquet`, on
request TensorBoard's events, `slides/<slide>.h5` and, last, `manifest.parquet`; while it trains,
`state.safetensors`. Guarantees that the patients tested in its fold were not trained on, and that
a training that was killed goes on where its last state was written.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch

from slidemill.artifacts.folder import open_folder
from slidemill.artifacts.formats import PRETRAIN_METRICS
from slidemill.artifacts.manifest import (
    carried_failure,
    merge,
    read_manifest,
    records,
    write_manifest,
)
from slidemill.artifacts.parquet import read_parquet, write_parquet
from slidemill.artifacts.provenance import Stamp
from slidemill.errors import ArtifactError, CohortError, LeakError
from slidemill.features.store import FeatureStore
from slidemill.plan import Plan, PretrainPlan
from slidemill.pretrain.bags import FloatArray, Int64Array
from slidemill.pretrain.checkpoint import (
    CHECKPOINT_VERSION,
    TrainedOn,
    read_facts,
    save_checkpoint,
    training_stamp,
)
from slidemill.pretrain.distributed import Ranks, leave
from slidemill.pretrain.embedding_files import Embedder
from slidemill.pretrain.progress import TrainingProgress
from slidemill.pretrain.snapshot import TrainingState
from slidemill.pretrain.state import StateFile
from slidemill.pretrain.train import Means, Trained, train
from slidemill.splits.checks import check_training_patients


@dataclass(frozen=True)
class Subset:
    """Some slides of a store, as a `BagSource`."""

    store: FeatureStore
    indices: Sequence[int]

    @property
    def slide_ids(self) -> list[str]:
        """The slides."""
        return [self.store.slide_ids[i] for i in self.indices]

    @property
    def dim(self) -> int:
        """Width of a tile's features."""
        return self.store.dim

    def coords(self, i: int) -> Int64Array:
        """Top-left corners of slide i's tiles."""
        return self.store.coords(self.indices[i])

    def step(self, i: int) -> tuple[float, float]:
        """Distance of its neighbouring tiles, level-0 pixels."""
        return self.store.step(self.indices[i])

    def step_um(self, i: int) -> tuple[float, float]:
        """Distance of its neighbouring tiles, micrometres."""
        return self.store.step_um(self.indices[i])

    def features(self, i: int, rows: Int64Array | None = None) -> FloatArray:
        """Features of its tiles, or of some of them."""
        return self.store.features(self.indices[i], rows)


def run(
    plan: Plan,
    unit: PretrainPlan,
    device: str,
    threads: int,
    not_before: float,
    ranks: Ranks | None = None,
) -> Path:
    """Train a slide encoder and embed every slide; returns the path of the manifest.

    With several processes, all train; the first one writes, and embeds.

    Raises:
        CohortError: If too few slides are left to train on.
        CollapseError: If the training diverges or collapses.
        LeakError: If a patient tested in its fold would be trained on, or nobody is tested in it.
        ArtifactError: If the processes do not see the same files.
    """
    torch.set_num_threads(threads)
    ranks = ranks or Ranks()
    results = plan.results
    folder = open_folder(unit.stage, results)
    above = unit.encoder.features
    manifest = read_manifest(plan.manifest_path(above))
    store = FeatureStore(above.folder(results), manifest)
    cohort = read_parquet(plan.manifest_path(plan.cohort), "cohort")
    chosen = training_slides(plan, unit, cohort)
    indices = store.subset(set(chosen["slide_id"]))
    if len(indices) < 2:
        raise CohortError(
            f"{unit.stage.label}: {len(indices)} slides are left to train on, and it takes at "
            "least 2. Add slides, or train on more patients (pretrain.runs.patients)."
        )
    used = [(store.slide_ids[i], store.item_digests[i]) for i in indices]
    people = dict(zip(chosen["slide_id"], chosen["patient_id"], strict=True))
    trained_on = TrainedOn.of([people[name] for name, _ in used], [name for name, _ in used])
    stamp = training_stamp(unit.stage, used)
    job = _Job(plan, unit, folder, stamp, trained_on, device, ranks, not_before)
    job.train(Subset(store, indices), store)
    # Embedding may take longer than processes wait for each other: they part here.
    leave()
    if ranks.first:
        rows = Embedder(unit, folder, stamp, store, device, not_before).run()
        failed = [
            carried_failure(str(row["slide_id"]), row)
            for row in records(manifest)
            if row["status"] == "failed"
        ]
        ordered = merge([rows, failed], list(manifest["slide_id"]))
        write_manifest(folder / "manifest.parquet", ordered, unit.stage)
    return folder / "manifest.parquet"


def training_slides(plan: Plan, unit: PretrainPlan, cohort: pd.DataFrame) -> pd.DataFrame:
    """Rows of the cohort that the encoder may be trained on.

    Raises:
        LeakError: If a patient tested in its fold is among them, or nobody is tested in it.
    """
    if unit.run.patients == "split":
        return cohort[cohort["split"] == "pretrain"]
    if unit.task is None:
        return cohort
    path = plan.splits[unit.task].folder(plan.results) / "splits.parquet"
    folds = read_parquet(path, "splits")
    here = (folds["repeat"] == unit.repeat) & (folds["fold"] == unit.fold)
    here &= folds["part"] == "test"
    tested = set(folds.loc[here, "patient_id"])
    if not tested:
        raise LeakError(
            f"{unit.stage.label}: {path} has no test patients of repeat {unit.repeat}, fold "
            f"{unit.fold}, so that nobody would be kept out of the training. Make the splits again "
            "(slidemill splits)."
        )
    rows = cohort[~cohort["patient_id"].isin(tested)]
    check_training_patients(set(rows["patient_id"]), tested, unit.stage.label)
    return rows


@dataclass(frozen=True)
class _Job:
    """One training and its files."""

    plan: Plan
    unit: PretrainPlan
    folder: Path
    stamp: Stamp
    trained_on: TrainedOn
    device: str
    ranks: Ranks
    not_before: float

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.safetensors"

    def train(self, bags: Subset, store: FeatureStore) -> None:
        """Train unless it is done, from the last state if there is one."""
        minutes = self.plan.config.pretrain.save_minutes
        file = StateFile(self.folder / "state.safetensors", self.stamp, minutes)
        done = self._is_done()
        state = None if done else file.load(self.not_before)
        self._check_ranks(-1 if done else 0 if state is None else state.step)
        if not done:
            store.check_encoder()
            trained = self._train(bags, file, state)
            if self.ranks.first:
                self._write(trained)
            self.ranks.barrier()
        if self.ranks.first:
            file.remove()

    def _train(self, bags: Subset, file: StateFile, state: TrainingState | None) -> Trained:
        config = self.plan.config.pretrain
        means = Means(
            device=self.device,
            token_budget=config.token_budget,
            checkpointing=config.checkpointing,
            compile=config.compile,
            readers=config.readers,
            ranks=self.ranks,
        )
        shown = self.ranks.first
        events = self.folder / "tensorboard" if config.tensorboard and shown else None
        done = 0 if state is None else state.step
        with TrainingProgress(self.unit.stage.label, events, shown=shown, done=done) as progress:
            return train(
                bags,
                self.unit.run,
                seed=self.unit.run.seed,
                means=means,
                state=state,
                keep=file.keep,
                progress=progress.update,
            )

    def _write(self, trained: Trained) -> None:
        """Write the table and, last, the checkpoint, which says that the training is done."""
        path = self.folder / "metrics.parquet"
        write_parquet(path, trained.metrics, PRETRAIN_METRICS, self.stamp)
        facts = self.stamp.as_attributes("slide-encoder", int(CHECKPOINT_VERSION))
        save_checkpoint(self.checkpoint, trained.encoder, facts, self.trained_on)

    def _is_done(self) -> bool:
        """Whether the checkpoint of this very training is there, and new enough."""
        try:
            found = read_facts(self.checkpoint)
        except ArtifactError:
            return False
        if self.checkpoint.stat().st_mtime < self.not_before:
            return False
        table = self.folder / "metrics.parquet"
        return found.get("item_digest") == self.stamp.item_digest and table.is_file()

    def _check_ranks(self, step: int) -> None:
        """Refuse to train from different steps: each process reads the state itself.

        Raises:
            ArtifactError: If not all processes start from this one's step.
        """
        total = self.ranks.count(step, torch.device(self.device))
        if total != step * self.ranks.size:
            raise ArtifactError(
                f"{self.folder}: the processes of this training do not find the same files there. "
                "The results folder has to be on a file system that all nodes share; if it is, "
                "run again."
            )
