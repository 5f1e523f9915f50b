from slidemill.config.evaluate import ON_BAGS
from slidemill.errors import SlidemillError
from slidemill.workflow import finish, plan_workflow, recompute_flags, start
from snakemake.exceptions import WorkflowError

try:
    PLAN = plan_workflow(config)
except SlidemillError as error:
    # The message says it all; a traceback of the Snakefile would only bury it.
    raise WorkflowError(str(error)) from None

RUN = {}
FEATURES = {unit.features.name: unit for unit in PLAN.encoders}
PRETRAIN = {unit.stage.name: unit for unit in PLAN.pretrain}
CELLS = {cell.stage.name: cell for cell in PLAN.cells}
SUMMARIES = {
    PLAN.summaries[unit.encoder.label].name: unit.features for unit in PLAN.encoders
}
COMPARISONS = {stage.name: task for task, stage in PLAN.evaluate.items()}
SPLITS = {stage.name: task for task, stage in PLAN.splits.items()}


pathvars:
    cohort=str(PLAN.cohort.folder(PLAN.results)),
    tissue=str(PLAN.tissue.folder(PLAN.results)),
    tiles=str(PLAN.results / "tiles"),
    features=str(PLAN.results / "features"),
    splits=str(PLAN.results / "splits"),
    pretrain=str(PLAN.results / "pretrain"),
    evaluate=str(PLAN.results / "evaluate"),
    report=str(PLAN.report.folder(PLAN.results)),
    logs=str(PLAN.results / "logs"),


wildcard_constraints:
    bucket=r"\d+-of-\d+",
    run=r"[A-Za-z0-9_.-]+",


def bucket_digest(wildcards):
    """What the sheet says of a bucket; a change of it runs the bucket again."""
    return PLAN.bucket_digest(wildcards.bucket)


def bucket_paths(stage):
    """The buckets' manifests of a stage."""
    return [str(PLAN.bucket_path(stage, bucket)) for bucket in PLAN.buckets]


def recompute(*stages):
    """Input that makes a rule run again when `--config recompute=` names one of its stages."""

    def flags(wildcards):
        asks = workflow.is_main_process
        return [
            str(path) for path in recompute_flags(PLAN, stages, asks, workflow.dryrun)
        ]

    return flags


def stage_files(name):
    """What has to be there for a stage to be complete."""
    return [str(path) for path in PLAN.targets(name)]


def tiles_buckets(wildcards):
    return bucket_paths(PLAN.tiles[wildcards.run])


def features_tiles(wildcards):
    """The bucket of tiles that a bucket of features reads."""
    return str(PLAN.bucket_path(FEATURES[wildcards.run].tiles, wildcards.bucket))


def features_threads(wildcards):
    """A network takes all that it gets; handcrafted encoders go side by side, a bucket each."""
    return 8 if FEATURES[wildcards.run].encoder.spec.needs_weights else 1


def features_buckets(wildcards):
    return bucket_paths(FEATURES[wildcards.run].features)


def pretrain_inputs(wildcards):
    return [str(path) for path in PLAN.pretrain_inputs(PRETRAIN[wildcards.run])]


def evaluate_features(wildcards):
    """What a summary of features reads."""
    return str(PLAN.manifest_path(SUMMARIES[wildcards.run]))


def evaluate_inputs(wildcards):
    """A model waits for features and folds, a comparison for its models."""
    if wildcards.run in CELLS:
        return [str(path) for path in PLAN.cell_inputs(CELLS[wildcards.run])]
    return [str(path) for path in PLAN.comparison_inputs(COMPARISONS[wildcards.run])]


def evaluate_threads(wildcards):
    """Models on bags of a network's features take all that they get; others go side by side."""
    cell = CELLS.get(wildcards.run)
    large = cell is not None and cell.encoder.encoder.spec.needs_weights
    return 8 if large and cell.entry is not None and cell.entry.name in ON_BAGS else 1


def split_task(wildcards):
    return SPLITS[wildcards.run]


def growing_mem(base_mb):
    """Memory that grows with every attempt."""

    def mem(wildcards, attempt):
        return base_mb * attempt

    return mem


def growing_time(minutes):
    """Run time that grows with every attempt."""

    def runtime(wildcards, attempt):
        return minutes * attempt

    return runtime


onstart:
    RUN["record"] = start(PLAN)


onsuccess:
    if "record" in RUN:
        finish(RUN["record"], "success")
    shell("slidemill summary --brief")


onerror:
    if "record" in RUN:
        finish(RUN["record"], "error")
