import re
from collections.abc import Callable
from pathlib import Path

import pytest

from slidemill.config import parse_config
from slidemill.errors import ConfigError
from slidemill.evaluate.encoder_rows import RowKey, encoder_rows
from slidemill.plan import CellPlan, Plan
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


EVERY_CONTROL = (
    "random-init", "shuffled-coordinates", "mean-tokens", "random-init-mean-tokens",
    "shuffled-mean-tokens", "layers", "random-init-layers", "shuffled-layers", "cls+mean",
)  # fmt: skip


def encoders_of(made: Plan) -> dict[str, CellPlan]:
    return {cell.source: cell for cell in made.cells if cell.controls}


def test_controls_of_a_slide_encoder_come_with_its_results(plan: Callable[..., Plan]) -> None:
    runs = [{"name": "dino", "patients": "all"}, {"name": "other", "patients": "all"}]
    made = plan(runs, models=["linear-probe"])
    sources = [f"{e}/{r}" for e in ("rgb-mean", "hed-texture") for r in ("dino", "other")]
    assert sorted(encoders_of(made)) == sorted(sources)
    # The probe on the class token is a result here, and so is the one on the mean of the tiles.
    assert {cell.controls for cell in encoders_of(made).values()} == {EVERY_CONTROL}
    assert [line for line in lines(made) if line[0] == "max-features"] == [
        ("max-features", "rgb-mean"), ("max-features", "hed-texture"),
    ]  # fmt: skip
    names = [cell.stage.name for cell in made.cells]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+", name) for name in names)
    rows = encoders_of(made)["rgb-mean/dino"].rows()
    assert [row.control for row in rows] == list(EVERY_CONTROL)
    assert {(r.control, r.readout, r.kind) for r in rows} >= {
        ("random-init", "random_init_cls", "slides"), ("layers", "layers", "slides"),
        ("cls+mean", "cls", "both"), ("shuffled-mean-tokens", "shuffled_mean_tokens", "slides"),
    }  # fmt: skip
    assert len({(row.model, row.source, row.control) for row in rows}) == len(rows)


def test_without_a_slide_encoder_there_are_no_controls_of_one(plan: Callable[..., Plan]) -> None:
    made = plan(models=["linear-probe"])
    assert not encoders_of(made)
    assert "max-features" not in dict(lines(made))
    assert {cell.readout for cell in made.cells} == {""}


def test_a_slide_encoder_among_bags_has_its_controls(plan: Callable[..., Plan]) -> None:
    run = [{"name": "dino", "patients": "all"}]
    beside = plan(run, models=[{"name": "abmil", "inputs": ["both"]}])
    assert {c.controls for c in encoders_of(beside).values()} == {("cls", *EVERY_CONTROL)}
    assert not encoders_of(plan(run, models=["abmil"]))
    assert encoders_of(plan(run, models=["abmil"], retrieval=True))


def test_a_probe_with_other_settings_stands_for_no_control(plan: Callable[..., Plan]) -> None:
    run = [{"name": "dino", "patients": "all"}]
    probe = {"name": "linear-probe", "linear_probe": {"strength": 1.0}}
    made = plan(run, models=[probe])
    assert encoders_of(made)["rgb-mean/dino"].controls[0] == "cls"
    assert ("mean-features", "rgb-mean") in lines(made)


def test_the_configuration_chooses_controls_and_the_digest_says_so(
    plan: Callable[..., Plan],
) -> None:
    run = [{"name": "dino", "patients": "all"}]
    few = plan(run, models=["linear-probe"], controls=["random-init", "layers"])
    cells = encoders_of(few)
    assert cells["rgb-mean/dino"].controls == ("random-init", "layers")
    fewer = plan(run, models=["linear-probe"], controls=["layers"])
    digests = [encoders_of(one)["rgb-mean/dino"].stage.digest for one in (few, fewer)]
    assert digests[0] != digests[1]
    assert not encoders_of(plan(run, models=["linear-probe"], controls=["site"]))
    result = next(cell for cell in few.cells if cell.source == "rgb-mean/dino")
    assert result.stage.parameters["readout"] == result.readout == "cls"
    with pytest.raises(ConfigError, match="controls"):
        plan(run, controls=["random"])


def test_every_readout_is_compared_with_its_own_controls(plan: Callable[..., Plan]) -> None:
    made = plan([{"name": "dino", "patients": "all"}], models=["linear-probe", "abmil"])
    (rgb, _) = encoder_rows(made.cells)
    source, cls = "rgb-mean/dino", RowKey("linear-probe", "rgb-mean/dino", "")
    assert rgb.rows["cls"] == cls
    assert rgb.mean_features == RowKey("linear-probe", "rgb-mean", "")
    pairs = rgb.pairs()
    for other in ("random-init", "shuffled-coordinates"):
        assert (cls, RowKey("linear-probe", source, other)) in pairs
    assert (cls, rgb.mean_features) in pairs
    assert (cls, RowKey("linear-probe", "rgb-mean", "max-features")) in pairs
    layers = RowKey("linear-probe", source, "layers")
    assert (layers, RowKey("linear-probe", source, "random-init-layers")) in pairs
    assert (RowKey("linear-probe", source, "cls+mean"), rgb.mean_features) in pairs
    assert len(pairs) == len(set(pairs)) == 3 * 4 + 2


def test_pairs_of_controls_that_are_not_there_are_left_out(plan: Callable[..., Plan]) -> None:
    made = plan(
        [{"name": "dino", "patients": "all"}],
        models=[{"name": "abmil", "inputs": ["both"]}],
        controls=["cls", "mean-features"],
    )
    rgb = next(encoder_rows(made.cells))
    assert [(a.label, b.label) for a, b in rgb.pairs()] == [
        ("linear-probe on rgb-mean/dino (cls)", "linear-probe on rgb-mean (mean-features)"),
    ]


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
