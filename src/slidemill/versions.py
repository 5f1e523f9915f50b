"""Algorithm version of every stage, part of its digest.

Snakemake does not see changes in this package. Raise a stage's version whenever its results change;
`tests/test_golden.py` fails when they change and it was not. (Versions stand here and not in the
stages, since planning must not import what the stages import.)
"""

COHORT = 4
TISSUE = 4
CANDIDATES = 3
TILES = 2
FEATURES = 2
SPLITS = 2
PRETRAIN = 2
EVALUATE = 3
REPORT = 3
