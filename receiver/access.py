"""Who may connect and send, built from the settings."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime

import structlog

from pacsor_tasks.disk import DiskGuard
from pacsor_tasks.refusals import Refusals
from pacsor_tasks.settings import Settings
from receiver import allow_list, tls
from receiver.admission import Admission
from receiver.allow_list import AllowFile
from receiver.commitments import Commitments
from receiver.gate import Gate
from receiver.processes import Process
from receiver.seats import Seats

log = structlog.get_logger(__name__)

#: Connections that have not asked for an association yet, however few may be open.
LEAST_PENDING = 32
SOON_DAYS = 30


def check(settings: Settings) -> None:
    """Look at every file once before anything is started; say what an operator should know.

    Raises:
        ConfigError: One cannot be used; names the setting, and the line of the allow list.
    """
    if settings.RECEIVER_ALLOW is not None:
        rules = allow_list.load(settings.RECEIVER_ALLOW)
        log.info("allow_list.read", path=str(settings.RECEIVER_ALLOW), n_rules=len(rules))
    if tls_context(settings) is not None and settings.RECEIVER_TLS_CERT is not None:
        until = tls.valid_until(settings.RECEIVER_TLS_CERT)
        n_days = (until - datetime.now(UTC)).days
        say = log.warning if n_days < SOON_DAYS else log.info
        say("tls.certificate", valid_until=until.isoformat(), n_days=n_days)


def gate(settings: Settings, process: Process, guard: DiskGuard) -> Gate:
    """Who is let in, as the settings say.

    Raises:
        ConfigError: The allow list cannot be used.
    """
    admission = Admission(
        seats=Seats(
            process, settings.RECEIVER_MAX_ASSOCIATIONS, settings.RECEIVER_MAX_ASSOCIATIONS_PER_PEER
        ),
        is_disk_full=guard.is_full,
        rules=AllowFile(settings.RECEIVER_ALLOW).rules if settings.RECEIVER_ALLOW else None,
        own_aet=settings.RECEIVER_AET if settings.RECEIVER_CHECK_CALLED_AET else None,
    )
    return Gate(
        admission,
        Refusals(process.spool.root),
        associate_timeout_s=settings.RECEIVER_ASSOCIATE_TIMEOUT,
        most_pending=max(LEAST_PENDING, settings.RECEIVER_MAX_ASSOCIATIONS),
    )


def commitments(settings: Settings, process: Process) -> Commitments | None:
    """Storage Commitment, if it is offered."""
    if not settings.STORAGE_COMMITMENT:
        return None
    return Commitments(
        process,
        settings.RECEIVER_AET,
        settings.commitment_peers,
        must_sync=settings.DURABILITY == "none",
    )


def tls_context(settings: Settings) -> ssl.SSLContext | None:
    """What connections are secured with, if at all.

    Raises:
        ConfigError: A certificate or key cannot be used; names the setting.
    """
    if settings.RECEIVER_TLS_CERT is None or settings.RECEIVER_TLS_KEY is None:
        return None
    return tls.server_context(
        tls.TlsFiles(
            certificate=settings.RECEIVER_TLS_CERT,
            key=settings.RECEIVER_TLS_KEY,
            client_ca=settings.RECEIVER_TLS_CA,
            profile=settings.RECEIVER_TLS_PROFILE,
        )
    )
