"""Made-up predictions and metrics of a comparison, in the formats of the evaluate stage."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.special import softmax

from slidemill.evaluate.bootstrap import row_metrics

ROW = ("task", "model", "input", "control", "sample")
LONG = "conch_v1.5+conch_v1.5/dinov2-compact"
RESULTS = tuple(
    (model, source, "")
    for source in (LONG, "uni", "uni/dino-a")
    for model in ("abmil-4heads", "linear-probe", "clam-sb", "transmil")
)
CONTROLS = (
    ("abmil-4heads", LONG, "shuffled-labels"),
    ("linear-probe", "uni", "tile-count"),
)
NAMES = {
    "binary": ("met",),
    "multiclass": ("luad", "lusc", "mesothelioma, epithelioid"),
    "multilabel": ("EGFR", "KRAS", "TP53"),
    "regression": ("purity",),
    "survival": ("days_to_death",),
}


def rows(results: int, controls: int = 0) -> list[tuple[str, str, str]]:
    return [*RESULTS[:results], *CONTROLS[:controls]]


def predictions(
    task_type: str,
    names: tuple[str, ...] = (),
    *,
    of: Sequence[tuple[str, str, str]] = RESULTS[:2],
    patients: int = 60,
    slides: int = 2,
    repeats: int = 1,
    folds: int = 5,
    sample: str = "all",
    draws: int = 1,
    strength: float = 1.0,
    seed: int = 0,
) -> pd.DataFrame:
    """Scores that know the label the better, the earlier the row is listed."""
    names = names or NAMES[task_type]
    rng = np.random.default_rng(seed)
    truth, event = _truth(task_type, len(names), patients, rng)
    blocks = []
    for number, (model, source, control) in enumerate(of):
        skill = 0.0 if control else strength * 2.0 / (1 + 0.3 * number)
        for draw in range(draws):
            for repeat in range(repeats):
                for slide in range(slides):
                    scores = _scores(task_type, truth, event, skill, rng)
                    for k, name in enumerate(names):
                        blocks.append(
                            pd.DataFrame(
                                {
                                    "task": "t",
                                    "model": model,
                                    "input": source,
                                    "control": control,
                                    "sample": sample,
                                    "draw": draw,
                                    "repeat": repeat,
                                    "fold": np.arange(patients) % folds,
                                    "slide_id": [f"p{i}-s{slide}" for i in range(patients)],
                                    "patient_id": [f"p{i}" for i in range(patients)],
                                    "target": name,
                                    "label": truth[:, k],
                                    "event": event,
                                    "score": scores[:, k],
                                }
                            )
                        )
    return pd.concat(blocks, ignore_index=True)


def _truth(task_type, k, n, rng):
    none = np.full(n, np.nan)
    if task_type == "multiclass":
        return np.eye(k)[np.arange(n) % k], none
    if task_type == "regression":
        return rng.uniform(0.1, 0.9, (n, 1)), none
    if task_type == "survival":
        return rng.exponential(700, (n, 1)).round() + 1, (rng.random(n) < 0.6).astype(float)
    return (np.arange(n)[:, None] % (np.arange(k) + 3) == 0).astype(float), none


def _scores(task_type, truth, event, skill, rng):
    noise = rng.normal(size=truth.shape)
    if task_type == "multiclass":
        return softmax(skill * truth * 1.5 + noise, axis=1)
    if task_type == "regression":
        return truth * min(skill / 2, 1) + 0.12 * noise
    if task_type == "survival":
        return -skill * np.log(truth) + noise
    return 1 / (1 + np.exp(-(skill * 1.5 * (truth - 0.5) + noise - 0.7)))


def metrics(task_type: str, table: pd.DataFrame) -> pd.DataFrame:
    """Metrics of predictions, as the evaluate stage computes them, of few draws of patients."""
    found = []
    for key, mine in table.groupby(list(ROW), sort=False):
        names = tuple(dict.fromkeys(mine["target"]))
        one = row_metrics(mine, task_type, names, draws=50, seed=0, missing={})
        found.append(one.assign(**dict(zip(ROW, key, strict=True))))
    return pd.concat(found, ignore_index=True)


def comparison(task_type: str, **options: object) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Predictions and their metrics."""
    table = predictions(task_type, **options)
    return table, metrics(task_type, table)
