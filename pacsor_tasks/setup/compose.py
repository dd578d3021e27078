"""What Compose needs beside the settings: the override of a client, and COMPOSE_FILE that names it.

COMPOSE_FILE is only set where there is an override: without it Compose finds its files by itself.
"""

from __future__ import annotations

import json
import re
from pathlib import Path, PurePosixPath

from pacsor_tasks.models import DestinationKind
from pacsor_tasks.settings_types import kind_of
from pacsor_tasks.setup.values import Values, changed, is_true, suffixed, used_destinations

MAIN = "docker-compose.yml"
OWN = "docker-compose.override.yml"
#: The external network of an AI service on this machine.
LOCAL_NETWORK = "milvue-net"
#: A volume of the containers: what is in it needs no mount.
DATA = "/data"
HAS_TO_BE_THERE = "{create_host_path: false}"
#: Who talks to the AI service and to destinations: tasks and probes.
SERVICES = ("worker", "deliverer", "control", "admin")
_OURS = re.compile(r"env-files/compose\.[^:/]+\.yml")


def name_of(client: str) -> str:
    """Where the override of a client is, from the directory of the Compose file."""
    return f"env-files/compose.{client}.yml"


def override(values: Values) -> str:
    """The text of the override; empty: none is needed.

    The network of an AI service on this machine, and the folders that results go to: under the
    same path in the containers.
    """
    is_local = is_true(values, "ISLOCALOR")
    mounts = "".join(
        f"      - {{type: bind, source: {path}, target: {path}, bind: {HAS_TO_BE_THERE}}}\n"
        for path in map(_quoted, _folders(values))
    )
    if not is_local and not mounts:
        return ""
    body = "    networks: [default, local-ai]\n" if is_local else ""
    body += f"    volumes:\n{mounts}" if mounts else ""
    services = "".join(f"  {name}:\n{body}" for name in SERVICES)
    network = f"networks:\n  local-ai: {{external: true, name: {LOCAL_NETWORK}}}\n"
    return (
        "# Written by `pacsor setup` and written anew each time; changes of your own belong into\n"
        f"# {OWN}.\nservices:\n{services}{network if is_local else ''}"
    )


def _folders(values: Values) -> list[str]:
    used = (n for n in used_destinations(values) if kind_of(n) is DestinationKind.FOLDER)
    paths = dict.fromkeys(values.get(suffixed("FOLDER_PATH", name), "") for name in used)
    return [path for path in paths if path and not PurePosixPath(path).is_relative_to(DATA)]


def _quoted(text: str) -> str:
    """A scalar of YAML; a dollar as Compose wants it."""
    return json.dumps(text, ensure_ascii=False).replace("$", "$$")


def with_override(values: Values, name: str, directory: Path) -> dict[str, str]:
    """COMPOSE_FILE with our override in it, or without any of ours.

    Args:
        values: The configuration.
        name: Of the override; empty: none.
        directory: Where the Compose files are.
    """
    others = [n for n in values.get("COMPOSE_FILE", "").split(":") if n and not _OURS.fullmatch(n)]
    if name and set(others) <= {MAIN, OWN}:
        others = [MAIN, *([OWN] if (directory / OWN).exists() else [])]
    if not name and set(others) <= {MAIN, OWN}:
        others = []
    return changed(values, {"COMPOSE_FILE": ":".join([*others, name] if name else others)})
