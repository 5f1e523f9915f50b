"""The rows of each slide encoder of a task, and which of them are compared.

From cells of a plan to names of rows; nothing is read or written.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from slidemill.config.evaluate import Control, InputKind
from slidemill.evaluate.controls import READOUTS
from slidemill.evaluate.models import MODELS
from slidemill.plan import CellPlan


class RowKey(NamedTuple):
    """What names a row of a comparison."""

    model: str
    input: str
    control: str

    @property
    def label(self) -> str:
        """The row for people, as `linear-probe on uni/dino (random-init)`."""
        name = f"{self.model} on {self.input}"
        return f"{name} ({self.control})" if self.control else name


@dataclass(frozen=True)
class EncoderRows:
    """The rows of one slide encoder under the task's probe.

    Attributes:
        cell: The cell that makes its controls.
        rows: The row of each control that there is, results that stand for one among them: the
            probe on the class token may be a result itself.
        mean_features: The row of the probe on the mean of the tiles, if there is one.
        max_features: The row of the probe on the largest values of the tiles, if there is one.
    """

    cell: CellPlan
    rows: dict[Control, RowKey]
    mean_features: RowKey | None
    max_features: RowKey | None

    def pairs(self) -> list[tuple[RowKey, RowKey]]:
        """What is compared: each readout with its own controls, and with order-blind summaries."""
        found: list[tuple[RowKey, RowKey]] = []
        for readout in READOUTS:
            trained = self.rows.get(readout.trained)
            own = [self.rows.get(c) for c in (readout.random_init, readout.shuffled) if c]
            others = [*own, self.mean_features, self.max_features]
            found += [(trained, other) for other in others if trained and other]
        return found


def encoder_rows(cells: Sequence[CellPlan]) -> Iterator[EncoderRows]:
    """The slide encoders of a task, each with its rows.

    Args:
        cells: All cells of one task.
    """
    for cell in cells:
        if not cell.controls:
            continue
        rows = {name: _key(row) for name, row in zip(cell.controls, cell.rows(), strict=True)}
        result = _result(cells, cell, "slides", cell.source)
        if "cls" not in rows and result is not None:
            rows["cls"] = _key(result)
        tiles = cell.encoder.encoder.label
        mean = _result(cells, cell, "tiles", tiles) or _control(cells, "mean-features", tiles)
        most = _control(cells, "max-features", tiles)
        yield EncoderRows(cell, rows, _key(mean) if mean else None, _key(most) if most else None)


def same_probe(cell: CellPlan, other: CellPlan) -> bool:
    """Whether two cells run one model with the same settings."""
    a, b = cell.entry, other.entry
    if a is None or b is None or a.name != b.name:
        return False
    return MODELS[a.name].kind == "vectors" and a.linear_probe == b.linear_probe


def _result(
    cells: Sequence[CellPlan], like: CellPlan, kind: InputKind, source: str
) -> CellPlan | None:
    """The result that runs the probe of a slide encoder's controls on an input."""
    fitting = (
        cell
        for cell in cells
        if not cell.control
        and (cell.kind, cell.source) == (kind, source)
        and same_probe(cell, like)
    )
    return next(fitting, None)


def _control(cells: Sequence[CellPlan], control: Control, source: str) -> CellPlan | None:
    fitting = (cell for cell in cells if (cell.control, cell.source) == (control, source))
    return next(fitting, None)


def _key(cell: CellPlan) -> RowKey:
    return RowKey(cell.model, cell.source, cell.control)
