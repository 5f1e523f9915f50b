"""Tiles: a global grid at an exact physical size, judged tile by tile."""
