"""From a cohort and a protocol to units, thinned, with inner validation, and checked.

Numbers and names only: `slidemill.splits.stage` reads and writes the files.
"""

from collections.abc import Sequence

import pandas as pd

from slidemill.config import EvaluateConfig
from slidemill.errors import CohortError
from slidemill.splits.checks import check_classes, check_units
from slidemill.splits.fixed import fixed_units
from slidemill.splits.k_fold import k_fold_units
from slidemill.splits.labels import patient_targets
from slidemill.splits.sites import site_names, site_units, sites_of_patients
from slidemill.splits.strata import kept_groups, strata_of
from slidemill.splits.targets import Targets
from slidemill.splits.thin import few_ratio, few_shot, ratio_name, shot_name
from slidemill.splits.units import ALL, Unit
from slidemill.splits.validation import with_validation
from slidemill.splits.words import named


def make_units(
    cohort: pd.DataFrame,
    rows: pd.DataFrame,
    targets: Targets,
    config: EvaluateConfig,
    given: Sequence[Unit] | None = None,
) -> list[Unit]:
    """All units of a task: of its protocol or given, thinned, with inner validation, checked.

    Args:
        cohort: One row a slide, with `split` and the column of the sites.
        rows: The slides that have a label: `slide_id`, `patient_id`.
        targets: Their targets.
        config: The protocol, its sizes and seed.
        given: Units of a file, instead of the protocol. They are taken as they are: what they have
            of validation parts and thinned samples is kept, what they lack is made.

    Returns:
        Units by sample (all first), draw, repetition and fold; given ones first.

    Raises:
        CohortError: If the cohort is too small for the protocol, or a class is missing in a part.
        LeakError: If a patient is on two sides of a unit, or tested twice or never.
        SheetError: If the split column is not valid.
    """
    patients, by_patient = patient_targets(rows, targets)
    fold_names = None
    if given is not None:
        units = list(given)
    elif config.protocol == "k-fold":
        units = k_fold_units(
            patients, by_patient, folds=config.folds, repeats=config.repeats, seed=config.seed
        )
    elif config.protocol == "split":
        units = fixed_units(cohort, rows, repeats=config.repeats)
    else:
        assert config.site is not None  # the config sees to it
        units = site_units(cohort, rows, config.site, repeats=config.repeats)
        names = site_names(sites_of_patients(cohort, rows, config.site))
        fold_names = dict(enumerate(names))
    check_units(units, patients)
    check_classes(units, patients, by_patient, fold_names)
    units += _thinned(units, patients, by_patient, config)
    strata, groups = strata_of(by_patient), kept_groups(by_patient)
    units = [
        with_validation(unit, patients, strata, config.validation, config.seed, groups)
        for unit in units
    ]
    check_units(units, patients)
    check_classes(units, patients, by_patient, fold_names)
    return units


def _thinned(
    units: Sequence[Unit], patients: Sequence[str], targets: Targets, config: EvaluateConfig
) -> list[Unit]:
    """The samples that the configuration asks for and the units do not have."""
    have = {unit.sample for unit in units}
    shots = [k for k in dict.fromkeys(config.few_shot) if shot_name(k) not in have]
    ratios = {ratio_name(share): share for share in config.few_ratio}
    shares = [share for name, share in ratios.items() if name not in have]
    whole = [unit for unit in units if unit.sample == ALL]
    lacking = [*map(shot_name, shots), *map(ratio_name, shares)]
    if lacking and not whole:
        raise CohortError(
            f"the given splits have neither {named(lacking)} nor units of the sample {ALL!r} to "
            "draw them from. Add either, or leave evaluate.few_shot and few_ratio empty."
        )
    size = {"draws": config.draws, "seed": config.seed}
    return [
        *few_shot(whole, patients, targets, shots, **size),
        *few_ratio(whole, patients, targets, shares, **size),
    ]
