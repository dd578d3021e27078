"""Which error an HTTP answer or a foreign exception becomes. Source: contract §1.6."""

from __future__ import annotations

import inspect
import json
import socket
import ssl
import traceback
from datetime import UTC, datetime

import pytest
import requests
import urllib3
from urllib3.exceptions import HTTPError

from pacsor_tasks.errors import (
    BadResponse,
    PacsorError,
    PeerUnavailable,
    RateLimited,
    Rejected,
    Retryable,
)
from pacsor_tasks.milvue.outcomes import ExpiredUrl, FormattingError, UnknownStudy
from pacsor_tasks.milvue.refusals import (
    MESSAGE_LIMIT,
    api_refusal,
    clean,
    message_of,
    network_error,
    retry_after_s,
    storage_refusal,
    translated,
)

FORMATTING = b'{"message": "Error formatting study"}'


@pytest.mark.parametrize(
    ("status", "body", "error", "said"),
    [
        (400, b'{"message": "no parts"}', Rejected, "HTTP 400: no parts"),
        (
            422,
            b'{"detail": [{"loc": ["query", 0, "x"], "msg": "bad"}]}',
            Rejected,
            "query.0.x: bad",
        ),
        (413, b"", Rejected, "HTTP 413"),
        (405, b'{"detail": "Method Not Allowed"}', Rejected, "Method Not Allowed"),
        (401, b"", Rejected, "TOKEN"),
        (403, b'{"message": "invalid key"}', Rejected, "invalid key: the API refused the token"),
        (404, b'{"message": "study not found"}', UnknownStudy, "study not found"),
        (408, b"", PeerUnavailable, "HTTP 408"),
        (425, b"", PeerUnavailable, "HTTP 425"),
        (429, b'{"message": "quota"}', RateLimited, "quota"),
        (500, b"<html>", PeerUnavailable, "HTTP 500"),
        (503, b"", PeerUnavailable, "HTTP 503"),
        (301, b"", BadResponse, "redirects elsewhere; check API_URL"),
        (304, b"", BadResponse, "redirects"),
        # Rendering failed, whatever status carries it.
        (400, FORMATTING, FormattingError, "formatting"),
        (404, FORMATTING, FormattingError, "formatting"),
        (500, FORMATTING, FormattingError, "formatting"),
        (500, b'{"message": " error formatting study: x"}', FormattingError, "formatting"),
        (502, b'{"message": "Bad gateway"}', PeerUnavailable, "Bad gateway"),
    ],
)
def test_each_status_of_the_api_means_one_error(
    status: int, body: bytes, error: type[PacsorError], said: str
) -> None:
    refusal = api_refusal("upload of 1.2", status, {}, body)
    assert type(refusal) is error
    assert said in str(refusal)
    assert str(refusal).startswith("upload of 1.2: HTTP ")


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (403, b"<Error><Code>AuthenticationFailed</Code></Error>", ExpiredUrl),
        (404, b"", ExpiredUrl),
        (401, b"", ExpiredUrl),
        (410, b"", ExpiredUrl),
        (400, b"<Error><Code>ExpiredToken</Code></Error>", ExpiredUrl),
        (400, b"<Error><Code>InvalidHeaderValue</Code></Error>", Rejected),
        (412, b"", Rejected),
        (429, b"", RateLimited),
        (503, b"<Error><Code>ServerBusy</Code></Error>", PeerUnavailable),
        (307, b"", BadResponse),
    ],
)
def test_each_status_of_a_storage_means_one_error(
    status: int, body: bytes, error: type[PacsorError]
) -> None:
    assert type(storage_refusal("x", status, {}, body)) is error


def test_a_storage_error_keeps_its_code_and_nothing_else() -> None:
    body = b"<Error><Code>AuthenticationFailed</Code><Message>sig=SECRET did not match</Message>"
    assert "SECRET" not in str(storage_refusal("x", 403, {}, body))


