"""What `pacsor setup` writes, as Compose itself reads it. No engine is needed."""

from __future__ import annotations

import shutil
from pathlib import Path

from pacsor_tasks.setup import files
from pacsor_tasks.setup import values as v
from pacsor_tasks.setup.products import COMMON
from tests.support.compose_plugin import shown

ROOT = Path(__file__).parents[2]
TOKEN = "it's $5; a b"


def test_compose_takes_the_settings_and_the_override(tmp_path: Path) -> None:
    shutil.copy(ROOT / "docker-compose.yml", tmp_path)
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    local = v.with_environment(v.with_product(COMMON, "smarttrauma"), "localor")
    values = {
        **v.with_client(local, "FR.acme.saint-luc.north.1"),
        "TOKEN": TOKEN, "DESTINATIONS": "folder", "FOLDER_PATH": str(tmp_path / "results"),
    }  # fmt: skip
    files.save(tmp_path, files.new(), values)
    found = shown(tmp_path)
    worker = found["services"]["worker"]
    assert found["name"] == "pacsor-fr-acme-saint-luc-north-1"
    assert worker["environment"]["TOKEN"].replace("$$", "$") == TOKEN
    assert set(worker["networks"]) == {"default", "local-ai"}
    network = found["networks"]["local-ai"]
    assert (network["name"], network["external"]) == ("milvue-net", True)
    assert str(tmp_path / "results") in {mount["source"] for mount in worker["volumes"]}
    assert set(found["services"]["receiver"]["networks"]) == {"default"}
