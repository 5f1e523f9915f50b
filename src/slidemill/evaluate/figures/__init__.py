"""Figures of a comparison: one file a figure, each from predictions and metrics alone."""

import pandas as pd
from matplotlib.figure import Figure

from slidemill.evaluate.controls import ENCODER_CONTROLS
from slidemill.evaluate.figures.calibration import calibration_figure
from slidemill.evaluate.figures.confusion import confusion_figure
from slidemill.evaluate.figures.data import main_rows
from slidemill.evaluate.figures.forest import forest_figure
from slidemill.evaluate.figures.kaplan_meier import kaplan_meier_figure
from slidemill.evaluate.figures.pr import pr_figure
from slidemill.evaluate.figures.ratio import has_thinned, ratio_figure
from slidemill.evaluate.figures.roc import roc_figure
from slidemill.evaluate.figures.scatter import scatter_figure
from slidemill.evaluate.figures.style import save
from slidemill.splits.targets import TaskType

__all__ = ["figures_of", "save"]


def figures_of(
    task_type: TaskType, names: tuple[str, ...], predictions: pd.DataFrame, metrics: pd.DataFrame
) -> dict[str, Figure]:
    """The figures that make sense for a task, by the names of their files.

    Args:
        task_type: Type of the task.
        names: What scores are of, as `Targets.names`.
        predictions: Rows of the `predictions` format, of that task; all rows of the comparison.
        metrics: Rows of the `metrics` format, of that task.

    Returns:
        `forest` for all; `roc`, `pr` and `calibration` for classes and labels; `confusion` for
        classes; `scatter` for regression; `kaplan-meier` for survival; `ratio` where units trained
        on fewer patients than there are. Give each to `save` for its bytes. Controls of slide
        encoders are in `forest` alone: among curves they would hide the results.

    Raises:
        ValueError: If no model trained on all patients.
    """
    main_rows(predictions, "predictions")
    everything = metrics
    predictions, metrics = (
        table[~table["control"].isin(ENCODER_CONTROLS)] for table in (predictions, metrics)
    )
    figures: dict[str, Figure] = {}
    if task_type in ("binary", "multiclass", "multilabel"):
        figures["roc"] = roc_figure(names, predictions, metrics)
        figures["pr"] = pr_figure(names, predictions, metrics)
        figures["calibration"] = calibration_figure(names, predictions, metrics)
    if task_type in ("binary", "multiclass"):
        figures["confusion"] = confusion_figure(names, predictions, metrics)
    if task_type == "regression":
        figures["scatter"] = scatter_figure(predictions, metrics)
    if task_type == "survival":
        figures["kaplan-meier"] = kaplan_meier_figure(predictions, metrics)
    figures["forest"] = forest_figure(task_type, everything)
    if has_thinned(metrics):
        figures["ratio"] = ratio_figure(task_type, metrics)
    return figures
