"""The receiver as its own processes, and a sender that can send anything."""

from __future__ import annotations

import fnmatch
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dsutils import encode as encode_dimse
from pynetdicom.pdu_primitives import P_DATA

from pacsor_tasks.spool import Manifest, Spool
from tests.support.instances import CR
from tests.support.net import wait_until

PIECE_BYTES = 16_000
NOBODY = "redis://127.0.0.1:1/0"


def settings_for(directory: Path, **changes: object) -> dict[str, str]:
    """An environment with which the receiver starts, its data in the directory."""
    given = {
        "API_URL": "http://127.0.0.1:1", "TOKEN": "secret", "CALLBACK_URLS": "http://storescu:8000",
        "PACS_IP": "127.0.0.1", "PACS_PORT": "104", "PACS_AET": "PACS",
        "RECEIVER_HOST": "127.0.0.1", "RECEIVER_PROCESSES": "1", "BROKER_URL": NOBODY,
        "DATA_DIR": str(directory / "data"), "STUDY_QUIET_SECONDS": "0.5",
    }  # fmt: skip
    given |= {name: str(value) for name, value in changes.items()}
    return {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ} | given


@dataclass
class Receiver:
    """A running `python -m receiver`."""

    process: subprocess.Popen[bytes]
    port: int
    spool: Spool
    log_path: Path

    def log(self, event: str | None = None) -> list[dict[str, Any]]:
        """Its log lines, those of one event."""
        lines = []
        for line in self.log_path.read_text().splitlines():
            with suppress(ValueError):
                lines.append(json.loads(line))
        return [line for line in lines if event is None or line.get("event") == event]

    def scp_pids(self) -> list[int]:
        """Its SCP processes."""
        return [child.pid for child in psutil.Process(self.process.pid).children()]

    def stop(self) -> int:
        """Ask it to end; its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)

    def revisions(self, study_uid: str) -> list[Manifest]:
        """The study's revisions so far."""
        tokens = [token for uid, token in self.spool.all_ready() if uid == study_uid]
        return [self.spool.manifest(study_uid, token) for token in sorted(tokens)]

    def wait_for_revisions(self, study_uid: str, n: int) -> list[Manifest]:
        """The study's revisions when there are n."""
        wait_until(lambda: len(self.revisions(study_uid)) >= n)
        return self.revisions(study_uid)

    def instances(self, study_uid: str, manifest: Manifest) -> dict[str, Path]:
        """A revision's files by SOP Instance UID."""
        paths = self.spool.instance_paths(study_uid, manifest.token)
        return {(path := self.spool.path(p)).stem: path for p in paths}

    def files(self, pattern: str) -> list[Path]:
        """The files in its spool whose names fit. Directories come and go meanwhile."""
        walked = [(Path(at), names) for at, _, names in os.walk(self.spool.root)]
        return [at / name for at, names in walked for name in fnmatch.filter(names, pattern)]

    def nothing_half_written(self) -> bool:
        """Whether no partial file is left."""
        # Directories in it come and go with their associations.
        return not any(files for *_, files in os.walk(self.spool.root / "tmp"))


@contextmanager
def receiver(directory: Path, *, is_clean: bool = True, **settings: object) -> Iterator[Receiver]:
    """A receiver on a free port until the block ends.

    Args:
        directory: For its data and its log.
        is_clean: Whether it must still run at the end, and end well.
        settings: By name, over the defaults here.
    """
    port_file, log_path = directory / "port", directory / "receiver.log"
    port_file.unlink(missing_ok=True)
    with log_path.open("ab") as log_file:
        process = subprocess.Popen(
            [sys.executable, "-m", "receiver", "--port", "0", "--port-file", str(port_file)],
            env=settings_for(directory, **settings),
            cwd=directory,
            stderr=log_file,
        )
    try:
        wait_until(
            lambda: (
                process.poll() is not None
                or (port_file.exists() and port_file.read_text().endswith("\n"))
            )
        )
        assert process.poll() is None, log_path.read_text()
        spool = Spool(directory / "data" / "spool")
        yield Receiver(process, int(port_file.read_text()), spool, log_path)
        if is_clean:
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0, log_path.read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(10)


def is_listening(port: int) -> bool:
    """Whether somebody takes connections there."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def association(
    port: int,
    contexts: Sequence[tuple[str, Sequence[str]]] = ((CR, (ExplicitVRLittleEndian,)),),
    calling_aet: str = "SENDER",
) -> Iterator[Association]:
    """An open association, aborted at the end unless the block released it."""
    ae = AE(calling_aet)
    for sop_class, syntaxes in contexts:
        ae.add_requested_context(sop_class, list(syntaxes))
    sockets: list[socket.socket] = []

    def keep_socket(event: evt.Event) -> None:
        assert event.assoc.dul.socket is not None
        assert event.assoc.dul.socket.socket is not None
        sockets.append(event.assoc.dul.socket.socket)

    opened = ae.associate(
        "127.0.0.1", port, ae_title="MILVUE", evt_handlers=[(evt.EVT_CONN_OPEN, keep_socket)]
    )
    try:
        yield opened
    finally:
        if opened.is_established:
            opened.abort()
        # pynetdicom forgets to when the peer was faster.
        for kept in sockets:
            kept.close()


def store_command(
    sop_instance_uid: str, sop_class_uid: str = CR, *, has_data_set: bool = True
) -> bytes:
    """The command set of a C-STORE-RQ, encoded."""
    command = Dataset()
    command.AffectedSOPClassUID, command.AffectedSOPInstanceUID = sop_class_uid, sop_instance_uid
    command.CommandField, command.MessageID, command.Priority = 0x0001, 1, 2
    command.CommandDataSetType = 0x0001 if has_data_set else 0x0101
    command.CommandGroupLength = len(encode_dimse(command, True, True) or b"")
    return encode_dimse(command, True, True) or b""


def send(
    opened: Association,
    data_set: bytes | None,
    *,
    sop_instance_uid: str,
    sop_class_uid: str = CR,
) -> tuple[int, str]:
    """C-STORE any bytes, or none at all: the status and its comment."""
    context_id = opened.accepted_contexts[0].context_id
    assert context_id is not None
    command = store_command(sop_instance_uid, sop_class_uid, has_data_set=data_set is not None)
    fragments = [b"\x03" + command]
    if data_set is not None:
        pieces = [data_set[at : at + PIECE_BYTES] for at in range(0, len(data_set), PIECE_BYTES)]
        fragments += [b"\x00" + piece for piece in pieces[:-1]]
        fragments.append(b"\x02" + (pieces[-1] if pieces else b""))
    # As `send_c_store` does, which would refuse to send what is not a data set.
    opened._reactor_checkpoint.clear()
    try:
        for fragment in fragments:
            primitive = P_DATA()
            primitive.presentation_data_value_list.append((context_id, fragment))
            opened.dul.send_pdu(primitive)
        _, response = opened.dimse.get_msg(block=True)
    finally:
        opened._reactor_checkpoint.set()
    assert isinstance(response, C_STORE), "no answer"
    assert response.Status is not None
    return response.Status, str(response.ErrorComment or "")
