"""What Compose needs beside the settings: the override of a client, and COMPOSE_FILE that names it.

COMPOSE_FILE is only set where there is an override: without it Compose finds its files by itself.
"""

from __future__ import annotations

import re
from pathlib import Path

from pacsor_tasks.setup.values import Values, changed, is_true

MAIN = "docker-compose.yml"
OWN = "docker-compose.override.yml"
#: The external network of an AI service on this machine.
LOCAL_NETWORK = "milvue-net"
#: Who talks to the AI service: uploads, polls, downloads, JSON results, probes.
SERVICES = ("worker", "deliverer", "control", "admin")
_OURS = re.compile(r"env-files/compose\.[^:/]+\.yml")


def name_of(client: str) -> str:
    """Where the override of a client is, from the directory of the Compose file."""
    return f"env-files/compose.{client}.yml"


def override(values: Values) -> str:
    """The text of the override; empty: none is needed."""
    if not is_true(values, "ISLOCALOR"):
        return ""
    services = "".join(f"  {name}: {{networks: [default, local-ai]}}\n" for name in SERVICES)
    return (
        "# Written by `pacsor setup` and written anew each time; changes of your own belong into\n"
        f"# {OWN}.\n"
        f"services:\n{services}"
        f"networks:\n  local-ai: {{external: true, name: {LOCAL_NETWORK}}}\n"
    )


def with_override(values: Values, name: str, directory: Path) -> dict[str, str]:
    """COMPOSE_FILE with our override in it, or without any of ours.

    Args:
        values: The configuration.
        name: Of the override; empty: none.
        directory: Where the Compose files are.
    """
    others = [n for n in values.get("COMPOSE_FILE", "").split(":") if n and not _OURS.fullmatch(n)]
    if name and not others:
        others = [MAIN, *([OWN] if (directory / OWN).exists() else [])]
    if not name and set(others) <= {MAIN, OWN}:
        others = []
    return changed(values, {"COMPOSE_FILE": ":".join([*others, name] if name else others)})
