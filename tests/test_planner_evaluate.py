from collections.abc import Callable
from pathlib import Path

import pytest

from slidemill.config import parse_config
from slidemill.errors import ConfigError
from slidemill.plan import Plan
from slidemill.planner import make_plan

HEADER = "slide_id\tpath\tpatient_id\tlabel\tgrade\tage\tdays\tdead\tsite\n"
SHEET = HEADER + "".join(
    f"s{i}\ts{i}.svs\tp{i}\t{i % 2}\t{i % 3}\t{40 + i}\t{100 + i}\t{i % 2}\tsite{i % 4}\n"
    for i in range(12)
)
TASK = {"name": "t", "column": "label"}
SURVIVAL = {"name": "os", "column": "days", "event": "dead", "type": "survival"}
AGE = {"name": "age", "column": "age", "type": "regression"}


@pytest.fixture
def plan(tmp_path: Path) -> Callable[..., Plan]:
    def make(runs: list[dict[str, object]] | None = None, **evaluate: object) -> Plan:
        (tmp_path / "s.tsv").write_text(SHEET)
        sections = {
            "cohort": {"sheet": "s.tsv"},
            "features": {"encoders": ["rgb-mean", "hed-texture"]},
            "pretrain": {"runs": runs or []},
            "evaluate": {"tasks": [TASK]} | evaluate,
        }
        return make_plan(parse_config(sections, "test"), tmp_path)

    return make


def lines(plan: Plan, **wanted: str) -> list[tuple[str, str]]:
    return [
        (cell.control or cell.model, cell.source)
        for cell in plan.cells
        if all(getattr(cell, key) == value for key, value in wanted.items())
    ]


def test_models_and_controls_are_rows_of_every_encoder(plan: Callable[..., Plan]) -> None:
    made = plan(models=["abmil"], site="site")
    assert lines(made) == [
        ("abmil", "rgb-mean"), ("abmil", "hed-texture"),
        ("mean-features", "rgb-mean"), ("shuffled-labels", "rgb-mean"),
        ("tile-count", "number of tiles"), ("site", "rgb-mean"),
        ("mean-features", "hed-texture"), ("shuffled-labels", "hed-texture"),
        ("site", "hed-texture"),
    ]  # fmt: skip
    assert len({cell.stage.name for cell in made.cells}) == len(made.cells)


def test_a_probe_among_the_models_is_no_control_as_well(plan: Callable[..., Plan]) -> None:
    assert "mean-features" not in dict(lines(plan(models=["linear-probe"])))


def test_inputs_are_tiles_slides_or_both(plan: Callable[..., Plan]) -> None:
    run = [{"name": "dino", "patients": "all"}]
    probe = {"name": "linear-probe", "inputs": ["tiles", "slides", "both"]}
    bags = {"name": "abmil", "label": "deep", "inputs": ["both"]}
    made = plan(run, models=["abmil", probe, bags], controls=[])
    assert [line for line in lines(made) if "rgb" in line[1]] == [
        ("abmil", "rgb-mean"),
        ("linear-probe", "rgb-mean"),
        ("linear-probe", "rgb-mean/dino"),
        ("linear-probe", "rgb-mean+rgb-mean/dino"),
        ("deep", "rgb-mean+rgb-mean/dino"),
    ]
    both = next(cell for cell in made.cells if cell.model == "deep")
    assert both.stage.name.startswith("t-deep-rgb-mean-and-rgb-mean-dino-")


def test_each_task_gets_the_models_that_can_do_it(plan: Callable[..., Plan]) -> None:
    models = ["abmil", "linear-probe", "ridge", "cox"]
    made = plan(tasks=[TASK, SURVIVAL, AGE], models=models, controls=["tile-count"])
    of = {
        task: {cell.model for cell in made.cells if cell.task.name == task and not cell.control}
        for task in ("t", "os", "age")
    }
    assert of == {"t": {"abmil", "linear-probe"}, "os": {"abmil", "cox"}, "age": {"abmil", "ridge"}}
    assert {c.entry.name for c in made.cells if c.control and c.entry} == {
        "linear-probe", "cox", "ridge",
    }  # fmt: skip


