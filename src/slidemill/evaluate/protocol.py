"""Cross-validation: every slide is predicted by a model that never saw its patient.

Each fold of each repetition trains one model on the patients of the other folds and predicts the
slides of the fold's own; that the two share no patient is checked each time. Predictions depend on
the slides, the folds, the settings and the seed, not on the order in which slides are given.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pandas as pd

from slidemill.config import EvaluateConfig
from slidemill.errors import CohortError
from slidemill.evaluate.abmil import fit_abmil
from slidemill.evaluate.linear_probe import fit_linear_probe
from slidemill.splits.folds import check_folds, check_training_patients

Int64Array = npt.NDArray[np.int64]
Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]

Progress = Callable[[int, int], None]
"""Called after every fold with the folds done and the folds of the run, over all repetitions."""


@dataclass(frozen=True)
class EvaluationInput:
    """The slides of a task: who they are and what is to be predicted.

    Attributes:
        slide_ids: The slides, each once.
        patient_ids: The patient of each.
        labels: 0 or 1, int64 (n,), one label a patient.

    Raises:
        ValueError: If the three differ in length, a slide is there twice, or labels are not 0 or 1.
    """

    slide_ids: tuple[str, ...]
    patient_ids: tuple[str, ...]
    labels: Int64Array

    def __post_init__(self) -> None:
        n = len(self.slide_ids)
        if len(self.patient_ids) != n or self.labels.shape != (n,):
            raise ValueError(
                f"{n} slides, {len(self.patient_ids)} patients and labels {self.labels.shape}"
            )
        if len(set(self.slide_ids)) != n:
            raise ValueError("a slide is there twice")
        if not np.isin(self.labels, (0, 1)).all():
            raise ValueError("labels are 0 or 1")


@dataclass(frozen=True)
class TileBags(EvaluationInput):
    """Slides as bags of tile features, the same in every fold.

    Attributes:
        bag: Tile features of a slide, by its index: float32 (n_i, D). May read a file.
    """

    bag: Callable[[int], Float32Array]

    def means(self) -> "SlideVectors":
        """Slides as the mean of their tiles: float32 (D,), from a float64 sum, each read once."""
        vectors = [self.bag(i).mean(axis=0, dtype=np.float64) for i in range(len(self.slide_ids))]
        return SlideVectors(
            self.slide_ids,
            self.patient_ids,
            self.labels,
            lambda i, repeat, fold: vectors[i].astype(np.float32),
        )


@dataclass(frozen=True)
class SlideVectors(EvaluationInput):
    """Slides as one vector each.

    The vector may differ between folds: an encoder that is trained per fold embeds all slides anew,
    those that a fold trains on as well as those that it tests.

    Attributes:
        vector: Vector of a slide, float32 (D,), by its index and the repeat and fold in which it is
            used: the encoder behind it must not have seen the patients tested in that fold.
    """

    vector: Callable[[int, int, int], Float32Array]


@dataclass(frozen=True)
class CrossValidated:
    """Out-of-fold results.

    Attributes:
        predictions: One row a repetition and slide, sorted by repeat, fold, slide: `repeat`, `fold`
            (int64), `slide_id`, `patient_id` (str), `label` (int64), `probability` (float64).
        attention: Attention over the slide's tiles, float32 (n_i,), sum 1, by (repeat, slide_id);
            empty for models without attention.
    """

    predictions: pd.DataFrame
    attention: dict[tuple[int, str], Float32Array]


@dataclass(frozen=True)
class Fold:
    """One fold of one repetition, ready to be trained and tested.

    Attributes:
        repeat: The repetition.
        number: The fold.
        train: Indices of the slides that train, int64, in the order of their names.
        test: Indices of the slides that are tested, int64, in the order of their names.
        seed: Seed of the model, from (seed, repeat, fold).
    """

    repeat: int
    number: int
    train: Int64Array
    test: Int64Array
    seed: int


@dataclass(frozen=True)
class FoldPredictions:
    """What a model says of the test slides of a fold.

    Attributes:
        probabilities: float64, one a test slide.
        attention: float32 (n_i,), one a test slide, or none at all.
    """

    probabilities: Float64Array
    attention: list[Float32Array] = field(default_factory=list)


FoldModel = Callable[[EvaluationInput, Fold, EvaluateConfig, str], FoldPredictions]
"""Trains on a fold's training slides and predicts its test slides, on a device."""


@dataclass(frozen=True)
class _BagSubset:
    """Some bags of `TileBags`, read when they are asked for."""

    inputs: TileBags
    indices: Int64Array

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int, /) -> Float32Array:
        return self.inputs.bag(int(self.indices[index]))


def _abmil(
    inputs: EvaluationInput, fold: Fold, cfg: EvaluateConfig, device: str
) -> FoldPredictions:
    if not isinstance(inputs, TileBags):
        raise TypeError(f"abmil takes TileBags, not {type(inputs).__name__}")
    fitted = fit_abmil(
        _BagSubset(inputs, fold.train),
        inputs.labels[fold.train],
        cfg.abmil,
        seed=fold.seed,
        device=device,
    )
    return FoldPredictions(*fitted.predict(_BagSubset(inputs, fold.test)))


