"""`pacsor setup` in a real terminal, with peers that answer and peers that do not."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

from pacsor_tasks.settings import load
from simulators.milvue import MilvueSimulator
from simulators.pacs import PacsSimulator
from simulators.ris import RisSimulator
from tests.support.gateway import PACSOR
from tests.support.net import free_port
from tests.support.terminal import Terminal, terminal

CLIENT = "fr.acme.hosp.north.1"
ENVIRONMENT = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), "LANG": "C.UTF-8"}


def choose(screen: Terminal, prompt: str, key: str) -> None:
    """An entry of a menu by its key."""
    screen.wait_for(prompt, f"{key}) ")
    screen.press(key)
    screen.wait_for(f"» {key})")
    screen.press("Enter")


def first_steps(screen: Terminal, api: str, pacs_port: int) -> None:
    screen.answer("Product")
    screen.wait_for("another address")
    screen.press("Up")  # from the first to the last
    screen.wait_for("» another address")
    screen.press("Enter")
    screen.answer("Its URL", api)
    screen.answer("Signed URLs")
    screen.answer("Client name", CLIENT)
    screen.answer("Token", "s3cret")
    screen.answer("Connection to core")
    screen.wait_for("takes the token")
    screen.answer("AE title of the PACS", "PACS")
    screen.answer("Address of the PACS", "127.0.0.1")
    screen.answer("DICOM port", str(pacs_port), erasing=5)


def test_a_site_is_set_up_in_a_terminal(tmp_path: Path) -> None:
    with (
        MilvueSimulator(token="s3cret") as api,
        PacsSimulator() as pacs,
        RisSimulator() as ris,
        terminal([PACSOR, "setup"], tmp_path, ENVIRONMENT) as screen,
    ):
        first_steps(screen, api.url, pacs.port)
        screen.answer("Connection to storescu")
        screen.wait_for("answers C-ECHO", f"? {CLIENT}:", "h) HL7", "q) Exit")
        choose(screen, CLIENT, "h")
        screen.wait_for("Send reports")
        screen.press("Up", "Enter")
        screen.answer("Address of the RIS", "127.0.0.1")
        screen.answer("MLLP port", str(ris.port), erasing=4)
        screen.answer("Receiving application", "RIS")
        screen.answer("Receiving facility", "H")
        for prompt in ("Language", "Sending application", "Sending facility", "Include the"):
            screen.answer(prompt)
        screen.answer("Connection to hl7")
        screen.wait_for("takes connections", f"? {CLIENT}:")
        choose(screen, CLIENT, "t")
        screen.wait_for("trying hl7", f"? {CLIENT}:")
        choose(screen, CLIENT, "d")
        screen.wait_for("TOKEN=***")
        choose(screen, CLIENT, "w")
        screen.answer("lead to it")
        screen.wait_for("exit status 0")
        text = screen.text()
    assert "s3cret" not in text
    assert "PROBLEM" not in text
    found = load({}, tmp_path / ".env")
    assert found.TOKEN.get_secret_value() == "s3cret"
    assert (pacs.port, ris.port) == (found.PACS_PORT, found.RIS_HOST_PORT)
    assert found.cores["core"].destinations == ("storescu", "hl7")
    assert stat.S_IMODE((tmp_path / ".env").stat().st_mode) == 0o600


def test_escape_goes_back_and_a_peer_that_is_away_is_said_so(tmp_path: Path) -> None:
    closed = free_port()
    with (
        MilvueSimulator(token="s3cret") as api,
        terminal([PACSOR, "setup"], tmp_path, ENVIRONMENT, rows=24) as screen,
    ):
        first_steps(screen, api.url, closed)
        screen.answer("Connection to storescu")
        screen.wait_for("PROBLEM", "Connection refused", "» test the connection")
        screen.press("Escape")
        screen.wait_for(f"DICOM port of the PACS: {closed}")
        screen.press("Escape")
        screen.wait_for("IPv6): 127.0.0.1")
        screen.press("C-c")
        screen.wait_for("nothing was written", "exit status 1")
    assert list(tmp_path.iterdir()) == []


def test_a_long_complaint_is_there_whole(tmp_path: Path) -> None:
    settings = f"CLIENT_NAME={CLIENT}\nAPI_URL=http://127.0.0.1:1\nTOKEN=x\n"
    (tmp_path / ".env").write_text(settings)
    command: list[str | Path] = [PACSOR, "setup", "--from-file", ".env"]
    with terminal(command, tmp_path, ENVIRONMENT) as screen:
        choose(screen, f"{CLIENT}:", "f")
        choose(screen, "Filters", "a")
        screen.answer("Element", "StudyDescription")
        screen.answer("Pattern", "phantom(")
        screen.wait_for("is not a regular expression:", "missing ): phantom(")
        screen.type(")")
        screen.press("Enter")
        screen.wait_for("Upload an instance")
        screen.press("C-c")
        screen.wait_for("nothing was written")


def test_a_dumb_terminal_gets_lines_and_a_secret_no_echo(tmp_path: Path) -> None:
    with terminal([PACSOR, "setup"], tmp_path, {**ENVIRONMENT, "TERM": "dumb"}) as screen:
        lines = {
            "Product [1]:": "", "AI service is [1]:": "", "Client name": CLIENT,
            "Token": "s3cret", "Connection to core [1]:": "2", "AE title of the PACS": "PACS",
            "Address of the PACS": "pacs", "PACS [104]:": "", "Connection to storescu [1]:": "2",
            f"{CLIENT} [1]:": "w", "lead to it [1]:": "1",
        }  # fmt: skip
        for prompt, text in lines.items():
            screen.wait_for(prompt)
            screen.type(text)
            screen.press("Enter")
        screen.wait_for("exit status 0")
        assert "s3cret" not in screen.text()
    assert load({}, tmp_path / ".env").TOKEN.get_secret_value() == "s3cret"


def test_options_alone_try_every_peer_and_what_was_written_is_checked_well(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("s3cret")
    with MilvueSimulator(token="s3cret") as api, PacsSimulator() as pacs, RisSimulator() as ris:
        done = subprocess.run(
            [PACSOR, "setup", "--yes", "--check", "--client", CLIENT, "--api-url", api.url,
             "--token-file", "token", "--pacs", f"PACS@127.0.0.1:{pacs.port}",
             "--ris", f"127.0.0.1:{ris.port}", "--set", "RECEIVING_APPLICATION=R",
             "--set", "RECEIVING_FACILITY=F"],
            cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("ok ") == 3
    assert "s3cret" not in done.stdout + done.stderr
