from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from slidemill.config import EvaluateConfig
from slidemill.errors import CohortError
from slidemill.evaluate.cell import CellData, run_model
from slidemill.evaluate.dataset import make_rows
from slidemill.evaluate.mil.bags import moments_of
from slidemill.evaluate.protocol import Predicted
from slidemill.evaluate.summary import Summary
from slidemill.splits.targets import Targets
from slidemill.splits.units import Unit

N = 24
LABELS = (np.arange(N) // 2 % 2).astype(np.float64)
PATIENTS = [f"p{i:02d}" for i in range(N)]
RNG = np.random.default_rng(0)
TILES = [(RNG.standard_normal((8, 4)) + 2 * y).astype(np.float32) for y in LABELS]
CONFIG = EvaluateConfig(models=("linear-probe",), mil={"epochs": 2, "width": 8}, patient="mean")
PROBE = CONFIG.entries()[0]


class Store:
    def features(self, i: int) -> np.ndarray:
        return TILES[i]


def embed(slide: int, view: tuple[int, int], readout: str) -> np.ndarray:
    if readout != "cls":  # of the control, which knows nothing
        return np.ones(3, dtype=np.float32)
    return np.array([LABELS[slide], 1 - LABELS[slide]], dtype=np.float32) * (1 + view[1])


def data(sites: dict[str, object] | None = None) -> CellData:
    moments = moments_of(TILES)
    ids = tuple(f"s{i:02d}" for i in range(N))
    maximum = np.stack([tiles.max(axis=0) for tiles in TILES])
    summary = Summary(ids, ids, ids, moments, maximum)
    targets = Targets("binary", ("1",), LABELS[:, None], "0")
    units = []
    for fold in range(4):
        test = [p for i, p in enumerate(PATIENTS) if i // 4 % 4 == fold]
        rest = [p for p in PATIENTS if p not in test]
        units += [Unit(0, fold, tuple(rest), (), tuple(test))]
        units += [Unit(0, fold, tuple(rest[:9]), (), tuple(test), "50%", 0)]
    rows = make_rows(range(N), PATIENTS, targets, moments.count, "mean")
    return CellData(summary, rows, units, Store(), embed, sites)  # type: ignore[arg-type]


def run(control: str = "", *, kind: str = "tiles", entry: Any = PROBE, sites: Any = None,
        pretrain: Any = None, readout: str = "cls") -> Predicted:  # fmt: skip
    stage = SimpleNamespace(label="cell")
    cell = SimpleNamespace(
        entry=entry, control=control, kind=kind, pretrain=pretrain or {}, stage=stage,
        readout=readout,
    )  # fmt: skip
    return run_model(cell, data(sites), CONFIG, "cpu", lambda done, total: None)  # type: ignore[arg-type]


def test_a_result_has_all_samples_and_a_control_the_full_one_alone() -> None:
    assert set(run().table["sample"]) == {"all", "50%"}
    assert set(run("tile-count").table["sample"]) == {"all"}


def test_shuffled_labels_keep_the_classes_of_every_fold() -> None:
    true, shuffled = run().table, run("shuffled-labels").table
    true = true[true["sample"] == "all"]
    counts = [table.groupby("fold")["label"].sum().tolist() for table in (true, shuffled)]
    assert counts[0] == counts[1]
    assert true["label"].tolist() != shuffled["label"].tolist()


def test_the_number_of_tiles_knows_nothing_here() -> None:
    assert run("tile-count").table["score"].nunique() == 1


def test_the_site_is_predicted_where_it_is_known() -> None:
    sites = {f"s{i:02d}": ("north" if i % 4 < 2 else "south") for i in range(N)}
    found = run("site", sites=sites | {"s03": np.nan}).table
    assert set(found["target"]) == {"north", "south"}
    assert 3 not in set(found["slide"])
    sums = found.groupby("slide")["score"].sum()
    assert np.allclose(sums, 1)
    with pytest.raises(CohortError, match="all labelled slides are of one site, 'north'"):
        run("site", sites={f"s{i:02d}": "north" for i in range(N)})
    with pytest.raises(CohortError, match="no labelled slide has a site"):
        run("site", sites={})


def test_retrieval_finds_slides_of_the_same_class() -> None:
    found = run(entry=None).table
    assert set(found["sample"]) == {"all"}
    assert found[found["target"] == "acc@1"]["score"].mean() > 0.8
    assert len(found[found["target"] == "acc@1"]) == N
    # An encoder a fold: a query and what it is compared with are embedded by the same one.
    views = dict.fromkeys((0, f) for f in range(4))
    embedded = run(entry=None, kind="slides", pretrain=views).table
    assert embedded[embedded["target"] == "map@1"]["score"].mean() == 1


def test_embeddings_beside_tiles_are_vectors_and_bags() -> None:
    for entry in (PROBE, EvaluateConfig(models=("abmil",), mil=CONFIG.mil).entries()[0]):
        found = run(entry=entry, kind="both", pretrain={(-1, -1): None})
        assert len(found.table) == 2 * N
    assert len(run(kind="slides", pretrain={(-1, -1): None}).table) == 2 * N


def test_a_control_reads_its_own_readout() -> None:
    one = dict.fromkeys((0, f) for f in range(4))
    trained = run("cls", kind="slides", pretrain=one).table
    blind = run("random-init", kind="slides", pretrain=one, readout="random_init_cls").table
    assert ((trained["score"] > 0.5) == (trained["label"] > 0)).all()
    assert blind["score"].nunique() <= 4  # one number a fold
    beside = run("cls+mean", kind="both", pretrain=one).table
    assert ((beside["score"] > 0.5) == (beside["label"] > 0)).all()


def test_the_largest_values_of_tiles_are_a_control() -> None:
    found = run("max-features").table
    assert set(found["sample"]) == {"all"}
    assert found[found["label"] == 1]["score"].mean() > found[found["label"] == 0]["score"].mean()
