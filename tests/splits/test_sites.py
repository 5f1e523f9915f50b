import pytest

from slidemill.errors import CohortError, LeakError
from slidemill.splits.sites import site_names, site_units, sites_of_patients
from slidemill.splits.units import Unit
from splits.cohorts import cohort


def test_each_site_is_tested_once_by_the_others() -> None:
    table = cohort("cabbd", site=["Z", "M", "A", "A", "Z"])
    units = site_units(table, table, "site", repeats=2)
    first = [
        Unit(0, 0, ("a", "c", "d"), (), ("b",)),
        Unit(0, 1, ("b", "c", "d"), (), ("a",)),
        Unit(0, 2, ("a", "b"), (), ("c", "d")),
    ]
    assert units[:3] == first
    assert [unit.test for unit in units[3:]] == [unit.test for unit in first]
    assert [unit.repeat for unit in units[3:]] == [1, 1, 1]
    assert site_names(sites_of_patients(table, table, "site")) == ("A", "M", "Z")


def test_a_patient_at_two_sites_is_a_leak() -> None:
    table = cohort("aab", site=["A", "B", "B"])
    with pytest.raises(LeakError, match="1 patient at two sites in site: a"):
        site_units(table, table, "site", repeats=1)


def test_slides_without_a_site_are_refused_by_patient() -> None:
    table = cohort("aabc", site=["A", None, "B", ""])
    with pytest.raises(CohortError, match="cannot be tested: 'a', 'c'"):
        site_units(table, table, "site", repeats=1)
    labelled = table[table["slide_id"].isin(["s0", "s2"])]
    assert len(site_units(table, labelled, "site", repeats=1)) == 2


def test_one_site_or_no_column_is_refused() -> None:
    table = cohort("ab", site=["A", "A"])
    with pytest.raises(CohortError, match="at least 2 sites"):
        site_units(table, table, "site", repeats=1)
    with pytest.raises(CohortError, match="no column 'centre'"):
        site_units(table, table, "centre", repeats=1)
