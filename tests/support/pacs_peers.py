"""PACSs for the SCU's tests: DCMTK, Orthanc, and scripted ones."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.uid import (
    UID,
    ExplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
    generate_uid,
)
from pynetdicom import AE, evt
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from pacsor_tasks.dicom.headers import data_set_offset, read_header
from pacsor_tasks.dicom.scu import Pacs, StoreItem
from tests.support.net import free_port, wait_until
from tests.support.peers import require_program


def pacs_at(port: int, **changes: Any) -> Pacs:
    """A PACS on this machine, patient enough for a busy one."""
    return replace(
        Pacs(
            name="storescu",
            host="127.0.0.1",
            port=port,
            called_aet="PACS",
            calling_aet="MILVUE",
            connect_timeout_s=10,
            timeout_s=20,
        ),
        **changes,
    )


def item_of(path: Path, key: int = 0) -> StoreItem:
    """A file as the SCU takes it."""
    header = read_header(path)
    return StoreItem(
        key=key,
        path=path,
        sop_class_uid=header.sop_class_uid,
        sop_instance_uid=header.sop_instance_uid,
        transfer_syntax_uid=header.transfer_syntax_uid,
    )


def write_instance(
    directory: Path,
    sop_class_uid: str = SecondaryCaptureImageStorage,
    transfer_syntax_uid: str = ExplicitVRLittleEndian,
) -> Path:
    """A small image under new UIDs."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = UID(transfer_syntax_uid)
    dataset.SOPClassUID = sop_class_uid
    dataset.SOPInstanceUID = generate_uid()
    dataset.StudyInstanceUID = generate_uid()
    dataset.SeriesInstanceUID = generate_uid()
    dataset.PatientName, dataset.PatientID = "Test^Only", "T1"
    dataset.Modality, dataset.ConversionType = "OT", "WSD"
    pixels = np.arange(64 * 64, dtype="u2").reshape(64, 64)
    if transfer_syntax_uid == "1.2.840.10008.1.2.2":
        pixels = pixels.byteswap()
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = 64, 64, 1
    dataset.PhotometricInterpretation, dataset.PixelRepresentation = "MONOCHROME2", 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
    dataset.PixelData = pixels.tobytes()
    dataset["PixelData"].VR = "OW"
    path = directory / f"{dataset.SOPInstanceUID}.dcm"
    dataset.save_as(path, enforce_file_format=True)
    return path


def data_set_bytes(path: Path) -> bytes:
    """A file without its preamble and file meta information."""
    return path.read_bytes()[data_set_offset(path)[1] :]


@dataclass
class Answers:
    """Collects what the SCU reports."""

    given: list[tuple[StoreItem, int, str]] = field(default_factory=list)

    def __call__(self, item: StoreItem, status: int, meaning: str) -> None:
        self.given.append((item, status, meaning))

    @property
    def statuses(self) -> list[int]:
        return [status for _, status, _ in self.given]


@contextmanager
def _running(command: Sequence[str], port: int, **options: Any) -> Iterator[None]:
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options
    )
    try:
        wait_until(lambda: process.poll() is not None or _listens(port))
        assert process.poll() is None, f"{command[0]} ended with {process.returncode}"
        yield
    finally:
        process.terminate()
        process.wait(10)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def storescp(directory: Path, *options: str) -> Iterator[Pacs]:
    """DCMTK's storage SCP, which writes what it takes byte by byte into the directory."""
    port = free_port()
    directory.mkdir(exist_ok=True)
    command = [
        str(require_program("storescp")), "+B", "-pdu", "131072", *options,
        "-od", str(directory), "-fe", ".dcm", str(port),
    ]  # fmt: skip
    with _running(command, port, env={"TCP_NODELAY": "1"}):
        yield pacs_at(port)


def received(directory: Path) -> dict[str, Path]:
    """What storescp wrote, by SOP Instance UID."""
    return {str(dcmread(p, stop_before_pixels=True).SOPInstanceUID): p for p in directory.iterdir()}


@contextmanager
def dcmqrscp(directory: Path) -> Iterator[Pacs]:
    """DCMTK's image archive."""
    port = free_port()
    (directory / "db").mkdir(parents=True)
    config = directory / "dcmqrscp.cfg"
    config.write_text(
        f"NetworkTCPPort = {port}\nMaxPDUSize = 16384\nMaxAssociations = 16\n"
        "HostTable BEGIN\nHostTable END\nVendorTable BEGIN\nVendorTable END\n"
        f"AETable BEGIN\nPACS {directory / 'db'} RW (200, 1024mb) ANY\nAETable END\n"
    )
    command = [str(require_program("dcmqrscp")), "--config", str(config)]
    with _running(command, port):
        yield pacs_at(port)


