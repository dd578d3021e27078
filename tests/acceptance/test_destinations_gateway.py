"""A whole gateway, two cores, a destination of every kind, one of each dead or refusing."""

from __future__ import annotations

import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

from pydicom import dcmread

from simulators.milvue import MilvueSimulator
from simulators.pacs import PacsSimulator
from tests.support.certificates import Authority
from tests.support.dicomweb_peers import orthanc_dicomweb
from tests.support.gateway import gateway
from tests.support.http_script import Reply, ScriptedServer, answering
from tests.support.net import free_port, wait_until
from tests.support.pacs_peers import received, storescp
from tests.support.studies import make_study, study_uid_of

SECRET = "known to both of them"


def deliveries_of(study: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(run["core"], d["destination"]): d for run in study["runs"] for d in run["deliveries"]}


def test_every_kind_gets_what_it_is_meant_to_get(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    certified = authority.issue("pacs")
    tls = ("+tls", str(certified.key), str(certified.certificate), "-ic")
    (tmp_path / "share").mkdir()
    dead = free_port()
    with (
        MilvueSimulator(token="t") as api,
        MilvueSimulator(token="u") as other_api,
        PacsSimulator() as pacs,
        storescp(tmp_path / "secured", *tls) as secured,
        orthanc_dicomweb(tmp_path / "orthanc") as archive,
        ScriptedServer(lambda _: Reply(status=204)) as hooks,
        answering(Reply()) as bridge,
    ):
        settings = {
            "API_URL": api.url, "TOKEN": "t", "INFERENCE_COMMANDS": "smarturgences",
            "ADDITIONAL_CORES": "core1", "API_URL_1": other_api.url, "TOKEN_1": "u",
            "DESTINATIONS": "storescu,storescu-2,storescu-3,stow,stow-2,folder,folder-2,webhook",
            "CALLBACK_URLS_1": f"http://storescu:8000,{bridge.url}/done",
            "PACS_IP": "127.0.0.1", "PACS_PORT": str(pacs.port), "PACS_AET": "PACS",
            "PACS_IP_2": "127.0.0.1", "PACS_PORT_2": str(secured.port), "PACS_AET_2": "SECURED",
            "PACS_TLS_2": "true", "PACS_TLS_CA_2": str(authority.certificate),
            "MILVUE_AET_2": "GATE2", "PACS_SOP_CLASSES_2": "SC", "PACS_RATE_2": "50",
            "PACS_IP_3": "127.0.0.1", "PACS_PORT_3": str(dead), "PACS_AET_3": "DEAD",
            "STOW_URL": archive.url, "STOW_URL_2": f"http://127.0.0.1:{dead}/dicom-web",
            "FOLDER_PATH": str(tmp_path / "share"), "FOLDER_SOP_CLASSES": "SR",
            "FOLDER_PATH_2": str(tmp_path / "not-mounted"),
            "WEBHOOK_URL": f"{hooks.url}/events", "WEBHOOK_SECRET": SECRET,
        }  # fmt: skip
        with gateway(tmp_path, settings) as running:
            files = make_study(tmp_path / "study", 2, side=16)
            uid = study_uid_of(files)
            sent = running.run("pacsor", "send", str(tmp_path / "study"))
            assert sent.returncode == 0, sent.stderr

            def settled() -> dict[tuple[str, str], dict[str, Any]] | None:
                study = running.study(uid)
                found = deliveries_of(study) if study else {}
                waiting = {k for k, d in found.items() if d["state"] in {"pending", "retrying"}}
                bad = {("core", n) for n in ("storescu-3", "stow-2", "folder-2")}
                tried = all(found[k]["attempts"] for k in bad) if bad <= set(found) else False
                return found if tried and waiting == bad else None

            found = wait_until(settled, 90, 0.3)
            assert found is not None
            core = {name: d for (of, name), d in found.items() if of == "core"}
            core1 = {name: d for (of, name), d in found.items() if of == "core1"}
            assert {n for n, d in core.items() if d["state"] == "delivered"} >= {
                "storescu", "storescu-2", "stow", "webhook",
            }  # fmt: skip
            (callback,) = set(core1) - {"storescu"}
            assert {d["state"] for d in core1.values()} == {"delivered"}
            n_core = core["storescu"]["sent"]
            assert n_core == core["stow"]["sent"] > core["storescu-2"]["sent"] > 0
            assert core["storescu-3"]["state"] == "retrying"

            # at the peers
            assert len(archive.instances(uid)) == n_core
            classes = {
                str(dcmread(p, stop_before_pixels=True).SOPClassUID)
                for p in received(tmp_path / "secured").values()
            }
            assert all(c.startswith("1.2.840.10008.5.1.4.1.1.7") for c in classes)
            assert core["folder"]["state"] == "skipped"  # the AI returned no report
            assert core["folder"]["error"] == "nothing to store: no SR among them"
            (event,) = hooks.calls
            told = json.loads(event.body)
            assert (told["core"], len(told["results"])) == ("core", n_core)
            stamp = event.headers["X-Pacsor-Signature"].split(",")[0].removeprefix("t=")
            digest = hmac.new(
                SECRET.encode(), stamp.encode() + b"." + event.body, hashlib.sha256
            ).hexdigest()
            assert event.headers["X-Pacsor-Signature"].endswith(f"v1={digest}")
            (plain,) = bridge.calls
            assert (plain.path, json.loads(plain.body)["core"]) == ("/done", "core1")

            # on the pages, in the metrics, by the verbs
            names = {p["name"]: p for p in running.get("/api/peers")}
            assert names["stow"]["address"] == f"DICOMweb at {archive.url}"
            assert names["folder"]["address"] == f"directory {tmp_path / 'share'}"
            assert names[callback]["address"] == f"events to {bridge.url}/done"
            rerouted = running.run("pacsor", "reroute", uid, "stow-2", "--to", "folder")
            assert rerouted.returncode == 0, rerouted.stderr

            def at(name: str) -> str:
                return str(deliveries_of(running.study(uid) or {})[("core", name)]["state"])

            wait_until(lambda: at("folder") == "delivered", 60, 0.3)
            # what was meant for stow-2, not what it gets by itself
            assert len([*(tmp_path / "share" / uid).glob("*.dcm")]) == n_core
            skipped = running.run("pacsor", "skip", uid, "storescu-3", "--reason", "sold")
            assert skipped.returncode == 0, skipped.stderr
            checked = running.run("pacsor", "check", timeout_s=90)
            assert f"{archive.url} answers" in checked.stdout.replace("\n", "")
            assert "is it mounted?" in checked.stdout.replace("\n", " ")

            # what was away comes back
            (tmp_path / "not-mounted").mkdir()
            retried = running.run("pacsor", "retry", uid, "folder-2")
            # Its own next try may have come first.
            assert retried.returncode == 0 or "is delivered" in retried.stderr
            wait_until(
                lambda: (
                    deliveries_of(running.study(uid) or {})[("core", "folder-2")]["state"]
                    == "delivered"
                ),
                60,
                0.3,
            )
            assert len([*(tmp_path / "not-mounted" / uid).glob("*.dcm")]) == n_core
