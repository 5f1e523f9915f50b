"""Tissue: where on the slide there is something to look at."""
