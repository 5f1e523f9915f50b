"""Names of metrics, without the libraries that compute them."""

from slidemill.splits.targets import TaskType

METRIC_LABELS = {
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "balanced_accuracy": "Balanced accuracy",
    "f1": "F1",
    "kappa": "Kappa (quadratic)",
    "brier": "Brier score",
    "ece": "Calibration error",
    "pearson": "Pearson",
    "spearman": "Spearman",
    "r2": "R²",
    "mae": "Mean absolute error",
    "c_harrell": "Harrell's C",
    "c_uno": "Uno's C",
}
"""Labels of the metrics of predictions, in the order in which tables show them."""

HEADLINE: dict[TaskType, str] = {
    "binary": "auroc",
    "multiclass": "auroc",
    "multilabel": "auroc",
    "regression": "pearson",
    "survival": "c_harrell",
}
"""The metric by which a type of task is judged first; all are better when higher."""

ACC, MV, MAP, MAP_OVER_K = "acc@{k}", "mv@{k}", "map@{k}", "map@{k}/k"
"""Names of the metrics of retrieval, by the number k of neighbours; see `retrieval_names`."""


def retrieval_names(k: int) -> dict[str, str]:
    """Names and labels of the metrics of retrieval with k neighbours, in the order of tables.

    The two mean average precisions divide by different numbers and must not be compared: `map@k`
    by the most hits that are possible, `map@k/k` by k.
    """
    return {
        ACC.format(k=k): f"Acc@{k}",
        MV.format(k=k): f"MV@{k}",
        MAP.format(k=k): f"mAP@{k} (over possible hits)",
        MAP_OVER_K.format(k=k): f"mAP@{k} (over {k})",
    }


def metric_label(metric: str) -> str:
    """Name of a metric for people; one that is not known keeps its own."""
    number = metric.partition("@")[2].removesuffix("/k")
    if number.isdigit():
        return retrieval_names(int(number)).get(metric, metric)
    return METRIC_LABELS.get(metric, metric)
