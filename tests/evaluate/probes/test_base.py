import numpy as np
import pytest
from sklearn.preprocessing import StandardScaler

from slidemill.evaluate.probes import PROBES, Settings
from slidemill.evaluate.probes.base import Float64Array, Space, directions
from slidemill.splits.targets import Targets


@pytest.mark.parametrize("shape", [(30, 5), (12, 40)])
def test_the_span_keeps_products_and_lengths(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal(shape) * 3 + 7
    space, z = Space.of(x)
    standard = StandardScaler().fit_transform(x)
    assert z.shape == (shape[0], min(shape))
    assert np.allclose(z @ z.T, standard @ standard.T, atol=1e-10)
    assert np.allclose(space.coordinates(x), z, atol=1e-10)
    new = rng.standard_normal((4, shape[1]))
    expected = StandardScaler().fit(x).transform(new) @ standard.T
    assert np.allclose(space.coordinates(new) @ z.T, expected, atol=1e-9)


def test_a_constant_feature_is_only_centred() -> None:
    x = np.random.default_rng(0).standard_normal((9, 3))
    x[:, 1] = 0.1
    space, z = Space.of(x)
    assert space.scale[1] == 1.0
    assert (z[:, 1] == 0.0).all()


def test_directions_have_length_one_and_the_centre_has_none() -> None:
    x = np.array([[3.0, 4.0], [1.0, 1.0]])
    unit = directions(x, np.array([1.0, 1.0]))
    assert np.allclose(unit, [[2 / 13**0.5, 3 / 13**0.5], [0.0, 0.0]])


def targets_of(kind: str, n: int, rng: np.random.Generator) -> Targets:
    """Targets of each type, in all of which something is to be learnt from the first column."""
    if kind == "multiclass":
        return Targets(kind, ("a", "b", "c"), (np.arange(n) % 3).astype(float)[:, None])
    if kind == "multilabel":
        values = (rng.random((n, 2)) < 0.5).astype(float)
        values[::7, 0] = np.nan
        return Targets(kind, ("u", "v"), values)
    if kind == "regression":
        return Targets(kind, ("age",), rng.standard_normal((n, 1)) * 10 + 60)
    if kind == "survival":
        values = np.stack([rng.exponential(size=n), (np.arange(n) % 3 > 0).astype(float)], 1)
        return Targets(kind, ("time",), values)
    return Targets("binary", ("yes",), (np.arange(n) % 2).astype(float)[:, None], "no")


CASES = [(name, kind) for name, probe in PROBES.items() for kind in sorted(probe.types)]


def test_every_task_has_a_model() -> None:
    assert {kind for _, kind in CASES} == {
        "binary", "multiclass", "multilabel", "regression", "survival",
    }  # fmt: skip


@pytest.mark.parametrize("dim", [6, 90])
@pytest.mark.parametrize(("name", "kind"), CASES)
def test_scores_do_not_depend_on_the_order_of_rows(name: str, kind: str, dim: int) -> None:
    rng = np.random.default_rng(3)
    n = 60
    targets, x = targets_of(kind, n, rng), rng.standard_normal((n, dim))
    x[:, 0] += np.nan_to_num(targets.values[:, 0])
    x[5] = x[4]  # slides that are the same: neighbours at equal distance
    patients = [f"p{i // 2}" for i in range(n)]
    new = rng.standard_normal((11, dim))
    order = rng.permutation(n)

    def scores(rows: np.ndarray) -> Float64Array:
        fitted = PROBES[name].fit(
            x[rows], targets.take(rows), [patients[i] for i in rows], Settings(),
            inner_folds=4, seed=1,
        )  # fmt: skip
        found = fitted.predict(new)
        assert found.shape == (11, targets.outputs)
        assert found.dtype == np.float64
        return found

    assert np.allclose(scores(np.arange(n)), scores(order), atol=1e-6)


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_probabilities_are_probabilities(name: str, kind: str) -> None:
    rng = np.random.default_rng(4)
    targets, x = targets_of(kind, 45, rng), rng.standard_normal((45, 4))
    fitted = PROBES[name].fit(
        x, targets, [str(i) for i in range(45)], Settings(), inner_folds=3, seed=0
    )
    found = fitted.predict(rng.standard_normal((8, 4)))
    assert np.isfinite(found).all()
    if kind in ("binary", "multiclass", "multilabel"):
        assert ((found >= 0) & (found <= 1)).all()
    if kind == "multiclass":
        assert np.allclose(found.sum(1), 1.0)


@pytest.mark.parametrize("name", [name for name, probe in PROBES.items()])
def test_other_tasks_and_bad_rows_are_refused(name: str) -> None:
    rng = np.random.default_rng(0)
    x, patients = rng.standard_normal((10, 3)), [str(i) for i in range(10)]
    probe = PROBES[name]
    every = {"binary", "multiclass", "multilabel", "regression", "survival"}
    for kind in sorted(every - probe.types):
        with pytest.raises(ValueError, match=f"{name} does no {kind}"):
            probe.fit(x, targets_of(kind, 10, rng), patients, Settings(), inner_folds=2, seed=0)
    kind = sorted(probe.types)[0]
    targets = targets_of(kind, 10, rng)
    with pytest.raises(ValueError, match="finite"):
        probe.fit(x * np.nan, targets, patients, Settings(), inner_folds=2, seed=0)
    with pytest.raises(ValueError, match="9 vectors, 10 targets"):
        probe.fit(x[1:], targets, patients, Settings(), inner_folds=2, seed=0)


@pytest.mark.parametrize("name", ["linear-probe", "knn", "simpleshot"])
def test_one_class_is_refused_by_name(name: str) -> None:
    values = np.ones((6, 2))
    values[:3, 0] = 0.0
    values[0, 1] = np.nan
    targets = Targets("multilabel", ("TP53", "KRAS"), values)
    with pytest.raises(ValueError, match="'KRAS' has fewer"):
        PROBES[name].fit(
            np.eye(6), targets, [str(i) for i in range(6)], Settings(), inner_folds=2, seed=0
        )


@pytest.mark.parametrize("name", ["linear-probe", "knn", "simpleshot"])
def test_a_label_is_fitted_on_the_rows_where_it_is_known(name: str) -> None:
    rng = np.random.default_rng(5)
    x, patients = rng.standard_normal((40, 5)), [str(i) for i in range(40)]
    values = (rng.random((40, 2)) < 0.5).astype(float)
    values[:15, 1] = np.nan
    both = PROBES[name].fit(
        x, Targets("multilabel", ("u", "v"), values), patients, Settings(), inner_folds=3, seed=0
    )
    alone = PROBES[name].fit(
        x[15:], Targets("binary", ("v",), values[15:, 1:]), patients[15:], Settings(),
        inner_folds=3, seed=0,
    )  # fmt: skip
    assert np.allclose(both.predict(x)[:, 1:], alone.predict(x), atol=1e-12)


@pytest.mark.parametrize("name", ["linear-probe", "knn", "simpleshot"])
def test_a_class_without_rows_gets_nothing(name: str) -> None:
    rng = np.random.default_rng(6)
    x = rng.standard_normal((30, 4))
    values = np.array([0.0, 2.0] * 15)[:, None]
    fitted = PROBES[name].fit(
        x, Targets("multiclass", ("a", "b", "c"), values), [str(i) for i in range(30)],
        Settings(), inner_folds=3, seed=0,
    )  # fmt: skip
    found = fitted.predict(x)
    assert (found[:, 1] == 0.0).all()
    assert np.allclose(found.sum(1), 1.0)
