"""A model through every unit of a protocol: each patient is predicted by one who never saw them.

Numbers in, a table of predictions out. All models are given the same units, rows and seeds; that a
unit's training and test patients are apart is checked each time.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pandas as pd

from slidemill.config import ModelEntry, SurvivalConfig
from slidemill.errors import CohortError
from slidemill.evaluate.dataset import Rows, View, views_of
from slidemill.evaluate.mil.bags import Bags
from slidemill.evaluate.mil.train import cross_fit
from slidemill.evaluate.mil.units import BagUnit, Settings
from slidemill.evaluate.probes import PROBES
from slidemill.evaluate.probes.base import Settings as ProbeSettings
from slidemill.splits.checks import check_training_patients
from slidemill.splits.targets import EVENT, TIME, Targets
from slidemill.splits.units import ALL, Unit, unit_seed

log = logging.getLogger(__name__)

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]

Progress = Callable[[int, int], None]
"""Told how much is done, and of how much."""

AttentionKey = tuple[int, int]
"""Repeat and row."""


@dataclass(frozen=True)
class Ready:
    """A unit with the rows it trains on and tests.

    Attributes:
        unit: The unit.
        rows: Its rows; `seed` is the one of its model.
    """

    unit: Unit
    rows: BagUnit


@dataclass(frozen=True)
class Predicted:
    """Predictions of one model on one input.

    Attributes:
        table: The columns of the `predictions` format from `sample` on, sorted.
        attention: Attention over a row's tiles, float32 (n,), sum 1, of unthinned units.
        chosen: What was chosen on inner folds, by the unit's name.
    """

    table: pd.DataFrame
    attention: dict[AttentionKey, Float32Array] = field(default_factory=dict)
    chosen: dict[str, dict[str, float]] = field(default_factory=dict)


def ready_units(rows: Rows, units: Sequence[Unit], seed: int, what: str) -> list[Ready]:
    """The units that have something to test, checked.

    Args:
        rows: The rows that are there: patients without a usable slide are passed over.
        units: Units of the protocol.
        seed: Seed that the seeds of models derive from.
        what: The model, for messages.

    Raises:
        LeakError: If a unit trains on a patient whom it tests.
        CohortError: If what is left of a unit's training rows cannot train a model. Thinned units
            are left out instead, with the other folds of their draw.
    """
    found: list[Ready] = []
    left_out: dict[tuple[str, int, int], str] = {}
    for unit in units:
        name = f"{what}, {unit.name}"
        check_training_patients((*unit.train, *unit.validate), unit.test, name)
        train, validate, test = (rows.of(p) for p in (unit.train, unit.validate, unit.test))
        if not len(test):
            continue
        try:
            check_trainable(rows.targets.take(np.concatenate([train, validate])), name)
        except CohortError as error:
            if unit.sample == ALL:
                raise
            left_out.setdefault((unit.sample, unit.draw, unit.repeat), str(error))
        bags = BagUnit(unit.name, train, validate, test, unit_seed(seed, unit))
        found.append(Ready(unit, bags))
    if left_out:
        # A draw that lost its few training slides is left out whole: the patients of a draw's
        # metrics stay those of the others.
        log.warning("%d draws are left out: %s", len(left_out), next(iter(left_out.values())))
        keys = [(one.unit.sample, one.unit.draw, one.unit.repeat) for one in found]
        found = [one for one, key in zip(found, keys, strict=True) if key not in left_out]
    if not found:
        raise CohortError(
            f"no tested patient has a usable slide ({what}). See the features' manifest.parquet."
        )
    return found


def check_trainable(targets: Targets, name: str) -> None:
    """Refuse training rows from which nothing can be learnt.

    Raises:
        CohortError: If there is one class only, no event, or too few values.
    """
    if not len(targets):
        fault = "no training row is left"
    elif targets.type == "survival":
        fault = "" if targets.values[:, EVENT].any() else "no training row has an event"
    elif targets.type == "regression":
        fault = "" if np.ptp(targets.values[:, 0]) > 0 else "all training values are equal"
    elif targets.type == "multilabel":
        known = [column[~np.isnan(column)] for column in targets.values.T]
        single = [
            label
            for label, values in zip(targets.names, known, strict=True)
            if len(np.unique(values)) < 2
        ]
        fault = f"training rows have one class only of {', '.join(single)}" if single else ""
    else:
        fault = "" if len(np.unique(targets.values)) > 1 else "training rows are all of one class"
    if fault:
        raise CohortError(
            f"{fault} ({name}). Use fewer folds, fix the splits, or see which slides failed."
        )


def run_bags(
    entry: ModelEntry,
    rows: Rows,
    ready: Sequence[Ready],
    bags_of: Callable[[View], Bags],
    encoders: Mapping[View, object],
    survival: SurvivalConfig,
    *,
    seed: int,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Predicted:
    """A model on bags through all units.

    Args:
        entry: The model with its settings filled in.
        rows: Who is predicted.
        ready: The units.
        bags_of: The rows as bags, in a view.
        encoders: Slide encoders by view; empty where none is used.
        survival: Settings of survival tasks.
        seed: Seed of the order of bags, common to all units.
        device: Where to train.
        progress: Told epochs.
    """
    if entry.mil is None or entry.abmil is None:
        raise ValueError("the settings of a model have to be filled in: EvaluateConfig.entries()")
    settings = Settings(entry.mil, entry.abmil, survival)
    by_view: dict[View, list[int]] = {}
    for number, one in enumerate(ready):
        view = views_of(encoders, one.unit.repeat, one.unit.fold)
        by_view.setdefault(view, []).append(number)
    tables: dict[int, pd.DataFrame] = {}
    attention: dict[AttentionKey, Float32Array] = {}
    for step, (view, numbers) in enumerate(by_view.items()):

        def shown(done: int, total: int, before: int = step) -> None:
            if progress is not None:
                progress(before * total + done, len(by_view) * total)

        units = [ready[number].rows for number in numbers]
        results = cross_fit(
            entry.name, bags_of(view), rows.targets, units, settings, seed=seed, device=device,
            progress=shown,
        )  # fmt: skip
        for number, result in zip(numbers, results, strict=True):
            tables[number] = _table(rows, ready[number], result.scores)
            if ready[number].unit.sample == ALL:
                tested = ready[number].rows.test.tolist()
                keys = [(ready[number].unit.repeat, i) for i in tested]
                attention.update(zip(keys, result.attention, strict=False))
    return Predicted(_joined([tables[number] for number in range(len(ready))]), attention)


def run_vectors(
    entry: ModelEntry,
    rows: Rows,
    ready: Sequence[Ready],
    vectors_of: Callable[[View], Float64Array],
    encoders: Mapping[View, object],
    inner_folds: int,
    *,
    progress: Progress | None = None,
) -> Predicted:
    """A model on one vector a row through all units; arguments as for `run_bags`."""
    probe = PROBES[entry.name]
    if entry.linear_probe is None or entry.knn is None:
        raise ValueError("the settings of a model have to be filled in: EvaluateConfig.entries()")
    settings = ProbeSettings(entry.linear_probe, entry.knn)
    tables, chosen = [], {}
    for done, one in enumerate(ready, start=1):
        x = vectors_of(views_of(encoders, one.unit.repeat, one.unit.fold))
        # Nothing is stopped early here: all training patients train.
        train = np.sort(np.concatenate([one.rows.train, one.rows.validate]))
        fitted = probe.fit(
            x[train],
            rows.targets.take(train),
            [rows.patients[i] for i in train.tolist()],
            settings,
            inner_folds=inner_folds,
            seed=one.rows.seed,
        )
        tables.append(_table(rows, one, fitted.predict(x[one.rows.test])))
        chosen[one.unit.name] = dict(fitted.chosen)
        if progress is not None:
            progress(done, len(ready))
    return Predicted(_joined(tables), chosen=chosen)


def _table(rows: Rows, one: Ready, scores: Float64Array) -> pd.DataFrame:
    """Predictions of one unit: one row a row, slide and target; `slide` is the slide's index."""
    targets, unit = rows.targets, one.unit
    tested = one.rows.test.tolist()
    if scores.shape != (len(tested), targets.outputs) or not np.isfinite(scores).all():
        raise ValueError(f"scores {scores.shape} of {len(tested)} rows are not all finite numbers")
    labels = targets.one_hot() if targets.type != "survival" else targets.values[:, [TIME]]
    records = []
    for i, score in zip(tested, scores, strict=True):
        for k, name in enumerate(targets.names):
            if np.isnan(labels[i, k]):
                continue
            event = targets.values[i, EVENT] if targets.type == "survival" else np.nan
            records += [
                (unit.sample, unit.draw, unit.repeat, unit.fold, slide, rows.patients[i], name,
                 labels[i, k], event, score[k])
                for slide in rows.slides[i]
            ]  # fmt: skip
    columns = ["sample", "draw", "repeat", "fold", "slide", "patient_id", "target", "label"]
    return pd.DataFrame(records, columns=[*columns, "event", "score"])


def _joined(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    return pd.concat([one for one in tables if len(one)], ignore_index=True)
