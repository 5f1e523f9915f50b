import re
from pathlib import Path

from slidemill import resources
from slidemill.config.evaluate import ON_BAGS
from slidemill.errors import SlidemillError
from slidemill.plan import WHOLE
from slidemill.workflow import finish, plan_workflow, recompute_flags, start
from snakemake.exceptions import WorkflowError

try:
    PLAN = plan_workflow(config, Path(workflow.basedir))
except SlidemillError as error:
    # The message says it all; a traceback of the Snakefile would only bury it.
    raise WorkflowError(str(error)) from None

if workflow.is_main_process:
    # How the sheet was read, and what of it is missing: in a dry run too.
    for note in PLAN.sheet.notes:
        logger.info(note)

RUN = {}
MODULES = PLAN.config.site.modules
GPU_MODULES = [*MODULES, *PLAN.config.site.gpu_modules]
FEATURES = {unit.features.name: unit for unit in PLAN.encoders}
NETWORKS = [name for name, unit in FEATURES.items() if unit.encoder.spec.needs_weights]
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
    """What the sheet says of a bucket; a change of it runs the bucket again.

    Jobs parse the workflow again and have no need of it: only the process that was asked keeps
    records. So they look at no file of the cohort.
    """
    return PLAN.bucket_digests[wildcards.bucket] if workflow.is_main_process else ""


def slide_files(wildcards):
    """Length and time of a bucket's slides; other scans under the same names run it again."""
    return PLAN.slide_digests[wildcards.bucket] if workflow.is_main_process else ""


def sheet_digest(wildcards):
    """What the sheet says of all slides, labels included."""
    return PLAN.sheet_digest()


def bucket_paths(stage):
    """The buckets' manifests of a stage."""
    return [str(PLAN.bucket_path(stage, bucket)) for bucket in PLAN.buckets]


def recompute(stage, run=None):
    """Input that makes a rule run again when its stage, or its bucket's failures, are asked for."""

    def flags(wildcards):
        name, bucket = run or wildcards.get("run"), wildcards.get("bucket", WHOLE)
        asks, dry = workflow.is_main_process, workflow.dryrun
        found = recompute_flags(PLAN, stage, name, bucket, asks, dry)
        return [str(path) for path in found]

    return flags


def stage_files(name):
    """What has to be there for a stage to be complete."""
    return [str(path) for path in PLAN.targets(name)]


def cohort_buckets(wildcards):
    return bucket_paths(PLAN.cohort)


def tissue_buckets(wildcards):
    return bucket_paths(PLAN.tissue)


def tiles_buckets(wildcards):
    return bucket_paths(PLAN.tiles[wildcards.run])


def features_tiles(wildcards):
    """The bucket of tiles that a bucket of features reads."""
    return str(PLAN.bucket_path(FEATURES[wildcards.run].tiles, wildcards.bucket))


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


def need(stage, wildcards):
    """What the first attempt of a job asks for."""
    if stage == "features":
        return resources.of_features(PLAN, FEATURES[wildcards.run], wildcards.bucket)
    if stage == "pretrain":
        return resources.of_pretrain(PLAN, PRETRAIN[wildcards.run])
    if stage == "evaluate":
        return resources.of_evaluate(PLAN, CELLS.get(wildcards.run))
    if stage == "report":
        return resources.of_report(PLAN)
    return resources.of_bucket(PLAN, stage, wildcards.bucket)


def mem_mb(stage):
    """Memory of a stage's job, which grows with every attempt."""

    def mem(wildcards, attempt):
        return need(stage, wildcards).grown(attempt).mem_mb

    return mem


def minutes(stage):
    """Run time of a stage's job, which grows with every attempt."""

    def runtime(wildcards, attempt):
        return need(stage, wildcards).grown(attempt).minutes

    return runtime


def runs(names):
    """Pattern of these runs and of no other; of none if there are none."""
    return "|".join(re.escape(name) for name in names) or "(?!)"


onstart:
    # The plugin gives all of a run's jobs one name, which it makes up.
    RUN["record"] = start(
        PLAN, getattr(workflow.scheduler._executor, "run_uuid", None)
    )


onsuccess:
    if "record" in RUN:
        finish(PLAN, RUN["record"], "success")
    shell("slidemill summary --brief || true")


onerror:
    if "record" in RUN:
        finish(PLAN, RUN["record"], "error")
        # What failed may be why.
        shell("slidemill summary --brief || true")
