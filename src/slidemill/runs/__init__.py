"""Runs of the workflow: their records, what they left in the results, and how two differ."""
