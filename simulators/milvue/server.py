"""The simulated AI service as a real HTTP server in a thread of this process."""

from __future__ import annotations

import asyncio
import shutil
import socket
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from pacsor_tasks.errors import PeerUnavailable
from simulators.milvue.answers import Answers
from simulators.milvue.app import Backend, build_app
from simulators.milvue.exchange import Desk
from simulators.milvue.journal import MilvueJournal
from simulators.milvue.signing import Signer
from simulators.milvue.studies import Studies
from simulators.milvue.switches import milvue_switches
from simulators.milvue.uploads import Uploads

START_TIMEOUT_S = 10
#: how long answers under way may take once asked to stop
GRACE_S = 1


class _Protocol(H11Protocol):
    """Lets a request reach its connection, to reset it."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # asyncio sets it only on sockets that were made with the protocol's number. Without it an
        # answer of two writes takes 40 ms.
        connection = transport.get_extra_info("socket")
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.app_state = {**self.app_state, "transport": transport}


class _Server(uvicorn.Server):
    """Says when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.is_up = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.is_up.set()


class MilvueSimulator:
    """The Milvue API v3 on one port and its storage, for signed URLs, on another.

    Keeps its state in memory and in a temporary folder: a new one knows nothing.

    Args:
        token: The accepted API key or keys; None accepts any.
        host: Address to listen on.
        port: Port of the API; 0 for a free one.
        storage_port: Port of the signed URLs; 0 for a free one.
        journal_path: Where events are written as JSON lines.
        switches_file: JSON switches, read again when it changes.
        switches: Initial switches, see `MilvueSwitches`.
    """

    def __init__(  # noqa: PLR0913  (keyword-only options of one server)
        self,
        *,
        token: str | tuple[str, ...] | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        storage_port: int = 0,
        journal_path: Path | None = None,
        switches_file: Path | None = None,
        **switches: Any,
    ) -> None:
        if token is not None:
            switches["tokens"] = (token,) if isinstance(token, str) else token
        self.switches = milvue_switches(switches, switches_file)
        self.journal = MilvueJournal(journal_path)
        self.studies = Studies()
        self._host = host
        self._ports = [port, storage_port]
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None
        self._executor: ThreadPoolExecutor | None = None
        self._folder: Path | None = None

    @property
    def port(self) -> int:
        """The port of the API."""
        return self._ports[0]

    @property
    def storage_port(self) -> int:
        """The port of the signed URLs."""
        return self._ports[1]

    @property
    def url(self) -> str:
        """The base URL of the API, without a trailing slash."""
        return f"http://{_reachable(self._host)}:{self.port}"

    def start(self) -> Self:
        """Listen, and return when it does.

        Raises:
            PeerUnavailable: A port is taken.
        """
        sockets = _listen(self._host, self._ports)
        self._ports = [int(listener.getsockname()[1]) for listener in sockets]
        self._folder = Path(tempfile.mkdtemp(prefix="milvue-simulator-"))
        self._executor = ThreadPoolExecutor(2, thread_name_prefix="milvue-simulator")
        config = uvicorn.Config(
            build_app(self._backend(self._folder, self._executor)),
            http=_Protocol,
            ws="none",
            loop="asyncio",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=GRACE_S,
        )
        server = self._server = _Server(config)
        self._thread = threading.Thread(
            target=lambda: asyncio.run(server.serve(sockets)), name=f"milvue-{self.port}"
        )
        self._thread.start()
        if not server.is_up.wait(START_TIMEOUT_S):
            self.stop()
            raise PeerUnavailable(f"the simulator does not start within {START_TIMEOUT_S} s")
        return self

    def stop(self) -> None:
        """Stop listening, end what is under way within `GRACE_S`, and delete the files."""
        if self._server is not None and self._thread is not None:
            self._server.should_exit = True
            self._thread.join()
        if self._executor is not None:
            self._executor.shutdown(wait=True)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        self.journal.close()
        self._server = self._thread = self._executor = self._folder = None

    def reset(self) -> None:
        """Forget studies, files, journal and rules; initial switches stay."""
        self.studies.clear()
        self.journal.clear()
        self.switches.clear()
        for path in self._folder.iterdir() if self._folder is not None else ():
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _backend(self, folder: Path, executor: ThreadPoolExecutor) -> Backend:
        desk, signer = Desk(self.switches, self.journal), Signer()
        return Backend(
            desk=desk,
            uploads=Uploads(desk, self.studies, signer, folder, executor),
            answers=Answers(desk, self.studies, signer, executor),
            storage_port=lambda: self.storage_port,
            reset=self.reset,
        )


def _listen(host: str, ports: list[int]) -> list[socket.socket]:
    sockets: list[socket.socket] = []
    for port in ports:
        try:
            sockets.append(socket.create_server((host, port), backlog=128))
        except OSError as exc:
            for opened in sockets:
                opened.close()
            raise PeerUnavailable(f"cannot listen on {host}:{port}: {exc.strerror}") from exc
    return sockets


def _reachable(host: str) -> str:
    """A host to connect to for an address to listen on."""
    return "127.0.0.1" if host in ("0.0.0.0", "") else host  # noqa: S104  (compared, not bound)
