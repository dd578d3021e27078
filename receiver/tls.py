"""DICOM over TLS, as its acceptor: the profiles of PS3.15 Annex B, and the handshake.

The handshake is done in the connection's own thread, with a deadline for the whole of it.
"""

from __future__ import annotations

import socket
import ssl
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from pacsor_tasks.errors import ConfigError

#: Seconds that a peer has to hang up after it was told why the handshake failed.
LINGER_S = 1.0
#: RSA and DH of 2048 bits, ECC of 224, SHA-256 in certificates: what all the profiles ask for.
LEVEL = "@SECLEVEL=2"
GCM = (
    "ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-RSA-AES128-GCM-SHA256",
)  # fmt: skip
RSA_GCM = ("ECDHE-RSA-AES256-GCM-SHA384", "ECDHE-RSA-AES128-GCM-SHA256")
CHACHA = ("ECDHE-ECDSA-CHACHA20-POLY1305", "ECDHE-RSA-CHACHA20-POLY1305")
CCM = (
    "ECDHE-ECDSA-AES256-CCM", "ECDHE-ECDSA-AES256-CCM8",
    "ECDHE-ECDSA-AES128-CCM", "ECDHE-ECDSA-AES128-CCM8",
)  # fmt: skip


class Profile(NamedTuple):
    """What a profile lets be negotiated. DHE suites are optional in all of them, and left out."""

    #: of TLS 1.2, the strongest first; those of TLS 1.3 are OpenSSL's own three
    suites: tuple[str, ...]
    newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3


#: Source: DICOM PS3.15 B.12, B.13 (2024e); B.10, B.11 (2022b; retired since), RFC 9325 §4.2.
PROFILES: dict[str, Profile] = {
    "bcp195": Profile(GCM),
    # B.13 knows Camellia too, which OpenSSL has not in this mode, and CCM in TLS 1.3, which
    # Python's ssl cannot switch on.
    "modified": Profile((*GCM, *CHACHA, *CCM)),
    "non-downgrading": Profile(RSA_GCM),
    # It names its suites one by one, and none of TLS 1.3.
    "extended": Profile(GCM, ssl.TLSVersion.TLSv1_2),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """What RECEIVER_TLS_… name."""

    certificate: Path
    key: Path
    #: None: no client certificate is asked for
    client_ca: Path | None
    profile: str


class NoTls(Exception):
    """The handshake failed; says why in words for an operator."""

    #: the peer hung up before it said anything: a port check, no sender
    is_silent: bool = False
    #: the peer has no certificate
    has_no_certificate: bool = False


def server_context(files: TlsFiles) -> ssl.SSLContext:
    """The context that connections are accepted with.

    Raises:
        ConfigError: A file cannot be used; names the setting.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    profile = PROFILES[files.profile]
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.maximum_version = profile.newest
    context.set_ciphers(":".join((*profile.suites, LEVEL)))
    context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE | ssl.OP_NO_RENEGOTIATION
    _load_chain(context, files)
    if files.client_ca is not None:
        _load_authorities(context, files.client_ca, "RECEIVER_TLS_CA")
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def valid_until(certificate: Path) -> datetime:
    """When a certificate expires.

    Raises:
        ConfigError: It cannot be read.
    """
    _read("RECEIVER_TLS_CERT", certificate)
    try:
        # The only door of the standard library to a certificate that is not a peer's.
        found = ssl._ssl._test_decode_cert(str(certificate))  # type: ignore[attr-defined]
        return datetime.fromtimestamp(ssl.cert_time_to_seconds(found["notAfter"]), UTC)
    except (ssl.SSLError, OSError, ValueError, KeyError, AttributeError) as exc:
        raise ConfigError(
            f"RECEIVER_TLS_CERT: {certificate} is not a certificate in PEM form"
        ) from exc


def wrapped(context: ssl.SSLContext, connection: socket.socket) -> ssl.SSLSocket:
    """The connection as it will speak TLS, before the handshake. Takes `connection` over.

    Raises:
        NoTls: It is gone already.
    """
    try:
        return context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
    except OSError as exc:
        connection.close()
        raise _why(exc) from exc


def shake_hands(connection: ssl.SSLSocket, timeout_s: float) -> None:
    """Do the handshake.

    Args:
        connection: From `wrapped`. Its time limit is as before, afterwards.
        timeout_s: For the whole of it, however it trickles in.

    Raises:
        NoTls: It failed.
    """
    before = connection.gettimeout()
    try:
        connection.settimeout(timeout_s)
        connection.do_handshake()
        connection.settimeout(before)
    except (OSError, ValueError) as exc:
        raise _why(exc) from exc


def let_go(connection: ssl.SSLSocket, timeout_s: float = LINGER_S) -> None:
    """End a connection whose handshake failed, so that the peer reads the alert that says why.

    What it had sent beyond the fault is unread: were the connection closed on top of that, it
    would be reset, and the alert perhaps thrown away with it (RFC 1122 §4.2.2.13).
    """
    until = time.monotonic() + timeout_s
    try:
        connection.shutdown(socket.SHUT_WR)
        while (left_s := until - time.monotonic()) > 0:
            connection.settimeout(left_s)
            if not connection.recv(1 << 16):
                break
    except OSError:
        pass  # it is gone
    finally:
        connection.close()


def _why(exc: Exception) -> NoTls:
    if isinstance(exc, TimeoutError):
        return NoTls("the handshake was not finished in time")
    if isinstance(exc, ssl.SSLError) and exc.reason and not isinstance(exc, ssl.SSLEOFError):
        words = exc.reason.replace("_", " ").lower()
        told = NoTls(f"{words}: it does not speak TLS" if words in NOT_TLS else words)
        told.has_no_certificate = exc.reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE"
        return told
    gone = NoTls("hung up in the handshake")
    gone.is_silent = True
    return gone


NOT_TLS = frozenset({"wrong version number", "http request", "record layer failure"})


def _load_chain(context: ssl.SSLContext, files: TlsFiles) -> None:
    _read("RECEIVER_TLS_CERT", files.certificate)
    _read("RECEIVER_TLS_KEY", files.key)
    _load_authorities(
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), files.certificate, "RECEIVER_TLS_CERT"
    )
    try:
        # Without a password function OpenSSL would ask for one on the terminal.
        context.load_cert_chain(files.certificate, files.key, password=lambda: b"")
    except ssl.SSLError as exc:
        reason = {
            "KEY_VALUES_MISMATCH": "it is not the key of RECEIVER_TLS_CERT",
            "EE_KEY_TOO_SMALL": "the key is too short: 2048 bits of RSA at least",
            "CA_MD_TOO_WEAK": "the certificate is signed with too weak a digest",
        }.get(exc.reason or "", "not a private key in PEM form without a password")
        raise ConfigError(f"RECEIVER_TLS_KEY: {files.key}: {reason}") from exc


def _load_authorities(context: ssl.SSLContext, path: Path, setting: str) -> None:
    _read(setting, path)
    try:
        context.load_verify_locations(path)
    except (ssl.SSLError, OSError) as exc:
        raise ConfigError(f"{setting}: {path} is not a certificate in PEM form") from exc


def _read(setting: str, path: Path) -> None:
    try:
        path.read_bytes()
    except OSError as exc:
        raise ConfigError(f"{setting}: {path} cannot be read: {exc.strerror}") from exc
