"""Report: one HTML file of a whole run."""
