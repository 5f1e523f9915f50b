import numpy as np
import pandas as pd
import pytest

from evaluate.figures.frames import metrics, predictions, rows
from slidemill.evaluate.figures.data import rows_of
from slidemill.evaluate.figures.ratio import (
    TOGETHER,
    draws_of,
    has_thinned,
    ratio_figure,
    samples_of,
)


def thinned(of, *samples: str) -> pd.DataFrame:
    tables = [
        predictions(
            "binary", of=of, patients=20, slides=1, sample=name, draws=1 if name == "all" else 2
        )
        for name in samples
    ]
    return metrics("binary", pd.concat(tables, ignore_index=True))


def test_samples_are_in_the_order_of_their_size() -> None:
    table = pd.DataFrame({"sample": ["all", "100-shot", "5-shot", "0.5%", "10%", "2-shot"]})
    shots = samples_of(table, "-shot", "")
    assert shots is not None
    assert shots.names == ("2-shot", "5-shot", "100-shot", "all")
    assert shots.places == (2.0, 5.0, 100.0, 200.0)
    assert shots.ticks == ("2", "5", "100", "all")
    shares = samples_of(table, "%", "")
    assert shares is not None
    assert shares.places == (0.5, 10.0, 100.0)
    assert shares.ticks == ("0.5", "10", "100")
    assert samples_of(table[table["sample"] == "all"], "%", "") is None


def test_a_sample_of_all_patients_is_not_shown_twice() -> None:
    shares = samples_of(pd.DataFrame({"sample": ["all", "100%", "5%"]}), "%", "")
    assert shares is not None
    assert shares.names == ("5%", "100%")


def test_lines_are_estimates_and_points_are_draws() -> None:
    table = thinned(rows(2), "all", "5%", "50%")
    axes = ratio_figure("binary", table).axes[0]
    row = rows_of(table)[0]
    headline = table[(table["metric"] == "auroc") & (table["fold"] < 0)]
    mine = row.of(headline).set_index("sample")["estimate"]
    (line,) = [one for one in axes.lines if len(one.get_xdata()) == 3 and one.get_marker() == "o"][
        :1
    ]
    assert list(line.get_ydata()) == [mine["5%"], mine["50%"], mine["all"]]
    folds = row.of(table)
    folds = folds[(folds["metric"] == "auroc") & (folds["sample"] == "5%") & (folds["draw"] >= 0)]
    expected = [folds.loc[folds["draw"] == i, "estimate"].mean() for i in range(2)]
    assert draws_of(table, row, "auroc", "5%") == pytest.approx(expected)
    points = [line for line in axes.lines if line.get_marker() == "." and len(line.get_xdata())]
    assert len(points) == 2 * 2
    assert list(points[0].get_ydata()) == pytest.approx(expected)
    assert axes.get_xscale() == "log"
    (band, _) = axes.collections
    ends = row.of(headline).set_index("sample").loc[["5%", "50%", "all"], ["low", "high"]]
    drawn = band.get_paths()[0].vertices[:, 1]
    assert set(np.round(ends.to_numpy().ravel(), 9)) <= set(np.round(drawn, 9))


def test_many_rows_are_parted_by_input_on_one_scale() -> None:
    table = thinned(rows(TOGETHER + 1, 1), "5-shot", "50%")
    figure = ratio_figure("binary", table)
    assert len(figure.axes) == 4
    (limits,) = {axes.get_ylim() for axes in figure.axes}
    # Single folds, of which some are of 0 or 1, are not shown.
    assert limits[0] > 0.1
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles[0] == titles[1] == "conch_v1.5+conch_v1.5/dinov2-compact"
    assert titles[2] == titles[3] == "uni"


def test_it_is_there_only_if_units_were_thinned() -> None:
    table = thinned(rows(1), "all")
    assert not has_thinned(table)
    with pytest.raises(ValueError, match="fewer patients"):
        ratio_figure("binary", table)


def test_a_metric_that_is_nowhere_defined_is_drawn_as_nothing() -> None:
    table = thinned(rows(1), "5%")
    table[["estimate", "low", "high", "chance"]] = np.nan
    assert ratio_figure("binary", table).axes[0].get_ylim() == (0.0, 1.0)
