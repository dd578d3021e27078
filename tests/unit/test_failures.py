"""Every row of docs/failures.md, brought about through the code that decides."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import requests

from pacsor_tasks import guard
from pacsor_tasks.breaker import LedgerBreaker
from pacsor_tasks.dicom.negotiation import rejection
from pacsor_tasks.dicom.scu import Pacs, echo
from pacsor_tasks.dicom.statuses import Verdict, classify
from pacsor_tasks.dicomweb.answers import read
from pacsor_tasks.errors import (
    BadResponse,
    ConfigError,
    PacsorError,
    PeerUnavailable,
    Rejected,
    Retryable,
)
from pacsor_tasks.failures_table import FAILURES, Failure, Fate, page
from pacsor_tasks.folder import Folder, _translated, probe
from pacsor_tasks.hl7 import ack, mllp
from pacsor_tasks.http_out import Answer, Endpoint, check, refusal
from pacsor_tasks.ledger import Ledger
from pacsor_tasks.ledger.peers import OPEN_AT
from pacsor_tasks.milvue.media import MediaType
from pacsor_tasks.milvue.outcomes import StudyState, StudyStatus
from pacsor_tasks.milvue.refusals import api_refusal, network_error, storage_refusal
from pacsor_tasks.models import Delivery, DeliveryState, PeerKind, PeerName, RunState, Step
from pacsor_tasks.outcomes import Ended, RetryPolicy
from pacsor_tasks.steps.download import FORMATTING_TRIES
from pacsor_tasks.steps.poll import poll
from tests.conftest import Clock
from tests.support.bench import Bench
from tests.support.dicomweb_peers import stored
from tests.support.ledgers import add_run, bring_to, existing
from tests.support.net import free_port

POLICY = RetryPolicy(horizon_s=1000)
DOCS = Path(__file__).parents[2] / "docs" / "failures.md"
STORESCU = PeerName(PeerKind.DESTINATION, "storescu")


def pacs(port: int = 104) -> Pacs:
    return Pacs(
        name="storescu", host="127.0.0.1", port=port, called_aet="PACS", calling_aet="MILVUE",
        connect_timeout_s=1, timeout_s=1,
    )  # fmt: skip


def http(status: int, body: bytes = b"{}") -> Callable[[], PacsorError]:
    return lambda: api_refusal("status of 1.2.3", status, {}, body)


def raised(action: Callable[[], object]) -> Callable[[], PacsorError]:
    def error() -> PacsorError:
        with pytest.raises(PacsorError) as caught:
            action()
        return caught.value

    return error


def rejected(result: int, source: int, reason: int) -> Callable[[], PacsorError]:
    pdu = bytearray([3, 0, 0, 0, 0, 4, 0, result, source, reason])
    return lambda: rejection(pacs(), pdu)


def acknowledged(code: str, control_id: str = "1") -> Callable[[], object]:
    message = f"MSH|^~\\&|R|R|G|G|20250101||ACK|9|P|2.5.1\rMSA|{code}|{control_id}|so\r"
    return lambda: ack.check(message.encode(), "1")


def web(status: int, setting: str = "STOW", media: str = "") -> Callable[[], PacsorError]:
    endpoint = Endpoint(
        name="x", url="http://x/", connect_timeout_s=1, timeout_s=1, setting=setting
    )
    answer = Answer(status, {}, MediaType(media), b"")
    return lambda: refusal(endpoint, answer)


def unwritten(number: int, layout: str = "{sop_uid}") -> Callable[[], PacsorError]:
    folder = Folder(name="folder", path=Path("/nowhere"), layout=layout)
    return lambda: _translated(folder, OSError(number, os.strerror(number)))


def unreachable() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    to = Endpoint(name="x", url=url, connect_timeout_s=1, timeout_s=1, setting="STOW")
    check(to, "GET", url)


#: key → the error as the I/O edge makes it
ERRORS: dict[str, Callable[[], PacsorError]] = {
    "http-network": lambda: network_error("status", requests.ConnectionError("reset")),
    "http-5xx": http(503),
    "http-429": http(429),
    "http-404": http(404, b'{"detail": "Study not found"}'),
    "http-403": http(403),
    "http-400": http(422),
    "http-redirect": http(302),
    "http-garbage": lambda: BadResponse("the answer cannot be decoded"),
    "url-expired": lambda: storage_refusal("upload", 403, {}, b"<Code>AccessDenied</Code>"),
    "dimse-refused": raised(lambda: echo(pacs(free_port()))),
    "dimse-silent": lambda: PeerUnavailable("did not answer within 60 s"),
    "dimse-aborted": lambda: PeerUnavailable("aborted the association"),
    "dimse-rejected-transient": rejected(2, 3, 1),
    "dimse-rejected": rejected(1, 1, 3),
    "mllp-refused": raised(lambda: mllp.connect_check("127.0.0.1", free_port(), 1)),
    "mllp-silent": lambda: PeerUnavailable("no acknowledgement within 15 s"),
    "mllp-mismatch": raised(acknowledged("AA", "another")),
    "ack-AR": raised(acknowledged("AR")),
    "stow-network": raised(unreachable),
    "stow-5xx": web(503),
    "stow-429": web(429),
    "stow-401": web(401),
    "stow-404": web(404),
    "stow-redirect": web(302),
    "stow-page": web(200, media="text/html"),
    "stow-409": lambda: Rejected(f"1 not stored; first {read(409, b'', {'1.2'})['1.2'].status:x}"),
    "folder-full": unwritten(errno.ENOSPC),
    "folder-away": raised(lambda: probe(Folder(name="f", path=Path("/nowhere"), layout=""))),
    "folder-name": unwritten(errno.ENAMETOOLONG),
    "hook-network": raised(unreachable),
    "hook-5xx": web(500, "WEBHOOK"),
    "hook-429": web(429, "WEBHOOK"),
    "hook-4xx": web(422, "WEBHOOK"),
    "hook-redirect": web(307, "WEBHOOK"),
    "unconfigured": lambda: ConfigError("destination storescu is not configured"),
    "wrong-patient": lambda: BadResponse("a result is not of what was uploaded"),
}
#: key → statuses of its row
STATUSES: dict[str, list[int]] = {
    "0xA700": [0xA700, 0xA7FF],
    "0x0110": [0x0110, 0x0210, 0x0213, 0xFE00],
    "0xA900": [0xA900, 0xA9FF],
    "0xC000": [0xC000, 0xCFFF],
    "0x0122": [0x0122],
    "0x0124": [0x0124, 0x1234],
    "0xB000": [0xB000, 0xB006, 0xB007, 0xBFFF, 0x0001, 0x0107, 0x0116],
    "0x0111": [0x0111],
}
#: what has a test of its own, below
BY_HAND = {
    "http-formatting", "prediction-running", "prediction-late", "prediction-never",
    "prediction-failed", "ack-AE", "ack-AA", "disk-full", "bug", "deadly", "paused", "left-alone",
    "horizon", "ledger-away", "redis-away", "stow-200", "stow-failed", "stow-unclear", "hook-2xx",
    "rate",
}  # fmt: skip
ROWS = {failure.key: failure for failure in FAILURES}
FATE_OF = {
    Verdict.DELIVERED: Fate.DELIVERED,
    Verdict.RETRYABLE: Fate.RETRIED,
    Verdict.PERMANENT: Fate.QUARANTINED,
}


def test_every_row_is_tried_and_no_other() -> None:
    assert len(ROWS) == len(FAILURES)
    assert {*ERRORS, *STATUSES, *BY_HAND} == set(ROWS)


def test_the_page_is_that_of_the_table() -> None:
    assert DOCS.read_text() == page(), "python -m pacsor_tasks.failures_table > docs/failures.md"


@pytest.mark.parametrize("key", ERRORS)
def test_an_error_is_retried_or_quarantined_as_its_row_says(
    sqlite_ledger: Ledger, clock: Clock, key: str
) -> None:
    error = ERRORS[key]()
    run = bring_to(sqlite_ledger, add_run(sqlite_ledger), Step.DELIVER)

    def action(_: Delivery) -> Ended:
        raise error

    delivery_id = f"{run.id}:storescu"
    guard.deliver(sqlite_ledger, POLICY, delivery_id, action)
    found = sqlite_ledger.deliveries.get(delivery_id)
    assert found is not None
    expected = {Fate.RETRIED: DeliveryState.RETRYING, Fate.QUARANTINED: DeliveryState.QUARANTINED}
    assert found.state is expected[ROWS[key].fate]
    assert found.error == str(error)
    assert (found.due_at is not None) == (found.state is DeliveryState.RETRYING)


@pytest.mark.parametrize(
    ("row", "status"), [(ROWS[key], s) for key, statuses in STATUSES.items() for s in statuses]
)
def test_a_status_of_a_pacs_means_what_its_row_says(row: Failure, status: int) -> None:
    assert FATE_OF[classify(status)] is row.fate


@pytest.mark.parametrize("status", [429, 503])
def test_a_wish_of_the_api_is_the_least_pause(
    sqlite_ledger: Ledger, clock: Clock, status: int
) -> None:
    error = api_refusal("upload", status, {"Retry-After": "700"}, b"{}")
    run = bring_to(sqlite_ledger, add_run(sqlite_ledger), Step.UPLOAD)

    def action(_: object) -> object:
        raise error

    guard.run_step(sqlite_ledger, POLICY, run.id, Step.UPLOAD, action)  # type: ignore[arg-type]
    assert (existing(sqlite_ledger, run.id).due_at or 0) >= clock() + 700


@pytest.mark.parametrize(
    ("key", "http_status", "fate"),
    [
        ("stow-200", 200, Fate.DELIVERED),
        ("stow-200", 202, Fate.DELIVERED),
        ("stow-409", 409, Fate.QUARANTINED),
        ("stow-409", 413, Fate.QUARANTINED),
    ],
)
def test_of_one_instance_alone_the_http_status_means_what_its_row_says(
    key: str, http_status: int, fate: Fate
) -> None:
    assert FATE_OF[classify(read(http_status, b"", {"1.2"})["1.2"].status)] is fate
    assert ROWS[key].fate is fate


@pytest.mark.parametrize("http_status", [200, 202, 409])
@pytest.mark.parametrize(
    ("reason", "fate"),
    [
        (0xA700, Fate.RETRIED), (0x0110, Fate.RETRIED), (0xA900, Fate.QUARANTINED),
        (0xC122, Fate.QUARANTINED), (0x0122, Fate.QUARANTINED), (0x0111, Fate.DELIVERED),
    ],
)  # fmt: skip
def test_a_failure_reason_means_what_the_status_of_a_pacs_does(
    http_status: int, reason: int, fate: Fate
) -> None:
    answer = stored({}, {"1.2": reason}, http_status)
    assert FATE_OF[classify(read(http_status, answer.body, {"1.2", "1.3"})["1.2"].status)] is fate


@pytest.mark.parametrize("http_status", [202, 400, 409, 413, 415, 422])
def test_of_several_the_http_status_alone_says_nothing(http_status: int) -> None:
    assert read(http_status, b"", {"1.2", "1.3"}) == {}


# "rate" and "hook-2xx" are brought about in test_steps_destinations and test_webhook

# --- those that take more than one try


def tries_of(error: PacsorError) -> int:
    """After how many tries it is over; 0 when only the horizon ends it."""
    return next((n for n in range(1, 50) if POLICY.is_over(error, n, 0)), 0)


def test_an_application_error_of_a_ris_is_retried_a_bounded_number_of_times() -> None:
    assert ROWS["ack-AE"].fate is Fate.BOUNDED
    assert tries_of(raised(acknowledged("AE"))()) == 20
    assert tries_of(raised(acknowledged("CE"))()) == 20
    assert tries_of(http(503)()) == 0


def test_an_acknowledged_message_is_delivered() -> None:
    acknowledged("AA")()
    acknowledged("CA")()


def test_rendering_that_fails_is_retried_and_then_left_out() -> None:
    error = http(400, b'{"message": "Error formatting study"}')()
    assert isinstance(error, Retryable)
    assert ROWS["http-formatting"].fate is Fate.BOUNDED
    assert f"after {FORMATTING_TRIES} tries" in ROWS["http-formatting"].why


def test_a_prediction_is_waited_for_then_looked_at_seldom_then_failed(
    sqlite_ledger: Ledger, tmp_path: Path, clock: Clock
) -> None:
    bench = Bench(tmp_path, sqlite_ledger)
    bench.api.states = [StudyStatus(state=StudyState.RUNNING)]
    run = bench.at(bench.run(1), Step.POLL)
    run = bench.do(run, poll)
    assert (run.waiting_for, run.attempts) == ("the prediction", 0)
    clock.tick(bench.ports.poll.timeout_s)
    run = bench.do(run, poll)
    assert "longer than PREDICTION_TIMEOUT" in (run.waiting_for or "")
    assert (run.due_at or 0) == clock() + bench.ports.retry.cap_s
    while not run.state.is_terminal:
        clock.now = run.due_at or clock()
        run = bench.do(run, poll)
    assert run.state is RunState.FAILED
    assert "still running after" in (run.error or "")


def test_a_prediction_that_failed_ends_the_run(sqlite_ledger: Ledger, tmp_path: Path) -> None:
    bench = Bench(tmp_path, sqlite_ledger)
    bench.api.states = [StudyStatus(state=StudyState.ERROR, message="no bone")]
    run = bench.do(bench.at(bench.run(1), Step.POLL), poll)
    assert (run.state, run.error) == (RunState.FAILED, "the prediction failed: no bone")


@pytest.mark.parametrize(
    ("key", "error", "says"),
    [
        ("disk-full", OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        ("bug", ZeroDivisionError("x"), "internal error ZeroDivisionError"),
    ],
)
def test_what_goes_wrong_here_is_tried_again(
    sqlite_ledger: Ledger, key: str, error: Exception, says: str
) -> None:
    run = bring_to(sqlite_ledger, add_run(sqlite_ledger), Step.DELIVER)

    def action(_: Delivery) -> Ended:
        raise error

    guard.deliver(sqlite_ledger, POLICY, f"{run.id}:storescu", action)
    found = sqlite_ledger.deliveries.get(f"{run.id}:storescu")
    assert found is not None
    assert found.state is DeliveryState.RETRYING
    assert says in (found.error or "")
    assert ROWS[key].fate is Fate.RETRIED


def test_what_kills_ten_workers_is_quarantined(sqlite_ledger: Ledger, clock: Clock) -> None:
    run = bring_to(sqlite_ledger, add_run(sqlite_ledger), Step.DELIVER)
    delivery_id = f"{run.id}:storescu"
    for died in range(guard.MAX_LOSSES):
        assert sqlite_ledger.deliveries.claim(delivery_id, f"w{died}", 10) is not None
        clock.tick(11)
    guard.deliver(sqlite_ledger, POLICY, delivery_id, lambda _: pytest.fail("once more"))
    found = sqlite_ledger.deliveries.get(delivery_id)
    assert found is not None
    assert found.state is DeliveryState.QUARANTINED
    assert "10 processes in a row died at it" in (found.error or "")


@pytest.mark.parametrize(
    ("key", "says"), [("paused", "is paused by"), ("left-alone", "left alone")]
)
def test_what_waits_for_its_peer_costs_no_try(sqlite_ledger: Ledger, key: str, says: str) -> None:
    run = bring_to(sqlite_ledger, add_run(sqlite_ledger), Step.DELIVER)
    if key == "paused":
        sqlite_ledger.peers.pause(STORESCU, "ada", "")
    else:
        sqlite_ledger.peers.failed(STORESCU, "refused", OPEN_AT)
    delivery_id = f"{run.id}:storescu"
    guard.deliver(sqlite_ledger, POLICY, delivery_id, lambda _: pytest.fail("tried"))
    found = sqlite_ledger.deliveries.get(delivery_id)
    assert found is not None
    assert (found.state, found.attempts) == (DeliveryState.PENDING, 0)
    assert says in (found.waiting_for or "")


def test_beyond_the_horizon_a_delivery_is_quarantined_with_its_history(
    sqlite_ledger: Ledger, clock: Clock
) -> None:
    run = bring_to(sqlite_ledger, add_run(sqlite_ledger), Step.DELIVER)
    delivery_id = f"{run.id}:storescu"
    breaker = LedgerBreaker(sqlite_ledger.peers)

    def refused() -> Ended:
        raise PeerUnavailable("PACS: no TCP connection: Connection refused")

    for _ in range(100):
        guard.deliver(sqlite_ledger, POLICY, delivery_id, lambda _: breaker.call(STORESCU, refused))
        clock.tick(200)
    found = sqlite_ledger.deliveries.get(delivery_id)
    assert found is not None
    assert found.state is DeliveryState.QUARANTINED
    assert "Connection refused (given up after" in (found.error or "")
    detail = sqlite_ledger.studies.detail(run.study_uid)
    assert detail is not None
    assert [e["kind"] for e in detail["events"]].count("delivery.retry") >= 2


def test_without_the_ledger_nothing_is_decided(
    sqlite_ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = bring_to(sqlite_ledger, add_run(sqlite_ledger), Step.DELIVER)

    def gone(*_: object, **__: object) -> None:
        raise PeerUnavailable("ledger: database is locked")

    monkeypatch.setattr(sqlite_ledger.deliveries, "finish", gone)
    ended = Ended(DeliveryState.DELIVERED, "ok")
    with pytest.raises(PeerUnavailable, match="ledger"):  # the task defers to the sweep
        guard.deliver(sqlite_ledger, POLICY, f"{run.id}:storescu", lambda _: ended)
    found = sqlite_ledger.deliveries.get(f"{run.id}:storescu")
    assert found is not None
    assert found.state is DeliveryState.PENDING


def test_without_redis_the_work_stays_due(sqlite_ledger: Ledger, clock: Clock) -> None:
    run = add_run(sqlite_ledger)  # as enqueued by a message that Redis lost
    clock.tick(11)
    assert [due.run_id for due in sqlite_ledger.runs.due(stale_s=10, limit=9)] == [run.id]
