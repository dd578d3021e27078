"""TLS towards a peer: what it has to prove, and what we show it."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from pacsor_tasks.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """TLS 1.2 or newer; the peer's certificate and name are checked unless that is switched off."""

    #: PEM file of the CAs that vouch for the peer; None: the system's
    ca: Path | None = None
    #: PEM files of our own certificate and its key
    cert: Path | None = None
    key: Path | None = None
    #: name in the peer's certificate; None: the host's
    name: str | None = None
    #: False: whoever answers is talked to
    verify: bool = True
    #: what its settings begin and end with, for errors: `PACS_TLS`, `_2`
    setting: str = "RIS_TLS"
    suffix: str = ""

    def context(self) -> ssl.SSLContext:
        """What a connection is made with; the files are read once per process.

        Raises:
            ConfigError: A file cannot be read or is none of the kind.
        """
        return _context(self)


@lru_cache(maxsize=64)
def _context(tls: Tls) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=tls.ca)
    except (OSError, ssl.SSLError) as exc:
        raise ConfigError(f"{_name(tls, 'CA')}={tls.ca}: {exc.strerror or exc}") from exc
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if not tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if tls.cert is not None:
        try:
            # A key with a passphrase would ask for it on the terminal.
            context.load_cert_chain(tls.cert, tls.key, password="")
        except (OSError, ssl.SSLError, ValueError) as exc:
            said = getattr(exc, "strerror", None) or str(exc)
            names = f"{_name(tls, 'CERT')}={tls.cert}, {_name(tls, 'KEY')}={tls.key}"
            raise ConfigError(f"{names}: {said}") from exc
    return context


def _name(tls: Tls, what: str) -> str:
    return f"{tls.setting}_{what}{tls.suffix}"
