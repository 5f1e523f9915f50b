"""`slidemill export` and `slidemill import`: one command a tool.

Nothing heavy is imported before a command is chosen.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from slidemill.interop.incoming import ImportTool
    from slidemill.interop.stage import ExportTool
    from slidemill.plan import Plan

export_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Write a run's tiles, features and tissue as files of another tool.",
)
import_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Take over another tool's tile coordinates, for tiles.grid: import.",
)

ConfigOption = Annotated[
    Path, typer.Option("--config", "-c", envvar="SLIDEMILL_CONFIG", help="The configuration.")
]
OutOption = Annotated[Path, typer.Option("--out", help="Folder to write to.")]
FromOption = Annotated[
    Path,
    typer.Option(
        "--from",
        exists=True,
        file_okay=False,
        help="Folder with the tool's files, at any depth.",
    ),
]
DEFAULT_CONFIG = Path("config.yaml")


def _plan(config: Path) -> "Plan":
    from slidemill.config import load_config
    from slidemill.planner import make_plan

    return make_plan(load_config(config), Path())


def _export(config: Path, tool: "ExportTool", out: Path) -> None:
    from slidemill.interop.stage import export

    typer.echo(f"{out}: {export(_plan(config), tool, out)} slides for {tool}")


def _import(config: Path, tool: "ImportTool", source: Path, out: Path) -> None:
    from slidemill.interop.incoming import import_coordinates

    count = import_coordinates(_plan(config), tool, source, out)
    typer.echo(f"{out}: coordinates of {count} slides from {tool}")


@export_app.command("trident")
def export_trident(out: OutOption, config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Coordinates, features and tissue as a TRIDENT job, for TRIDENT and Patho-Bench."""
    _export(config, "trident", out)


@export_app.command("clam")
def export_clam(out: OutOption, config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Coordinates and features as CLAM has them; the resolution is lost."""
    _export(config, "clam", out)


@export_app.command("stamp")
def export_stamp(out: OutOption, config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Features in half precision with coordinates in um, as STAMP has them."""
    _export(config, "stamp", out)


@export_app.command("qupath")
def export_qupath(out: OutOption, config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Tissue and tiles with their measurements as GeoJSON that QuPath opens."""
    _export(config, "qupath", out)


@export_app.command("attention")
def export_attention(
    out: OutOption,
    config: ConfigOption = DEFAULT_CONFIG,
    run: Annotated[
        str | None,
        typer.Option(
            "--run", help="Folder of one row of a comparison; by default all with attention."
        ),
    ] = None,
) -> None:
    """Attention of every slide as a heat map (PNG) and as tiles of QuPath (GeoJSON)."""
    from slidemill.interop import attention

    count = attention.export_attention(_plan(config), out, run)
    typer.echo(f"{out}: {count} heat maps of attention, with GeoJSON for QuPath")


@import_app.command("trident")
def import_trident(
    source: FromOption, out: OutOption, config: ConfigOption = DEFAULT_CONFIG
) -> None:
    """Coordinates of a TRIDENT job, from its *_patches.h5."""
    _import(config, "trident", source, out)


@import_app.command("clam")
def import_clam(source: FromOption, out: OutOption, config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Coordinates that CLAM found, from its patches/*.h5."""
    _import(config, "clam", source, out)
