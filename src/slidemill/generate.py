"""Generated files: the documented configuration, its schema, and tables of formats and encoders.

`python -m slidemill.generate` writes them below the current folder, `--check` only compares. Their
source is `slidemill.config`, `slidemill.artifacts.formats` and `slidemill.features.registry`; a
test fails when they drift.
"""

import json
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic.fields import FieldInfo

from slidemill.artifacts import formats  # noqa: F401 - fills the registry
from slidemill.artifacts.atomic import write_text
from slidemill.artifacts.spec import ArtifactSpec, all_specs
from slidemill.config import Config, Section
from slidemill.features.document import encoders_text

DEMO: dict[str, Any] = {
    "tiles": {"mpp": 0.5},
    "features": {"encoders": ["hed-texture", "rgb-mean"]},
    "pretrain": {
        "runs": [
            {
                "name": "dinov2",
                "size": "2x96",
                "heads": 4,
                "head": {"prototypes": 64, "hidden": 256, "bottleneck": 64},
                "epochs": 40,
                "batch_slides": 16,
                "learning_rate": 0.002,
                "teacher_momentum": 0.98,
            }
        ]
    },
    "evaluate": {
        "tasks": [{"name": "grade", "column": "label"}],
        "models": ["abmil", "linear-probe", "knn"],
        "site": "site",
        "retrieval": True,
    },
}
"""What the demo's configuration sets otherwise than the defaults."""

_HEADER = """\
# The demo's configuration; every key is here, with what it means.
# Generated from src/slidemill/config/ by `python -m slidemill.generate`; edit it or a copy.
# yaml-language-server: $schema=workflow/schemas/config.schema.json
"""
_WIDTH = 98
_BEGIN, _END = "<!-- generated: formats -->", "<!-- end of generated part -->"


def config_text(config: Config) -> str:
    """A configuration as commented YAML."""
    lines = [_HEADER.rstrip()]
    for name, field in Config.model_fields.items():
        if name != "recompute":
            lines += ["", *_entry(name, field, getattr(config, name), 0)]
    recompute = Config.model_fields["recompute"].description or ""
    lines += ["", *_comment(recompute, 0), "# recompute: []"]
    return "\n".join(lines) + "\n"


def _entry(name: str, field: FieldInfo, value: object, depth: int) -> Iterator[str]:
    """One key with its comment; sections and lists of sections follow indented."""
    pad = "  " * depth
    if isinstance(value, Section):
        yield from _comment((type(value).__doc__ or "").splitlines()[0], depth)
        yield f"{pad}{name}:"
        yield from _section(value, depth + 1)
        return
    yield from _comment((field.description or "") + _otherwise(field, value), depth)
    if isinstance(value, tuple) and value and all(isinstance(item, Section) for item in value):
        yield f"{pad}{name}:"
        for item in value:
            lines = list(_section(item, depth + 2))
            first = next(i for i, line in enumerate(lines) if not line.lstrip().startswith("#"))
            # The dash stands before the first key; its comment goes above it.
            yield from lines[:first]
            yield f"{pad}  - {lines[first].lstrip()}"
            yield from lines[first + 1 :]
        return
    plain = list(value) if isinstance(value, tuple) else value
    yield f"{pad}{name}: {_scalar(plain)}"


def _otherwise(field: FieldInfo, value: object) -> str:
    """The default, where the demo's value is another: its cohort is small."""
    if field.is_required() or isinstance(value, Section):
        return ""
    default = field.get_default(call_default_factory=True)
    sections = isinstance(value, tuple) and any(isinstance(item, Section) for item in value)
    if value == default or sections:
        return ""
    plain = list(default) if isinstance(default, tuple) else default
    return f" By default {_scalar(plain)}; set otherwise for the small demo."


def _section(section: Section, depth: int) -> Iterator[str]:
    for name, field in type(section).model_fields.items():
        yield from _entry(name, field, getattr(section, name), depth)


def _scalar(value: object) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")


def _comment(text: str, depth: int) -> list[str]:
    pad = "  " * depth
    return [f"{pad}# {line}" for line in textwrap.wrap(text, _WIDTH - len(pad))]


def schema_text() -> str:
    """The JSON schema of the configuration."""
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema"
    } | Config.model_json_schema()
    return json.dumps(schema, indent=2, sort_keys=True) + "\n"


def formats_text(document: str) -> str:
    """A document with its generated part made anew.

    Raises:
        ValueError: If the document has no marks around a generated part.
    """
    before, mark, rest = document.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not mark or not end:
        raise ValueError(f"docs/formats.md has no part between {_BEGIN} and {_END}")
    tables = "\n\n".join(_format_table(spec) for spec in all_specs())
    return f"{before}{_BEGIN}\n\n{tables}\n\n{_END}{after}"


def _format_table(spec: ArtifactSpec) -> str:
    kind = {"parquet": "Parquet", "hdf5": "HDF5"}[spec.container]
    lines = [f"### `{spec.type}`, version {spec.version} ({kind})", "", spec.doc, ""]
    if spec.container == "parquet":
        lines += ["| column | type | meaning |", "|---|---|---|"]
        lines += [
            f"| `{item.name}` | {item.dtype}{', may be missing' if item.nullable else ''} "
            f"| {item.meaning} |"
            for item in spec.fields
        ]
    else:
        lines += ["| dataset | shape | type | meaning |", "|---|---|---|---|"]
        lines += [f"| `/{f.name}` | {f.shape} | {f.dtype} | {f.meaning} |" for f in spec.fields]
    if spec.attributes:
        lines += ["", "| attribute of the file | meaning |", "|---|---|"]
        lines += [f"| `{name}` | {meaning} |" for name, meaning in spec.attributes]
    return "\n".join(lines)


def generated(root: Path) -> dict[Path, str]:
    """Every generated file below a checkout, and what it has to hold."""
    formats_doc = root / "docs" / "formats.md"
    return {
        root / "config.yaml": config_text(Config.model_validate(DEMO)),
        root / "workflow" / "schemas" / "config.schema.json": schema_text(),
        root / "docs" / "encoders.md": encoders_text(),
        formats_doc: formats_text(formats_doc.read_text(encoding="utf-8")),
    }


def main() -> None:
    """Write the generated files, or with `--check` fail where one has drifted."""
    drifted = [
        path
        for path, text in generated(Path()).items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    if "--check" in sys.argv[1:]:
        if drifted:
            names = ", ".join(map(str, drifted))
            raise SystemExit(f"{names}: run `python -m slidemill.generate`")
        return
    for path in drifted:
        write_text(path, generated(Path())[path])


if __name__ == "__main__":
    main()
