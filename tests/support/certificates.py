"""A certification authority for tests, made by the openssl command."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.support.peers import require_program


@dataclass(frozen=True)
class Certified:
    """A certificate and its private key, PEM files."""

    certificate: Path
    key: Path


class Authority:
    """A CA of its own in a directory.

    Args:
        directory: For its files and those it makes.
        name: Its common name.
    """

    def __init__(self, directory: Path, name: str = "Test CA") -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._openssl = str(require_program("openssl"))
        self.certificate, self._key = directory / "ca.pem", directory / "ca.key"
        self._run(
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}",
            "-keyout", str(self._key), "-out", str(self.certificate),
        )  # fmt: skip

    def issue(self, name: str, *, days: int = 2, key: str = "rsa:2048") -> Certified:
        """A certificate for a name, its key of the kind `openssl req -newkey` means."""
        made = Certified(self._directory / f"{name}.pem", self._directory / f"{name}.key")
        request, extensions = self._directory / f"{name}.csr", self._directory / f"{name}.ext"
        curve = ("-pkeyopt", "ec_paramgen_curve:P-256") if key == "ec" else ()
        self._run(
            "req", "-newkey", key, *curve, "-nodes", "-subj", f"/CN={name}",
            "-keyout", str(made.key), "-out", str(request),
        )  # fmt: skip
        extensions.write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
        self._run(
            "x509", "-req", "-in", str(request), "-CA", str(self.certificate),
            "-CAkey", str(self._key), "-CAcreateserial", "-days", str(days),
            "-extfile", str(extensions), "-out", str(made.certificate),
        )  # fmt: skip
        return made

    def lock(self, certified: Certified) -> Certified:
        """The same with its key under a password."""
        locked = certified.key.with_suffix(".locked")
        self._run(
            "rsa", "-aes256", "-passout", "pass:secret", "-in", str(certified.key),
            "-out", str(locked),
        )  # fmt: skip
        return Certified(certified.certificate, locked)

    def _run(self, *arguments: str) -> None:
        subprocess.run([self._openssl, *arguments], check=True, capture_output=True, timeout=60)
