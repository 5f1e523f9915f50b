import numpy as np
import pandas as pd
import pytest

from slidemill.config import EvaluateConfig
from slidemill.errors import CohortError, LeakError
from slidemill.evaluate.bootstrap import bootstrap_intervals
from slidemill.evaluate.linear_probe import fit_linear_probe
from slidemill.evaluate.protocol import SlideVectors, TileBags, cross_validate
from slidemill.splits.folds import make_folds

CFG = EvaluateConfig(abmil={"epochs": 5, "width": 8, "attention_width": 4})
N = 24
IDS = tuple(f"s{i:02d}" for i in range(N))
PATIENTS = tuple(f"p{i // 2:02d}" for i in range(N))
LABELS = (np.arange(N) // 2 % 2).astype(np.int64)
RNG = np.random.default_rng(0)
BAGS = [(RNG.standard_normal((10, 5)) + 2 * label).astype(np.float32) for label in LABELS]
FOLDS = make_folds(
    pd.DataFrame({"slide_id": IDS, "patient_id": PATIENTS, "label": LABELS.astype(str)}),
    folds=3,
    repeats=2,
    seed=0,
)


def bags(order=range(N)):
    order = list(order)
    return TileBags(
        tuple(IDS[i] for i in order),
        tuple(PATIENTS[i] for i in order),
        LABELS[order],
        lambda k: BAGS[order[k]],
    )


def test_every_slide_is_predicted_once_a_repeat_in_its_patients_fold():
    found = cross_validate(bags(), FOLDS, "abmil", CFG, seed=0)
    rows = found.predictions
    assert len(rows) == 2 * N
    assert not rows.duplicated(["repeat", "slide_id"]).any()
    merged = rows.merge(FOLDS, on=["repeat", "patient_id"])
    assert (merged["fold_x"] == merged["fold_y"]).all()
    assert set(found.attention) == {(r, s) for r in (0, 1) for s in IDS}
    assert all(np.isclose(w.sum(), 1, atol=1e-5) for w in found.attention.values())


def test_the_order_of_slides_does_not_matter():
    first = cross_validate(bags(), FOLDS, "abmil", CFG, seed=0).predictions
    second = cross_validate(bags(reversed(range(N))), FOLDS, "abmil", CFG, seed=0).predictions
    pd.testing.assert_frame_equal(first, second)


def test_a_probe_takes_the_vector_of_its_own_fold():
    asked = set()

    def vector(i, repeat, fold):
        asked.add((repeat, fold))
        return BAGS[i].mean(axis=0)

    inputs = SlideVectors(IDS, PATIENTS, LABELS, vector)
    rows = cross_validate(inputs, FOLDS, "linear-probe", CFG, seed=0).predictions
    assert asked == {(r, f) for r in (0, 1) for f in range(3)}
    means = cross_validate(bags().means(), FOLDS, "linear-probe", CFG, seed=0).predictions
    assert np.allclose(rows["probability"], means["probability"], atol=1e-6)
    assert bootstrap_intervals(rows, draws=100, seed=0)["estimate"].min() > 0.9


def test_a_leak_fails():
    leaky = pd.concat([FOLDS, FOLDS.iloc[[0]].assign(fold=(FOLDS["fold"].iloc[0] + 1) % 3)])
    with pytest.raises(LeakError, match=FOLDS["patient_id"].iloc[0]):
        cross_validate(bags(), leaky, "abmil", CFG, seed=0)


def test_training_slides_of_one_class_are_refused():
    folds = FOLDS[FOLDS["repeat"] == 0].copy()
    label_of = dict(zip(PATIENTS, LABELS.tolist(), strict=True))
    folds["fold"] = folds["patient_id"].map(label_of)
    with pytest.raises(CohortError, match="both classes"):
        cross_validate(bags().means(), folds, "linear-probe", CFG, seed=0)


def test_a_model_refuses_the_other_kind_of_input():
    with pytest.raises(TypeError, match="TileBags"):
        cross_validate(bags().means(), FOLDS, "abmil", CFG, seed=0)
    with pytest.raises(TypeError, match="SlideVectors"):
        cross_validate(bags(), FOLDS, "linear-probe", CFG, seed=0)


def test_a_probe_is_fitted_on_training_rows_alone():
    x = np.stack([bag.mean(axis=0) for bag in BAGS])
    fitted = fit_linear_probe(x[:16], LABELS[:16], CFG.linear_probe, seed=0)
    together = fitted.predict(x[16:])
    assert np.allclose([fitted.predict(row[None])[0] for row in x[16:]], together)
