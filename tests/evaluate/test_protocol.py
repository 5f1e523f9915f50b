from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from slidemill.config import EvaluateConfig, ModelEntry
from slidemill.errors import CohortError, LeakError
from slidemill.evaluate.dataset import Rows, View, make_rows, mean_vectors
from slidemill.evaluate.mil.bags import ListBags
from slidemill.evaluate.protocol import (
    Predicted,
    check_trainable,
    ready_units,
    run_bags,
    run_vectors,
)
from slidemill.splits.targets import Targets
from slidemill.splits.units import Unit

N = 24
PATIENTS = tuple(f"p{i // 2:02d}" for i in range(N))
LABELS = (np.arange(N) // 2 % 2).astype(np.float64)
RNG = np.random.default_rng(0)
BAGS = [(RNG.standard_normal((10, 5)) + 2 * label).astype(np.float32) for label in LABELS]
TARGETS = Targets("binary", ("1",), LABELS[:, None], "0")
CFG = EvaluateConfig(
    mil={"epochs": 20, "width": 8, "learning_rate": 0.02},
    abmil={"attention_width": 4},
    models=("abmil", "linear-probe"),
)
ABMIL, PROBE = CFG.entries()


def units(repeats: int = 2, folds: int = 3) -> list[Unit]:
    """Folds dealt round, shifted by the repeat; the next fold of patients validates."""
    names = sorted(set(PATIENTS))
    found = []
    for repeat in range(repeats):
        of = {name: (i // 2 + repeat) % folds for i, name in enumerate(names)}
        for fold in range(folds):
            test = tuple(n for n in names if of[n] == fold)
            rest = [n for n in names if of[n] != fold]
            found.append(Unit(repeat, fold, tuple(rest[2:]), tuple(rest[:2]), test))
    return found


def rows_of(order: list[int] | range = range(N)) -> Rows:
    order = list(order)
    return make_rows(
        order, [PATIENTS[i] for i in order], TARGETS.take(order),
        np.array([len(BAGS[i]) for i in order]), "mean",
    )  # fmt: skip


def run(entry: ModelEntry, rows: Rows, chosen: list[Unit] | None = None) -> Predicted:
    ready = ready_units(rows, chosen or units(), 0, "test")
    if entry is PROBE:
        x = np.stack([BAGS[s[0]].mean(axis=0, dtype=np.float64) for s in rows.slides])
        return run_vectors(entry, rows, ready, lambda view: x, {}, 3)
    bags = ListBags([BAGS[s[0]] for s in rows.slides])
    return run_bags(entry, rows, ready, lambda view: bags, {}, CFG.survival, seed=0)


@pytest.mark.parametrize("entry", [ABMIL, PROBE], ids=["abmil", "linear-probe"])
def test_every_slide_is_predicted_once_a_repeat_in_its_patients_fold(entry: ModelEntry) -> None:
    found = run(entry, rows_of())
    table = found.table
    assert len(table) == 2 * N
    assert not table.duplicated(["repeat", "slide"]).any()
    fold_of = {(u.repeat, p): u.fold for u in units() for p in u.test}
    keys = zip(table["repeat"], table["patient_id"], strict=True)
    assert table["fold"].tolist() == [fold_of[key] for key in keys]
    assert (table["label"] == [LABELS[i] for i in table["slide"]]).all()
    first = table[table["repeat"] == 0]
    assert roc_auc_score(first["label"], first["score"]) > 0.9
    if entry is ABMIL:
        assert set(found.attention) == {(r, i) for r in (0, 1) for i in range(N)}
        assert all(np.isclose(w.sum(), 1, atol=1e-5) for w in found.attention.values())
    else:
        assert set(found.chosen) == {u.name for u in units()}


def test_the_order_in_which_rows_are_given_does_not_matter_to_a_probe() -> None:
    forth, back = (run(PROBE, rows_of(o)).table for o in (range(N), range(N - 1, -1, -1)))
    keys = ["repeat", "fold", "slide"]
    one, other = (t.sort_values(keys)["score"].to_numpy() for t in (forth, back))
    assert np.allclose(one, other, atol=1e-6)


def test_thinned_units_train_on_fewer_and_test_the_same() -> None:
    thinned = [replace(u, train=u.train[:5], sample="50%", draw=1) for u in units(1)]
    table = run(PROBE, rows_of(), units(1) + thinned).table
    sizes = table.groupby(["sample", "draw"]).size()
    assert sizes.to_dict() == {("50%", 1): N, ("all", 0): N}
    few = table[table["sample"] == "50%"]["score"].to_numpy()
    assert not np.allclose(few, table[table["sample"] == "all"]["score"])


def test_a_draw_that_lost_its_training_slides_is_left_out_whole() -> None:
    thinned = [replace(u, train=u.train[:5], sample="5-shot", draw=d)
               for d in (0, 1) for u in units(1)]  # fmt: skip
    thinned[3] = replace(thinned[3], train=("unseen",), validate=())
    table = run(PROBE, rows_of(), units(1) + thinned).table
    assert table.groupby(["sample", "draw"]).size().to_dict() == {("5-shot", 0): N, ("all", 0): N}


def test_each_fold_is_given_its_own_view() -> None:
    asked: list[View] = []

    def vectors(view: View) -> np.ndarray:
        asked.append(view)
        return np.stack([bag.mean(axis=0, dtype=np.float64) for bag in BAGS])

    encoders: Mapping[View, object] = {(0, f): None for f in range(3)}
    rows = rows_of()
    run_vectors(PROBE, rows, ready_units(rows, units(2), 0, "t"), vectors, encoders, 3)
    assert asked == [(0, 0), (0, 1), (0, 2), (-1, -1), (-1, -1), (-1, -1)]


def test_missing_labels_are_left_out_per_label() -> None:
    values = np.stack([LABELS, np.where(np.arange(N) < 4, np.nan, 1 - LABELS)], axis=1)
    rows = rows_of().with_targets(Targets("multilabel", ("a", "b"), values))
    table = run(PROBE, rows, units(1)).table
    assert table.groupby("target").size().to_dict() == {"a": N, "b": N - 4}


def test_a_leak_fails() -> None:
    leaky = [replace(u, train=(*u.train, u.test[0])) for u in units(1)]
    with pytest.raises(LeakError, match=units(1)[0].test[0]):
        ready_units(rows_of(), leaky, 0, "abmil")


def test_patients_without_slides_are_passed_over() -> None:
    wanted = [replace(u, train=(*u.train, "unseen"), test=(*u.test, f"gone{u.fold}"))
              for u in units(1)]  # fmt: skip
    assert len(run(PROBE, rows_of(), wanted).table) == N
    with pytest.raises(CohortError, match="no tested patient has a usable slide"):
        ready_units(rows_of(), [replace(units(1)[0], test=("nobody",))], 0, "abmil")


@pytest.mark.parametrize(
    ("targets", "fault"),
    [
        (Targets("binary", ("1",), np.ones((3, 1)), "0"), "all of one class"),
        (Targets("multiclass", ("a", "b"), np.zeros((3, 1))), "all of one class"),
        (
            Targets("multilabel", ("a", "b"), np.array([[0.0, 1], [1, np.nan]])),
            "one class only of b",
        ),
        (Targets("regression", ("x",), np.full((3, 1), 7.0)), "all training values are equal"),
        (Targets("survival", ("t",), np.array([[1.0, 0], [2, 0]])), "no training row has an event"),
        (Targets("binary", ("1",), np.zeros((0, 1)), "0"), "no training row is left"),
    ],
)
def test_what_cannot_be_learnt_is_refused(targets: Targets, fault: str) -> None:
    with pytest.raises(CohortError, match=fault):
        check_trainable(targets, "abmil, fold 0")


def test_means_of_bags_are_what_a_probe_sees() -> None:
    rows = rows_of()
    bags = ListBags(BAGS)
    assert np.allclose(mean_vectors(rows, bags.moments)[3], BAGS[3].mean(axis=0), atol=1e-6)
