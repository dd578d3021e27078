"""From HTTP statuses and foreign exceptions to our errors: the one place that decides.

Nothing here repeats a URL with its query (signatures) or more of a body than its message.

Source: contract §1.6.
"""

from __future__ import annotations

import json
import re
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import requests
import urllib3

from pacsor_tasks.errors import BadResponse, PacsorError, PeerUnavailable, RateLimited, Rejected
from pacsor_tasks.milvue.dialect import MILVUE, Dialect
from pacsor_tasks.milvue.outcomes import ExpiredUrl, FormattingError, UnknownStudy

MESSAGE_LIMIT = 300
#: A longer wish is a mistake, or a quota an operator should hear of before tomorrow.
RETRY_AFTER_LIMIT_S = 3600.0
FORMATTING = "error formatting study"

_QUERY = re.compile(r"(\bhttps?://[^\s?\"'<>]*)\?[^\s\"'<>]*")
_BLANKS = re.compile(r"[\s\x00-\x1f\x7f]+")
_STORAGE_CODE = re.compile(rb"<Code>\s*([A-Za-z]{1,64})\s*</Code>")
_BUSY = frozenset({408, 425})


def clean(text: str, secret: str = "") -> str:
    """A peer's text made safe for one line of an event: no queries of URLs, no token, bounded.

    Halves of surrogate pairs, which JSON can hold and no ledger, become question marks.
    """
    text = text.encode("utf-8", "replace").decode()
    text = _QUERY.sub(r"\1?…", _BLANKS.sub(" ", text).strip())
    if secret:
        text = text.replace(secret, "***")
    return text if len(text) <= MESSAGE_LIMIT else text[: MESSAGE_LIMIT - 1] + "…"


def message_of(body: bytes | bytearray) -> str:
    """The `message` or `detail` of an error body; "" if it has neither.

    Of a validation error only place and message are kept: its `input` repeats what was sent.
    """
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    if not isinstance(answer, dict):
        return ""
    for key in ("message", "detail"):
        value = answer.get(key)
        if isinstance(value, str) and value:
            return value
        if isinstance(value, list):
            return "; ".join(_validation_line(entry) for entry in value if isinstance(entry, dict))
    return ""


def _validation_line(entry: Mapping[str, Any]) -> str:
    place = entry.get("loc")
    # No other parts: of a deep list not even the text can be made.
    parts = [str(p) for p in place if isinstance(p, str | int)] if isinstance(place, list) else []
    said = entry.get("msg")
    return ": ".join(filter(None, [".".join(parts), said if isinstance(said, str) else "invalid"]))


def retry_after_s(value: str | None, now: datetime | None = None) -> float | None:
    """Seconds asked for by a Retry-After header (seconds or a date); None if unreadable."""
    if not value:
        return None
    text = value.strip()
    if re.fullmatch(r"[0-9]{1,9}", text):
        seconds = float(text)
    else:
        try:
            at = parsedate_to_datetime(text)
        except ValueError:
            return None
        at = at if at.tzinfo else at.replace(tzinfo=UTC)
        seconds = (at - (now or datetime.now(UTC))).total_seconds()
    return min(max(seconds, 0.0), RETRY_AFTER_LIMIT_S)


def api_refusal(  # noqa: PLR0913 - an answer, and whose it is
    what: str,
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    secret: str = "",
    *,
    dialect: Dialect = MILVUE,
) -> PacsorError:
    """The error for an answer of the API that is no success.

    Args:
        what: The call in words: "upload of 1.2.3".
        status: HTTP status, any but 2xx.
        headers: Of the answer.
        body: Its first bytes.
        secret: A string never to repeat.
        dialect: Names the settings to check.
    """
    said = clean(message_of(body), secret)
    line = f"{what}: HTTP {status}" + (f": {said}" if said else "")
    if FORMATTING in said.casefold():
        return FormattingError(line)
    if 300 <= status < 400:
        return BadResponse(f"{line}: the API redirects elsewhere; check {dialect.url_setting}")
    if status in {401, 403}:
        return Rejected(f"{line}: the API refused the token; check {dialect.token_setting}")
    if status == 404:
        # FastAPI answers exactly this where there is no such route: some other service is there.
        return UnknownStudy(line, is_from_api=bool(said) and said != "Not Found")
    return _by_status(line, status, headers)


