"""The simulated TechCare Report API and its Web PubSub, each a real server in this process."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pacsor_tasks.errors import ConfigError
from simulators.http import HttpServer
from simulators.journal import Journal
from simulators.switches import Switches
from simulators.tcr.app import Desk, build_app
from simulators.tcr.switches import TcrSwitches


class TcrSimulator:
    """The API on one port and Web PubSub on another; keeps its state in memory.

    Args:
        token: The accepted token or tokens; None accepts any.
        host: Address to listen on.
        port: Port of the API; 0 for a free one.
        pubsub_port: Port of Web PubSub; 0 for a free one, None for none.
        journal_path: Where events are written as JSON lines.
        switches_file: JSON switches, read again when it changes.
        switches: Initial switches, see `TcrSwitches`; scopes are `operation` (`report`, `upload`,
            `status`, `access`) and `study_uid`.

    Raises:
        ConfigError: A wrong switch, or Web PubSub without the package `websockets`.
    """

    def __init__(  # noqa: PLR0913  (keyword-only options of one server)
        self,
        *,
        token: str | tuple[str, ...] | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        pubsub_port: int | None = 0,
        journal_path: Path | None = None,
        switches_file: Path | None = None,
        **switches: Any,
    ) -> None:
        if token is not None:
            switches["tokens"] = (token,) if isinstance(token, str) else token
        self.switches = Switches(
            TcrSwitches,
            scopes=("operation", "study_uid"),
            initial=switches,
            file=switches_file,
        )
        self.journal = Journal(journal_path)
        self.pubsub = None
        if pubsub_port is not None:
            try:
                from simulators.tcr.pubsub import PubSub
            except ModuleNotFoundError as exc:
                raise ConfigError(f"Web PubSub needs the package {exc.name}") from exc
            self.pubsub = PubSub(self.journal, host, pubsub_port)
        self._desk = Desk(self.switches, self.journal, self.pubsub)
        self._http = HttpServer(build_app(self._desk, self.reset), host, port)

    @property
    def reports(self) -> dict[str, dict[str, Any]]:
        """Study UID → what its answer has beside UID and status, e.g. `{"report": {…}}`."""
        return self._desk.reports

    @property
    def studies(self) -> dict[str, set[str]]:
        """Study UID → SOP Instance UIDs that were sent."""
        return self._desk.studies

    @property
    def port(self) -> int:
        """The port of the API."""
        return self._http.port

    @property
    def url(self) -> str:
        """The base URL of the API, without a trailing slash."""
        return self._http.url

    def start(self) -> Self:
        """Listen, and return when it does.

        Raises:
            PeerUnavailable: A port is taken.
        """
        if self.pubsub is not None:
            self.pubsub.start()
        self._http.start()
        return self

    def stop(self) -> None:
        """Stop listening."""
        self._http.stop()
        if self.pubsub is not None:
            self.pubsub.stop()
        self.journal.close()

    def reset(self) -> None:
        """Forget studies, reports, journal and rules; initial switches stay."""
        self.reports.clear()
        self.studies.clear()
        self.journal.clear()
        self.switches.clear()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
