"""Interoperability: a run's tiles and features for other tools, and their coordinates for a run."""
