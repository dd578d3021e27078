"""`pacsor check`: proves the settings and every peer, whether the gateway is up or down."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

import click

from pacsor_tasks.cli.common import load_settings, quiet_logs
from pacsor_tasks.cli.probes import Finding, all_probes, try_probe


@click.command()
def check() -> None:
    """Prove the settings and every peer; exit status 1 when something is wrong."""
    quiet_logs()
    settings = load_settings()
    click.echo(_line(Finding("settings", True, "complete and valid")))
    problems = 0
    probes = list(all_probes(settings))
    with ThreadPoolExecutor(max_workers=len(probes)) as pool:
        for finding in pool.map(try_probe, probes):
            problems += not finding.is_ok
            click.echo(_line(finding))
    click.echo(f"{problems} problem{'' if problems == 1 else 's'}" if problems else "all well")
    sys.exit(1 if problems else 0)


def _line(finding: Finding) -> str:
    mark = (
        click.style("ok     ", fg="green")
        if finding.is_ok
        else click.style("PROBLEM", fg="red", bold=True)
    )
    return f"{mark}  {finding.name:<16} {finding.text}"
