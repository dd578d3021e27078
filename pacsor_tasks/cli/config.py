"""`pacsor config`: what is in effect, and where each value came from."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from pacsor_tasks.admin.config_view import mask_url, masked
from pacsor_tasks.cli.common import load_settings, make_console
from pacsor_tasks.cli.explaining import default_of, meaning, origins, without_effect
from pacsor_tasks.core_plugins import is_secret
from pacsor_tasks.cores import prove_packages
from pacsor_tasks.environment import ALIASES, LEGACY, read_environment, todays_name
from pacsor_tasks.errors import ConfigError
from pacsor_tasks.observability import MASK
from pacsor_tasks.settings import Settings, at_init
from pacsor_tasks.settings_types import SECRETS

DOTENV = Path(".env")


@click.command()
@click.argument("names", nargs=-1, metavar="[SETTING]...")
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
@click.option(
    "--explain", is_flag=True, help="Each value's place and line, what it hides, what it does."
)
def config(names: tuple[str, ...], as_json: bool, explain: bool) -> None:
    """Print the effective settings, secrets masked, and where each value came from.

    With names of settings only these are explained.
    """
    settings = load_settings()
    shown = masked(settings)
    shown["numbered"] = {
        name: MASK if _is_secret(name) else ",".join(map(mask_url, value.split(",")))
        for name, value in sorted(settings.NUMBERED.items())
    }
    shown["sources"] = sources(settings, os.environ, DOTENV)
    if explain or names:
        _explain(settings, shown["settings"] | shown["numbered"], names, as_json)
    elif as_json:
        click.echo(json.dumps(shown, indent=2))
    else:
        _print(shown)
    prove_packages(settings)


def _is_secret(name: str) -> bool:
    return name.rpartition("_")[0] in SECRETS or (name.startswith("CORE_") and is_secret(name))


def sources(settings: Settings, environ: Mapping[str, str], dotenv: Path) -> dict[str, str]:
    """Where the value of every setting came from: `default`, `.env`, `environment`, a file.

    An old name that was used instead is given in brackets.
    """
    written = read_environment(environ, dotenv)
    old_names: dict[str, list[str]] = {}
    for old, today in (ALIASES | LEGACY).items():
        old_names.setdefault(today, []).append(old)
    found = {}
    for name in (*type(settings).model_fields, *settings.NUMBERED):
        if name != "NUMBERED":
            used = next((n for n in (name, *old_names.get(name, ())) if n in written), None)
            found[name] = _source(name, used, environ)
    return found | _of_file(settings)


def _of_file(settings: Settings) -> dict[str, str]:
    """What LOAD_CONFIG_AT_INIT decided: it wins over the environment."""
    stem = settings.LOAD_CONFIG_AT_INIT
    if stem is None:
        return {}
    given = {"LOAD_CONFIG_AT_INIT": stem, "HL7_CONF_DIR": str(settings.HL7_CONF_DIR)}
    return dict.fromkeys(at_init(given), f"{stem}.json")


def _source(name: str, used: str | None, environ: Mapping[str, str]) -> str:
    if used is None:
        return "default"
    where = "environment" if used in environ else ".env"
    return where if used == name else f"{where} (as {used})"


def _print(shown: Mapping[str, Any]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("setting", "value", "from"):
        table.add_column(column, overflow="fold")
    for name, value in (shown["settings"] | shown["numbered"]).items():
        origin = shown["sources"][name]
        style = "dim" if origin == "default" else ""
        table.add_row(name, Text(_text(value)), origin, style=style)
    console = make_console()
    console.print(table)
    for title in ("cores", "destinations"):
        console.print(f"\n{title}", style="bold")
        for name, record in shown[title].items():
            parts = (f"{key}={_text(v)}" for key, v in record.items() if key != "name")
            console.print(Text(f"  {name}: {', '.join(parts)}"), soft_wrap=True)


def _explain(
    settings: Settings, values: Mapping[str, Any], names: tuple[str, ...], as_json: bool
) -> None:
    wanted = {todays_name(name.upper(), {}) for name in names}
    if unknown := wanted - set(values):
        raise ConfigError("\n".join(f"{name}: no such setting" for name in sorted(unknown)))
    found = [o for o in origins(settings, os.environ, DOTENV) if not wanted or o.name in wanted]
    if as_json:
        report = {
            o.name: {"value": values[o.name], "from": o.source, "instead_of": o.instead_of,
                     "default": default_of(o.name), "meaning": meaning(o.name)}
            for o in found
        }  # fmt: skip
        click.echo(json.dumps(report, indent=2, ensure_ascii=False))
        return
    for origin in (o for o in found if o.is_set or wanted):
        click.echo(f"{origin.name} = {_text(values[origin.name])}")
        click.echo(f"    from {origin.source}")
        for place in origin.instead_of:
            click.echo(f"    not from {place}")
        default = default_of(origin.name)
        click.echo(f"    {meaning(origin.name)}{f' (default: {default})' if default else ''}")
    if not wanted:
        click.echo("\nas by default")
        for origin in (o for o in found if not o.is_set):
            click.echo(f"    {origin.name} = {_text(values[origin.name])}")
        for name, why in without_effect(DOTENV).items():
            click.echo(f"{name} (in {DOTENV}) decides nothing: {why}")


def _text(value: Any) -> str:
    if value is None:
        return "-"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