def storage_refusal(what: str, status: int, headers: Mapping[str, str], body: bytes) -> PacsorError:
    """The error for a signed URL that did not work. Of a storage's XML only the code is kept.

    An expired signature is 403 at Azure and S3, 400 `ExpiredToken` at Google Cloud Storage.
    """
    code = _STORAGE_CODE.search(body)
    said = code[1].decode("ascii") if code else ""
    line = f"{what}: HTTP {status}" + (f": {said}" if said else "")
    if status in {401, 403, 404, 410} or "expired" in said.casefold():
        return ExpiredUrl(f"{line}: the signed URL was refused or has expired")
    if 300 <= status < 400:
        return BadResponse(f"{line}: the storage redirects elsewhere")
    return _by_status(line, status, headers)


def _by_status(line: str, status: int, headers: Mapping[str, str]) -> PacsorError:
    wish = retry_after_s(headers.get("Retry-After"))
    if status == 429:
        return RateLimited(line, wish)
    if status >= 500 or status in _BUSY:
        return PeerUnavailable(line, wish)
    if status < 400:
        return BadResponse(f"{line}: not an answer this call can have")
    return Rejected(line)


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Turn every exception of requests and urllib3 raised inside into ours.

    Raised `from None`: the foreign exceptions carry whole URLs, signatures included, and a
    chained traceback would print them.
    """
    try:
        yield
    except (requests.RequestException, urllib3.exceptions.HTTPError) as exc:
        raise network_error(what, exc) from None


def network_error(what: str, exc: Exception) -> PacsorError:
    """What a failed call means to us."""
    if isinstance(exc, requests.JSONDecodeError | requests.exceptions.ContentDecodingError):
        return BadResponse(f"{what}: the answer cannot be decoded")
    unusable = (
        requests.exceptions.InvalidURL,
        requests.exceptions.MissingSchema,
        requests.exceptions.InvalidSchema,
        requests.exceptions.InvalidHeader,
        urllib3.exceptions.LocationValueError,
    )
    if isinstance(exc, unusable):
        return BadResponse(f"{what}: the URL or a header of the call is not usable")
    return PeerUnavailable(f"{what}: {_reason(exc)}")


def _reason(exc: Exception) -> str:
    """The innermost cause in words without a URL."""
    chain = list(_causes(exc))
    for cause in reversed(chain):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"TLS certificate not accepted: {cause.verify_message}"
        if isinstance(cause, OSError) and isinstance(cause.strerror, str) and cause.strerror:
            return cause.strerror
    if any(isinstance(c, requests.Timeout | TimeoutError) for c in chain):
        return "no answer in time"
    if any(isinstance(c, urllib3.exceptions.TimeoutError) for c in chain):
        return "no answer in time"
    if any(isinstance(c, urllib3.exceptions.IncompleteRead) for c in chain):
        return "the answer ended early"
    return f"connection broken ({type(chain[-1]).__name__})"


def _causes(exc: BaseException) -> Iterator[BaseException]:
    """`exc` and what it wraps, however requests and urllib3 wrapped it, outermost first."""
    seen: set[int] = set()
    cause: BaseException | None = exc
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        if isinstance(cause, OSError) and not isinstance(cause, requests.RequestException):
            # The cause itself. What stands behind it is whatever was being handled meanwhile.
            return
        inner = [getattr(cause, "reason", None), *getattr(cause, "args", ())]
        wrapped = (i for i in inner if isinstance(i, BaseException))
        cause = next(wrapped, cause.__cause__ or cause.__context__)
