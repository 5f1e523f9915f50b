"""Leave-one-site-out protocol: each site is tested once by a model that saw none of it.

Sites are a column of the sheet. A patient is of one site; fold s tests the s-th site in
alphabetical order.
"""

from collections.abc import Mapping

import pandas as pd

from slidemill.errors import CohortError
from slidemill.splits.cells import read_texts
from slidemill.splits.units import Unit, refuse
from slidemill.splits.words import named


def site_units(
    cohort: pd.DataFrame, rows: pd.DataFrame, column: str, *, repeats: int
) -> list[Unit]:
    """One unit a site and repetition; repetitions differ in their seed only.

    That the other sites have every class is checked with the training parts of all protocols, in
    `slidemill.splits.checks`.

    Args:
        cohort: One row a slide: `slide_id` and the column of the sites (text).
        rows: The slides that have a label: `slide_id`, `patient_id`.
        column: The column of the sites.
        repeats: Repetitions.

    Raises:
        LeakError: If a patient is of two sites.
        CohortError: If the column is not there, a slide has no site, or there is one site only.
    """
    site_of = sites_of_patients(cohort, rows, column)
    sites = sorted(set(site_of.values()))
    if len(sites) < 2:
        raise CohortError(
            f"leave-one-site-out takes at least 2 sites, but all patients with a label are of "
            f"{named(sites)} in {column}. Choose another evaluate.protocol or evaluate.site."
        )
    patients = sorted(site_of)
    units = []
    for repeat in range(repeats):
        for fold, site in enumerate(sites):
            train = tuple(patient for patient in patients if site_of[patient] != site)
            test = tuple(patient for patient in patients if site_of[patient] == site)
            units.append(Unit(repeat, fold, train, (), test))
    return units


def site_names(site_of: Mapping[str, str]) -> tuple[str, ...]:
    """The site that each fold tests, by the fold's number."""
    return tuple(sorted(set(site_of.values())))


def sites_of_patients(cohort: pd.DataFrame, rows: pd.DataFrame, column: str) -> dict[str, str]:
    """The site of each patient that has a label.

    Args:
        cohort: One row a slide: `slide_id` and the column of the sites (text).
        rows: The slides that have a label: `slide_id`, `patient_id`.
        column: The column of the sites.

    Raises:
        LeakError: If a patient is of two sites.
        CohortError: If the column is not there, or a slide has no site.
    """
    if column not in cohort.columns:
        raise CohortError(
            f"the sheet has no column {column!r}. It has "
            f"{named([str(name) for name in cohort.columns], most=40)}: set evaluate.site to one."
        )
    site_of_slide = dict(zip(cohort["slide_id"], read_texts(cohort[column]), strict=True))
    found: dict[str, set[str]] = {}
    without = set()
    for slide, patient in zip(rows["slide_id"], rows["patient_id"], strict=True):
        site = site_of_slide[slide]
        if site is None:
            without.add(str(patient))
        else:
            found.setdefault(str(patient), set()).add(site)
    if without:
        raise CohortError(
            f"slides without a site in {column}, so their patients cannot be tested: "
            f"{named(sorted(without))}. Fill the column, or leave their label empty."
        )
    refuse(
        (patient for patient, sites in found.items() if len(sites) > 1),
        f"at two sites in {column}",
        "Their slides would be on both sides: give a patient's slides one site, or leave the label "
        "of the others empty.",
    )
    return {patient: next(iter(sites)) for patient, sites in found.items()}
