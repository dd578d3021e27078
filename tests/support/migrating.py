"""`pacsor migrate` as a person runs it, and what it would do as a value."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner, Result

from pacsor_tasks.cli import cli
from pacsor_tasks.migration import Plan, find, make_plan, report
from receiver.profiles import load as read_profile

SITE = "API_URL=https://p.example\nTOKEN=s3cr3t\nPACS_IP=10.0.0.1\nPACS_PORT=104\nPACS_AET=P\n"


def migrated(install: Path, into: Path, *options: str, code: int = 0) -> Result:
    done = CliRunner().invoke(cli, ["migrate", str(install), "--into", str(into), *options])
    assert done.exit_code == code, done.output + str(done.exception)
    return done


def plan_of(install: Path, client: str | None = None) -> Plan:
    return make_plan(find(install, client), read_profile)


def edit(path: Path, *changes: tuple[str, str]) -> None:
    text = path.read_text()
    for before, after in changes:
        assert before in text
        text = text.replace(before, after)
    path.write_text(text)


def installed(root: Path, **files: str) -> Path:
    """An installation of these files: `env` is its `.env`, `a_config` its `scripts/a.config`."""
    (root / "scripts").mkdir(parents=True)
    for name, text in files.items():
        path = root / ".env" if name == "env" else root / "scripts" / name.replace("_", ".")
        path.write_text(text)
    return root


def under(plan: Plan, heading: str) -> str:
    """What the report says under a heading, on one line."""
    sections = (f"\n{report(plan)}").split(f"\n{heading}")
    return " ".join(sections[1].partition("\n\n")[0].split()) if len(sections) > 1 else ""
