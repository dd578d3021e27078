"""Application entities named on the command line: `AET@host:port`."""

from __future__ import annotations

import re
import ssl

from pacsor_tasks.cli.gateway import reachable
from pacsor_tasks.dicom.scu import Pacs
from pacsor_tasks.errors import ConfigError
from pacsor_tasks.settings import Settings

NODE = re.compile(
    r"(?P<aet>[^@\\]{1,16})@(?P<host>\[[0-9A-Fa-f:.%]+\]|[^:@\s\[\]]+):(?P<port>[0-9]{1,5})"
)
DEFAULT_CALLING_AET = "PACSOR"
CONNECT_TIMEOUT_S = 10.0
TIMEOUT_S = 60.0


def parse_node(text: str, calling_aet: str = DEFAULT_CALLING_AET) -> Pacs:
    """An application entity from `AET@host:port`; an IPv6 address stands in square brackets.

    Raises:
        ConfigError: It is not written so.
    """
    match = NODE.fullmatch(text)
    if match is None or not match["aet"].strip() or not 0 < int(match["port"]) < 65536:
        raise ConfigError(f"{text!r} is not AET@host:port, e.g. MILVUE@10.0.0.5:1040")
    return Pacs(
        name=match["aet"].strip(),
        host=match["host"].strip("[]"),
        port=int(match["port"]),
        called_aet=match["aet"].strip(),
        calling_aet=calling_aet,
        connect_timeout_s=CONNECT_TIMEOUT_S,
        timeout_s=TIMEOUT_S,
    )


def own_receiver(settings: Settings, calling_aet: str) -> Pacs:
    """The receiver of this gateway, as its own sender reaches it.

    Raises:
        ConfigError: RECEIVER_TLS_CERT or RECEIVER_TLS_KEY cannot be used.
    """
    return Pacs(
        name="receiver",
        host=reachable(settings.RECEIVER_HOST),
        port=settings.PORT,
        called_aet=settings.RECEIVER_AET,
        calling_aet=calling_aet,
        connect_timeout_s=CONNECT_TIMEOUT_S,
        timeout_s=TIMEOUT_S,
        tls=_tls_towards_us(settings),
    )


def _tls_towards_us(settings: Settings) -> ssl.SSLContext | None:
    """Trusts the receiver's own certificate and no other; shows the same to it."""
    if settings.RECEIVER_TLS_CERT is None or settings.RECEIVER_TLS_KEY is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # loopback is in no certificate
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        context.load_verify_locations(settings.RECEIVER_TLS_CERT)
        if settings.RECEIVER_TLS_CA is not None:
            context.load_cert_chain(
                settings.RECEIVER_TLS_CERT, settings.RECEIVER_TLS_KEY, password=lambda: b""
            )
    except OSError as exc:
        raise ConfigError(f"RECEIVER_TLS_CERT, RECEIVER_TLS_KEY: {exc.strerror or exc}") from exc
    return context


def describe(pacs: Pacs) -> str:
    """An application entity as it is written on the command line."""
    host = f"[{pacs.host}]" if ":" in pacs.host else pacs.host
    return f"{pacs.called_aet}@{host}:{pacs.port}"
