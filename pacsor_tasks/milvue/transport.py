"""HTTP as this API needs it: one keep-alive session, bounded waits, bounded bodies, our errors.

No redirect is followed: `requests` would carry the token to whatever host it names. No request is
repeated here: when to try again is the pipeline's decision.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote, urlsplit

import requests
from requests.utils import get_environ_proxies

from pacsor_tasks import __version__
from pacsor_tasks.errors import BadResponse, ConfigError, PacsorError
from pacsor_tasks.milvue.adapter import PatientAdapter
from pacsor_tasks.milvue.dialect import MILVUE, Dialect
from pacsor_tasks.milvue.media import MediaType
from pacsor_tasks.milvue.refusals import api_refusal, storage_refusal, translated

# urllib3 logs request lines with their query: a signed URL in a log is a key to the images.
logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)

BLOCK_BYTES = 256 * 1024
ERROR_BODY_BYTES = 64 * 1024
JSON_BODY_BYTES = 32 * 1024 * 1024


class Answer:
    """A streamed response with a success status. Read it inside its `with` block."""

    def __init__(self, response: requests.Response, what: str) -> None:
        self._response = response
        self.what = what
        self.status = response.status_code
        self.media = MediaType.parse(response.headers.get("Content-Type", ""))

    def blocks(self) -> Iterator[bytes]:
        """The body as it arrives; a body shorter than announced raises `PeerUnavailable`."""
        yield from self._response.iter_content(BLOCK_BYTES)

    def body(self, limit: int = JSON_BODY_BYTES) -> bytes:
        """The whole body, at most `limit` bytes.

        Raises:
            BadResponse: It is longer.
        """
        parts: list[bytes] = []
        size = 0
        for block in self.blocks():
            size += len(block)
            if size > limit:
                raise BadResponse(f"{self.what}: the answer is larger than {limit} bytes")
            parts.append(block)
        return b"".join(parts)

    def drain(self) -> None:
        """Read and forget a small body, so that the connection can be used again."""
        _beginning(self._response)

    def json_object(self) -> dict[str, Any]:
        """The body as a JSON object.

        Raises:
            BadResponse: It is something else.
        """
        return parse_object(self.body(), self.what)


def parse_object(body: bytes | bytearray, what: str) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        BadResponse: The bytes are something else.
    """
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        raise BadResponse(f"{what}: the answer is not JSON") from None
    if not isinstance(value, dict):
        raise BadResponse(f"{what}: the answer is not a JSON object")
    return value


