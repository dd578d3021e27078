"""Another provider's report through a whole gateway: from Web PubSub to the RIS."""

from __future__ import annotations

import json
from pathlib import Path

from simulators.ris import RisSimulator
from simulators.tcr import TcrSimulator
from tests.support.gateway import gateway
from tests.support.net import wait_until
from tests.support.webps import PROVIDER, message

UID = "1.2.840.99.8"


def test_a_report_reaches_the_ris_through_the_gateway(tmp_path: Path):
    with TcrSimulator(token="key") as api, RisSimulator() as ris:
        assert api.pubsub is not None
        hub = api.pubsub
        environment = {
            "API_URL": api.url, "TOKEN": "key", "TCR_API_URL": api.url,
            "PACS_IP": "127.0.0.1", "PACS_PORT": "104", "PACS_AET": "PACS",
            "RECEIVING_APPLICATION": "RIS", "RECEIVING_FACILITY": "SITE",
            "RIS_HOST_IP": "127.0.0.1", "RIS_HOST_PORT": str(ris.port),
            "WEBPS_ENABLE": "true", "WEBPS_PROVIDERS": PROVIDER,
        }  # fmt: skip
        with gateway(tmp_path, environment) as up:
            wait_until(lambda: hub.members(PROVIDER) == 1, 40)
            hub.publish(PROVIDER, message(UID))
            study = up.ended(UID)
            assert [r["state"] for r in study["runs"]] == ["done"]
            assert study["runs"][0]["core"].startswith(f"webps:{PROVIDER}:")
            (sent,) = ris.messages
            assert "LEGRAND^Anaïs" in sent.decode()
            wait_until(lambda: up.get("/healthz")["checks"]["webps"]["ok"], 10)
            shown = up.run("pacsor", "hl7", "preview", UID)
            assert "LEGRAND" in shown.stdout, shown.stderr
            shown = up.run("pacsor", "config", "--json")
            assert json.loads(shown.stdout)["settings"]["WEBPS_PROVIDERS"] == [PROVIDER]
            assert up.run("pacsor", "relaunch", UID).returncode != 0
            spool = tmp_path / "data" / "spool"
            assert list((spool / "reports").iterdir()) == []
            assert list((spool / "results").iterdir()) == []
        log = up.log.read_text(errors="replace")
        assert "LEGRAND" not in log
        assert "access_token" not in log