def test_settings_change_the_rows_that_they_are_of(plan: Callable[..., Plan]) -> None:
    def digests(**evaluate: object) -> dict[str, str]:
        made = plan(models=["abmil", "linear-probe", "knn"], controls=[], **evaluate)
        return {c.model: c.stage.digest for c in made.cells if c.source == "rgb-mean"}

    base = digests()
    for change, expected in [
        ({"abmil": {"heads": 2}}, {"abmil"}),
        ({"mil": {"epochs": 3}}, {"abmil"}),
        ({"knn": {"k": 3}}, {"knn"}),
        ({"inner_folds": 3}, {"linear-probe"}),
        ({"patient": "one"}, {"abmil", "linear-probe", "knn"}),
        ({"few_shot": [2]}, {"abmil", "linear-probe", "knn"}),
        ({"survival": {"bins": 9}}, set()),
        ({"device": "cpu"}, set()),
    ]:
        now = digests(**change)
        assert {name for name in base if now[name] != base[name]} == expected, change


@pytest.mark.parametrize(
    ("protocol", "expected"),
    [
        ({"repeats": 2, "folds": 3}, [(r, f) for r in (0, 1) for f in range(3)]),
        ({"protocol": "leave-one-site-out", "site": "site"}, [(0, f) for f in range(4)]),
    ],
)
def test_an_encoder_a_fold_of_every_protocol(
    plan: Callable[..., Plan], protocol: dict[str, object], expected: list[tuple[int, int]]
) -> None:
    made = plan([{"name": "dino"}], **protocol)
    mine = [unit for unit in made.pretrain if unit.encoder is made.encoders[0]]
    assert [(unit.repeat, unit.fold) for unit in mine] == expected


def test_folds_of_given_splits_are_read(plan: Callable[..., Plan], tmp_path: Path) -> None:
    rows = "".join(f"t,0,{i % 2},p{i}\n" for i in range(12))
    (tmp_path / "given.csv").write_text("task,repeat,fold,patient_id\n" + rows)
    made = plan([{"name": "dino"}], splits="given.csv")
    assert {(unit.repeat, unit.fold) for unit in made.pretrain} == {(0, 0), (0, 1)}
    (tmp_path / "given.csv").write_text("task,repeat,fold,patient_id\n" + rows.replace("p0", "p1"))
    assert plan(splits="given.csv").splits["t"].digest != made.splits["t"].digest


@pytest.mark.parametrize(
    ("evaluate", "words"),
    [
        ({"site": "clinic"}, "evaluate.site: the sheet has no column 'clinic'"),
        ({"protocol": "leave-one-site-out"}, "leave-one-site-out needs `site`"),
        ({"protocol": "split"}, "split column is missing or empty"),
        ({"tasks": [SURVIVAL | {"event": "x"}], "models": ["cox"]}, "tasks.0.event: .*'x'"),
        ({"tasks": [AGE], "models": ["linear-probe"]}, "no model of evaluate.models can do a regr"),
        ({"models": ["abmil", "cox"]}, "cox can do none of the tasks"),
        ({"tasks": [AGE], "few_shot": [1], "models": ["ridge"]}, "Use few_ratio"),
        ({"models": ["abmil", "abmil"]}, "two models have the same label"),
        ({"tasks": [{"name": "t", "column": ["label"]}]}, "column is a list for multilabel"),
        ({"tasks": [{"name": "t", "column": "days", "type": "survival"}]}, "event is a column for"),
        ({"tasks": [AGE | {"classes": ["a"]}]}, "classes are for multiclass"),
    ],
)
def test_what_cannot_be_is_refused(
    plan: Callable[..., Plan], evaluate: dict[str, object], words: str
) -> None:
    with pytest.raises(ConfigError, match=f"(?i){words}"):
        plan(**evaluate)
