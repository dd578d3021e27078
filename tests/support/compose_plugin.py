"""The Compose plugin itself, where it is installed. It needs no engine to read files."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
GATEWAY = {"receiver", "worker", "deliverer", "control", "beat", "flower", "admin"}
SITE = {
    "API_URL": "https://ai.example.org",
    "TOKEN": "site-token",
    "PACS_IP": "192.0.2.7",
    "PACS_PORT": "104",
    "PACS_AET": "PACS",
}


@cache
def version() -> tuple[int, ...]:
    """The plugin's version; empty where there is none."""
    docker = shutil.which("docker")
    if docker is None:
        return ()
    asked = [docker, "compose", "version", "--short"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    numbers = done.stdout.strip().removeprefix("v").partition("-")[0].split(".")
    return tuple(int(n) for n in numbers) if done.returncode == 0 else ()


def compose(
    directory: Path, *arguments: str, variables: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """`docker compose …` without any of the caller's settings: a shell's variable wins over a file.

    Without the plugin the test is skipped, or fails where COMPOSE_REQUIRED says that there is one.
    """
    if not version():
        if os.environ.get("COMPOSE_REQUIRED"):
            pytest.fail("the Compose plugin is not installed")
        pytest.skip("the Compose plugin is not installed")
    kept = {k: os.environ[k] for k in ("PATH", "HOME", "DOCKER_CONFIG") if k in os.environ}
    return subprocess.run(
        ["docker", "compose", *arguments],
        cwd=directory, env=kept | (variables or {}), capture_output=True, text=True, check=False,
    )  # fmt: skip


def shown(
    directory: Path, *options: str, variables: dict[str, str] | None = None
) -> dict[str, Any]:
    """What Compose makes of the files there."""
    done = compose(directory, *options, "config", "--format", "json", variables=variables)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def dotenv(path: Path, **values: str) -> Path:
    """A site's `.env`, as PACSOR's wizard writes it."""
    settings = SITE | {"LOG_LEVEL": "warn", "DOCKER_IMAGE_TAG": "latest"} | values
    path.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
    return path


def config(env_file: Path, *options: str) -> dict[str, Any]:
    """What Compose makes of the file; the test is skipped where its plugin is not installed."""
    return shown(ROOT, "--env-file", str(env_file), *options, variables={"ENV_FILE": str(env_file)})


def refusal(env_file: Path, *options: str) -> str:
    """Why Compose does not start."""
    done = compose(
        ROOT, "--env-file", str(env_file), *options, "config", variables={"ENV_FILE": str(env_file)}
    )
    assert done.returncode != 0
    return done.stderr
