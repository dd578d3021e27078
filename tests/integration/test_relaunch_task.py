"""`pacsor.relaunch`, the task: what is refused is in the log, since nobody reads its answer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.ledger_seed import Clock, Seed, new_ledger

UID = "1.2.3"
#: As a worker does it, without the broker.
CALL = """
import json, sys
from pacsor_tasks import tasks
from pacsor_tasks.observability import configure_logging
configure_logging("info")
tasks.relaunch(**json.loads(sys.argv[1]))
"""


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        ({"study_uid": "1.2.9"}, "study 1.2.9: never received"),
        ({"study_uid": UID, "from_step": "nope"}, "'nope' is no step to begin at"),
        ({"study_uid": UID, "only": "storescu-9"}, "'storescu-9' is no destination of core"),
    ],
)
def test_why_a_message_relaunches_nothing_is_in_the_log(
    tmp_path: Path, wish: dict[str, Any], said: str
) -> None:
    ledger = new_ledger(tmp_path, Clock())
    Seed(ledger).done(UID)
    ledger.close()
    given = {
        "API_URL": "http://127.0.0.1:9", "TOKEN": "x", "PACS_IP": "127.0.0.1", "PACS_PORT": "104",
        "PACS_AET": "PACS", "DATA_DIR": str(tmp_path), "BROKER_URL": "redis://127.0.0.1:9/0",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", CALL, json.dumps(wish)],
        cwd=tmp_path, env={**os.environ, **given}, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert done.returncode != 0
    (line,) = [line for line in done.stderr.splitlines() if "relaunch.refused" in line]
    told = json.loads(line)
    assert (told["level"], told["study_uid"]) == ("warning", wish["study_uid"])
    assert said in told["error"]
