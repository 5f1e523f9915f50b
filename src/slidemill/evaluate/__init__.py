"""Evaluation: models on the same folds, with intervals over patients."""