@pytest.mark.parametrize(
    ("body", "is_from_api"),
    [
        (b'{"message": "no such study"}', True),
        (b'{"detail": "study unknown"}', True),
        (b'{"detail": "Not Found"}', False),
        (b"<html>404</html>", False),
        (b"", False),
    ],
)
def test_a_404_tells_whether_the_api_said_it(body: bytes, is_from_api: bool) -> None:
    refusal = api_refusal("x", 404, {}, body)
    assert isinstance(refusal, UnknownStudy)
    assert refusal.is_from_api is is_from_api


NOW = datetime(2025, 3, 1, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7.0),
        (" 0 ", 0.0),
        ("86400", 3600.0),  # no longer than an hour
        ("Sat, 01 Mar 2025 12:00:30 GMT", 30.0),
        ("Sat, 01 Mar 2025 12:00:30 -0000", 30.0),
        ("Sat, 01 Mar 2025 11:00:00 GMT", 0.0),  # already past
        ("Sat, 01 Mar 2025 14:00:10 +0200", 10.0),
        ("Mon, 01 Mar 2027 12:00:00 GMT", 3600.0),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("", None),
        (None, None),
        ("9" * 40, None),
    ],
)
def test_retry_after_is_read_as_seconds_or_as_a_date(
    value: str | None, seconds: float | None
) -> None:
    assert retry_after_s(value, NOW) == seconds


@pytest.mark.parametrize("status", [429, 500, 503])
def test_the_peers_wish_travels_with_the_error(status: int) -> None:
    refusal = api_refusal("x", status, {"Retry-After": "7"}, b"")
    assert isinstance(refusal, Retryable)
    assert refusal.retry_after_s == 7


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"message": "a"}', "a"),
        (b'{"message": "a", "example": "b"}', "a"),
        (b'{"message": "", "detail": "b"}', "b"),
        (b'{"message": {"a": 1}}', ""),
        (
            b'{"detail": [{"loc": ["body"], "msg": "m", "type": "t", "input": "DOE^JOHN"},'
            b' {"msg": "n"}, 3]}',
            "body: m; n",
        ),
        (b'{"detail": [{"loc": "x"}]}', "invalid"),
        (b'{"detail": [{"loc": ["a", 0, [], null], "msg": ["b"]}]}', "a.0: invalid"),
        (b'{"message": ' + b"[" * 200_000, ""),  # more than a parser takes
        (b'["message"]', ""),
        (b"not json", ""),
        (b"\xff\xfe", ""),
        (b"", ""),
    ],
)
def test_only_the_message_of_an_error_body_is_kept(body: bytes, message: str) -> None:
    assert message_of(body) == message


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("  a\r\n b\x00c ", "a b c"),
        ("see https://h/p?sig=S&x=1 now", "see https://h/p?… now"),
        ('"http://h:1/p?sig=S"', '"http://h:1/p?…"'),
        ("key s3cret is bad", "key *** is bad"),
        ("half \ud83e a pair", "half ? a pair"),  # JSON can hold it, a ledger cannot
        ("x" * 1000, "x" * (MESSAGE_LIMIT - 1) + "…"),
    ],
)
def test_a_peers_words_become_one_harmless_line(text: str, cleaned: str) -> None:
    assert clean(text, "s3cret") == cleaned


def foreign_exceptions() -> list[type[Exception]]:
    classes: set[type[Exception]] = set()
    for module in (requests.exceptions, urllib3.exceptions):
        for _, found in inspect.getmembers(module, inspect.isclass):
            if issubclass(found, requests.RequestException | HTTPError):
                classes.add(found)
    return sorted(classes, key=lambda c: f"{c.__module__}.{c.__name__}")


