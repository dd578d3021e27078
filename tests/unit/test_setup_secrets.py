"""What nobody may see over somebody's shoulder: tokens, and passwords and keys inside of URLs."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from pacsor_tasks.errors import ConfigError
from pacsor_tasks.setup import batch, files, pages
from pacsor_tasks.setup.dialogue import Dialogue, displayed
from pacsor_tasks.setup.masking import masked
from pacsor_tasks.setup.plain import PlainScreen
from pacsor_tasks.setup.products import COMMON
from pacsor_tasks.setup.questions import Kind, Surroundings, answered, question
from pacsor_tasks.setup.validation import checked
from tests.support.setup_screen import ScriptedScreen

CLIENT = "fr.acme.hosp.north.1"
SITE = {
    **COMMON, "CLIENT_NAME": CLIENT, "API_URL": "https://predict.milvue.com", "TOKEN": "SEKRET0",
    "PACS_IP": "192.0.2.1", "PACS_PORT": "104", "PACS_AET": "PACS",
}  # fmt: skip
SECRETIVE = {
    "LEDGER_URL": "postgresql+psycopg://u:SEKRET4@h/d",
    "BROKER_URL": "redis://:SEKRET6@h/0",
    "WEBHOOK_URL": "https://h/x?key=SEKRET5",
    "CALLBACK_URLS": "http://storescu:8000, http://ours/cb?key=SEKRET7,https://u:SEKRET8@h/cb",
    "API_URL": "https://u:SEKRET9@ai.example.org",
    "CORE_THEIRS_PASSPHRASE": "SEKRET1",
}


@pytest.mark.parametrize("name", SECRETIVE)
def test_a_value_that_would_be_masked_is_asked_for_as_a_secret(name: str) -> None:
    values = SITE | SECRETIVE
    asked = question(name, values, Surroundings())
    assert (asked.kind, asked.default, asked.is_optional) == (Kind.SECRET, "", True)
    assert answered(name, "", values) == values
    assert "SEKRET" not in masked(name, values[name])


def test_what_is_asked_for_the_first_time_or_has_nothing_to_hide_is_seen() -> None:
    assert question("LEDGER_URL", SITE, Surroundings()).kind is Kind.TEXT
    sqlite = question("LEDGER_URL", SITE | {"LEDGER_URL": "sqlite:///x"}, Surroundings())
    assert (sqlite.kind, sqlite.default) == (Kind.TEXT, "sqlite:///x")


def test_destinations_do_not_show_the_keys_of_callbacks() -> None:
    values = SITE | SECRETIVE
    asked = question("DESTINATIONS", values, Surroundings())
    assert (asked.kind, asked.default) == (Kind.SECRET, "")
    assert answered("DESTINATIONS", "", values) == values


@pytest.mark.parametrize("name", ["LEDGER_URL", "CALLBACK_URLS"])
def test_a_dash_takes_a_url_with_a_password_away_and_so_does_an_empty_option(name: str) -> None:
    values = SITE | SECRETIVE
    assert question(name, values, Surroundings()).is_removable
    assert name not in answered(name, "-", values)
    assert name not in batch.with_answers(values, [(name, "")])


def test_a_secret_that_has_to_be_there_is_not_said_to_be_removable() -> None:
    asked = question("TOKEN", SITE, Surroundings())
    assert (asked.is_optional, asked.is_removable) == (True, False)
    out = io.StringIO()
    PlainScreen(io.StringIO("\n"), out).ask(asked, lambda _: "")
    assert "[as it is]:" in out.getvalue()


def test_a_comma_in_the_query_of_one_url_ends_nothing() -> None:
    assert "SEKRET" not in displayed({"WEBHOOK_URL": "https://h/x?a,key=SEKRET"})[0]
    assert displayed({"CALLBACK_URLS": "http://a, http://b"}) == [
        "CALLBACK_URLS=http://a, http://b"
    ]


@pytest.mark.parametrize("text", ["https://u:SEKRET", "https://?key=SEKRET", "https://u:SEKRET@"])
def test_a_refused_url_is_not_repeated_with_its_password(text: str) -> None:
    with pytest.raises(ConfigError) as refused:
        checked("API_URL", text, SITE)
    assert "SEKRET" not in str(refused.value)


SCRIPT = [
    ("Configuration", "1"),
    (CLIENT, "x"), ("name", "LEDGER_URL"), ("LEDGER_URL", ...),
    (CLIENT, "x"), ("name", "BROKER_URL"), ("BROKER_URL", ...),
    (CLIENT, "x"), ("name", "CALLBACK_URLS"), ("CALLBACK_URLS", ...),
    (CLIENT, "x"), ("name", "DESTINATIONS"), ("DESTINATIONS", ...),
    (CLIENT, "3"), ("ENVIRONMENT", ...), ("API_URL", ...), ("SIGNED_URL", ...), ("TOKEN", ""),
    ("Connection to core", "on"),
    (CLIENT, "s"), ("Destinations", "4"), ("webhook", "c"), ("WEBHOOK_URL", ...),
    ("WEBHOOK_SECRET", ...), ("Connection to webhook", "on"), ("Destinations", "b"),
    (CLIENT, "d"), (CLIENT, "q"),
]  # fmt: skip


def test_no_screen_of_a_loaded_configuration_shows_a_secret(tmp_path: Path) -> None:
    path = files.path_for(tmp_path, CLIENT)
    path.parent.mkdir()
    values = SITE | SECRETIVE | {"API_URL_1": "https://u:SEKRET2@b", "SIGNED_URL": "true"}
    values["CALLBACK_URLS"] += ",http://webhook"
    path.write_text("".join(f"{name}={value}\n" for name, value in values.items()))
    screen = ScriptedScreen(SCRIPT)
    dialogue = Dialogue(screen, tmp_path, lambda _, name: (True, f"{name} answers"))
    assert dialogue.run() is None, "it was left without a question: nothing has changed"
    assert not screen._script
    assert "SEKRET" not in screen.shown
    assert "SEKRET" not in "".join(pages.shown(entry, values) for entry in pages.MENU)
