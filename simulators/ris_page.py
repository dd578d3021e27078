"""What the simulated RIS shows its radiologist: the messages, field by field, and their reports.

Written from the HL7 standard, not from the gateway's code: it reads what was sent as a RIS would.
"""

from __future__ import annotations

import base64
import binascii
import html
import re
from datetime import UTC, datetime
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from simulators.journal import Event, Journal

REFRESH_S = 3
MAX_LISTED = 200
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-src 'self';"
    " base-uri 'none'; form-action 'none'",
    "Cache-Control": "no-store",
}
NAMES = {"PID-3": "patient", "PID-5": "name", "PID-7": "born", "PID-8": "sex",
         "OBR-3": "accession", "ZDS-1": "study", "MSH-10": "message"}  # fmt: skip
_ESCAPE = re.compile(r"\\(E|F|S|T|R|\.br|X(?:[0-9A-Fa-f]{2})+)\\")
_MEANING = {"E": "\\", "F": "|", "S": "^", "T": "&", "R": "~", ".br": "\n"}
STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 0; display: grid;
       grid-template-columns: minmax(210px, 22%) 1fr; min-height: 100vh; }
nav { border-right: 1px solid var(--line); padding: 16px; overflow: auto; }
nav a { display: block; padding: 7px 9px; border-radius: 6px; color: inherit;
        text-decoration: none; overflow-wrap: anywhere; }
nav a[aria-current] { background: #2a6fdb22; font-weight: 600; }
nav small, .soft { opacity: .7; }
main { padding: 20px 28px; max-width: 980px; min-width: 0; }
h1 { font-size: 1.25rem; margin: 0 0 12px; } h2 { font-size: 1rem; margin: 24px 0 8px; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 4px 16px; margin: 0; }
dt { opacity: .7; } dd { margin: 0; overflow-wrap: anywhere; white-space: pre-wrap; }
iframe { width: 100%; height: 380px; border: 1px solid var(--line); border-radius: 8px;
         background: #fff; }
pre { background: var(--soft); padding: 12px; border-radius: 8px; overflow-x: auto;
      white-space: pre-wrap; overflow-wrap: anywhere; font-size: 12.5px; }
.ok { color: #1a7f37; } .bad { color: #cf222e; }
@media (max-width: 700px) { body { display: block; } nav { border: 0; } }
"""


def build_page(journal: Journal) -> Starlette:
    """The application over what the RIS received."""

    def page(request: Request) -> Response:
        received = journal.events("message")
        asked = request.path_params.get("number")
        number = min(int(asked), len(received)) if asked else len(received)
        # A page that somebody reads is not taken away from him; the newest one is.
        refresh = None if asked else REFRESH_S
        return HTMLResponse(_document(received, number, refresh), headers=HEADERS)

    return Starlette(routes=[Route("/", page), Route("/messages/{number:int}", page)])


def _document(received: list[Event], number: int, refresh: int | None) -> str:
    again = f'<meta http-equiv="refresh" content="{refresh}">' if refresh else ""
    body = _message(received[number - 1]) if received and number else _empty()
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"{again}<title>Simulated RIS</title><style>{STYLE}</style></head><body>"
        f"<nav aria-label='Messages'><h1>Simulated RIS</h1>{_list(received, number)}</nav>"
        f"<main>{body}</main></body></html>"
    )


def _list(received: list[Event], number: int) -> str:
    links = [f'<a href="/">Newest <small>of {len(received)}</small></a>'] if received else []
    for place in range(len(received), max(0, len(received) - MAX_LISTED), -1):
        event = received[place - 1]
        at = datetime.fromtimestamp(event["at"], UTC).astimezone()
        current = ' aria-current="page"' if place == number else ""
        links.append(
            f'<a href="/messages/{place}"{current}>{_text(event["control_id"])}'
            f"<br><small>{at:%H:%M:%S} · {_text(event['answer'])}</small></a>"
        )
    return "".join(links)


def _empty() -> str:
    return "<h1>No message yet</h1><p class='soft'>This page looks again by itself.</p>"


def _message(event: Event) -> str:
    text = base64.b64decode(event["raw"]).decode("utf-8", "replace")
    segments = [line.split("|") for line in text.split("\r") if line]
    tone = "ok" if event["answer"] in {"AA", "CA"} else "bad"
    return (
        f"<h1>Message {_text(event['control_id'])}</h1>"
        f"<p>Answered <strong class='{tone}'>{_text(event['answer'])}</strong>"
        f" <span class='soft'>to {_text(event['peer'])}</span></p>"
        f"<dl>{_facts(segments)}</dl>{_observations(segments)}"
        f"<h2>As it came</h2><pre>{_text(text.replace(chr(13), chr(10)))}</pre>"
    )


def _facts(segments: list[list[str]]) -> str:
    rows = []
    for fields in segments:
        for where, name in NAMES.items():
            segment, _, index = where.partition("-")
            place = int(index) - (segment == "MSH")
            if fields[0] == segment and len(fields) > place and fields[place]:
                value = " ".join(_unescaped(p) for p in fields[place].split("^") if p)
                rows.append(f"<dt>{name}</dt><dd>{_text(value)}</dd>")
    return "".join(rows)


def _observations(segments: list[list[str]]) -> str:
    found = []
    for fields in segments:
        if fields[0] != "OBX" or len(fields) < 6:
            continue
        named = [_unescaped(part) for part in fields[3].split("^")]
        title = next((part for part in (*named[1:2], *named) if part), "Observation")
        found.append(f"<h2>{_text(title)}</h2>{_value(fields[5])}")
    return "".join(found)


def _value(field: str) -> str:
    parts = field.split("^")
    if "Base64" not in parts[:-1]:
        return f"<dl><dt>text</dt><dd>{_text(_unescaped(field))}</dd></dl>"
    try:
        content = base64.b64decode(parts[-1], validate=True).decode("utf-8", "replace")
    except (binascii.Error, ValueError):
        return "<p class='bad'>the base64 cannot be decoded</p>"
    if not content.lstrip().startswith("<"):
        return f"<dl><dt>text</dt><dd>{_text(content)}</dd></dl>"
    # Nothing of it runs or is fetched: no permission at all in the sandbox.
    framed = "<meta charset=utf-8><body style='font:15px system-ui;margin:16px'>" + content
    return f'<iframe sandbox="" title="Report" srcdoc="{html.escape(framed, quote=True)}"></iframe>'


def _unescaped(text: str) -> str:
    def meaning(match: re.Match[str]) -> str:
        sequence = match[1]
        if sequence.startswith("X"):
            return bytes.fromhex(sequence[1:]).decode("utf-8", "replace")
        return _MEANING[sequence]

    return _ESCAPE.sub(meaning, text)


def _text(value: Any) -> str:
    return html.escape(str(value))
