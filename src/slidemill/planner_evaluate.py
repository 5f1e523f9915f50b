"""Planning the evaluation: splits, summaries of features, rows of comparisons.

Part of `slidemill.planner`: from a configuration and a sheet to identities; nothing heavy is
imported.
"""

from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from slidemill import versions
from slidemill.artifacts import formats
from slidemill.artifacts.digest import digest_of, file_sha256
from slidemill.artifacts.folder import StageId
from slidemill.cohort.sheet import Sheet, SheetRow
from slidemill.config import Config, EvaluateConfig, ModelEntry, TaskConfig
from slidemill.config.evaluate import InputKind, ModelName
from slidemill.errors import ConfigError, Problem
from slidemill.evaluate.controls import ALL_CONTROLS, ENCODER_CONTROLS
from slidemill.evaluate.models import MODELS, PROBE_OF
from slidemill.plan import CellPlan, EncoderPlan, PretrainPlan
from slidemill.planner_cells import LABELS_ONLY, CellMaker, path_safe
from slidemill.splits.classes import new_orders

SPLIT_COLUMN = "split"
"""Column of the sheet that protocol: split reads."""


def check_evaluate(config: Config, sheet: Sheet) -> Iterator[Problem]:
    """What the evaluation asks for and cannot have."""
    evaluate = config.evaluate
    has = ", ".join(sheet.label_columns) or "none"
    for number, task in enumerate(evaluate.tasks):
        for column in task.columns:
            if column not in sheet.label_columns:
                key = "event" if column == task.event else "column"
                where = f"evaluate.tasks.{number}.{key}"
                what = f"the sheet has no label column {column!r}"
                yield Problem(where, what, f"It has: {has}")
        if not any(task.type in MODELS[entry.name].types for entry in evaluate.entries()):
            what = f"no model of evaluate.models can do a {task.type} task"
            able = ", ".join(m.name for m in MODELS.values() if task.type in m.types)
            yield Problem(f"evaluate.tasks.{number}.type", what, f"Add one of: {able}")
        if evaluate.few_shot and task.type not in ("binary", "multiclass"):
            what = f"few-shot draws patients of each class, and {task.name} is {task.type}"
            yield Problem("evaluate.few_shot", what, "Use few_ratio")
    if evaluate.site is not None and evaluate.site not in sheet.label_columns:
        what = f"the sheet has no column {evaluate.site!r}"
        yield Problem("evaluate.site", what, f"It has: {has}")
    if evaluate.protocol == "split" and not any(row.split for row in sheet.rows):
        what = "split, and the sheet's split column is missing or empty"
        todo = "Fill it with train, validate and test, or use another protocol"
        yield Problem("evaluate.protocol", what, todo)
    for number, entry in enumerate(evaluate.entries()):
        model = MODELS[entry.name]
        where = f"evaluate.models.{number}"
        if model.package and find_spec(model.package) is None:
            what = f"{model.name} needs the package {model.package}"
            yield Problem(where, what, f"Install it: pip install 'slidemill[{model.package}]'")
        types = {task.type for task in evaluate.tasks}
        if types and not types & set(model.types):
            what = f"{model.name} can do none of the tasks ({', '.join(sorted(types))})"
            yield Problem(where, what, f"It does: {', '.join(model.types)}. Leave it out")


def plan_splits(config: Config, task: TaskConfig, sheet: Sheet, folder: Path) -> StageId:
    """Identity of a task's splits: who they are of, and how they are made."""
    evaluate = config.evaluate
    columns = [*task.columns, *([evaluate.site] if evaluate.site else [])]
    parameters: dict[str, object] = {
        "task": task.model_dump(mode="json", exclude=LABELS_ONLY),
        "seed": evaluate.seed,
        "rows": digest_of(
            sorted(
                (r.slide_id, r.patient_id, r.split or "", *(r.labels.get(c, "") for c in columns))
                for r in sheet.rows
            )
        ),
    }
    if orders := new_orders(task, sheet.rows):
        parameters["classes"] = orders
    given = task.splits or evaluate.splits
    if given is not None:
        path = folder / given
        if not path.is_file():
            where = "evaluate.splits" if task.splits is None else f"task {task.name}: splits"
            problem = Problem(where, f"{path}: there is no such file", "Fix the path")
            raise ConfigError("of this run", [problem])
        parameters |= {"protocol": "given", "given": file_sha256(path)}
        keys = {"few_shot", "few_ratio", "draws", "validation"}
    else:
        keys = {"protocol", "few_shot", "few_ratio", "draws", "validation", "repeats"}
        keys |= {"folds"} if evaluate.protocol == "k-fold" else set()
    parameters |= evaluate.model_dump(mode="json", include=keys)
    return StageId("splits", task.name, formats.SPLITS, versions.SPLITS, parameters)


def folds_of(
    evaluate: EvaluateConfig, task: TaskConfig, sheet: Sheet, folder: Path
) -> list[tuple[int, int]]:
    """(repeat, fold) of every fold of a task; an encoder is trained for each, if per fold."""
    given = task.splits or evaluate.splits
    if given is not None:
        from slidemill.splits.given import read_given

        units = read_given(folder / given, task.name, ())
        return sorted({(unit.repeat, unit.fold) for unit in units})
    folds = evaluate.folds
    if evaluate.protocol == "split":
        folds = 1
    elif evaluate.protocol == "leave-one-site-out":
        rows = [row for row in sheet.rows if _labelled(row, task)]
        folds = len({row.labels.get(str(evaluate.site), "") for row in rows})
    return [(repeat, fold) for repeat in range(evaluate.repeats) for fold in range(folds)]


