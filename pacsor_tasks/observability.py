"""Log lines: structlog over the standard handlers, one redaction for our own and everybody's.

Ids are bound with ``structlog.contextvars.bound_contextvars(study_uid=…, run_id=…, delivery=…)``
and appear on every line below, third-party records included. Lines go to stderr.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Mapping
from typing import Any, Literal, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

MASK = "***"
LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
#: Loggers that tell every PDU, request or packet when left at the root's level.
NOISY = ("pynetdicom", "pydicom", "urllib3", "httpcore", "httpx", "multipart", "amqp")
#: Loggers that tell the life of every task: the sweep alone would be two lines a second. The steps
#: say themselves what they did.
CHATTY = ("celery.worker.strategy", "celery.app.trace", "celery.beat", "alembic.runtime.plugins")
#: Field names, lower case without separators, whose values never reach a log line.
SENSITIVE = frozenset(
    {
        "patient", "patientname", "patientid", "otherpatientids", "patientbirthdate", "birthdate",
        "patientbirthname", "patientsex", "patientage", "patientaddress", "patientcomments",
        "accessionnumber", "accession", "issuerofpatientid", "referringphysicianname",
        "requestingphysician", "performingphysicianname", "operatorsname", "institutionname",
        "token", "apikey", "admintoken", "authorization", "cookie", "password", "passwd", "secret",
        "basicauth", "flowerbasicauth", "xapikey",
    }
)  # fmt: skip
SEPARATORS = re.compile(r"[^a-z0-9]")
URL_PASSWORD = re.compile(r"(://[^\s/:@]*:)[^\s/@]+@")
URL_SIGNATURE = re.compile(
    r"([?&](?:X-Goog-Signature|X-Goog-Credential|X-Amz-Signature|X-Amz-Credential|sig|token)=)[^&\s\"']+",
    re.IGNORECASE,
)
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
#: The text of these libraries' warnings quotes the offending value, which may be a patient's.
QUOTING_LIBRARIES = re.compile(r"[/\\](pydicom|pynetdicom)[/\\]")


def configure_logging(
    level: str = "info",
    fmt: Literal["json", "console"] = "json",
    stream: TextIO | None = None,
) -> None:
    """Send this process's log lines, and those of every library, to stderr.

    Args:
        level: Least severe line written: debug, info, warn, warning or error.
        fmt: `json` (one object per line) or `console` (coloured on a terminal).
        stream: Instead of stderr.
    """
    target = sys.stderr if stream is None else stream
    handler = logging.StreamHandler(target)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=_shared(), processors=_rendering(fmt, is_terminal=target.isatty())
        )
    )
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(LEVELS[level.lower()])
    for name in NOISY:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
    # Its warnings quote values. They come as warnings too, and there without them.
    logging.getLogger("pydicom").setLevel(logging.ERROR)
    for name in CHATTY:
        quiet = logging.WARNING if root.level == logging.INFO else root.level
        logging.getLogger(name).setLevel(quiet)
    _configure_structlog()
    _route_warnings()


def redact(_: WrappedLogger | None, __: str, event_dict: EventDict) -> EventDict:
    """Mask fields that carry patient data or secrets, and secrets inside URLs, at any depth."""
    return {key: _clean(key, value) for key, value in event_dict.items()}


def _clean(key: object, value: Any) -> Any:
    if isinstance(key, str) and SEPARATORS.sub("", key.lower()) in SENSITIVE:
        return MASK
    if isinstance(value, str):
        return URL_SIGNATURE.sub(rf"\1{MASK}", URL_PASSWORD.sub(rf"\1{MASK}@", value))
    if isinstance(value, Mapping):
        return {name: _clean(name, inner) for name, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_clean(None, inner) for inner in value]
    return value


def _shared() -> list[Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        _add_pid,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]


def _rendering(fmt: str, *, is_terminal: bool) -> list[Processor]:
    # Tracebacks as plain text: the rich and the dict forms print local variables, data sets too.
    ending: list[Processor]
    if fmt == "console":
        ending = [
            _printable,
            structlog.dev.ConsoleRenderer(
                colors=is_terminal, exception_formatter=structlog.dev.plain_traceback
            ),
        ]
    else:
        ending = [structlog.processors.JSONRenderer(default=str)]
    return [
        structlog.stdlib.ProcessorFormatter.remove_processors_meta,
        structlog.processors.format_exc_info,
        redact,
        *ending,
    ]


def _configure_structlog() -> None:
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.PositionalArgumentsFormatter(),
            *_shared(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


def _add_pid(_: WrappedLogger, __: str, event_dict: EventDict) -> EventDict:
    event_dict["pid"] = os.getpid()
    return event_dict


def _printable(_: WrappedLogger, __: str, event_dict: EventDict) -> EventDict:
    """A peer's text (an AE title, an error message) must not move the reader's cursor."""
    return {
        key: CONTROL.sub("?", value) if isinstance(value, str) else value
        for key, value in event_dict.items()
    }


def _route_warnings() -> None:
    logging.captureWarnings(capture=True)
    logger = logging.getLogger("py.warnings")
    logger.filters[:] = [_without_quoted_values]


def _without_quoted_values(record: logging.LogRecord) -> bool:
    """Keep where a DICOM library warned and of what kind; drop the text that quotes the value."""
    text = record.getMessage().strip()
    if QUOTING_LIBRARIES.search(text):
        text = ":".join(text.split("\n", 1)[0].split(":")[:3])
    record.msg, record.args = text, None
    return True
