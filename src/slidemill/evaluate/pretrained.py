"""Slide encoders as an evaluation meets them: what they saw, and what they made.

Reads the checkpoint of each slide encoder and the slides' embeddings. Guarantees that an encoder is
the one that the plan asks for, that who it was trained on is read from its own checkpoint and is
what that checkpoint was made from, that nobody of them is tested with it, and that every embedding
that is read was made by this checkpoint from the features that are there. Anything else is refused.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from slidemill.artifacts.digest import SHORT, file_sha256
from slidemill.artifacts.hdf5 import open_hdf5
from slidemill.errors import ArtifactError
from slidemill.evaluate.dataset import View
from slidemill.evaluate.summary import Summary, check_seen_content
from slidemill.plan import CellPlan, Plan, PretrainPlan
from slidemill.pretrain.checkpoint import (
    TrainedOn,
    embedding_stamp,
    read_facts,
    read_trained_on,
    training_stamp,
)
from slidemill.splits.checks import check_training_patients
from slidemill.splits.units import Unit

CHECKPOINT = "checkpoint.safetensors"
"""Name of the checkpoint in a slide encoder's folder."""


@dataclass(frozen=True)
class Pretrained:
    """A slide encoder that was checked.

    Attributes:
        plan: What was planned.
        item_digest: Item digest of its checkpoint.
        sha256: sha256 of its checkpoint.
    """

    plan: PretrainPlan
    item_digest: str
    sha256: str

    def read(
        self, plan: Plan, slide_id: str, features: str, readout: str
    ) -> npt.NDArray[np.float32]:
        """A slide's embedding by this encoder, float32 (E,); layers one after the other.

        Args:
            plan: The plan.
            slide_id: The slide.
            features: Item digest of its features.
            readout: Dataset of the embedding.

        Raises:
            ArtifactError: If it is missing, or another checkpoint or other features made it.
        """
        folder = self.plan.stage.folder(plan.results)
        path = folder / "slides" / f"{slide_id}.h5"
        wanted = embedding_stamp(self.plan.stage, slide_id, features, self.item_digest)
        with open_hdf5(path, "slide-embedding") as file:
            if file.attrs["checkpoint_sha256"] != self.sha256:
                raise ArtifactError(
                    f"{path}: an embedding by another checkpoint than {folder / CHECKPOINT} "
                    f"(sha256 {str(file.attrs['checkpoint_sha256'])[:SHORT]}, not "
                    f"{self.sha256[:SHORT]}). {_again(self.plan)}"
                )
            if file.attrs["item_digest"] != wanted.item_digest:
                raise ArtifactError(
                    f"{path}: an embedding of another slide, or of other features than those that "
                    f"are there. {_again(self.plan)}"
                )
            found: npt.NDArray[np.float32] = file[readout][:]
            return found.ravel()


def check_pretraining(
    plan: Plan, cell: CellPlan, units: Sequence[Unit], summary: Summary, cohort: pd.DataFrame
) -> dict[View, Pretrained]:
    """Check every slide encoder of a cell, by its own checkpoint.

    Encoders of `patients: all` may have seen those whom the cell tests: the configuration asked for
    it, and the report says it beside each of their results. All else is checked of them too.

    Args:
        plan: The plan.
        cell: The cell.
        units: Units of the task's protocol.
        summary: Of the features.
        cohort: The cohort's table.

    Returns:
        The encoders by (repeat, fold), or the one for all under (-1, -1).

    Raises:
        ArtifactError: If a checkpoint is missing, damaged, another than the planned one, was made
            from other features, or does not say who it was trained on.
        WeightsError: If a checkpoint's version is not known.
        LeakError: If a patient or a slide was trained on and is tested, naming them.
    """
    patient_of = {str(s): str(p) for s, p in zip(cohort["slide_id"], cohort["patient_id"],
                                                 strict=True)}  # fmt: skip
    found = {}
    for (repeat, fold), encoder in cell.pretrain.items():
        path = encoder.stage.folder(plan.results) / CHECKPOINT
        facts, trained = read_facts(path), read_trained_on(path)
        _check_identity(encoder, facts, trained, summary, str(path))
        _check_people(encoder, trained, patient_of, str(path))
        if encoder.run.patients != "all":
            tested = {
                patient
                for unit in units
                if fold < 0 or (unit.repeat, unit.fold) == (repeat, fold)
                for patient in unit.test
            }
            label = encoder.stage.label
            check_training_patients(trained.patients, tested, label)
            slides = [slide for slide, patient in patient_of.items() if patient in tested]
            check_seen_content(summary, trained.slides, slides, label)
        found[repeat, fold] = Pretrained(encoder, str(facts["item_digest"]), file_sha256(path))
    return found


def _check_identity(
    encoder: PretrainPlan,
    facts: Mapping[str, object],
    trained: TrainedOn,
    summary: Summary,
    path: str,
) -> None:
    """Refuse a checkpoint that is not the planned one, made from the slides that it names."""
    if facts.get("digest") != encoder.stage.digest:
        raise ArtifactError(
            f"{path}: the checkpoint of another pretraining (digest "
            f"{str(facts.get('digest'))[:SHORT]}, not {encoder.stage.digest[:SHORT]}). "
            f"{_again(encoder)}"
        )
    digests = dict(zip(summary.slide_ids, summary.item_digests, strict=True))
    gone = [slide for slide in trained.slides if slide not in digests]
    used = [(slide, digests.get(slide, "")) for slide in trained.slides]
    stamp = training_stamp(encoder.stage, used)
    if gone or facts.get("item_digest") != stamp.item_digest:
        raise ArtifactError(
            f"{path}: the checkpoint was not made from the slides that it names with the features "
            f"that are there. {_again(encoder)}"
        )


def _check_people(
    encoder: PretrainPlan, trained: TrainedOn, patient_of: Mapping[str, str], path: str
) -> None:
    """Refuse a checkpoint whose patients are not those of its slides."""
    people = {patient_of.get(slide) for slide in trained.slides}
    if people != set(trained.patients):
        raise ArtifactError(
            f"{path}: the patients that the checkpoint names are not those of its slides in the "
            f"cohort. {_again(encoder)}"
        )


def _again(encoder: PretrainPlan) -> str:
    return (
        "Nothing was evaluated with it. Train it again: `--config recompute=pretrain`, or "
        f"`slidemill pretrain --run {encoder.stage.name}`."
    )
