"""Metrics of predictions, by type of task.

`function` of a metric is a library's where one is exact (scikit-learn, scipy); `weighted` is the
same number for many weightings of the rows at once. Rows are patients or slides, as given.
"""

from slidemill.evaluate.metrics.base import Metric as Metric
from slidemill.evaluate.metrics.classification import BINARY, MULTICLASS
from slidemill.evaluate.metrics.regression import REGRESSION
from slidemill.evaluate.metrics.survival import SURVIVAL
from slidemill.evaluate.names import HEADLINE as HEADLINE
from slidemill.splits.targets import TaskType


def metrics_of(task_type: TaskType) -> dict[str, Metric]:
    """Metrics of a type of task by name, in the order of tables.

    Those of a multilabel task are the binary ones, for one label at a time; rows whose label is
    missing are left out before.
    """
    metrics = {
        "binary": BINARY,
        "multiclass": MULTICLASS,
        "multilabel": BINARY,
        "regression": REGRESSION,
        "survival": SURVIVAL,
    }
    return {metric.name: metric for metric in metrics[task_type]}
