"""A real Slurm for the tests."""