def plan_summary(encoder: EncoderPlan) -> StageId:
    """Identity of the summary of an encoder's features."""
    label = path_safe(f"summary-{encoder.encoder.label}")
    return StageId("evaluate", label, formats.SUMMARY, versions.EVALUATE, {}, (encoder.features,))


def plan_cells(
    config: Config,
    encoders: Sequence[EncoderPlan],
    summaries: Mapping[str, StageId],
    splits: Mapping[str, StageId],
    pretrain: Sequence[PretrainPlan],
) -> list[CellPlan]:
    """Every row of every comparison: results first, then retrieval, then controls."""
    cells = []
    for task in config.evaluate.tasks:
        make = CellMaker(config.evaluate, task, summaries, splits[task.name])
        fitting = [e for e in config.evaluate.entries() if task.type in MODELS[e.name].types]
        for entry in fitting:
            for encoder in encoders:
                for kind, source, units in _inputs(entry, task, encoder, pretrain):
                    cells.append(make.cell(entry, kind, source, encoder, units))
        retrieved = _probe("linear-probe", config.evaluate)
        if config.evaluate.retrieval and task.type in ("binary", "multiclass"):
            for encoder in encoders:
                for kind, source, units in _inputs(retrieved, task, encoder, pretrain):
                    if kind != "both":
                        cells.append(make.retrieval(kind, source, encoder, units))
        results = [cell for cell in cells if cell.task is task]
        cells += list(_controls(make, config.evaluate, task, encoders, results))
    return cells


def _inputs(
    entry: ModelEntry, task: TaskConfig, encoder: EncoderPlan, pretrain: Sequence[PretrainPlan]
) -> Iterator[tuple[InputKind, str, dict[tuple[int, int], PretrainPlan]]]:
    """What a model is run on: kind, name for people, and slide encoders by (repeat, fold)."""
    name = encoder.encoder.label
    runs: dict[str, dict[tuple[int, int], PretrainPlan]] = {}
    for plan in pretrain:
        if plan.encoder is encoder and plan.task in (None, task.name):
            runs.setdefault(plan.run.name, {})[plan.repeat, plan.fold] = plan
    for kind in entry.inputs or ():
        if kind == "tiles":
            yield kind, name, {}
        else:
            for run, units in runs.items():
                source = f"{name}/{run}"
                yield kind, source if kind == "slides" else f"{name}+{source}", units


def _controls(
    make: CellMaker,
    evaluate: EvaluateConfig,
    task: TaskConfig,
    encoders: Sequence[EncoderPlan],
    results: Sequence[CellPlan],
) -> Iterator[CellPlan]:
    """Control rows: probes, since they are fast and have nothing to tune by hand."""
    probe = _probe(PROBE_OF[task.type], evaluate)
    tilings = set()
    for encoder in encoders:
        name = encoder.encoder.label
        mine = [cell for cell in results if cell.encoder is encoder]
        if "mean-features" in evaluate.controls and not _is_there(mine, probe, "tiles", name):
            yield make.cell(probe, "tiles", name, encoder, {}, "mean-features")
        if "max-features" in evaluate.controls and any(cell.pretrain for cell in mine):
            yield make.cell(probe, "tiles", name, encoder, {}, "max-features")
        if "shuffled-labels" in evaluate.controls and not task.shuffle_labels:
            yield make.cell(probe, "tiles", name, encoder, {}, "shuffled-labels")
        if "tile-count" in evaluate.controls and encoder.tiles.name not in tilings:
            tilings.add(encoder.tiles.name)
            yield make.cell(probe, "tiles", "number of tiles", encoder, {}, "tile-count")
        # A site that is left out is in no training set.
        known = evaluate.site is not None and evaluate.protocol != "leave-one-site-out"
        if "site" in evaluate.controls and known:
            entry = _probe("linear-probe", evaluate)
            yield make.cell(entry, "tiles", name, encoder, {}, "site")
        yield from _encoder_controls(make, evaluate, probe, encoder, mine)


def _encoder_controls(
    make: CellMaker,
    evaluate: EvaluateConfig,
    probe: ModelEntry,
    encoder: EncoderPlan,
    results: Sequence[CellPlan],
) -> Iterator[CellPlan]:
    """The controls of every slide encoder that has a row; one cell makes all of an encoder's."""
    runs = {
        next(iter(cell.pretrain.values())).run.name: cell.pretrain
        for cell in results
        if cell.pretrain
    }
    for run, units in runs.items():
        source = f"{encoder.encoder.label}/{run}"
        wanted = [c for c in ENCODER_CONTROLS if c in evaluate.controls]
        if _is_there(results, probe, "slides", source):
            wanted = [c for c in wanted if c != "cls"]
        if wanted:
            yield make.cell(
                probe, "slides", source, encoder, units, ALL_CONTROLS, tuple(wanted)
            )  # fmt: skip


def _is_there(results: Sequence[CellPlan], probe: ModelEntry, kind: InputKind, source: str) -> bool:
    """Whether a result is a probe with these settings on this input."""
    return any(
        cell.entry is not None
        and (cell.entry.name, cell.entry.linear_probe) == (probe.name, probe.linear_probe)
        and (cell.kind, cell.source) == (kind, source)
        for cell in results
    )


def _probe(name: ModelName, evaluate: EvaluateConfig) -> ModelEntry:
    """A probe with the configuration's own settings."""
    return ModelEntry(
        name=name, label=name, inputs=evaluate.inputs, linear_probe=evaluate.linear_probe,
        knn=evaluate.knn,
    )  # fmt: skip


def _labelled(row: SheetRow, task: TaskConfig) -> bool:
    there = [bool(row.labels.get(column)) for column in task.columns]
    return any(there) if task.type == "multilabel" else all(there)