@dataclass(frozen=True)
class OrthancPeer:
    """A running Orthanc."""

    pacs: Pacs
    url: str

    def instances(self) -> dict[str, bytes]:
        """Its files by SOP Instance UID."""
        found = {}
        for name in json.loads(self._get("/instances")):
            tags = json.loads(self._get(f"/instances/{name}/simplified-tags"))
            found[tags["SOPInstanceUID"]] = self._get(f"/instances/{name}/file")
        return found

    def _get(self, path: str) -> bytes:
        with urllib.request.urlopen(self.url + path, timeout=20) as answer:
            content: bytes = answer.read()
        return content


@contextmanager
def orthanc(directory: Path, **settings: Any) -> Iterator[OrthancPeer]:
    """Orthanc with an empty store; further settings by their name in its configuration."""
    directory.mkdir(exist_ok=True)
    dicom_port, http_port = free_port(), free_port()
    config = {
        "Name": "test", "StorageDirectory": str(directory), "IndexDirectory": str(directory),
        "DicomPort": dicom_port, "HttpPort": http_port, "DicomAet": "PACS",
        "RemoteAccessAllowed": False, "AuthenticationEnabled": False, "Plugins": [],
        "DicomServerEnabled": True, "HttpServerEnabled": True,
    } | settings  # fmt: skip
    path = directory / "orthanc.json"
    path.write_text(json.dumps(config))
    with _running([str(require_program("Orthanc")), str(path)], http_port):
        wait_until(lambda: _listens(dicom_port))
        yield OrthancPeer(pacs_at(dicom_port), f"http://127.0.0.1:{http_port}")


@dataclass
class Script:
    """What a scripted PACS did and saw."""

    pacs: Pacs
    #: proposed (SOP class, transfer syntaxes) of every association
    proposals: list[list[tuple[str, list[str]]]] = field(default_factory=list)
    stored: list[str] = field(default_factory=list)
    released: int = 0
    aborted: int = 0


@contextmanager
def scripted(
    contexts: Iterable[tuple[str, Sequence[str]]],
    on_store: Callable[[evt.Event, int], int] = lambda event, n: 0,
    **settings: Any,
) -> Iterator[Script]:
    """A pynetdicom SCP that answers C-STORE number n with what `on_store(event, n)` returns.

    Args:
        contexts: SOP class and the transfer syntaxes it takes.
        on_store: May also abort or wait.
        settings: Attributes of the AE.
    """
    port = free_port()
    script = Script(pacs_at(port))
    ae = AE("PACS")
    for name, value in settings.items():
        setattr(ae, name, value)
    ae.add_supported_context(Verification)
    for sop_class, syntaxes in contexts:
        ae.add_supported_context(sop_class, list(syntaxes))

    def store(event: evt.Event) -> int:
        request = cast(C_STORE, event.request)
        script.stored.append(str(request.AffectedSOPInstanceUID))
        return on_store(event, len(script.stored))

    def requested(event: evt.Event) -> None:
        script.proposals.append(
            [
                (str(context.abstract_syntax), [str(s) for s in context.transfer_syntax])
                for context in event.assoc.requestor.requested_contexts
            ]
        )

    def count(name: str) -> Callable[[evt.Event], None]:
        return lambda _event: setattr(script, name, getattr(script, name) + 1)

    server = ae.start_server(
        ("127.0.0.1", port),
        block=False,
        evt_handlers=[
            (evt.EVT_C_STORE, store),
            (evt.EVT_REQUESTED, requested),
            (evt.EVT_RELEASED, count("released")),
            (evt.EVT_ABORTED, count("aborted")),
        ],
    )
    assert server is not None
    try:
        yield script
    finally:
        server.shutdown()


@contextmanager
def raw_server(serve: Callable[[socket.socket], None]) -> Iterator[Pacs]:
    """A TCP server on which `serve` gets each connection; closed when it returns."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def run() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    try:
                        serve(connection)
                    except OSError:
                        continue  # the client has gone: its right

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield pacs_at(server.getsockname()[1])
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join(10)
            assert not thread.is_alive()


def read_pdu(connection: socket.socket) -> bytes:
    """One whole PDU off a connection; OSError at its end."""
    head = _exactly(connection, 6)
    return head + _exactly(connection, int.from_bytes(head[2:6], "big"))


def _exactly(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = connection.recv(count - len(data))
        if not piece:
            raise ConnectionError
        data += piece
    return data
