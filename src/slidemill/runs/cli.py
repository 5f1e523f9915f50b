"""Commands that ask how a run is: `status`, `failed`, `summary`, `verify`.

Nothing heavy is imported before a command is chosen.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from slidemill.plan import Plan

app = typer.Typer(rich_markup_mode=None)

ConfigOption = Annotated[
    Path, typer.Option("--config", "-c", envvar="SLIDEMILL_CONFIG", help="The configuration.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object, and all of it.")]
DEFAULT_CONFIG = Path("config.yaml")
PROBLEMS = 1
"""Exit code of `verify` where something is not whole."""
SLIDES_FAILED = 3
"""Exit code of `status` and `failed` where slides failed."""


def _plan(config: Path) -> "Plan":
    from slidemill.config import load_config
    from slidemill.planner import make_plan

    return make_plan(load_config(config), Path())


@app.command()
def status(
    config: ConfigOption = DEFAULT_CONFIG,
    buckets: Annotated[bool, typer.Option("--buckets", help="A line a bucket, too.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Say of every stage what is done, running, failed and missing; exits with 3 after failures."""
    from slidemill.runs.status import read_status

    found = read_status(_plan(config))
    if as_json:
        typer.echo(found.as_json())
    else:
        from slidemill.runs.printing import print_status

        print_status(found, buckets=buckets)
    if found.failures:
        raise typer.Exit(SLIDES_FAILED)


@app.command()
def failed(
    slides: Annotated[
        list[str] | None, typer.Argument(metavar="[SLIDE_ID]...", help="Slides; by default all.")
    ] = None,
    config: ConfigOption = DEFAULT_CONFIG,
    stage: Annotated[
        str | None, typer.Option(help="Only slides that failed in this stage, such as tissue.")
    ] = None,
    retry: Annotated[
        bool, typer.Option("--retry", help="Have the next run of snakemake compute them again.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """List the slides that failed (exits with 3 if there are some), or ask for them again."""
    from slidemill.runs.failed import as_json as json_of
    from slidemill.runs.failed import choose, retry_failed
    from slidemill.runs.printing import print_failures, print_retry
    from slidemill.runs.status import read_status

    plan = _plan(config)
    found = choose(read_status(plan).failures, slides or [], stage)
    flagged = retry_failed(plan, found) if retry else None
    if as_json:
        typer.echo(json_of(found, flagged))
    elif flagged is not None:
        print_retry(flagged)
    else:
        print_failures(found)
    if found and not retry:
        raise typer.Exit(SLIDES_FAILED)


@app.command()
def summary(
    config: ConfigOption = DEFAULT_CONFIG,
    brief: Annotated[bool, typer.Option("--brief", help="Leave the table out.")] = False,
) -> None:
    """Print the results as a table, what failed, and where the report is."""
    from slidemill.runs.summary import print_summary

    print_summary(_plan(config), table=not brief)


@app.command()
def verify(config: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False) -> None:
    """Check every artifact against its manifest, its format and its digest; exits with 1 or 0."""
    from slidemill.runs.verify import verify as verify_all

    found = verify_all(_plan(config))
    if as_json:
        typer.echo(found.as_json())
    else:
        from slidemill.runs.printing import print_verdict

        print_verdict(found)
    if not found.ok:
        raise typer.Exit(PROBLEMS)
