"""The simulated PACS as a server in threads of this process."""

from __future__ import annotations

import shutil
import socketserver
import tempfile
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pynetdicom import AE, build_context
from pynetdicom.transport import ThreadedAssociationServer

from pacsor_tasks.errors import PeerUnavailable
from simulators.pacs.handlers import Handlers, PacsJournal
from simulators.pacs.switches import OPERATIONS, SCOPES, PacsSwitches
from simulators.switches import Switches

VERIFICATION = "1.2.840.10008.1.1"
MAX_ASSOCIATIONS = 100
MAX_PDU_BYTES = 131072
JOIN_TIMEOUT_S = 1.5


class PacsSimulator:
    """A storage SCP that keeps what it gets.

    Args:
        ae_title: Its own AE title; any called title is accepted unless ``reject`` says otherwise.
        host: Address to listen on.
        port: 0 for a free one.
        folder: Where instances are kept; None for a temporary folder that `stop` removes.
        journal_path: Where events are written as JSON lines.
        switches_file: JSON switches, read again when it changes.
        switches: Initial switches, see `PacsSwitches`. Later rules can be narrowed by ``operation``
            (associate, store), ``calling_aet`` and ``sop_instance_uid``.
    """

    def __init__(  # noqa: PLR0913  (keyword-only options of one server)
        self,
        *,
        ae_title: str = "PACS",
        host: str = "127.0.0.1",
        port: int = 0,
        folder: Path | None = None,
        journal_path: Path | None = None,
        switches_file: Path | None = None,
        **switches: Any,
    ) -> None:
        self.switches = Switches(
            PacsSwitches,
            scopes=SCOPES,
            operations=OPERATIONS,
            initial=switches,
            file=switches_file,
        )
        self.journal = PacsJournal(journal_path)
        self.ae_title = ae_title
        self.host = host
        self.port = port
        self._folder = folder
        self._temporary: Path | None = None
        self._handlers = Handlers(self.switches, self.journal, lambda: self.folder)
        self._server: ThreadedAssociationServer | None = None
        self._thread: threading.Thread | None = None

    @property
    def folder(self) -> Path:
        """Where instances are kept, one ``<SOP Instance UID>.dcm`` each."""
        if self._folder is None:
            self._folder = self._temporary = Path(tempfile.mkdtemp(prefix="pacs-simulator-"))
        self._folder.mkdir(parents=True, exist_ok=True)
        return self._folder

    def files(self) -> list[Path]:
        """The instances kept, by name."""
        return sorted(self.folder.glob("*.dcm"))

    def start(self) -> Self:
        """Listen, and return when it does.

        Raises:
            PeerUnavailable: The port is taken.
        """
        ae = AE(self.ae_title)
        ae.maximum_associations = MAX_ASSOCIATIONS
        ae.maximum_pdu_size = MAX_PDU_BYTES
        try:
            server = ae.make_server(
                (self.host, self.port),
                # replaced for each association by what it proposes
                contexts=[build_context(VERIFICATION)],
                evt_handlers=self._handlers.bindings(),
                server_class=ThreadedAssociationServer,
            )
        except OSError as exc:
            message = f"cannot listen on {self.host}:{self.port}: {exc.strerror}"
            raise PeerUnavailable(message) from exc
        self.port = int(server.server_address[1])
        self._thread = threading.Thread(
            target=server.serve_forever, args=(0.05,), name=f"pacs-{self.port}"
        )
        self._server = server
        self._thread.start()
        return self

    def stop(self) -> None:
        """Stop listening and drop every association."""
        if self._server is not None and self._thread is not None:
            # the server's own shutdown() is for servers that the AE started
            socketserver.BaseServer.shutdown(self._server)
            self._server.server_close()
            self._thread.join()
            # those that just ended are still winding down: they are waited for as well
            associations = self._server.active_associations
            self._handlers.drop_all()
            for association in associations:
                association.join(JOIN_TIMEOUT_S)
                association.dul.join(JOIN_TIMEOUT_S)
        self.journal.close()
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)
        self._server = self._thread = self._temporary = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
