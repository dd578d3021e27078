"""The command line's pure parts: nodes, sources of settings, output, help."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from pacsor_tasks.cli import VERBS, cli
from pacsor_tasks.cli.config import sources
from pacsor_tasks.cli.gateway import flower_environment, held_data_dir, is_running
from pacsor_tasks.cli.nodes import describe, parse_node
from pacsor_tasks.cli.output import console_sink, json_sink
from pacsor_tasks.cli.studies import print_study
from pacsor_tasks.errors import ConfigError
from pacsor_tasks.settings import Settings, load

MINIMAL = {
    "API_URL": "http://127.0.0.1:9",
    "TOKEN": "very-secret",
    "PACS_IP": "127.0.0.1",
    "PACS_PORT": "104",
    "PACS_AET": "PACS",
}


def settings(**more: str) -> Settings:
    return load(MINIMAL | more, dotenv=None)


@pytest.mark.parametrize(
    ("text", "aet", "host", "port"),
    [
        ("MILVUE@10.0.0.5:1040", "MILVUE", "10.0.0.5", 1040),
        ("A B@pacs.example.org:104", "A B", "pacs.example.org", 104),
        ("X@[::1]:11112", "X", "::1", 11112),
    ],
)
def test_a_node_is_read_and_written_alike(text: str, aet: str, host: str, port: int) -> None:
    node = parse_node(text)
    assert (node.called_aet, node.host, node.port) == (aet, host, port)
    assert describe(node) == text


@pytest.mark.parametrize(
    "text",
    ["", "MILVUE", "MILVUE@host", "@host:104", "A@:104", "A@host:0", "A@host:65536", "A@::1:104",
     "SEVENTEENLETTERSX@host:104", "A\\B@host:104", "   @host:1"],
)  # fmt: skip
def test_what_is_no_node_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ConfigError, match=r"AET@host:port, e\.g\."):
        parse_node(text)


def test_help_names_every_verb_and_loads_none() -> None:
    code = (
        "import sys\nfrom pacsor_tasks.cli import cli\n"
        "try: cli(['--help'])\nexcept SystemExit: pass\n"
        "heavy = {'pydantic', 'celery', 'rich', 'sqlalchemy', 'pynetdicom', 'structlog'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert all(verb in done.stdout for verb in VERBS)


def test_every_option_says_what_it_is_for() -> None:
    def silent(command: click.Command, path: str) -> list[str]:
        found = [
            f"{path} {parameter.opts[0]}"
            for parameter in command.params
            if isinstance(parameter, click.Option) and not parameter.help
        ]
        if isinstance(command, click.Group):
            context = click.Context(command)
            for name in command.list_commands(context):
                inner = command.get_command(context, name)
                assert inner is not None
                found += silent(inner, f"{path} {name}")
        return found

    assert silent(cli, "pacsor") == []


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "demo"])
def test_every_verb_has_help_of_its_own(verb: str) -> None:
    result = CliRunner().invoke(cli, [verb, "--help"])
    assert result.exit_code == 0
    assert "Usage:" in result.output


def test_the_source_of_a_value_is_the_place_that_won(tmp_path: Path) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_text("SEN_APP=old\nPORT=1\nADMIN_PORT=2\nPROC_ID=T\n")
    environ = {"PORT": "5", "PACS_IP_2": "10.0.0.2", "PROC_ID": ""}
    found = sources(settings(PACS_IP_2="10.0.0.2"), environ, dotenv)
    wanted = {
        "PORT": "environment",
        "ADMIN_PORT": ".env",
        "SENDING_APPLICATION": ".env (as SEN_APP)",
        "PACS_IP_2": "environment",
        "PROC_ID": "default",  # an empty variable takes the file's value away
        "TOKEN": "default",
    }
    assert {name: found[name] for name in wanted} == wanted


def test_flowers_password_goes_by_the_environment() -> None:
    options = flower_environment(
        settings(FLOWER_BASIC_AUTH="me:pw", FLOWER_HOST="0.0.0.0", FLOWER_PORT="5556")
    )
    assert options["FLOWER_BASIC_AUTH"] == "me:pw"
    assert (options["FLOWER_ADDRESS"], options["FLOWER_PORT"]) == ("0.0.0.0", "5556")


def test_a_second_gateway_on_the_same_directory_is_refused(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    assert not is_running(data_dir)
    with held_data_dir(data_dir):
        assert is_running(data_dir)
        with (
            pytest.raises(ConfigError, match=rf"another gateway \(process {os.getpid()}\)"),
            held_data_dir(data_dir),
        ):
            pass
        assert is_running(data_dir)
    assert not is_running(data_dir)


def test_a_data_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(ConfigError, match="DATA_DIR: cannot write"),
        held_data_dir(tmp_path / "file"),
    ):
        pass


def test_lines_for_a_person_carry_the_name_of_their_process() -> None:
    stream = io.BytesIO()
    console_sink(stream, ["redis", "receiver"])("redis", b"ready")
    assert stream.getvalue() == b"redis    | ready\n"


def test_in_json_every_line_is_an_object_ours_as_it_came() -> None:
    stream = io.BytesIO()
    write = json_sink(stream)
    write("admin", b'{"event": "x"}')
    write("redis", b"1:M * Ready \xff")
    write("redis", b"  ")
    first, second = stream.getvalue().splitlines()
    assert first == b'{"event": "x"}'
    record = json.loads(second)
    assert (record["logger"], record["event"]) == ("redis", "1:M * Ready \\xff")


def test_a_reader_that_went_away_does_not_end_the_gateway() -> None:
    stream = io.BytesIO()
    stream.close()
    json_sink(stream)("redis", b"x")


def test_a_peers_text_is_not_taken_for_markup() -> None:
    from rich.console import Console

    console = Console(file=io.StringIO(), width=160)
    delivery = {
        "destination": "storescu", "state": "retrying", "sent": 1, "total": 2, "attempts": 3,
        "error": "0xA700 [out of [/red] resources", "waiting_for": None, "due_at": None,
    }  # fmt: skip
    run = {
        "id": "r", "core": "core", "revision": 1, "relaunched": True, "state": "delivering",
        "from": "poll", "only": None, "left_out": [],
        "instances": {"uploaded": 2}, "commands": [], "waiting_for": None, "due_at": None,
        "error": "[/bold] oops", "deliveries": [delivery],
    }  # fmt: skip
    study = {
        "study_instance_uid": "1.2.3", "state": "delivering", "revisions": [], "runs": [run],
        "events": [{"at": "2026-01-01T00:00:00.000Z", "kind": "k", "destination": None,
                    "message": "[link=x]m"}],
    }  # fmt: skip
    print_study(console, study)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert all(part in text for part in ("[out of [/red]", "[/bold] oops", "[link=x]m", "1/2"))
