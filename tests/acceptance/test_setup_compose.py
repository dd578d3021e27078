"""What `pacsor setup` writes, as Compose itself reads it. No engine is needed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from pacsor_tasks.setup import files
from pacsor_tasks.setup import values as v
from pacsor_tasks.setup.products import COMMON

ROOT = Path(__file__).parents[2]
TOKEN = "it's $5; a b"


def test_compose_takes_the_settings_and_the_override(tmp_path: Path) -> None:
    docker = shutil.which("docker")
    asked = [str(docker), "compose", "version"]
    if docker is None or subprocess.run(asked, capture_output=True, check=False).returncode:
        pytest.skip("the Compose plugin is not installed")
    shutil.copy(ROOT / "docker-compose.yml", tmp_path)
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    local = v.with_environment(v.with_product(COMMON, "smarttrauma"), "localor")
    values = {
        **v.with_client(local, "FR.acme.saint-luc.north.1"),
        "TOKEN": TOKEN, "DESTINATIONS": "folder", "FOLDER_PATH": str(tmp_path / "results"),
    }  # fmt: skip
    files.save(tmp_path, files.new(), values)
    done = subprocess.run(
        [docker, "compose", "config", "--format", "json"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
        env={k: os.environ[k] for k in ("PATH", "HOME", "DOCKER_CONFIG") if k in os.environ},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    worker = shown["services"]["worker"]
    assert shown["name"] == "pacsor-fr-acme-saint-luc-north-1"
    assert worker["environment"]["TOKEN"].replace("$$", "$") == TOKEN
    assert set(worker["networks"]) == {"default", "local-ai"}
    network = shown["networks"]["local-ai"]
    assert (network["name"], network["external"]) == ("milvue-net", True)
    assert str(tmp_path / "results") in {mount["source"] for mount in worker["volumes"]}
    assert set(shown["services"]["receiver"]["networks"]) == {"default"}
