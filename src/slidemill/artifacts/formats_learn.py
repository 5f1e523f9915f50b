"""Formats of the stages that learn: splits, pretraining, evaluation.

Part of `slidemill.artifacts.formats`, from where everything is imported.
"""

from slidemill.artifacts.fields import COORDS, SLIDE_ID
from slidemill.artifacts.formats_pretrain import EMBEDDING, PRETRAIN_METRICS
from slidemill.artifacts.spec import ArtifactSpec, Field, register

__all__ = [
    "ATTENTION",
    "COMPARISONS",
    "EMBEDDING",
    "METRICS",
    "MOMENTS",
    "PREDICTIONS",
    "PRETRAIN_METRICS",
    "SPLITS",
    "SUMMARY",
]

register(
    ArtifactSpec(
        "splits",
        1,
        "parquet",
        "Folds of a task: which patients are tested in which fold. Patients of the other folds "
        "train. Labels are those the task sees (permuted if it shuffles them). No longer written.",
        (
            Field("task", "str", "Name of the task."),
            Field("repeat", "int64", "Repetition of the k-fold, from 0."),
            Field("fold", "int64", "Fold in which the patient is tested, from 0."),
            Field("patient_id", "str", "The patient."),
            Field("label", "str", "The patient's label."),
        ),
    )
)
SPLITS = register(
    ArtifactSpec(
        "splits",
        2,
        "parquet",
        "The patients of every unit of a task: a unit is one model that is trained, told apart by "
        "sample, draw, repeat and fold. Labels are those that the task sees (permuted if it "
        "shuffles them).",
        (
            Field("task", "str", "Name of the task."),
            Field("protocol", "str", "k-fold, split, leave-one-site-out, or given."),
            Field("sample", "str", "How training patients were thinned: all, `5-shot`, `10%`."),
            Field("draw", "int64", "Draw of a thinned unit, from 0."),
            Field("repeat", "int64", "Repetition of the folds, from 0."),
            Field("fold", "int64", "Fold that is tested, from 0."),
            Field("part", "str", "train, validate (inner validation, of the training part), test."),
            Field("patient_id", "str", "The patient."),
            Field("label", "str", "The patient's label; several are joined by `|`."),
        ),
    )
)
register(
    ArtifactSpec(
        "predictions",
        1,
        "parquet",
        "Out-of-fold predictions, one row a slide, repeat and model: each is by a model that never "
        "saw the patient. No longer written.",
        (
            Field("task", "str", "Name of the task."),
            Field("model", "str", "The model: abmil, linear-probe."),
            Field(
                "input",
                "str",
                "What the model was given, such as `hed-texture` or `hed-texture/dino`.",
            ),
            Field("repeat", "int64", "Repetition of the k-fold."),
            Field("fold", "int64", "Fold in which the slide is tested."),
            SLIDE_ID,
            Field("patient_id", "str", "The patient."),
            Field("label", "int64", "1 for the positive class, 0 for the other."),
            Field("probability", "float64", "Predicted probability of the positive class."),
        ),
    )
)
register(
    ArtifactSpec(
        "metrics",
        1,
        "parquet",
        "Metrics of every model and input. Rows with fold -1 are over all folds, with an interval "
        "from resampled patients; the others are of one fold, without. No longer written.",
        (
            Field("task", "str", "Name of the task."),
            Field("model", "str", "The model."),
            Field("input", "str", "What the model was given."),
            Field("metric", "str", "auroc, auprc or balanced_accuracy."),
            Field("repeat", "int64", "Repetition of the k-fold; -1 over all."),
            Field("fold", "int64", "Fold; -1 over all."),
            Field("estimate", "float64", "Value of the metric.", nullable=True),
            Field("low", "float64", "Lower end of the 95 % interval.", nullable=True),
            Field("high", "float64", "Upper end of the 95 % interval.", nullable=True),
            Field("n_patients", "int64", "Patients it is over."),
            Field("n_positive", "int64", "Positive patients among them."),
        ),
    )
)
_ROW = (
    Field("task", "str", "Name of the task."),
    Field("model", "str", "The model's name in tables."),
    Field("input", "str", "What it was given, such as `uni`, `uni/dino` or `uni+uni/dino`."),
    Field("control", "str", "Which control the row is; empty for results."),
    Field("sample", "str", "How training patients were thinned: all, `5-shot`, `10%`."),
)
PREDICTIONS = register(
    ArtifactSpec(
        "predictions",
        2,
        "parquet",
        "Predictions, one row a slide, unit and target: each is by a model that never saw the "
        "patient. Rows whose label is missing are left out.",
        (
            *_ROW,
            Field("draw", "int64", "Draw of a thinned unit."),
            Field("repeat", "int64", "Repetition of the folds."),
            Field("fold", "int64", "Fold in which the slide is tested."),
            SLIDE_ID,
            Field("patient_id", "str", "The patient."),
            Field("target", "str", "The class, label or column that the score is of."),
            Field(
                "label",
                "float64",
                "1 or 0 for a class, the number of a regression, the time of a survival task; "
                "missing for retrieval.",
                nullable=True,
            ),
            Field("event", "float64", "Survival: 1 seen, 0 censored.", nullable=True),
            Field(
                "score",
                "float64",
                "Probability of the class, the predicted number, the risk (higher is sooner), or "
                "a retrieval's value of the slide.",
            ),
        ),
    )
)
METRICS = register(
    ArtifactSpec(
        "metrics",
        2,
        "parquet",
        "Metrics of every row of a comparison. Rows with fold -1 are over all folds, with a 95 % "
        "interval from resampled patients; the others are of one fold, without.",
        (
            *_ROW,
            Field("target", "str", "The class or label it is of; `macro` over labels; or all."),
            Field("metric", "str", "Name of the metric."),
            Field("draw", "int64", "Draw of a thinned unit; -1 over all."),
            Field("repeat", "int64", "Repetition of the folds; -1 over all."),
            Field("fold", "int64", "Fold; -1 over all."),
            Field("estimate", "float64", "Value; missing where undefined.", nullable=True),
            Field("low", "float64", "Lower end of the 95 % interval.", nullable=True),
            Field("high", "float64", "Upper end of the 95 % interval.", nullable=True),
            Field("chance", "float64", "Value of guessing, where there is one.", nullable=True),
            Field("n_patients", "int64", "Patients it is over."),
            Field(
                "n_positive",
                "int64",
                "Positive patients, or those with an event; -1 where there is no such thing.",
            ),
            Field("n_missing", "int64", "Patients left out because their label is missing."),
        ),
    )
)
COMPARISONS = register(
    ArtifactSpec(
        "comparisons",
        1,
        "parquet",
        "Differences between rows of a comparison on the same patients: a is better where the "
        "difference is positive and the metric is better when higher.",
        (
            Field("task", "str", "Name of the task."),
            Field("sample", "str", "How training patients were thinned."),
            Field("target", "str", "The class or label."),
            Field("metric", "str", "Name of the metric."),
            Field("a", "str", "Model and input of the one, as `abmil on uni`."),
            Field("b", "str", "Model and input of the other."),
            Field("difference", "float64", "Estimate of a minus that of b.", nullable=True),
            Field("low", "float64", "Lower end of its paired 95 % interval.", nullable=True),
            Field("high", "float64", "Upper end of its paired 95 % interval.", nullable=True),
            Field("folds", "int64", "Folds, over repetitions, of the corrected test."),
            Field(
                "p",
                "float64",
                "Corrected resampled t-test over the folds (Nadeau & Bengio 2003), two-sided.",
                nullable=True,
            ),
            Field("p_holm", "float64", "The same, by Holm's method over all pairs.", nullable=True),
        ),
    )
)
SUMMARY = register(
    ArtifactSpec(
        "feature-summary",
        1,
        "parquet",
        "Every slide that has features, as an evaluation needs to know it; read once for all "
        "models. Rows are in the order of those of the moments beside it.",
        (
            SLIDE_ID,
            Field("item_digest", "str", "Digest of the slide's features file."),
            Field("sha256", "str", "sha256 of the values of the features."),
            Field("count", "int64", "Number of tiles."),
        ),
    )
)
register(
    ArtifactSpec(
        "feature-moments",
        1,
        "hdf5",
        "Moments of every slide's features, in the order of the summary beside it. No longer "
        "written.",
        (
            Field("mean", "float64", "Mean of the tiles.", "(S, D)"),
            Field("m2", "float64", "Sum of squared deviations from it.", "(S, D)"),
        ),
        attributes=(("encoder", "name of the tile encoder"),),
    )
)
MOMENTS = register(
    ArtifactSpec(
        "feature-moments",
        2,
        "hdf5",
        "Moments of every slide's features, in the order of the summary beside it.",
        (
            Field("mean", "float64", "Mean of the tiles.", "(S, D)"),
            Field("m2", "float64", "Sum of squared deviations from it.", "(S, D)"),
            Field("max", "float32", "Largest value of the tiles.", "(S, D)"),
        ),
        attributes=(("encoder", "name of the tile encoder"),),
    )
)
register(
    ArtifactSpec(
        "attention",
        1,
        "hdf5",
        "Attention of an ABMIL over a slide's tiles, by the model that did not see the patient. No "
        "longer written.",
        (
            Field(
                "attention", "float32", "Weight of each tile; sums to 1.", "(N,)", chunks=(4096,)
            ),
            COORDS,
        ),
        attributes=(
            ("repeat", "repetition of the k-fold"),
            ("fold", "fold in which the slide is tested"),
            ("probability", "predicted probability of the positive class"),
        ),
    )
)
ATTENTION = register(
    ArtifactSpec(
        "attention",
        2,
        "hdf5",
        "Attention of a model on bags over a slide's tiles, by the model that did not see the "
        "patient.",
        (
            Field(
                "attention", "float32", "Weight of each tile; sums to 1.", "(N,)", chunks=(4096,)
            ),
            COORDS,
        ),
        attributes=(
            ("repeat", "repetition of the k-fold"),
            ("fold", "fold in which the slide is tested"),
            ("model", "the model's name in tables"),
            ("input", "what it was given"),
        ),
    )
)
