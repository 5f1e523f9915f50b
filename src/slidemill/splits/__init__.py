"""Splits: which patients train and which are tested, made before anything is trained."""
