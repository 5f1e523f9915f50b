"""What a job refuses to work with."""

import pytest

from slidemill import jobs
from slidemill.config import parse_config
from slidemill.errors import ArtifactError
from slidemill.planner import make_plan

CONFIG = {
    "cohort": {"sheet": "slides.tsv", "max_failed": 1.0},
    "evaluate": {"tasks": [{"name": "grade", "column": "label"}]},
}


def plan_of(folder, names):
    rows = [f"{name}\t{name}.svs\t{name}\t{'ab'[n % 2]}" for n, name in enumerate(names)]
    text = "\n".join(["slide_id\tpath\tpatient_id\tlabel", *rows]) + "\n"
    (folder / "slides.tsv").write_text(text)
    return make_plan(parse_config(CONFIG, "of a test"), folder)


def test_a_cohort_of_another_sheet_is_refused_with_what_to_do(tmp_path):
    before = plan_of(tmp_path, ["s", "t"])
    jobs.cohort(before, before.buckets, 1)
    jobs.gather_cohort(before)
    jobs.check_cohort(before)
    jobs.check_cohort(plan_of(tmp_path, ["t", "s"]))
    # As a run without Snakemake's records would: it takes the table that is there.
    after = plan_of(tmp_path, ["s", "t", "u"])
    words = "it has 2 slides and is not of the sheet as it is now, of 3.*--forcerun cohort_bucket"
    with pytest.raises(ArtifactError, match=words):
        jobs.splits(after, "grade")
    with pytest.raises(ArtifactError, match=words):
        jobs.report(after)