def _linear_probe(
    inputs: EvaluationInput, fold: Fold, cfg: EvaluateConfig, device: str
) -> FoldPredictions:
    if not isinstance(inputs, SlideVectors):
        raise TypeError(f"linear-probe takes SlideVectors, not {type(inputs).__name__}")
    train, test = (
        np.stack([inputs.vector(i, fold.repeat, fold.number) for i in indices.tolist()])
        for indices in (fold.train, fold.test)
    )
    labels = inputs.labels[fold.train]
    fitted = fit_linear_probe(train, labels, cfg.linear_probe, seed=fold.seed)
    return FoldPredictions(fitted.predict(test))


MODELS: dict[str, FoldModel] = {"abmil": _abmil, "linear-probe": _linear_probe}
"""Every model, by its name in the configuration."""


def cross_validate(
    inputs: EvaluationInput,
    folds: pd.DataFrame,
    model: str,
    cfg: EvaluateConfig,
    *,
    seed: int,
    device: str = "cpu",
    progress: Progress | None = None,
) -> CrossValidated:
    """Train and test a model in every fold of every repetition.

    Args:
        inputs: `TileBags` for `abmil`, `SlideVectors` for `linear-probe`.
        folds: `repeat`, `fold`, `patient_id`; patients without a slide here are passed over, and so
            is a fold that has no slide.
        model: A name of `MODELS`.
        cfg: Settings of the models.
        seed: Seed that the seed of each fold's model derives from, not negative.
        device: Where `abmil` runs: `cpu`, `cuda` or `mps`.
        progress: Told after every fold.

    Returns:
        Predictions for every slide in every repetition, and attention where the model has it.

    Raises:
        LeakError: If the folds do not test every patient exactly once a repetition.
        CohortError: If the training slides of a fold lack a class.
        TypeError: If the model does not take this kind of input.
    """
    check_folds(folds, pd.DataFrame({"patient_id": list(inputs.patient_ids)}))
    plan = _plan(inputs, folds, seed)
    tables: list[pd.DataFrame] = []
    attention: dict[tuple[int, str], Float32Array] = {}
    for done, fold in enumerate(plan, start=1):
        _check_fold(inputs, fold, model)
        result = MODELS[model](inputs, fold, cfg, device)
        tables.append(_table(inputs, fold, result.probabilities))
        if result.attention:
            slides = [(fold.repeat, inputs.slide_ids[i]) for i in fold.test.tolist()]
            attention.update(zip(slides, result.attention, strict=True))
        if progress is not None:
            progress(done, len(plan))
    return CrossValidated(pd.concat(tables, ignore_index=True), attention)


def _plan(inputs: EvaluationInput, folds: pd.DataFrame, seed: int) -> list[Fold]:
    """Every fold that tests a slide, by repetition and number."""
    by_name = np.argsort(np.asarray(inputs.slide_ids), kind="stable").astype(np.int64)
    patients = np.asarray(inputs.patient_ids)[by_name]
    plan = []
    for repeat in sorted(set(folds["repeat"].tolist())):
        rows = folds[folds["repeat"] == repeat]
        fold_of_patient = dict(zip(rows["patient_id"], rows["fold"].tolist(), strict=True))
        tested_in = np.array([fold_of_patient[patient] for patient in patients])
        for number in np.unique(tested_in).tolist():
            is_test = tested_in == number
            train, test = by_name[~is_test], by_name[is_test]
            derived = _fold_seed(seed, repeat, number)
            plan.append(Fold(repeat, number, train, test, derived))
    return plan


def _fold_seed(seed: int, repeat: int, fold: int) -> int:
    """Seed of one fold's model, below 2**32."""
    return int(np.random.SeedSequence([seed, repeat, fold]).generate_state(1)[0])


def _check_fold(inputs: EvaluationInput, fold: Fold, model: str) -> None:
    """Refuse a fold that leaks a patient or cannot be trained."""
    what = f"{model}, repeat {fold.repeat}, fold {fold.number}"
    check_training_patients(
        [inputs.patient_ids[i] for i in fold.train.tolist()],
        [inputs.patient_ids[i] for i in fold.test.tolist()],
        what,
    )
    positives = int(inputs.labels[fold.train].sum())
    if not 0 < positives < len(fold.train):
        raise CohortError(
            f"{positives} of the {len(fold.train)} training slides are positive ({what}): a model "
            "takes both classes. Use fewer folds, mend the splits, or see which slides failed."
        )


def _table(inputs: EvaluationInput, fold: Fold, probabilities: Float64Array) -> pd.DataFrame:
    """Predictions of one fold, with the columns of `CrossValidated.predictions`."""
    test = fold.test.tolist()
    return pd.DataFrame(
        {
            "repeat": np.full(len(test), fold.repeat, dtype=np.int64),
            "fold": np.full(len(test), fold.number, dtype=np.int64),
            "slide_id": [inputs.slide_ids[i] for i in test],
            "patient_id": [inputs.patient_ids[i] for i in test],
            "label": inputs.labels[fold.test].astype(np.int64),
            "probability": probabilities,
        }
    )
