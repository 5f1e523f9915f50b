"""`slidemill catalog`, `slidemill gc` and `slidemill diff`: the cohort's results as one object.

Nothing heavy is imported before a command is chosen.
"""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(rich_markup_mode=None)

DEFAULT_CONFIG = Path("config.yaml")
ConfigOption = Annotated[
    Path, typer.Option("--config", "-c", envvar="SLIDEMILL_CONFIG", help="The configuration.")
]
ConfigsOption = Annotated[
    list[Path] | None,
    typer.Option("--config", "-c", help="A configuration in use; may be given several times."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def _results(config: Path) -> Path:
    from slidemill.config import load_config

    return Path(load_config(config).results)


@app.command()
def catalog(config: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False) -> None:
    """List every dataset of the results, of whatever configuration, and renew catalog.parquet."""
    from slidemill.runs.catalog import catalog_path, survey, update
    from slidemill.runs.tables import catalog_json, print_catalog

    results = _results(config)
    try:
        rows = update(results)
    except OSError as error:
        typer.echo(f"{catalog_path(results)} was not renewed: {error.strerror}", err=True)
        rows = survey(results)
    if as_json:
        typer.echo(catalog_json(rows))
    else:
        print_catalog(catalog_path(results), rows)


@app.command()
def gc(
    config: ConfigsOption = None,
    delete: Annotated[bool, typer.Option("--delete", help="Delete, and not only list.")] = False,
    also_earlier: Annotated[
        bool,
        typer.Option(
            "--also-earlier", help="Also what configurations used that are not given here."
        ),
    ] = False,
    slides: Annotated[
        bool,
        typer.Option("--slides", help="Also results in use of slides that left the sheet."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """List results that no configuration in use refers to; delete them on request."""
    from slidemill.drivers import hold
    from slidemill.runs import catalog as catalogue
    from slidemill.runs.gc import delete as delete_found
    from slidemill.runs.gc import find, load_plans
    from slidemill.runs.tables import found_json, print_found, say, size_words
    from slidemill.workflow import resolved_path

    plans = load_plans(config or [DEFAULT_CONFIG])
    if delete:
        hold(plans[0].results)
    names = [resolved_path(plan.config).stem for plan in plans]
    found = find(plans, names, also_earlier=also_earlier)
    if not as_json:
        print_found(found, also_earlier=also_earlier, slides=slides, deletes=delete)
    freed = 0
    problems: list[str] = []
    if delete:
        freed, problems = delete_found(found, also_earlier=also_earlier, slides=slides)
        catalogue.update(found.results)
    if as_json:
        typer.echo(found_json(found, deleted=delete, freed=freed, problems=problems))
    elif delete:
        say(f"freed {size_words(freed)}")
    for problem in problems:
        typer.echo(f"not deleted: {problem}", err=True)
    if problems:
        raise typer.Exit(2)


@app.command()
def diff(
    old: Annotated[
        str, typer.Argument(help="A run: its record, its name in runs/, last, or last~1.")
    ],
    new: Annotated[str, typer.Argument(help="The run to compare it with.")] = "last",
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Say how two runs differ in configuration and results; exit code 1 where they do."""
    from slidemill.runs.diff import compare, load_run
    from slidemill.runs.diff_tables import diff_json, print_diff
    from slidemill.runs.record import find_record

    paths = [
        Path(name) if name.endswith(".json") else find_record(name, _results(config))
        for name in (old, new)
    ]
    found = compare(*(load_run(path) for path in paths))
    if as_json:
        typer.echo(diff_json(found))
    else:
        print_diff(found)
    raise typer.Exit(int(found.differs))
