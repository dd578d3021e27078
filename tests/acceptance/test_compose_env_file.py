"""Env files as Compose itself reads them: as the gateway does, and the tests' own reader."""

from __future__ import annotations

import random
from pathlib import Path

from pacsor_tasks.env_file import clean, parse, render
from pacsor_tasks.errors import ConfigError
from tests.support.compose_env import compose_reads
from tests.support.compose_plugin import shown, version

ALPHABET = """'"\\$#= {}[]():;,nrt0aé\u00a0""" + "PATH"
WRITTEN = {
    "BARE": "^SR$$", "SINGLE": "'^SR$'", "DOUBLE": '"^SR$$"', "COMMENT": "x # why", "HASH": "x#y",
    "QUOTES": "'\"smarturgences\"'", "BLANKS": "  smarturgences, smartxpert  ", "EMPTY": "",
    "JSON": '[{"tag":{"group":"0008","element":"0060"},"pattern":"^(CR|DX)$$"}]',
}  # fmt: skip


def as_compose_shows(directory: Path, text: str) -> dict[str, str]:
    """The variables of a container with this env file."""
    (directory / "site.env").write_text(text)
    (directory / "compose.yaml").write_text(
        "services:\n  one:\n    image: x\n    env_file: [site.env]\n"
    )
    found = shown(directory)["services"]["one"]["environment"]
    # `config` escapes what it shows
    return {name: str(value).replace("$$", "$") for name, value in found.items()}


def test_compose_reads_what_we_write_as_we_do(tmp_path: Path) -> None:
    numbers, values = random.Random(7), dict[str, str]()
    while len(values) < 200:
        value = "".join(numbers.choices(ALPHABET, k=numbers.randint(1, 16)))
        name = f"V{len(values)}"
        try:
            render({name: value})
        except ConfigError:
            continue  # nothing that is written is read differently
        values[name] = value
    text = render(values)
    found = as_compose_shows(tmp_path, text)
    assert {name: clean(value) for name, value in found.items()} == parse(text).values


def test_compose_reads_what_sites_write_as_we_do(tmp_path: Path) -> None:
    text = "".join(f"{name}={value}\n" for name, value in WRITTEN.items())
    found = as_compose_shows(tmp_path, text)
    assert {n: clean(v) for n, v in found.items() if clean(v)} == {
        n: v for n, v in parse(text).values.items() if v
    }
    assert found == compose_reads(text, is_old=version() < (2, 30))
