"""How long a patient's study takes through the gateway, step by step.

    python -m benchmarks.latency [--studies 20]

A gateway (`pacsor up`), STUDY_QUIET_SECONDS=1, a simulated AI that is done at once, dcmtk's
storescp as the PACS. Measured from the last C-STORE answer that dcmtk's storescu got to the last
result that storescp wrote; the steps are the events of each study's timeline.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from pydicom import dcmread

from simulators.milvue import MilvueSimulator
from tests.support.dcmtk import storescu
from tests.support.gateway import Gateway, gateway
from tests.support.pacs_peers import storescp
from tests.support.studies import make_study, study_uid_of

STEPS = [
    "study.stable", "run.queued", "filter.done", "upload.done", "poll.done", "download.done",
    "fan_out.done", "delivery.delivered",
]  # fmt: skip
SIDE = 724  # about 1 MB an instance


def main() -> None:
    """Run and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=20)
    parser.add_argument("--quiet", type=float, default=1.0, help="STUDY_QUIET_SECONDS")
    options = parser.parse_args()
    rows = measure(options.studies, options.quiet)
    print(f"\n{options.studies} studies of 2 instances of 1 MB, quiet period {options.quiet:g} s\n")
    print(
        "| from the last C-STORE answer | median s | p95 s | this step, median s |\n"
        "|---|---|---|---|"
    )
    before = 0.0
    for name in [*STEPS, "last result at the PACS"]:
        values = [row[name] for row in rows]
        median = statistics.median(values)
        print(f"| {name} | {median:.2f} | {p95(values):.2f} | {median - before:.2f} |")
        before = median


def measure(n: int, quiet_s: float) -> list[dict[str, float]]:
    """Send `n` studies one after the other; seconds from the last answer to each step."""
    with tempfile.TemporaryDirectory() as root:
        tmp = Path(root)
        (tmp / "pacs").mkdir()
        with (
            MilvueSimulator(token="key", running_times=0) as api,
            storescp(tmp / "pacs", "+xa") as pacs,
            gateway(
                tmp,
                {
                    "API_URL": api.url, "TOKEN": "key", "STUDY_QUIET_SECONDS": str(quiet_s),
                    "PACS_IP": "127.0.0.1", "PACS_PORT": str(pacs.port), "PACS_AET": "PACS",
                    "DESTINATIONS": "storescu",
                },
            ) as running,
        ):  # fmt: skip
            _one(running, tmp, "warm")
            return [_one(running, tmp, f"s{i}") for i in range(n)]


def _one(running: Gateway, tmp: Path, name: str) -> dict[str, float]:
    files = make_study(tmp / name, 2, side=SIDE)
    study_uid = study_uid_of(files)
    storescu(running.port, *files)
    answered = time.time()
    study = running.ended(study_uid)
    row = {kind: _at(study, kind) - answered for kind in STEPS}
    row["last result at the PACS"] = _last_arrival(tmp / "pacs", study_uid) - answered
    return row


def _at(study: dict[str, Any], kind: str) -> float:
    event = next(e for e in study["events"] if e["kind"] == kind)
    return datetime.fromisoformat(event["at"]).timestamp()


def _last_arrival(directory: Path, study_uid: str) -> float:
    return max(
        p.stat().st_mtime
        for p in directory.iterdir()
        if dcmread(p, stop_before_pixels=True).StudyInstanceUID == study_uid
    )


def p95(values: list[float]) -> float:
    """The value that 95 % are not above."""
    return sorted(values)[max(0, round(len(values) * 0.95) - 1)]


if __name__ == "__main__":
    main()
