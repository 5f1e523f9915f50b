"""Which three slides a report shows: decided by a rule, not by looks."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

MAX_SLIDES = 3


@dataclass(frozen=True)
class Choice:
    """A slide to show.

    Attributes:
        title: Why it is shown.
        slide_id: The slide.
        score: What was predicted: a probability, a number or a risk; None without predictions.
    """

    title: str
    slide_id: str
    score: float | None


def choose_slides(slide_ids: Sequence[str], predictions: pd.DataFrame | None) -> list[Choice]:
    """Choose the surest right positive, the surest right negative, and the worst mistake.

    Of a multiclass or multilabel task it is the first class or label that counts; of a regression
    or survival task the highest and the lowest score, and the one nearest to the median. Ties go to
    the first in alphabetical order. Without predictions the first slides are shown.

    Args:
        slide_ids: Slides that have results, in order.
        predictions: Rows of the `predictions` format of one model; the first repetition counts.

    Returns:
        At most three slides, each once.
    """
    if predictions is None or predictions.empty:
        return [Choice("slide", slide_id, None) for slide_id in slide_ids[:MAX_SLIDES]]
    first = predictions["target"] == predictions["target"].iloc[0]
    first &= (predictions["repeat"] == predictions["repeat"].min()) & (
        predictions["sample"] == "all"
    )
    rows = predictions[first]
    rows = rows[rows["slide_id"].isin(slide_ids)].sort_values("slide_id")
    if not rows["label"].isin([0.0, 1.0]).all():
        return _by_score(rows)
    positive, negative = rows[rows["label"] == 1], rows[rows["label"] == 0]
    chosen: dict[str, Choice] = {}

    def add(title: str, row: "pd.Series[str]") -> None:
        slide_id = str(row["slide_id"])
        chosen.setdefault(slide_id, Choice(title, slide_id, float(str(row["score"]))))

    if len(positive):
        add("highest of the positive", positive.loc[positive["score"].idxmax()])
    if len(negative):
        add("lowest of the negative", negative.loc[negative["score"].idxmin()])
    wrongness = (rows["label"] - rows["score"]).abs()
    left = rows[~rows["slide_id"].isin(list(chosen))]
    if len(left):
        worst = wrongness[left.index].idxmax()
        title = "worst mistake" if wrongness[worst] > 0.5 else "least certain"
        add(title, rows.loc[worst])
    return list(chosen.values())


def _by_score(rows: pd.DataFrame) -> list[Choice]:
    """Highest, lowest and middle score, each slide once."""
    ranked = rows.sort_values(["score", "slide_id"])
    places = {"highest score": -1, "lowest score": 0, "median score": len(ranked) // 2}
    chosen: dict[str, Choice] = {}
    for title, place in places.items():
        row = ranked.iloc[place]
        slide_id = str(row["slide_id"])
        chosen.setdefault(slide_id, Choice(title, slide_id, float(row["score"])))
    return list(chosen.values())
