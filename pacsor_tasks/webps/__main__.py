"""`python -m pacsor_tasks.webps`: take other providers' reports until SIGTERM."""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path

import structlog

from pacsor_tasks.cores import report_client
from pacsor_tasks.errors import ConfigError, PeerUnavailable
from pacsor_tasks.ledger import Ledger, migrate
from pacsor_tasks.listening import Listening, listening_file
from pacsor_tasks.observability import configure_logging
from pacsor_tasks.settings import Settings, load
from pacsor_tasks.settings_peers import webps_destinations
from pacsor_tasks.spool import Spool
from pacsor_tasks.webps.inbox import Inbox
from pacsor_tasks.webps.session import SessionFile
from pacsor_tasks.webps.subscriber import Subscriber

log = structlog.get_logger(__name__)

TICK_S = 0.5
#: Of the API that gives access, seconds.
ACCESS_S = 10.0
#: While the ledger is away, seconds.
LEDGER_S = 5.0
#: Exit status when the settings are refused; another try would end the same way.
REFUSED = 2


def main() -> int:
    """Subscribe; the exit status."""
    try:
        settings = load()
        if not settings.WEBPS_ENABLE:
            raise ConfigError("WEBPS_ENABLE: false, so there is nothing to listen to")  # noqa: TRY301 - one way out
        configure_logging(settings.PACSOR_LOG_LEVEL, settings.LOG_FORMAT)
        migrate(settings.ledger_url)
        _serve(settings)
    except ConfigError as exc:
        print(exc, file=sys.stderr)  # noqa: T201 - for the person who starts it
        return REFUSED
    return 0


def _serve(settings: Settings) -> None:
    spool = Spool(settings.spool_dir)
    spool.prepare()
    ledger = Ledger(settings.ledger_url)
    inbox = Inbox(spool, ledger, webps_destinations(settings))
    api = report_client(settings.TOKEN.get_secret_value(), settings, at_most_s=ACCESS_S)
    providers = settings.WEBPS_PROVIDERS
    subscriber = Subscriber(
        lambda: api.access_url(providers),
        {settings.WEBPS_GROUP.replace("{provider}", name): name for name in providers},
        inbox.put,
        SessionFile(settings.DATA_DIR.absolute() / "webps" / "session.json"),
    )
    listening = Listening(listening_file(settings.DATA_DIR))
    stopping: list[int] = []

    def stop(number: int, _: object) -> None:
        stopping.append(number)
        subscriber.stop()
        subscriber.news.set()

    threading.excepthook = _thread_ended
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    while not stopping:
        _beat(settings.HEARTBEAT_FILE)
        subscriber.attend()
        if subscriber.is_listening:
            listening.stamp()
        subscriber.news.clear()
        pause_s = _record(inbox)
        subscriber.news.wait(pause_s)
    # The connection is not closed: its session is for the next process.
    ledger.close()


def _record(inbox: Inbox) -> float:
    """Record what waits; seconds until it is to be looked at again."""
    try:
        inbox.record_all()
    except PeerUnavailable as exc:
        log.warning("webps.ledger_away", error=str(exc))
        return LEDGER_S
    except OSError as exc:
        log.error("webps.not_recorded", error=exc.strerror)  # noqa: TRY400 - no traceback
        return LEDGER_S
    return TICK_S


def _thread_ended(args: threading.ExceptHookArgs) -> None:
    """The library's threads end when their connection does; their words may quote a frame."""
    log.warning("webps.thread_ended", error_type=args.exc_type.__name__)


def _beat(file: Path | None) -> None:
    if file is not None:
        file.touch()


if __name__ == "__main__":
    sys.exit(main())
