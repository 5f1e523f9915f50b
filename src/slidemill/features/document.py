"""`docs/encoders.md`, made of the registry; `python -m slidemill.generate` writes it."""

from collections.abc import Iterator

from slidemill.features.listing import gate_words, millions, tile_words
from slidemill.features.registry import FAMILIES
from slidemill.features.spec import EncoderSpec

_INTRODUCTION = """\
# Tile encoders

<!-- generated from src/slidemill/features/registry by `python -m slidemill.generate` -->

Every encoder is a row of data in `src/slidemill/features/registry`. Networks are built offline from libraries that slidemill depends on, never from their authors' packages (the few that run code or a program stored with their weights say so, and need `trust_remote_code: true`). Weights load strictly: a weight too few, too many or of another shape is an error, and random weights are never used. `slidemill encoders` lists what is below with what is on this machine; `slidemill encoders show NAME` tells all about one.

```yaml
features:
  encoders:
    - uni2-h                                  # its authors' feature
    - {name: virchow2, output: cls}           # another output
    - {name: uni, checkpoint: finetuned.safetensors}  # weights of your own
    - timm:convnext_tiny.in12k                # any model of timm
```

**Outputs.** `cls` is the class token; `mean` the mean of the patch tokens, in which neither the class token nor registers are; `cls+mean` both, twice as long; `pooled` the one vector that a network pools itself. The first that is listed is the choice of its authors and the default. The same name gives other vectors in other tools: Virchow's 1280 and 2560 numbers, or H0-mini's 768 and 1536, are `cls` and `cls+mean`.

**Weights.** `slidemill encoders download NAME` fetches them; no job ever does. *Gated* pages ask a person to accept terms first, and `HF_TOKEN` to be set. Weights may be put into a folder by hand: `slidemill encoders show NAME` says where.

**Own weights.** `checkpoint:` takes a safetensors file, or a state dict of `torch.save`, by itself or under `state_dict`, `model` or `teacher`; its names are those of the published file, and a classifier is left out. The results are kept apart by the file's sha256.

**Tiles.** An encoder is fed tiles as its authors did: resized, cropped and normalised. Tiles of another size or resolution than in the table are encoded all the same, with a warning.

*px @ mpp* is the edge of the tiles, pixels, and their resolution, um per pixel; *params* are millions of the image network; *GMACs* are 10^9 multiply-accumulates for one tile, half of the FLOPs.
"""  # noqa: E501 - paragraphs of Markdown are one line


def encoders_text() -> str:
    """The whole document."""
    parts = [_INTRODUCTION]
    for heading, rows in FAMILIES.items():
        if rows:
            parts.append("\n".join(_family(heading, rows)) + "\n")
    return "\n".join(parts)


def _family(heading: str, rows: tuple[EncoderSpec, ...]) -> Iterator[str]:
    yield f"## {heading}\n"
    if rows[0].builder == "none":
        yield "Papers name these, and nothing can be loaded: there are no public weights.\n"
        yield from (f"- {_absent(spec)}" for spec in rows)
        return
    yield "| name | dimension | outputs | px @ mpp | precision | params | GMACs | licence | gated | weights |"  # noqa: E501
    yield "|---|---:|---|---|---|---:|---:|---|---|---|"
    yield from (_row(spec) for spec in rows)
    yield ""
    yield from (f"- {_about(spec)}" for spec in rows)


def _row(spec: EncoderSpec) -> str:
    if spec.weights is not None:
        label = spec.weights.page.removeprefix("https://huggingface.co/")
        label = label.removeprefix("https://github.com/")
        weights = f"[{label}]({spec.weights.page})"
    else:
        weights = "none needed"
    cells = (
        f"`{spec.name}`",
        str(spec.dim()),
        ", ".join(f"`{output}`" for output in spec.outputs),
        tile_words(spec),
        spec.precision,
        millions(spec) or "-",
        f"{spec.gmacs:g}" if spec.gmacs else "-",
        spec.licence,
        gate_words(spec) or "-",
        weights,
    )
    return f"| {' | '.join(cells)} |"


def _about(spec: EncoderSpec) -> str:
    """Data, notes and citation of an encoder in a line."""
    sentences = [spec.data, spec.notes, spec.citation]
    if spec.runs_foreign_code:
        sentences.insert(1, "Runs code that comes with its weights: needs trust_remote_code: true")
    if spec.page.startswith(("docs/", "src/")):
        sentences.append(f"See [{spec.page}]({_relative(spec.page)})")
    text = " ".join(f"{_capital(part.rstrip('.'))}." for part in sentences if part)
    return f"`{spec.name}`: {text}"


def _absent(spec: EncoderSpec) -> str:
    instead = ", ".join(f"`{name}`" for name in spec.alternatives)
    return (
        f"`{spec.name}` ({spec.data}): {spec.missing}. Instead: {instead}. "
        f"[{spec.citation}]({spec.page})."
    )


def _relative(page: str) -> str:
    """A file of this repository as seen from docs/."""
    return page.removeprefix("docs/") if page.startswith("docs/") else f"../{page}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
