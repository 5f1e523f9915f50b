"""Pretraining: slide encoders trained on tile features without labels."""
