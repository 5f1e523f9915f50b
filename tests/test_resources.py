"""What jobs ask of a cluster."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slidemill.config import parse_config
from slidemill.features.registry import ENCODERS
from slidemill.planner import make_plan
from slidemill.resources import (
    LONGEST,
    Need,
    encoder_need,
    of_bucket,
    of_evaluate,
    of_features,
    of_pretrain,
    of_report,
)

SPECS = [spec for spec in ENCODERS.values() if spec.builder != "none"]


@given(st.integers(1, 10**6), st.integers(1, 2000), st.integers(1, 10))
def test_attempts_ask_for_more_and_never_for_longer_than_a_day(mem_mb, minutes, attempt):
    need = Need(mem_mb, minutes)
    assert need.grown(1) == Need(mem_mb, min(minutes, LONGEST))
    assert need.grown(attempt + 1).mem_mb > need.grown(attempt).mem_mb
    assert need.grown(attempt).minutes <= need.grown(attempt + 1).minutes <= LONGEST


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_every_encoder_asks_for_what_a_node_has(spec):
    few, many = encoder_need(spec, 8), encoder_need(spec, 64)
    assert 2000 <= few.mem_mb == many.mem_mb <= 64_000
    assert 15 <= few.minutes < many.minutes <= LONGEST


def test_a_larger_encoder_asks_for_more():
    by_name = {spec.name: spec for spec in SPECS}
    small, large = (encoder_need(by_name[name], 64) for name in ("hibou-b", "uni2-h"))
    assert small.mem_mb < large.mem_mb
    assert small.minutes < large.minutes


@pytest.fixture
def plan(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [f"S{n}\tS{n}.svs\tP{n}\t{'ab'[n % 2]}" for n in range(40)]
    head = "slide_id\tpath\tpatient_id\tlabel"
    (tmp_path / "slides.tsv").write_text("\n".join([head, *rows]) + "\n")
    values = {
        "cohort": {"sheet": "slides.tsv"},
        "buckets": 2,
        "evaluate": {"tasks": [{"name": "grade", "column": "label"}]},
        "pretrain": {"runs": [{"patients": "all", "epochs": 10}]},
    }
    return make_plan(parse_config(values, "of a test"), tmp_path)


def test_every_job_of_a_plan_has_a_need(plan):
    for bucket in plan.buckets:
        needs = [of_bucket(plan, stage, bucket) for stage in ("cohort", "tissue", "tiles")]
        needs += [of_features(plan, unit, bucket) for unit in plan.encoders]
        assert all(need.mem_mb >= 2000 and need.minutes > 10 for need in needs)
    (unit,) = plan.pretrain
    assert of_pretrain(plan, unit).minutes == 60 + -(-40 * 10 // (6 * 60))
    assert of_report(plan).mem_mb > 4000
    names = {cell.model: cell for cell in plan.cells if not cell.control}
    assert (
        of_evaluate(plan, names["abmil"]).minutes > of_evaluate(plan, names["linear-probe"]).minutes
    )
    assert of_evaluate(plan, None).minutes >= 60


def test_more_slides_in_a_bucket_ask_for_more_time(plan):
    few, many = sorted(plan.buckets, key=lambda bucket: len(plan.buckets[bucket]))
    assert len(plan.buckets[few]) < len(plan.buckets[many])
    for stage in ("cohort", "tissue", "tiles"):
        assert of_bucket(plan, stage, few).minutes <= of_bucket(plan, stage, many).minutes
