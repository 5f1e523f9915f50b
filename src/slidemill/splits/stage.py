"""The splits stage: the units of one task.

Reads the cohort's table (all rows, failed ones too: a slide that is fixed later changes no fold)
and, if they are given, splits of the user's. Writes `splits.parquet` and, as a document that can be
given back, `splits.json`. Guarantees that no patient is on two sides of a unit, and says which
label each patient counts with.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from slidemill.artifacts.atomic import write_text
from slidemill.artifacts.folder import StageId, open_folder
from slidemill.artifacts.formats import SPLITS
from slidemill.artifacts.parquet import read_parquet, write_parquet
from slidemill.artifacts.provenance import Stamp
from slidemill.config import EvaluateConfig, TaskConfig
from slidemill.splits.document import to_json
from slidemill.splits.given import PARTS, read_given, read_units
from slidemill.splits.labels import (
    label_text,
    order_text,
    patient_targets,
    read_targets,
    shuffle_targets,
)
from slidemill.splits.protocols import make_units
from slidemill.splits.units import Unit

log = logging.getLogger(__name__)

__all__ = ["read_units", "run", "splits_table"]


def run(
    stage: StageId,
    results: Path,
    cohort_path: Path,
    task: TaskConfig,
    config: EvaluateConfig,
    given: Path | None,
) -> Path:
    """Make or take the units of a task; returns the path of `splits.parquet`.

    Args:
        stage: Identity of the stage.
        results: Folder of all results.
        cohort_path: The cohort's table.
        task: The task.
        config: Its protocol.
        given: Splits of the user's, instead of the protocol's.

    Raises:
        CohortError: If labels or patients are too few for the task or the protocol.
        LeakError: If a patient is on two sides, or tested twice or never.
        SheetError: If labels or given splits are not valid.
    """
    cohort = read_parquet(cohort_path, "cohort")
    rows, targets = read_targets(cohort, task)
    if task.shuffle_labels:
        targets = shuffle_targets(rows, targets, config.seed)
    if order := order_text(targets):
        log.info("splits %s: %s", task.name, order)
    patients, by_patient = patient_targets(rows, targets)
    taken = None if given is None else read_given(given, task.name, patients)
    units = make_units(cohort, rows, targets, config, taken)
    protocol = config.protocol if given is None else "given"
    labels = dict(zip(patients, label_text(by_patient), strict=True))
    path = open_folder(stage, results) / "splits.parquet"
    stamp = Stamp(digest=stage.digest, item_digest=stage.digest, parameters=dict(stage.parameters))
    write_text(path.with_suffix(".json"), to_json(units, task.name, protocol, config.seed))
    write_parquet(path, splits_table(units, task.name, protocol, labels), SPLITS, stamp)
    return path


def splits_table(
    units: Sequence[Unit], task: str, protocol: str, labels: Mapping[str, str]
) -> dict[str, list[str] | list[int]]:
    """Units as columns of the splits table, a row a patient of a unit.

    Args:
        units: The units, in their order.
        task: Name of the task.
        protocol: k-fold, split, leave-one-site-out, or given.
        labels: Label of each patient, as text.
    """
    rows = [
        (unit, part, patient)
        for unit in units
        for part, patients in zip(PARTS, (unit.train, unit.validate, unit.test), strict=True)
        for patient in patients
    ]
    return {
        "task": [task] * len(rows),
        "protocol": [protocol] * len(rows),
        "sample": [unit.sample for unit, _, _ in rows],
        "draw": [unit.draw for unit, _, _ in rows],
        "repeat": [unit.repeat for unit, _, _ in rows],
        "fold": [unit.fold for unit, _, _ in rows],
        "part": [part for _, part, _ in rows],
        "patient_id": [patient for _, _, patient in rows],
        "label": [labels[patient] for _, _, patient in rows],
    }