class Transport:
    """The session under the client. Safe to use from several threads.

    Args:
        base_url: Of the API, with or without a path.
        token: The API key; printable ASCII.
        timeouts_s: (connect, read): how long to wait for a connection, and for each block
            of an answer. The read time-out also bounds each block of a body being sent.
        parallel: How many connections to keep to each host.
        dialect: Of the API.

    Raises:
        ConfigError: The URL or the token cannot be used.
    """

    def __init__(
        self,
        base_url: str,
        token: str,
        *,
        timeouts_s: tuple[float, float],
        parallel: int,
        dialect: Dialect = MILVUE,
    ) -> None:
        split = _checked(base_url, dialect)
        if not token or not token.isascii() or not token.isprintable() or token != token.strip():
            setting = dialect.token_setting
            raise ConfigError(f"{setting}: must be printable ASCII without blanks around it")
        self.host = split.netloc.rpartition("@")[2]
        self.is_secure = split.scheme == "https"
        self._base = base_url.rstrip("/")
        self._token = token
        self._timeouts_s = timeouts_s
        self._dialect = dialect
        self._session = requests.Session()
        # Read once, not for every request, where it takes longer than all the rest.
        self._session.trust_env = False
        self._session.verify = _ca_bundle()
        self._proxies: dict[str, dict[str, str]] = {}
        # A `.netrc` entry for the host would add an Authorization header, which storages refuse.
        self._session.auth = _no_auth
        self._session.headers.update(
            {
                dialect.header: f"{dialect.scheme} {token}".strip(),
                "User-Agent": f"pacsor-tasks/{__version__}",
            }
        )
        adapter = PatientAdapter(timeouts_s[1], pool_connections=8, pool_maxsize=parallel)
        self._session.mount("http://", adapter)
        self._session.mount("https://", adapter)

    def close(self) -> None:
        """Close the kept connections."""
        self._session.close()

    @contextmanager
    def api(  # noqa: PLR0913 - a request has this many parts
        self,
        method: str,
        route: tuple[str, ...],
        what: str,
        *,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        data: Iterable[bytes] | None = None,
    ) -> Iterator[Answer]:
        """Call the API and hold a success answer open.

        Args:
            method: HTTP method.
            route: Segments below the API's root.
            what: The call in words, for errors.
            params: Query.
            headers: On top of the token's.
            data: The body: an iterable with a length.

        Raises:
            PacsorError: By the policy of `refusals`; also for failures while the answer is read.
        """
        path = "/".join(quote(segment, safe="") for segment in (*self._dialect.root, *route))
        sent = {"Accept": "application/json", **(headers or {})}
        with (
            translated(what),
            self._exchange(method, f"{self._base}/{path}", sent, params, data) as response,
        ):
            if not 200 <= response.status_code < 300:
                raise self._refused(response, what)
            yield Answer(response, what)

    @contextmanager
    def signed(
        self,
        method: str,
        url: str,
        what: str,
        *,
        headers: Mapping[str, str],
        data: Iterable[bytes] | None = None,
    ) -> Iterator[Answer]:
        """As `api`, for a signed URL of a storage host."""
        self.check_signed(url, what)
        with translated(what), self._exchange(method, url, headers, None, data) as response:
            if not 200 <= response.status_code < 300:
                body = _beginning(response)
                raise storage_refusal(what, response.status_code, response.headers, body)
            yield Answer(response, what)

    def check_signed(self, url: str, what: str) -> None:
        """Refuse a signed URL that is not absolute, or would carry the token in the clear.

        Raises:
            BadResponse: The API gave such a URL.
        """
        try:
            split = urlsplit(url)
            usable = split.scheme in {"http", "https"} and bool(split.hostname)
        except ValueError:
            usable = False
        if not usable:
            raise BadResponse(f"{what}: the API gave a signed URL that is none")
        if self.is_secure and split.scheme != "https":
            raise BadResponse(f"{what}: the API speaks https but gave a signed URL without it")

    @contextmanager
    def _exchange(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        params: Mapping[str, str] | None,
        data: Iterable[bytes] | None,
    ) -> Iterator[requests.Response]:
        response = self._session.request(
            method,
            url,
            params=params,
            headers=dict(headers),
            data=data,
            timeout=self._timeouts_s,
            allow_redirects=False,
            proxies=self._proxies_for(url),
            stream=True,
        )
        try:
            yield response
        finally:
            response.close()

    def _proxies_for(self, url: str) -> dict[str, str]:
        """The environment's proxies (HTTPS_PROXY, NO_PROXY, …) for a host."""
        host = urlsplit(url).netloc
        if host not in self._proxies:
            self._proxies[host] = dict(get_environ_proxies(url))
        return self._proxies[host]

    def _refused(self, response: requests.Response, what: str) -> PacsorError:
        body = _beginning(response)
        status, headers = response.status_code, response.headers
        return api_refusal(what, status, headers, body, self._token, dialect=self._dialect)


def _ca_bundle() -> str | bool:
    """What certificates are checked by, as `requests` reads it from the environment."""
    return os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or True


def _checked(base_url: str, dialect: Dialect) -> Any:
    try:
        split = urlsplit(base_url)
        usable = split.scheme in {"http", "https"} and bool(split.hostname)
        _ = split.port
    except ValueError:
        usable = False
    if not usable or split.query or split.fragment:
        raise ConfigError(
            f"{dialect.url_setting}: must be like https://predict.milvue.com, without a query"
        )
    return split


def _no_auth(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


def _beginning(response: requests.Response) -> bytes:
    """The first bytes of an error body: enough for its message, and to reuse the connection."""
    body = b""
    for block in response.iter_content(ERROR_BODY_BYTES):
        body += block
        if len(body) >= ERROR_BODY_BYTES:
            break
    return body
