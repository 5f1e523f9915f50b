"""One row of a comparison: a model, a control or a retrieval, on one input.

Brings rows, units and inputs together; reads features when they are asked for and writes nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pandas as pd

from slidemill.config import EvaluateConfig
from slidemill.errors import CohortError
from slidemill.evaluate.dataset import (
    Embed,
    Float32Array,
    Rows,
    TileBags,
    View,
    embedding_bags,
    embedding_vectors,
    max_vectors,
    mean_vectors,
    tile_counts,
)
from slidemill.evaluate.mil.bags import Bags
from slidemill.evaluate.models import MODELS, RETRIEVAL, RETRIEVAL_KS
from slidemill.evaluate.protocol import (
    Predicted,
    Progress,
    Ready,
    ready_units,
    run_bags,
    run_vectors,
)
from slidemill.evaluate.retrieval import retrieve
from slidemill.evaluate.summary import Summary
from slidemill.features.store import FeatureStore
from slidemill.plan import CellPlan
from slidemill.splits.labels import shuffle_targets
from slidemill.splits.targets import Targets
from slidemill.splits.units import ALL, Unit

Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class CellData:
    """What a cell is run on.

    Attributes:
        summary: Of the encoder's features.
        rows: Who is predicted; slides are indices of the summary's, and of the store's.
        units: Units of the protocol.
        store: The encoder's features.
        embedding: Reads a slide's embedding in a view, by the dataset that is read.
        sites: Site of each slide, for the site control.
    """

    summary: Summary
    rows: Rows
    units: Sequence[Unit]
    store: FeatureStore
    embedding: Callable[[int, View, str], Float32Array]
    sites: Mapping[str, object] | None = None

    @cached_property
    def used(self) -> list[int]:
        """Slides that are evaluated, ascending."""
        return sorted({slide for slides in self.rows.slides for slide in slides})

    def embed(self, readout: str) -> Embed:
        """Embeddings of slides in a view, read from one dataset."""
        return lambda slide, view: self.embedding(slide, view, readout)


def run_model(
    cell: CellPlan, data: CellData, config: EvaluateConfig, device: str, progress: Progress
) -> Predicted:
    """Run a cell.

    Raises:
        CohortError: If what is left of a unit cannot train a model.
        LeakError: If a unit trains on a patient whom it tests.
        CollapseError: If training diverges.
    """
    rows, units = data.rows, list(data.units)
    if cell.control:
        units = [unit for unit in units if unit.sample == ALL]
    if cell.entry is None:
        return _retrieval(cell, data)
    if cell.control == "shuffled-labels":
        rows = _shuffled(rows, units, config.seed)
    elif cell.control == "site":
        rows = _sites(rows, data)
    ready = ready_units(rows, units, config.seed, cell.stage.label)
    if MODELS[cell.entry.name].kind == "bags":
        return run_bags(
            cell.entry, rows, ready, lambda view: _bags(cell, data, rows, view), cell.pretrain,
            config.survival, seed=config.seed, device=device, progress=progress,
        )  # fmt: skip
    kept: dict[View, Float64Array] = {}

    def vectors(view: View) -> Float64Array:
        if view not in kept:
            kept.clear()
            kept[view] = _vectors(cell, data, rows, view)
        return kept[view]

    return run_vectors(
        cell.entry, rows, ready, vectors, cell.pretrain, config.inner_folds, progress=progress
    )


def _bags(cell: CellPlan, data: CellData, rows: Rows, view: View) -> Bags:
    embed = data.embed(cell.readout)
    if cell.kind == "slides":
        return embedding_bags(rows, embed, view)
    beside = None if cell.kind == "tiles" else (lambda slide: embed(slide, view))
    return TileBags(rows, data.store.features, data.summary.moments, in_memory=False, beside=beside)


def _vectors(cell: CellPlan, data: CellData, rows: Rows, view: View) -> Float64Array:
    if cell.control == "tile-count":
        return tile_counts(rows, data.summary.moments)
    if cell.control == "max-features":
        return max_vectors(rows, data.summary.maximum)
    if cell.kind == "tiles":
        return mean_vectors(rows, data.summary.moments)
    embedded = embedding_vectors(rows, data.embed(cell.readout), view)
    if cell.kind == "slides":
        return embedded
    return np.concatenate([mean_vectors(rows, data.summary.moments), embedded], axis=1)


def _shuffled(rows: Rows, units: Sequence[Unit], seed: int) -> Rows:
    """Rows whose targets are permuted among patients, within the folds of the first repetition.

    Folds so keep their class counts; were they not kept, pooled metrics would be biased.
    """
    fold_of = {
        patient: unit.fold
        for unit in units
        if unit.repeat == units[0].repeat
        for patient in unit.test
    }
    # Patients who only ever train are a group of their own.
    groups = {patient: fold_of.get(patient, -1) for patient in rows.patients}
    table = pd.DataFrame({"slide_id": range(len(rows)), "patient_id": list(rows.patients)})
    return rows.with_targets(shuffle_targets(table, rows.targets, seed, within=groups))


def _sites(rows: Rows, data: CellData) -> Rows:
    """Rows whose site is to be predicted; those without one are left out."""
    sites = data.sites or {}
    of_row = [sites.get(data.summary.slide_ids[slides[0]]) for slides in rows.slides]
    known = np.array([isinstance(site, str) and site != "" for site in of_row])
    if not known.any():
        raise CohortError(
            "no labelled slide has a site. Fill the column of evaluate.site, or take site out of "
            "evaluate.controls."
        )
    names = sorted({str(site) for site, there in zip(of_row, known, strict=True) if there})
    kept = np.flatnonzero(known)
    values = np.array([[float(names.index(str(of_row[i])))] for i in kept])
    if len(names) < 2:
        raise CohortError(
            f"all labelled slides are of one site, {names[0]!r}: nothing to predict. Take site out "
            "of evaluate.controls."
        )
    return rows.take(kept).with_targets(Targets("multiclass", tuple(names), values))


def _retrieval(cell: CellPlan, data: CellData) -> Predicted:
    """Each tested row looks for its like among all rows of other patients."""
    rows = data.rows
    labels = rows.targets.values[:, 0]
    tables = []
    for one in _queries(data):
        view = (one.unit.repeat, one.unit.fold)
        view = view if view in cell.pretrain else (-1, -1)
        x = _vectors(cell, data, rows, view)
        test = one.rows.test
        asked = [rows.patients[i] for i in test.tolist()]
        found = retrieve(x[test], x, labels[test], labels, asked, rows.patients, RETRIEVAL_KS)
        for target, values in found.items():
            for i, value in zip(test.tolist(), values, strict=True):
                tables += [
                    (one.unit.sample, one.unit.draw, one.unit.repeat, one.unit.fold, slide,
                     rows.patients[i], target, np.nan, np.nan, value)
                    for slide in rows.slides[i]
                ]  # fmt: skip
    columns = ["sample", "draw", "repeat", "fold", "slide", "patient_id", "target", "label"]
    return Predicted(pd.DataFrame(tables, columns=[*columns, "event", "score"]))


def _queries(data: CellData) -> list[Ready]:
    """Units of the first repetition: retrieval trains nothing, so that one is all there is."""
    first = [unit for unit in data.units if unit.sample == ALL and unit.repeat == 0]
    return ready_units(data.rows, first, 0, RETRIEVAL)
