"""What counts as received: only what is stored. And the session that outlives the process."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from azure.messaging.webpubsubclient.models._models import GroupDataMessage

from pacsor_tasks.webps import subscriber
from pacsor_tasks.webps.session import LIFETIME_S, SessionFile
from pacsor_tasks.webps.subscriber import Subscriber, _Protocol

URL = "wss://hub.example/client/hubs/reports?access_token=secret&for=a"


def group_message(data: Any, group: str = "group-a", data_type: str = "json") -> str:
    return json.dumps(
        {
            "type": "message", "from": "group", "group": group, "dataType": data_type,
            "data": data, "sequenceId": 1,
        }
    )  # fmt: skip


class Shelf:
    """Stores, once it may."""

    def __init__(self, failures: int = 0) -> None:
        self.failures = failures
        self.kept: list[tuple[str, Any]] = []

    def __call__(self, provider: str, data: Any) -> None:
        if self.failures:
            self.failures -= 1
            raise OSError(28, "No space left on device")
        self.kept.append((provider, data))


def made(tmp_path: Path, shelf: Shelf, **groups: str) -> tuple[Subscriber, _Protocol]:
    found = Subscriber(
        lambda: URL, groups or {"group-a": "radio-a"}, shelf, SessionFile(tmp_path / "s" / "f.json")
    )
    return found, _Protocol(found._take)


def test_a_message_is_stored_before_it_counts_as_received(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(subscriber, "DISK_S", 0.01)
    shelf = Shelf(failures=3)
    _, protocol = made(tmp_path, shelf)
    parsed = protocol.parse_messages(group_message({"id": "1"}))
    assert isinstance(parsed, GroupDataMessage)
    assert shelf.kept == [("radio-a", {"id": "1"})]


def test_what_cannot_be_stored_before_a_stop_is_not_received(tmp_path: Path):
    shelf = Shelf(failures=10**6)
    found, protocol = made(tmp_path, shelf)
    threading.Timer(0.05, found.stop).start()
    with pytest.raises(ConnectionAbortedError):
        protocol.parse_messages(group_message({"id": "1"}))
    shelf.failures = 0
    with pytest.raises(ConnectionAbortedError):
        protocol.parse_messages(group_message({"id": "2"}))
    assert shelf.kept == []


@pytest.mark.parametrize(
    ("frame", "kept"),
    [
        (group_message("text", data_type="text"), [("radio-a", "text")]),
        (group_message({"id": 1}, "group-b"), [("group-b", {"id": 1})]),
        ('{"type": "message", "from": "server", "dataType": "json", "data": {"id": 2}}',
         [("radio-a", {"id": 2})]),
        ("not JSON", []),
        ("[" * 200_000, []),
        ("{}", []),
        ("[]", []),
        ('{"type": "message", "from": "group", "dataType": "json"}', []),
        ('{"type": "system", "event": "disconnected", "message": "bye"}', []),
        ('{"type": "ack", "ackId": 1, "success": true}', []),
        ('{"type": "something new"}', []),
    ],
)  # fmt: skip
def test_every_frame_is_taken_or_passed_over(tmp_path: Path, frame: str, kept: list[Any]):
    shelf = Shelf()
    _, protocol = made(tmp_path, shelf)
    protocol.parse_messages(frame)
    assert shelf.kept == kept


def test_a_message_without_a_group_is_its_provider_s_where_it_names_one(tmp_path: Path):
    shelf = Shelf()
    _, protocol = made(tmp_path, shelf, a="radio-a", b="radio-b")
    for data in ({"provider": "radio-b"}, {"provider": "stranger"}, "text"):
        frame = {"type": "message", "from": "server", "dataType": "json", "data": data}
        protocol.parse_messages(json.dumps(frame))
    assert [provider for provider, _ in shelf.kept] == ["radio-b", "unknown", "unknown"]


def test_a_session_is_kept_without_its_access_token_and_only_for_a_while(tmp_path: Path):
    path = tmp_path / "webps" / "session.json"
    session = SessionFile(path)
    assert session.url() is None
    session.save(URL, "c1", "t&1")
    assert session.url() == (
        "wss://hub.example/client/hubs/reports"
        "?for=a&awps_connection_id=c1&awps_reconnection_token=t%261"
    )
    # Saved again from the URL it was recovered with, its keys are there once.
    session.save(session.url() or "", "c1", "t2")
    assert (session.url() or "").count("awps_") == 2
    old = path.stat().st_mtime - LIFETIME_S - 1
    os.utime(path, (old, old))
    assert session.url() is None
    session.stamp()
    assert session.url() is not None
    session.forget()
    session.forget()
    assert session.url() is None


@pytest.mark.parametrize("content", ["", "{", "[]", '{"else": 1}', "7"])
def test_a_damaged_session_is_none(tmp_path: Path, content: str):
    path = tmp_path / "session.json"
    path.write_text(content)
    assert SessionFile(path).url() is None
