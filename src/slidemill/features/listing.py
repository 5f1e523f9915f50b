"""What people ask about tile encoders at the command line: which there are, and all about one."""

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from slidemill.features.encoders import find_spec
from slidemill.features.registry import ENCODERS
from slidemill.features.spec import EncoderSpec, Preprocessing
from slidemill.features.weights import find_file, is_on_disk, path_by_hand

WIDTH = 100
"""Columns in logs and pipes, which have no width of their own."""


def tile_words(spec: EncoderSpec) -> str:
    """The tiles that an encoder was made for, edge in pixels and um per pixel: `256 @ 0.5`."""
    if spec.tile_px is None:
        return "any"
    return f"{spec.tile_px} @ {'any' if spec.mpp is None else f'{spec.mpp:g}'}"


def millions(spec: EncoderSpec) -> str:
    """Parameters in millions; empty where there are none."""
    if spec.parameters is None:
        return ""
    value = spec.parameters / 1e6
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"


def gate_words(spec: EncoderSpec) -> str:
    """Whether a person has to accept terms first."""
    return "yes" if spec.is_gated else ("no" if spec.needs_weights else "")


def preprocessing_words(settings: Preprocessing | None) -> str:
    """What tiles go through, in a line."""
    if settings is None:
        return "by the encoder itself"
    size = (
        f"tiles of exactly {settings.crop_px} px"
        if settings.resize_px is None
        else f"resized to {settings.resize_px} px ({settings.interpolation})"
    )
    if settings.resize_px not in (None, settings.crop_px):
        size += f", the middle {settings.crop_px} px"
    mean, std = (
        ", ".join(f"{value:g}" for value in values) for values in (settings.mean, settings.std)
    )
    return f"{size}; mean {mean}; std {std}"


def print_encoders(out: Console | None = None) -> None:
    """Print a line an encoder, and the names of those without public weights."""
    out = out or _console()
    table = Table(title="tile encoders", box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    right = {"dim", "M params"}
    for heading in ("name", "dim", "px @ um/px", "precision", "M params", "licence", "gated"):
        table.add_column(
            heading,
            justify="right" if heading in right else "left",
            no_wrap=heading != "licence",
            overflow="fold",
        )
    table.add_column("on disk", no_wrap=True)
    for spec in ENCODERS.values():
        if spec.builder == "none":
            continue
        table.add_row(
            spec.name,
            str(spec.dim()),
            tile_words(spec),
            spec.precision,
            millions(spec),
            spec.licence,
            gate_words(spec),
            ("yes" if is_on_disk(spec) else "no") if spec.needs_weights else "",
        )
    table.add_row("timm:ARCH.TAG", "", "any", "fp32", "", "see its page", "no", "")
    out.print(table)
    without = [spec.name for spec in ENCODERS.values() if spec.builder == "none"]
    out.print(f"Without public weights: {', '.join(without)}.", highlight=False)
    out.print(
        "`slidemill encoders show NAME` tells all about one, `slidemill encoders download NAME` "
        "fetches its weights.",
        highlight=False,
    )


def facts(spec: EncoderSpec) -> list[tuple[str, str]]:
    """All of a row, as headings and words; what it does not have is left out."""
    outputs = [
        f"{output}{' (default)' if output == spec.outputs[0] else ''}"
        + (f", {spec.dim(output)}" if spec.width else "")
        for output in spec.outputs
    ]
    found = [("name", spec.name)]
    if spec.builder == "none":
        found += [("no public weights", spec.missing), ("instead", ", ".join(spec.alternatives))]
    else:
        found += [
            ("outputs", "; ".join(outputs)),
            ("tile px @ um/px", tile_words(spec)),
            ("preprocessing", preprocessing_words(spec.preprocessing)),
            ("patch", f"{spec.patch_px} px" if spec.patch_px else ""),
            ("prefix tokens", str(spec.prefix_tokens) if spec.prefix_tokens else ""),
            ("precision", spec.precision),
            ("parameters", f"{spec.parameters:,}" if spec.parameters else ""),
            ("GMACs a tile", f"{spec.gmacs:g}" if spec.gmacs else ""),
            ("licence", spec.licence),
            ("foreign code", "needs trust_remote_code: true" if spec.runs_foreign_code else ""),
        ]
    if spec.weights is not None:
        there = find_file(spec)
        found += [
            ("gated", gate_words(spec)),
            ("weights", f"{spec.weights.filename} of {spec.weights.page}"),
            ("on disk", str(there) if there else f"no; by hand: {path_by_hand(spec)}"),
        ]
    found += [
        ("trained on", spec.data),
        ("citation", spec.citation),
        ("page", spec.page),
        ("built by", _built_by(spec)),
        ("notes", spec.notes),
    ]
    return [(heading, words) for heading, words in found if words]


def print_encoder(name: str, out: Console | None = None) -> None:
    """Print all about an encoder.

    Raises:
        ConfigError: If there is none of that name.
    """
    out = out or _console()
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for heading, words in facts(find_spec(name)):
        table.add_row(heading, Text(words))
    out.print(table)


def _built_by(spec: EncoderSpec) -> str:
    if spec.builder in ("handcrafted", "none"):
        return ""
    arguments = ", ".join(f"{key}: {value}" for key, value in spec.arguments.items())
    return f"{spec.builder} ({arguments})" if arguments else spec.builder


def _console() -> Console:
    found = Console()
    return found if found.is_terminal else Console(width=WIDTH)
