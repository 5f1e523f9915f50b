"""Making the cells of a task: the identity of every model on every input.

Part of `slidemill.planner_evaluate`; nothing heavy is imported.
"""

import re
from collections.abc import Mapping
from dataclasses import replace

from slidemill import versions
from slidemill.artifacts import formats
from slidemill.artifacts.folder import StageId
from slidemill.config import EvaluateConfig, ModelEntry, TaskConfig
from slidemill.config.evaluate import Control, InputKind
from slidemill.evaluate.controls import ENCODER_CONTROLS
from slidemill.evaluate.models import MODELS, RETRIEVAL, RETRIEVAL_KS
from slidemill.plan import CellPlan, EncoderPlan, PretrainPlan

LABELS_ONLY = {"name", "splits"}
"""Keys of a task that label it and change no value of its own."""
RESULT_READOUT = "cls"
"""Dataset of a slide's embedding that results read."""
_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]+")
"""What no folder's name has."""


def path_safe(label: str) -> str:
    """A label fit for the name of a folder."""
    return _UNSAFE.sub("-", label.replace("+", "-and-"))


class CellMaker:
    """Makes the cells of one task."""

    def __init__(
        self,
        evaluate: EvaluateConfig,
        task: TaskConfig,
        summaries: Mapping[str, StageId],
        splits: StageId,
    ) -> None:
        self.evaluate, self.task = evaluate, task
        self.summaries, self.splits = summaries, splits

    def cell(
        self,
        entry: ModelEntry,
        kind: InputKind,
        source: str,
        encoder: EncoderPlan,
        units: Mapping[tuple[int, int], PretrainPlan],
        control: str = "",
        controls: tuple[Control, ...] = (),
    ) -> CellPlan:
        """A model on an input, a control, or all controls of a slide encoder."""
        model = MODELS[entry.name]
        sections = {"mil", "abmil"} if model.kind == "bags" else {"linear_probe"}
        sections = {"knn"} if entry.name == "knn" else sections
        parameters = {
            **self._common(),
            "model": entry.name,
            "input": kind,
            "control": control,
            "settings": entry.model_dump(mode="json", include=sections),
        }
        if model.kind == "bags" and self.task.type == "survival":
            parameters["survival"] = self.evaluate.survival.model_dump(mode="json")
        if "linear_probe" in sections:
            parameters["inner_folds"] = self.evaluate.inner_folds
        if control == "site":
            parameters["site"] = self.evaluate.site
        if controls:
            parameters["controls"] = {c: ENCODER_CONTROLS[c].readout for c in controls}
        planned = self._planned(
            entry.shown, entry, kind, source, encoder, units, control, parameters
        )
        return replace(planned, controls=controls)

    def retrieval(
        self,
        kind: InputKind,
        source: str,
        encoder: EncoderPlan,
        units: Mapping[tuple[int, int], PretrainPlan],
    ) -> CellPlan:
        """Retrieval by an input."""
        parameters = {
            **self._common(), "model": RETRIEVAL, "input": kind, "k": list(RETRIEVAL_KS),
        }  # fmt: skip
        return self._planned(RETRIEVAL, None, kind, source, encoder, units, "", parameters)

    def _common(self) -> dict[str, object]:
        return {
            "task": self.task.model_dump(mode="json", exclude=LABELS_ONLY),
            "patient": self.evaluate.patient,
            "seed": self.evaluate.seed,
            "bootstrap": self.evaluate.bootstrap,
        }

    def _planned(
        self,
        shown: str,
        entry: ModelEntry | None,
        kind: InputKind,
        source: str,
        encoder: EncoderPlan,
        units: Mapping[tuple[int, int], PretrainPlan],
        control: str,
        parameters: Mapping[str, object],
    ) -> CellPlan:
        upstream = (
            self.splits,
            self.summaries[encoder.encoder.label],
            encoder.features,
            *(plan.stage for plan in units.values()),
        )
        parts = [self.task.name, control or shown, source]
        label = path_safe("-".join(parts))
        readout = RESULT_READOUT if units else ""
        stage = StageId(
            "evaluate", label, formats.PREDICTIONS, versions.EVALUATE,
            {**parameters, "readout": readout}, upstream,
        )  # fmt: skip
        return CellPlan(
            self.task, shown, entry, source, kind, control, (), readout, encoder, units,
            self.summaries[encoder.encoder.label], stage,
        )  # fmt: skip
