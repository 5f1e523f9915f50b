"""Cohort: the sheet validated whole, the slides opened, one row a slide."""
