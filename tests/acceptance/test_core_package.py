"""A core from a package, installed by pip: a study through a whole gateway, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydicom import dcmread

from simulators.milvue import MilvueSimulator
from simulators.pacs import PacsSimulator
from tests.support.gateway import Gateway, gateway
from tests.support.net import free_port
from tests.support.packages import add_package, install_folder_core
from tests.support.studies import make_study, study_uid_of

pytestmark = [pytest.mark.timeout(240), pytest.mark.xdist_group("core-isolation")]

PACS = {"PACS_IP": "127.0.0.1", "PACS_AET": "PACS"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the example is installed."""
    return install_folder_core(tmp_path_factory.mktemp("package"))


@contextmanager
def folder_ai(site: Path, outbox: Path, inbox: Path) -> Iterator[None]:
    """The example's AI, as a process of its own."""
    command = [sys.executable, "-m", "pacsor_core_folder.ai", str(outbox), str(inbox)]
    process = subprocess.Popen(command, env={"PYTHONPATH": str(site)})
    try:
        yield
    finally:
        process.terminate()
        process.wait(10)


def settings(site: Path, root: Path, **more: str) -> dict[str, str]:
    outbox, inbox = root / "to-ai", root / "from-ai"
    return {
        "PYTHONPATH": str(site), "CORE_TYPE": "folder", "CORE_FOLDER_OUTBOX": str(outbox),
        "CORE_FOLDER_INBOX": str(inbox), "PACS_PORT": str(free_port()), **PACS, **more,
    }  # fmt: skip


def test_a_study_goes_through_an_installed_core_and_one_of_ours_beside_it(
    site: Path, tmp_path: Path
) -> None:
    outbox, inbox = tmp_path / "to-ai", tmp_path / "from-ai"
    outbox.mkdir()
    inbox.mkdir()
    with (
        MilvueSimulator(token="t") as api,
        PacsSimulator() as pacs,
        folder_ai(site, outbox, inbox),
    ):
        given = settings(
            site, tmp_path, PACS_PORT=str(pacs.port), ADDITIONAL_CORES="core1",
            CORE_TYPE_1="milvue", API_URL_1=api.url, TOKEN_1="t",
            INFERENCE_COMMANDS_1="smarturgences",
        )  # fmt: skip
        with gateway(tmp_path, given) as running:
            files = make_study(tmp_path / "study", 3, side=16)
            assert running.run("pacsor", "send", str(tmp_path / "study")).returncode == 0
            uid = study_uid_of(files)
            found = running.ended(uid, runs=2)
            assert {(r["core"], r["state"]) for r in found["runs"]} == {
                ("core", "done"),
                ("core1", "done"),
            }
            assert len(list((outbox / uid).glob("*.dcm"))) == 3
            given_back = dcmread(inbox / uid / "results" / "result.dcm").SOPInstanceUID
            assert pacs.journal.counts()[given_back] == 1
            assert running.run("pacsor", "relaunch", uid).returncode == 0
            assert {r["state"] for r in running.ended(uid, runs=4)["runs"]} == {"done"}
            checked = running.run("pacsor", "check").stdout
            assert "folder answers" in checked


def refused(tmp_path: Path, environment: dict[str, str], verb: str) -> tuple[int, str]:
    done = Gateway(tmp_path, environment).run("pacsor", verb)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("verb", ["up", "config"])
@pytest.mark.parametrize(
    ("given", "says"),
    [
        (
            {"CORE_TYPE": "fodler"},
            "CORE_TYPE: no type 'fodler' is installed; there are milvue, tcr",
        ),
        ({"CORE_FOLDER_INBOX": ""}, "core: CORE_FOLDER_OUTBOX and CORE_FOLDER_INBOX are needed"),
        (
            {"CORE_TYPE": "broken"},
            "cannot be imported: ModuleNotFoundError: No module named 'no_su",
        ),
        ({"CORE_TYPE": "empty"}, "core (CORE_TYPE empty): a object is no core: it has no upload()"),
    ],
)
def test_what_cannot_work_is_said_at_the_start(
    site: Path, tmp_path: Path, verb: str, given: dict[str, str], says: str
) -> None:
    add_package(tmp_path / "more", "broken", "import no_such_module")
    add_package(tmp_path / "more", "empty", "def make(config): return object()")
    environment = settings(site, tmp_path, **given) | {"PYTHONPATH": f"{site}:{tmp_path / 'more'}"}
    status, said = refused(tmp_path, environment, verb)
    assert status == 2
    assert says in said
    assert "Traceback" not in said


def test_check_names_a_package_that_does_not_keep_to_the_interface(tmp_path: Path) -> None:
    add_package(tmp_path / "site", "empty", "def make(config): return object()")
    environment = {"PYTHONPATH": str(tmp_path / "site"), "CORE_TYPE": "empty", "PACS_PORT": "9"}
    status, said = refused(tmp_path, PACS | environment, "check")
    assert status == 1
    (line,) = (line for line in said.splitlines() if "API core" in line)
    assert "PROBLEM" in line
    assert "a object is no core: it has no upload()" in line
    assert "→ see CORE_TYPE=empty" in line
