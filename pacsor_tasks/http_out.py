"""Sessions with the HTTP servers that results go to: DICOMweb, webhooks.

No redirect is followed: `requests` would carry credentials to whatever host it names. No request is
repeated here: when to try again is the pipeline's decision.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import urlsplit

import requests
import urllib3
from requests.utils import get_environ_proxies

from pacsor_tasks import __version__
from pacsor_tasks.errors import BadResponse, PacsorError, PeerUnavailable, RateLimited, Rejected
from pacsor_tasks.milvue.adapter import PatientAdapter
from pacsor_tasks.milvue.media import MediaType
from pacsor_tasks.milvue.refusals import clean, message_of, retry_after_s, translated
from pacsor_tasks.tls import Tls

#: Of an answer, so much is read; what is longer is cut.
ANSWER_BYTES = 8 * 1024 * 1024
BLOCK_BYTES = 64 * 1024
_BUSY = frozenset({408, 425})


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """An HTTP server that results go to."""

    #: the destination's name
    name: str
    url: str
    #: value of the Authorization header
    authorization: str | None = field(default=None, repr=False)
    connect_timeout_s: float
    #: seconds without progress while a body is sent, and again to the end of the answer
    timeout_s: float
    tls: Tls = field(default_factory=Tls)
    #: what its settings begin and end with, for errors: `STOW`, `_2`; "": it is a plain callback
    setting: str
    suffix: str = ""

    def __str__(self) -> str:
        return f"{self.name} ({self.host})"

    @property
    def host(self) -> str:
        """Host and port."""
        return urlsplit(self.url).netloc.rpartition("@")[2]


class ServerFailed(PeerUnavailable):
    """It answers that it cannot now; quotes what it says."""

    is_loggable = False


class ServerRefused(Rejected):
    """It answers that it will not; quotes what it says."""

    is_loggable = False


class Answer(NamedTuple):
    """What came back, whatever its status."""

    status: int
    headers: Mapping[str, str]
    media: MediaType
    body: bytes


def bearer(token: str) -> str:
    """The Authorization header of a bearer token."""
    return f"Bearer {token}"


def basic(user: str, password: str) -> str:
    """The Authorization header of HTTP basic authentication. Source: RFC 7617."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode("ascii")


@contextmanager
def session(to: Endpoint) -> Iterator[requests.Session]:
    """A keep-alive session; closed on the way out."""
    with requests.Session() as opened:
        opened.trust_env = False
        # A `.netrc` entry for the host would take the place of ours.
        opened.auth = _no_auth
        opened.headers["User-Agent"] = f"pacsor-tasks/{__version__}"
        if to.authorization is not None:
            opened.headers["Authorization"] = to.authorization
        opened.verify = _verify(to.tls)
        if to.tls.cert is not None and to.tls.key is not None:
            opened.cert = (str(to.tls.cert), str(to.tls.key))
        opened.proxies = dict(get_environ_proxies(to.url))
        adapter = PatientAdapter(
            to.timeout_s, pool_connections=1, pool_maxsize=1, answer_timeout_s=to.timeout_s
        )
        opened.mount("http://", adapter)
        opened.mount("https://", adapter)
        yield opened


def exchange(  # noqa: PLR0913 - a request has this many parts
    opened: requests.Session,
    to: Endpoint,
    method: str,
    url: str,
    *,
    headers: Mapping[str, str] | None = None,
    data: Iterable[bytes] | bytes | None = None,
) -> Answer:
    """One request and its answer.

    Raises:
        PeerUnavailable: No connection, no answer in time, or it broke off.
        BadResponse: The answer cannot be decoded.
    """
    timeouts_s = (to.connect_timeout_s, to.timeout_s)
    with (
        translated(str(to)),
        opened.request(
            method, url, headers=dict(headers or {}), data=data, timeout=timeouts_s,
            allow_redirects=False, stream=True,
        ) as response,
    ):  # fmt: skip
        body = bytearray()
        for block in response.iter_content(BLOCK_BYTES):
            body += block[: ANSWER_BYTES - len(body)]
            if len(body) >= ANSWER_BYTES:
                break
        media = MediaType.parse(response.headers.get("Content-Type", ""))
        return Answer(response.status_code, response.headers, media, bytes(body))


def refusal(to: Endpoint, answer: Answer) -> PacsorError:
    """The error for an answer that is no success, and says nothing of single instances."""
    status, said = answer.status, clean(message_of(answer.body))
    line = f"{to}: HTTP {status}" + (f": {said}" if said else "")
    wish_s = retry_after_s(answer.headers.get("Retry-After"))
    url = f"{to.setting}_URL{to.suffix}" if to.setting else "CALLBACK_URLS"
    if status == 429:
        return RateLimited(f"{to}: HTTP 429", wish_s)
    if (status >= 500 and status != 501) or status in _BUSY:
        return ServerFailed(line, wish_s)
    if status in {401, 403}:
        return ServerRefused(f"{line}: it does not let us in; check the credentials of {url}")
    if status < 400:
        page = " with a web page" if answer.media.name == "text/html" else ""
        return BadResponse(f"{to}: HTTP {status}{page}: check {url}")
    if status in {404, 405, 410, 501}:
        return ServerRefused(f"{line}: there is nothing to post to; check {url}")
    return ServerRefused(line)


def check(to: Endpoint, method: str, url: str, headers: Mapping[str, str] | None = None) -> None:
    """Prove that a server answers and lets us in, by a question that changes nothing there.

    Raises:
        PeerUnavailable: It does not answer, or not well.
        Rejected: It does not let us in, or fails at this question.
    """
    with session(to) as opened:
        answer = exchange(opened, to, method, url, headers=headers)
    if answer.status == 500:
        # Somebody is there, who may only not know this question: no reason to leave him alone.
        raise ServerRefused(f"{to}: HTTP 500 to {method}")
    if answer.status in {401, 403, 429} or (answer.status >= 500 and answer.status != 501):
        raise refusal(to, answer)


def _verify(tls: Tls) -> str | bool:
    if not tls.verify:
        # Told at start-up; else urllib3 would at each request.
        urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
        return False
    if tls.ca is not None:
        return str(tls.ca)
    return os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or True


def _no_auth(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request
