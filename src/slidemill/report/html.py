"""The page: plain values in, HTML out.

Everything that comes from a sheet or a file name is escaped by the template. Nothing is loaded from
anywhere: pictures are data URIs and figures are inline SVG.
"""

import base64
from dataclasses import dataclass, field
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from slidemill.report.tasks import TaskSection


@dataclass(frozen=True)
class SlideSection:
    """One slide with its tissue and attention."""

    title: str
    slide_id: str
    patient_id: str
    label: str
    score: float | None
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
        tasks: Results.
        slides: Slides with their pictures.
        attention_of: Which model the attention is of; empty where there is none.
        cohort_rows: The cohort in numbers, label and value.
        tiles_svg: Histogram of tiles a slide; empty where there are none.
        failures: Slide, stage, code and message of what failed.
        remarks: Slide, stage and remark of what should be looked at.
        pretraining: Runs, in sentences.
        loss_svg: Loss curves; empty where there are none.
        stages: Stage, folder, digest and parameters of everything that was run.
        footer: Facts that change with every run.
    """

    cohort: str
    facts: list[tuple[str, str]]
    protocol: list[str]
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
    remarks: list[dict[str, str]] = field(default_factory=list)


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
