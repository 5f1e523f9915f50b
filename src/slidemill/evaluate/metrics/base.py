"""What a metric is, and what metrics share.

A metric has two forms. `function` judges rows once. `weighted` gives the same number for every row
of a matrix of integer case weights, in one pass: a bootstrap draw is a vector of how often each
patient was drawn, and a thousand calls of the plain function would be too slow. A weight of 3 is
the row three times, ties included.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from slidemill.evaluate.names import METRIC_LABELS
from slidemill.splits.targets import Float64Array, Int64Array

Function = Callable[[Float64Array, Float64Array], float]
WeightedFunction = Callable[[Float64Array, Float64Array, Int64Array], Float64Array]
Chance = Callable[[Float64Array], float | None]


@dataclass(frozen=True)
class Metric:
    """One way to judge scores.

    Attributes:
        name: Name in tables.
        label: Name for people.
        function: Values y float64 (n, V), as in `Targets.values`, and scores float64 (n, K) to the
            metric; nan where it is undefined.
        weighted: Values, scores and case weights int64 (draws, n) to the metrics float64 (draws,);
            nan for draws for which it is undefined.
        chance: What guessing gives, from the values; None where there is no such number.
        higher_is_better: Whether a larger value is the better one.
        interval: Whether resampling gives an interval that covers the truth about as often as it
            says.
    """

    name: str
    label: str
    function: Function
    weighted: WeightedFunction
    chance: Chance
    higher_is_better: bool = True
    interval: bool = True


def make_metric(
    name: str,
    function: Function,
    weighted: WeightedFunction,
    chance: Chance,
    higher_is_better: bool = True,
    interval: bool = True,
) -> Metric:
    """A metric under the label that `METRIC_LABELS` has for its name."""
    label = METRIC_LABELS[name]
    return Metric(name, label, function, weighted, chance, higher_is_better, interval)


def constant(value: float | None) -> Chance:
    """A chance that does not depend on the values."""
    return lambda y: value


def ratio(numerator: npt.NDArray[np.number], denominator: npt.NDArray[np.number]) -> Float64Array:
    """The quotient of two arrays of one shape, nan where the denominator is 0; float64."""
    undefined = np.full(denominator.shape, np.nan)
    quotient: Float64Array = np.divide(numerator, denominator, out=undefined, where=denominator > 0)
    return quotient


def weighted_mean(values: Float64Array, weights: Int64Array) -> Float64Array:
    """Mean of values (n,) under each row of weights (draws, n); nan where there is no weight."""
    as_floats = weights.astype(np.float64)  # integers have no fast matrix product
    return ratio(as_floats @ values, as_floats.sum(axis=1))
