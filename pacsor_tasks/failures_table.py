"""What the gateway does about each kind of failure, as a page in Markdown.

`python -m pacsor_tasks.failures_table > docs/failures.md`. A test brings every row about, through
the code that decides, and compares.
"""

from __future__ import annotations

import sys
from enum import StrEnum
from itertools import groupby
from typing import NamedTuple


class Fate(StrEnum):
    """What becomes of the work."""

    RETRIED = "retried"
    BOUNDED = "retried, a bounded number of times"
    WAITS = "waits"
    QUARANTINED = "quarantined"
    DELIVERED = "delivered"
    GOES_ON = "goes on"


class Failure(NamedTuple):
    """One class of failures."""

    area: str
    #: what the test knows it by
    key: str
    what: str
    fate: Fate
    why: str
    #: what the operator sees
    seen: str


R, B, W, Q, D, G = Fate
API, PACS = "HTTP: the AI service", "DIMSE: a PACS"
WEB, SHARE, HOOK = "HTTP: a DICOMweb server", "A folder", "HTTP: a webhook or plain callback"
RIS, HERE = "MLLP: a RIS", "The gateway itself"
FAILURES: tuple[Failure, ...] = (
    Failure(API, "http-network", "no connection, reset, time-out, TLS failure", R,
            "may pass; counts for the core's breaker", "`…: Connection refused`, next try"),
    Failure(API, "http-5xx", "500 to 599, 408, 425", R,
            "transient by definition; `Retry-After` is a lower bound",
            "`…: HTTP 503: …`, next try"),
    Failure(API, "http-429", "429", R,
            "a quota: `Retry-After` is honoured and slows every worker, not the one that met it",
            "`…: HTTP 429`, next try"),
    Failure(API, "http-404", "404 of a study that was just uploaded", R,
            "not visible yet; after 10 minutes the run fails: the AI no longer has it",
            "`…: HTTP 404`, next try; then `relaunch to send it again`"),
    Failure(API, "http-403", "401, 403", Q,
            "the token is wrong: to ask again would only hammer",
            "`the API refused the token; check TOKEN`"),
    Failure(API, "http-400", "400, 422 and other refusals", Q,
            "the same request will be refused again", "the API's `message` or `detail`"),
    Failure(API, "http-redirect", "a redirection", Q,
            "something else answers there", "`the API redirects elsewhere; check API_URL`"),
    Failure(API, "http-garbage", "an answer that cannot be decoded or breaks the contract", Q,
            "will come again; nothing of it is delivered", "`the answer cannot be decoded`"),
    Failure(API, "http-formatting", "`Error formatting study`", B,
            "rendering may work the next time; after 5 tries the other commands go without it",
            "`HTTP 400: Error formatting study`; the command is `failed`"),
    Failure(API, "url-expired", "a signed URL was refused or has expired", R,
            "a new one is asked for", "`the signed URL was refused or has expired`"),
    Failure(API, "prediction-running", "the prediction is not there", W,
            "no failure: 2 s, then half as long again each time, at most `POLL_MAX_INTERVAL`",
            "`waiting for: the prediction`"),
    Failure(API, "prediction-late", "… for longer than `PREDICTION_TIMEOUT`", W,
            "looked at each `RETRY_MAX_DELAY`",
            "`running for … s: longer than PREDICTION_TIMEOUT`"),
    Failure(API, "prediction-never", "… until the horizon", Q,
            "somebody has to ask the AI's makers", "`the prediction was still running after … s`"),
    Failure(API, "prediction-failed", "the AI says `error`", Q,
            "its answer is final", "`the prediction failed: …`"),
    Failure(PACS, "dimse-refused", "connection refused", R,
            "may pass; ten in a row leave the PACS alone",
            "`no TCP connection: Connection refused`"),
    Failure(PACS, "dimse-silent",
            "no connection, no answer to the association or an instance in time", R,
            "may pass; three in a row leave the PACS alone", "`did not answer within … s`"),
    Failure(PACS, "dimse-aborted", "the association is aborted or the connection lost", R,
            "goes on with what was not acknowledged", "`aborted the association`, `n of m stored`"),
    Failure(PACS, "dimse-rejected-transient",
            "association rejected, transient, congested or at its limit", R,
            "the PACS says so itself", "`rejected the association: it is congested`"),
    Failure(PACS, "dimse-rejected", "association rejected for good: AE titles", Q,
            "a setting here or there is wrong", "`register it there, or set MILVUE_AET`"),
    Failure(PACS, "0xA700", "0xA700 to 0xA7FF, out of resources", R,
            "a full disk is emptied one day", "`0xA700 (…)`, next try"),
    Failure(PACS, "0x0110", "0x0110 processing failure, 0x0210, 0x0213, 0xFE00", R,
            "a trouble of the PACS's own", "`0x0110 (…)`, next try"),
    Failure(PACS, "0xA900", "0xA900 to 0xA9FF, data set does not match SOP class", Q,
            "the same bytes will be refused again", "`0xA900 (…)`, with the SOP Instance UID"),
    Failure(PACS, "0xC000", "0xC000 to 0xCFFF, cannot understand", Q,
            "the same bytes will be refused again", "`0xC000 (…)`, with the SOP Instance UID"),
    Failure(PACS, "0x0122",
            "0x0122 SOP class not supported, or no presentation context accepted", Q,
            "the PACS has to be configured for it", "`no presentation context accepted for …`"),
    Failure(PACS, "0x0124", "0x0124 not authorised, and any status the standard does not know", Q,
            "will not change by asking again", "`0x0124 (…)`"),
    Failure(PACS, "0xB000", "0xB000 to 0xBFFF, 0x0001, 0x0107, 0x0116: warnings", D,
            "the instance was stored", "`delivered`; the status is kept with the instance"),
    Failure(PACS, "0x0111", "0x0111 duplicate SOP instance", D,
            "it was stored before: by a try whose answer was lost", "`delivered`"),
    Failure(WEB, "stow-network", "no connection, reset, time-out, TLS failure", R,
            "may pass; goes on with what was not answered", "`stow (…): Connection refused`"),
    Failure(WEB, "stow-5xx", "500 to 599 but 501, 408, 425", R,
            "transient by definition; `Retry-After` is a lower bound. After 500 the instances of "
            "the request go one by one: one of them may be the reason",
            "`stow (…): HTTP 503`, next try"),
    Failure(WEB, "stow-429", "429", R,
            "`Retry-After` is honoured and slows every worker", "`stow (…): HTTP 429`, next try"),
    Failure(WEB, "stow-401", "401, 403", Q,
            "the credentials are wrong", "`check the credentials of STOW_URL`"),
    Failure(WEB, "stow-404", "404, 405, 410, 501", Q,
            "nothing there takes instances", "`there is nothing to post to; check STOW_URL`"),
    Failure(WEB, "stow-redirect", "a redirection", Q,
            "something else answers there", "`HTTP 302: check STOW_URL`"),
    Failure(WEB, "stow-page", "200 with a web page (`text/html`)", Q,
            "somebody else answers there: a proxy's login, say",
            "`HTTP 200 with a web page: check STOW_URL`"),
    Failure(WEB, "stow-200", "200; 202 of an instance that is not named among the failed", D,
            "it was stored", "`delivered`; a warning's code is kept with the instance"),
    Failure(WEB, "stow-failed", "an instance in the FailedSOPSequence, whatever the HTTP status",
            G, "by its FailureReason as by a C-STORE status above: 0xA700 and 0x0110 are "
            "retried, 0xA9…, 0xC…, 0x0122 quarantined, 0x0111 is delivered; so is 0x0110 when a "
            "search finds the instance there",
            "`0xA700 (…)`, with the SOP Instance UID"),
    Failure(WEB, "stow-unclear", "202, 400, 409, 413, 415, 422 that do not name each instance", G,
            "those not named are sent again one by one, at once",
            "more requests than `STOW_BATCH` makes needed"),
    Failure(WEB, "stow-409", "400, 409, 413, 415, 422 of one instance alone, without a reason", Q,
            "the same bytes will be refused again", "`0xC000 (HTTP 409)`"),
    Failure(SHARE, "folder-full", "the disk is full, a quota is used up", R,
            "room comes back; nothing half is left", "`No space left on device; n of m written`"),
    Failure(SHARE, "folder-away", "the directory is not there, or cannot be written", R,
            "a share that is not mounted; it is never made, so that nothing fills the disk "
            "beneath it", "`no such directory; is it mounted?`"),
    Failure(SHARE, "folder-name", "a path that cannot be", Q,
            "the layout has to be changed", "`File name too long; … see FOLDER_PATH`"),
    Failure(HOOK, "hook-network", "no connection, reset, time-out, TLS failure", R,
            "may pass; the same bytes and `X-Pacsor-Delivery` again",
            "`webhook (…): Connection refused`"),
    Failure(HOOK, "hook-5xx", "500 to 599 but 501, 408, 425", R,
            "transient by definition; `Retry-After` is a lower bound",
            "`webhook (…): HTTP 503`, next try"),
    Failure(HOOK, "hook-429", "429", R,
            "`Retry-After` is honoured and slows every worker", "`webhook (…): HTTP 429`"),
    Failure(HOOK, "hook-4xx", "any other 4xx, 501", Q,
            "the receiver refuses this event, or there is none", "`webhook (…): HTTP 400: …`"),
    Failure(HOOK, "hook-redirect", "a redirection", Q,
            "none is followed: it would carry the token elsewhere",
            "`HTTP 302: check WEBHOOK_URL`"),
    Failure(HOOK, "hook-2xx", "200 to 299", D, "it was taken", "`event taken (HTTP 204)`"),
    Failure(RIS, "mllp-refused", "no connection", R,
            "may pass; many in a row leave the RIS alone", "`RIS …: no connection (…)`"),
    Failure(RIS, "mllp-silent",
            "no acknowledgement within `RIS_TIMEOUT`, or the connection breaks", R,
            "sent again with the same bytes and MSH-10", "`no acknowledgement within 15 s`"),
    Failure(RIS, "mllp-mismatch",
            "an acknowledgement of another message, or that cannot be read", R,
            "whether the RIS has it is not known", "`MSA-2 is not our MSH-10`"),
    Failure(RIS, "ack-AE", "AE, CE", B,
            "an error there that may pass; after 20 tries it is quarantined",
            "`the RIS answered AE: …`"),
    Failure(RIS, "ack-AR", "AR, CR", Q,
            "the RIS refuses this message", "`the RIS answered AR: …`"),
    Failure(RIS, "ack-AA", "AA, CA", D,
            "it has the message", "`delivered`"),
    Failure(HERE, "disk-full", "the disk is full or cannot be read", R,
            "room comes back; the receiver refuses new instances before that",
            "`internal error OSError (No space left on device)`"),
    Failure(HERE, "bug", "an error nobody thought of", R,
            "the log has where; tried again until the horizon",
            "`internal error …: see the worker's log`"),
    Failure(HERE, "deadly", "work that kills its worker ten times in a row", Q,
            "it would go on killing", "`10 processes in a row died at it`"),
    Failure(HERE, "unconfigured", "a destination or core that is no longer configured", Q,
            "re-route or skip it, or put it back", "`destination … is not configured`"),
    Failure(HERE, "wrong-patient", "a result of another study or patient", Q,
            "never delivered; kept in `spool/quarantine/`",
            "`a result of … is not of what was uploaded`"),
    Failure(HERE, "rate", "the destination's rate (`…_RATE`) is used up", W,
            "no failure: costs no try; due when its turn comes",
            "`the limit deliver:… is used up`"),
    Failure(HERE, "paused", "the destination or core is paused", W,
            "by an operator: costs no try, and the horizon stands still",
            "`destination … is paused by … since …`"),
    Failure(HERE, "left-alone", "the destination or core is left alone", W,
            "no worker is spent; a probe every 5 to 60 s, then one try at a time",
            "`is left alone until a probe gets through: …`"),
    Failure(HERE, "horizon", "retried for longer than `DELIVERY_RETRY_HORIZON`", Q,
            "72 h by default; time in which the gateway was off, or the peer paused, does "
            "not count",
            "`… (given up after n tries in … s)`"),
    Failure(HERE, "ledger-away", "the ledger is locked or away", G,
            "nothing is decided without it: the lease runs out and the sweep launches it again",
            "`ledger` is down on every page"),
    Failure(HERE, "redis-away", "Redis is away", G,
            "receiving goes on; the sweep publishes again from the ledger when it is back",
            "`redis` is down on every page"),
)  # fmt: skip

INTRODUCTION = """\
# Failures

What becomes of the work in each case. *Retried*: with exponential backoff and full jitter, from a
second to `RETRY_MAX_DELAY`, until `DELIVERY_RETRY_HORIZON`. *Quarantined*: a delivery stops with
its results kept and its run is `failed`; a run that stops before its deliveries is `failed`. Both
wait for an operator: `pacsor retry`, `skip`, `reroute`, or the buttons of the study's page. Nothing
is dropped.
"""


def page() -> str:
    """The whole page."""
    parts = [INTRODUCTION]
    for area, rows in groupby(FAILURES, lambda failure: failure.area):
        parts.append(f"\n## {area}\n\n| what | becomes | why | you see |\n|---|---|---|---|\n")
        parts += [f"| {f.what} | **{f.fate}** | {f.why} | {f.seen} |\n" for f in rows]
    return "".join(parts)


if __name__ == "__main__":
    sys.stdout.write(page())
