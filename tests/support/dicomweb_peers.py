"""DICOMweb servers: Orthanc with its plug-in, and answers as servers give them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from email import message_from_bytes
from pathlib import Path
from typing import Any

import pytest
from dicomweb_client.api import DICOMwebClient

from pacsor_tasks.dicomweb.stow import StowServer
from pacsor_tasks.http_out import Endpoint
from tests.support.http_script import Call, Reply
from tests.support.pacs_peers import orthanc

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
DICOM_JSON = "application/dicom+json"


def server_at(url: str, batch: int = 20, **endpoint: Any) -> StowServer:
    """A DICOMweb destination on this machine."""
    settings = {"name": "stow", "connect_timeout_s": 5, "timeout_s": 10, "setting": "STOW"}
    return StowServer(endpoint=Endpoint(**{**settings, "url": url, **endpoint}), batch=batch)


@dataclass(frozen=True)
class DicomWebPeer:
    """A running server."""

    url: str
    client: DICOMwebClient

    def instances(self, study_uid: str) -> set[str]:
        """SOP Instance UIDs that it has of a study, by its own search."""
        found = self.client.search_for_instances(study_uid)
        return {item["00080018"]["Value"][0] for item in found}


@contextmanager
def orthanc_dicomweb(directory: Path, **settings: Any) -> Iterator[DicomWebPeer]:
    """Orthanc with its DICOMweb plug-in."""
    if not PLUGIN.exists():
        message = "orthanc-dicomweb is not installed"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    options = {
        "Plugins": [str(PLUGIN)],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/", "EnableWado": False},
        **settings,
    }
    with orthanc(directory, **options) as peer:
        url = f"{peer.url}/dicom-web"
        yield DicomWebPeer(url, DICOMwebClient(url))


def parts_of(call: Call) -> list[bytes]:
    """The instances of a request as it came, taken apart by Python's own mail parser."""
    head = f"Content-Type: {call.headers['Content-Type']}\r\n\r\n".encode()
    message = message_from_bytes(head + call.body)
    parts = [p for p in message.walk() if not p.is_multipart()]
    return [p.get_payload(decode=True) for p in parts]  # type: ignore[misc]


def stored(
    done: Mapping[str, int | None], failed: Mapping[str, int] | None = None, status: int = 200
) -> Reply:
    """An answer that says of each instance: stored, with a warning, or failed, with the reason."""
    body: dict[str, Any] = {}
    if done:
        items = [_item(uid, "00081196", reason) for uid, reason in done.items()]
        body["00081199"] = {"vr": "SQ", "Value": items}
    if failed:
        items = [_item(uid, "00081197", reason) for uid, reason in failed.items()]
        body["00081198"] = {"vr": "SQ", "Value": items}
    return Reply(status=status, body=json.dumps(body).encode(), content_type=DICOM_JSON)


def _item(uid: str, tag: str, reason: int | None) -> dict[str, Any]:
    item: dict[str, Any] = {"00081155": {"vr": "UI", "Value": [uid]}}
    if reason is not None:
        item[tag] = {"vr": "US", "Value": [reason]}
    return item
