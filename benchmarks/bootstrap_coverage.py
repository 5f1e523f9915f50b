"""How often 95 % intervals hold the truth, on synthetic cohorts whose truth is known.

Patients have 1 to 6 slides, whose scores share the patient's own deviation. Normal scores give
AUROC, Pearson's correlation and Harrell's C (of uncensored times) in closed form. Three intervals:
ours; plain percentiles of the same draws; and ours with slides resampled as if each were a patient,
as is common and wrong.

    python benchmarks/bootstrap_coverage.py --cohorts 500

500 cohorts say 95 % to within 2 points. Takes minutes.
"""

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import norm

from slidemill.evaluate.metrics import metrics_of
from slidemill.evaluate.panel import ALL_TARGETS, make_panels
from slidemill.evaluate.resample import Summary, draw_weights, summarise
from slidemill.splits.targets import TaskType

MOST_SLIDES = 6
OF_PATIENT, OF_SLIDE = 1.0, 0.5
"""Standard deviations of a score: between the patients of a class, and between their slides."""
POSITIVE = 0.4
"""Share of positive patients."""


@dataclass(frozen=True)
class Cohort:
    """Predictions in columns of the format `predictions`, and the metric's true value.

    Attributes:
        type: Type of the task.
        metric: The metric.
        truth: Its value over all patients of the kind, by patient.
        slide_truth: The same if each slide were a patient.
        predictions: The table.
    """

    type: TaskType
    metric: str
    truth: float
    slide_truth: float
    predictions: pd.DataFrame


Simulation = Callable[[np.random.Generator, int, float], Cohort]


def binary_cohort(rng: np.random.Generator, patients: int, auroc: float) -> Cohort:
    """Binormal scores. `auroc` is that of patients with one slide each; more slides see better."""
    spread = math.hypot(OF_PATIENT, OF_SLIDE)
    shift = float(norm.ppf(auroc)) * math.sqrt(2.0) * spread
    counts = np.arange(1, MOST_SLIDES + 1)
    variance = OF_PATIENT**2 + OF_SLIDE**2 / counts
    # A pair of patients with m and m' slides has normal scores of known variance.
    truth = float(norm.cdf(shift / np.sqrt(variance[:, None] + variance)).mean())
    y = (rng.random(patients) < POSITIVE).astype(np.float64)
    base = shift * y + rng.normal(0.0, OF_PATIENT, patients)
    return Cohort("binary", "auroc", truth, auroc, _slides(rng, y, y * np.nan, base, OF_SLIDE))


def number_cohort(rng: np.random.Generator, patients: int, correlation: float) -> Cohort:
    """Values and scores of a binormal patient; slides do not differ."""
    y = rng.normal(0.0, 1.0, patients)
    base = correlation * y + math.sqrt(1.0 - correlation**2) * rng.normal(0.0, 1.0, patients)
    table = _slides(rng, y, y * np.nan, base, 0.0)
    return Cohort("regression", "pearson", correlation, correlation, table)


def survival_cohort(rng: np.random.Generator, patients: int, correlation: float) -> Cohort:
    """Uncensored times: C is (tau + 1) / 2, with Kendall's tau of normal risk and log hazard."""
    hazard = rng.normal(0.0, 1.0, patients)
    base = correlation * hazard + math.sqrt(1.0 - correlation**2) * rng.normal(0.0, 1.0, patients)
    truth = 0.5 + math.asin(correlation) / math.pi
    table = _slides(rng, np.exp(-hazard), np.ones(patients), base, 0.0)
    return Cohort("survival", "c_harrell", truth, truth, table)


def intervals(cohort: Cohort, draws: int, seed: int) -> dict[str, tuple[float, float]]:
    """Ours, plain percentiles, and ours with every slide for a patient."""
    table, metric = cohort.predictions, metrics_of(cohort.type)[cohort.metric]
    panel = make_panels(table, cohort.type, ("t",))[ALL_TARGETS]
    found = summarise(panel, metric, draw_weights(len(panel.patients), draws, seed))
    low, high = np.nanquantile(found.drawn, [0.025, 0.975])
    return {
        "ours": found.interval(),
        "percentile": (float(low), float(high)),
        "slides": _of_slides(cohort, draws, seed).interval(),
    }


def coverage(
    make: Simulation,
    patients: int,
    parameter: float,
    *,
    cohorts: int,
    draws: int,
) -> tuple[float, dict[str, float]]:
    """The truth, and the share of cohorts whose interval holds it, by kind of interval."""
    held: dict[str, list[bool]] = {}
    truth = math.nan
    for seed in range(cohorts):
        cohort = make(np.random.default_rng([seed, patients]), patients, parameter)
        truth = cohort.truth
        for kind, (low, high) in intervals(cohort, draws, seed).items():
            wanted = cohort.slide_truth if kind == "slides" else truth
            held.setdefault(kind, []).append(low <= wanted <= high)
    return truth, {kind: float(np.mean(each)) for kind, each in held.items()}


def _of_slides(cohort: Cohort, draws: int, seed: int) -> Summary:
    table = cohort.predictions.assign(patient_id=cohort.predictions["slide_id"])
    panel = make_panels(table, cohort.type, ("t",))[ALL_TARGETS]
    weights = draw_weights(len(panel.patients), draws, seed)
    return summarise(panel, metrics_of(cohort.type)[cohort.metric], weights)


def _slides(
    rng: np.random.Generator,
    label: np.ndarray,
    event: np.ndarray,
    base: np.ndarray,
    spread: float,
) -> pd.DataFrame:
    """One row a slide."""
    rows = np.repeat(np.arange(len(base)), rng.integers(1, MOST_SLIDES + 1, len(base)))
    return pd.DataFrame(
        {
            "draw": 0,
            "repeat": 0,
            "fold": 0,
            "slide_id": [f"s{i}" for i in range(len(rows))],
            "patient_id": [f"p{i}" for i in rows],
            "target": "t",
            "label": label[rows],
            "event": event[rows],
            "score": base[rows] + rng.normal(0.0, 1.0, len(rows)) * spread,
        }
    )


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cohorts", type=int, default=500)
    parser.add_argument("--draws", type=int, default=1000)
    arguments = parser.parse_args()
    cases: list[tuple[Simulation, float]] = [(binary_cohort, each) for each in (0.7, 0.8, 0.9)]
    cases += [(number_cohort, 0.5), (survival_cohort, 0.5)]
    print(f"{'metric':<12}{'truth':>7}{'patients':>10}{'ours':>8}{'percentile':>12}{'slides':>8}")
    for make, parameter in cases:
        name = make(np.random.default_rng(0), 30, parameter).metric
        for patients in (30, 60, 100, 200):
            truth, held = coverage(
                make, patients, parameter, cohorts=arguments.cohorts, draws=arguments.draws
            )
            print(
                f"{name:<12}{truth:>7.3f}{patients:>10}{held['ours']:>8.1%}"
                f"{held['percentile']:>12.1%}{held['slides']:>8.1%}",
                flush=True,
            )


if __name__ == "__main__":
    main()
