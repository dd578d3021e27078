"""Signed URLs in the manner of cloud storage: a path, an expiry and a signature over both."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from urllib.parse import quote, urlencode


class Signer:
    """Signs the URLs of one service; a new service refuses the URLs of an older one."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)

    def sign(self, base_url: str, path: str, ttl_s: float) -> str:
        """An absolute URL that is good for so many seconds.

        Args:
            base_url: Scheme, host and port.
            path: Unquoted, starting with a slash.
            ttl_s: 0 for a URL that is already too old.
        """
        expires = str(time.time() + ttl_s)
        query = urlencode({"se": expires, "sig": self._signature(path, expires)})
        return f"{base_url}{quote(path)}?{query}"

    def is_valid(self, path: str, expires: str, signature: str) -> bool:
        """The signature is ours and the time is not over."""
        if not hmac.compare_digest(self._signature(path, expires).encode(), signature.encode()):
            return False
        return time.time() < float(expires)

    def _signature(self, path: str, expires: str) -> str:
        return hmac.new(self._key, f"{path}\n{expires}".encode(), hashlib.sha256).hexdigest()
