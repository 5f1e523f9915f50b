"""Names of metrics for people, without the libraries that compute them."""

METRIC_LABELS = {
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "balanced_accuracy": "Balanced accuracy",
}
"""Labels of the metrics, in the order in which tables show them."""
