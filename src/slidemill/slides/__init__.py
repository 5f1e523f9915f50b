"""Slides: opening them, knowing their resolution, reading regions at an exact physical size."""