@pytest.mark.parametrize(
    "foreign", foreign_exceptions(), ids=lambda c: f"{c.__module__.split('.')[0]}.{c.__name__}"
)
def test_no_exception_of_requests_or_urllib3_escapes(foreign: type[Exception]) -> None:
    def raise_it() -> None:
        exc = foreign.__new__(foreign)
        exc.args = ("http://h/p?sig=SECRET",)
        raise exc

    with pytest.raises(PacsorError) as caught, translated("call"):
        raise_it()
    shown = "".join(traceback.format_exception(caught.value))
    assert "SECRET" not in shown
    assert str(caught.value).startswith("call: ")


def wrapped(reason: Exception) -> requests.ConnectionError:
    """As requests wraps what urllib3 met while connecting."""
    pool = urllib3.HTTPConnectionPool("h")
    return requests.ConnectionError(urllib3.exceptions.MaxRetryError(pool, "/p?sig=SECRET", reason))


def caused(exc: Exception, cause: Exception) -> Exception:
    exc.__cause__ = cause
    return exc


CERTIFICATE = ssl.SSLCertVerificationError("x")
CERTIFICATE.verify_message = "self-signed certificate"
UNKNOWN = socket.gaierror(-2, "Name or service not known")
CONNECTION = urllib3.connection.HTTPConnection("h")


@pytest.mark.parametrize(
    ("foreign", "reason"),
    [
        pytest.param(
            wrapped(
                caused(
                    urllib3.exceptions.NewConnectionError(CONNECTION, "x"),
                    ConnectionRefusedError(111, "Connection refused"),
                )
            ),
            "Connection refused",
            id="nothing listens",
        ),
        pytest.param(
            wrapped(
                caused(urllib3.exceptions.NameResolutionError("h", CONNECTION, UNKNOWN), UNKNOWN)
            ),
            "Name or service not known",
            id="no such name",
        ),
        pytest.param(
            wrapped(urllib3.exceptions.SSLError(CERTIFICATE)),
            "TLS certificate not accepted: self-signed certificate",
            id="certificate",
        ),
        pytest.param(requests.ReadTimeout(), "no answer in time", id="read time-out"),
        pytest.param(
            requests.ConnectionError(
                urllib3.exceptions.ProtocolError("aborted", TimeoutError("timed out"))
            ),
            "no answer in time",
            id="write time-out",
        ),
        pytest.param(
            requests.exceptions.ChunkedEncodingError(
                urllib3.exceptions.ProtocolError("x", urllib3.exceptions.IncompleteRead(1, 2))
            ),
            "the answer ended early",
            id="short body",
        ),
        pytest.param(
            requests.ConnectionError(
                urllib3.exceptions.ProtocolError("aborted", ConnectionResetError(104, "reset"))
            ),
            "reset",
            id="reset",
        ),
    ],
)
def test_a_network_error_names_its_cause_without_the_url(foreign: Exception, reason: str) -> None:
    error = network_error("call", foreign)
    assert isinstance(error, PeerUnavailable)
    assert str(error) == f"call: {reason}"


@pytest.mark.parametrize(
    ("cause", "reason"),
    [
        (ConnectionRefusedError(111, "Connection refused"), "Connection refused"),
        (TimeoutError("timed out"), "no answer in time"),
    ],
)
def test_what_was_being_handled_meanwhile_is_no_cause(cause: OSError, reason: str) -> None:
    cause.__context__ = BlockingIOError(11, "Resource temporarily unavailable")
    refused = urllib3.exceptions.ProtocolError("aborted", cause)
    assert str(network_error("call", requests.ConnectionError(refused))) == f"call: {reason}"


def test_an_exception_that_wraps_itself_does_not_hang() -> None:
    exc = requests.ConnectionError("x")
    exc.__cause__ = exc
    assert "ConnectionError" in str(network_error("call", exc))


def test_a_long_validation_error_stays_one_short_line() -> None:
    body = json.dumps({"detail": [{"loc": ["a", i], "msg": "m" * 50} for i in range(100)]})
    assert len(str(api_refusal("x", 422, {}, body.encode()))) < MESSAGE_LIMIT + 50
