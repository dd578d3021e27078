"""`pacsor migrate`: a PACSOR installation's configuration becomes the gateway's."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from pacsor_tasks import cli


@click.command()
@click.argument("install", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--into",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(),
    show_default="the working directory",
    help="Where `.env` and `conf/` are written.",
)
@click.option("--client", metavar="NAME", help="Which client, as in env-files/.env.NAME.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@click.option("--force", is_flag=True, help="Write over what is there.")
def migrate(install: Path, into: Path, client: str | None, dry_run: bool, force: bool) -> None:
    """Make `.env` and `conf/` from those of a PACSOR installation, which is left as it is.

    Reads its `.env`, env-files/, scripts/*.config, conf/ and compose.yaml. Says what it took over,
    changed, left out and what a person has to look at; no secret is printed. Ends with 1 when the
    gateway would not start with the outcome yet.
    """
    from pacsor_tasks.migration import find, make_plan, report, write_plan
    from receiver.profiles import load as read_profile

    plan = make_plan(find(install, client), read_profile)
    click.echo(report(plan))
    if dry_run:
        click.echo("nothing was written (--dry-run)")
    else:
        for path in write_plan(plan, into, read_profile, is_forced=force):
            click.echo(f"wrote {path}")
        click.echo("next: pacsor config --explain, pacsor check (docs/migrating-from-pacsor.md)")
    if plan.problems:
        sys.exit(cli.EXIT_PROBLEM)
