"""The page: plain values in, HTML out.

Everything that comes from a sheet or a file name is escaped by the template. Nothing is loaded from
anywhere: pictures are data URIs and figures are inline SVG.
"""

import base64
from dataclasses import dataclass, field
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup


@dataclass(frozen=True)
class Estimate:
    """A metric with its interval.

    Attributes:
        value: The estimate.
        low: Lower end of the 95 % interval.
        high: Upper end.
        best: Whether it is the best of its column.
    """

    value: float
    low: float
    high: float
    best: bool = False


@dataclass(frozen=True)
class ResultRow:
    """One model on one input.

    Attributes:
        model: The model.
        source: What it was given.
        estimates: Metrics by name, in the order of the columns.
        warning: What has to be said beside the result; empty where there is nothing.
    """

    model: str
    source: str
    estimates: dict[str, Estimate]
    warning: str = ""


@dataclass(frozen=True)
class TaskSection:
    """Results of one task."""

    name: str
    column: str
    shuffled: bool
    patients: int
    positives: int
    rows: list[ResultRow]
    roc_svg: str


@dataclass(frozen=True)
class SlideSection:
    """One slide with its tissue and attention."""

    title: str
    slide_id: str
    patient_id: str
    label: str
    probability: float | None
    tiles: int
    overlay: bytes
    attention: bytes | None


@dataclass(frozen=True)
class ReportPage:
    """Everything that the page shows.

    Attributes:
        cohort: Name of the cohort.
        facts: Key figures, label and value.
        protocol: How results were made, in sentences.
        metric_labels: Columns of the results.
        tasks: Results.
        slides: Slides with their pictures.
        attention_of: Which model the attention is of; empty where there is none.
        cohort_rows: The cohort in numbers, label and value.
        tiles_svg: Histogram of tiles a slide; empty where there are none.
        failures: Slide, stage, code and message of what failed.
        pretraining: Runs, in sentences.
        loss_svg: Loss curves; empty where there are none.
        stages: Stage, folder, digest and parameters of everything that was run.
        footer: Facts that change with every run.
    """

    cohort: str
    facts: list[tuple[str, str]]
    protocol: list[str]
    metric_labels: dict[str, str]
    tasks: list[TaskSection]
    slides: list[SlideSection]
    attention_of: str
    cohort_rows: list[tuple[str, str]]
    tiles_svg: str
    failures: list[dict[str, Any]]
    pretraining: list[str]
    loss_svg: str
    stages: list[dict[str, str]]
    footer: list[tuple[str, str]] = field(default_factory=list)


def render(page: ReportPage) -> str:
    """The page as one self-contained HTML document."""
    environment = Environment(
        loader=PackageLoader("slidemill.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["data_uri"] = _data_uri
    environment.filters["figure"] = Markup
    environment.filters["percent"] = lambda value: f"{100 * min(max(value, 0.0), 1.0):.1f}"
    return environment.get_template("report.html.j2").render(page=page)


def _data_uri(picture: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(picture).decode()}"
