"""PACSOR installations, migrated and started as they are: studies go in and arrive.

The settings are those that `pacsor migrate` wrote to `.env`; only this machine's free ports and
directories come by the environment.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from simulators.milvue import MilvueSimulator
from simulators.pacs import PacsSimulator
from simulators.ris import RisSimulator
from tests.support.gateway import PACSOR, Gateway, gateway
from tests.support.pacsor_installs import (
    SECOND_SECRET,
    SECRET,
    pacsor_2_4,
    pacsor_2_8,
    pacsor_2_11,
)
from tests.support.studies import make_study, study_uid_of

pytestmark = pytest.mark.timeout(240)


@contextmanager
def started(install: Path, directory: Path) -> Iterator[Gateway]:
    """The gateway that `pacsor migrate` makes of an installation, in a directory of its own."""
    done = subprocess.run(
        [PACSOR, "migrate", install, "--into", directory],
        env={k: v for k, v in os.environ.items() if k in {"PATH", "HOME", "PYTHONPATH"}},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert SECRET not in done.stdout + done.stderr
    own = {"FILTER_CFG": str(directory / "conf" / "filter.cfg"), "POLL_INTERVAL": "0.5"}
    with gateway(directory, own) as running:
        yield running


def sent(running: Gateway, directory: Path, **attributes: Any) -> str:
    """A new study, sent; its UID."""
    files = make_study(directory, 2, side=32, **attributes)
    done = running.run("pacsor", "send", str(directory))
    assert done.returncode == 0, done.stderr
    return study_uid_of(files)


def peers(api: MilvueSimulator, pacs: PacsSimulator, **more: str) -> dict[str, str]:
    """What the installations are made with."""
    return {
        "API_URL": api.url, "PACS_IP": "127.0.0.1", "PACS_PORT": str(pacs.port), "PACS_AET": "PACS",
        **more,
    }  # fmt: skip


def all_delivered(study: dict[str, Any]) -> bool:
    deliveries = [d for run in study["runs"] for d in run["deliveries"]]
    return bool(deliveries) and {d["state"] for d in deliveries} == {"delivered"}


def test_2_4_delivers_what_both_of_its_cores_find(tmp_path: Path) -> None:
    with ExitStack() as stack:
        api = stack.enter_context(MilvueSimulator(token=SECRET))
        second = stack.enter_context(MilvueSimulator(token=SECOND_SECRET))
        pacs = stack.enter_context(PacsSimulator())
        install = pacsor_2_4(tmp_path / "pacsor", peers(api, pacs, API_URL_1=second.url))
        running = stack.enter_context(started(install, tmp_path / "ours"))
        study = running.ended(sent(running, tmp_path / "study"), runs=2)
        assert {run["core"] for run in study["runs"]} == {"core", "core1"}
        assert all_delivered(study), study


def test_2_8_delivers_to_the_pacs_and_its_message_to_the_ris(tmp_path: Path) -> None:
    with ExitStack() as stack:
        api = stack.enter_context(MilvueSimulator(token=SECRET))
        pacs = stack.enter_context(PacsSimulator())
        ris = stack.enter_context(RisSimulator())
        said = peers(api, pacs, RIS_HOST_IP="127.0.0.1", RIS_HOST_PORT=str(ris.port),
                     WEBPS_ENABLE="false")  # fmt: skip
        install = pacsor_2_8(tmp_path / "pacsor", said)
        running = stack.enter_context(started(install, tmp_path / "ours"))
        study_uid = sent(running, tmp_path / "study")
        study = running.ended(study_uid)
        assert all_delivered(study), study
        assert {d["destination"] for d in study["runs"][0]["deliveries"]} == {"storescu", "hl7"}
        message = running.run("pacsor", "hl7", "preview", study_uid).stdout
        # `config.json` of the site wins over its `.env`, as with PACSOR.
        assert "|MILVUE_GATEWAY|MILVUE|XPLORE|EDL|" in message


def test_2_11_delivers_and_its_filters_hold_back_what_they_did(tmp_path: Path) -> None:
    with ExitStack() as stack:
        api = stack.enter_context(MilvueSimulator(token=SECRET))
        pacs = stack.enter_context(PacsSimulator())
        install = pacsor_2_11(tmp_path / "pacsor", peers(api, pacs))
        running = stack.enter_context(started(install, tmp_path / "ours"))
        wanted = sent(running, tmp_path / "wanted", PatientName="DOE^JANE")
        unwanted = sent(running, tmp_path / "unwanted", PatientName="TEST^PHANTOM")
        assert all_delivered(running.ended(wanted))
        study = running.ended(unwanted)
        assert [run["state"] for run in study["runs"]] == ["filtered"]
        assert (api.journal.tokens(wanted), api.journal.tokens(unwanted)) == ({SECRET}, set())
