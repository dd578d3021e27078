"""A message's delivery as a whole: every answer a RIS can give, and what holds a message back."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

from pacsor_tasks import guard, messages
from pacsor_tasks.dicom.scu import Pacs
from pacsor_tasks.errors import NotReady
from pacsor_tasks.ledger import Ledger
from pacsor_tasks.milvue.schemas import Detections
from pacsor_tasks.models import Delivery, DeliveryState, Run, RunState, Step
from pacsor_tasks.operations import skip_delivery
from pacsor_tasks.outcomes import RetryPolicy
from pacsor_tasks.ports import Ris
from pacsor_tasks.steps.cleanup import apply_retention, cleanup
from pacsor_tasks.steps.hl7 import send_message
from simulators.ris import Answer, RisSimulator
from tests.conftest import Clock
from tests.support.bench import Bench
from tests.support.ledgers import existing

DOCS = Path(__file__).parents[2] / "docs" / "hl7.md"
RETRYING, QUARANTINED = DeliveryState.RETRYING, DeliveryState.QUARANTINED
#: answer of the simulator → the state after one try, and what the operator reads
ANSWERS: dict[str, tuple[DeliveryState, str]] = {
    "AA": (DeliveryState.DELIVERED, ""),
    "CA": (DeliveryState.DELIVERED, ""),
    "AE": (RETRYING, "the RIS answered AE: because [ERR 207 E]"),
    "CE": (RETRYING, "the RIS answered CE: because [ERR 207 E]"),
    "AR": (QUARANTINED, "the RIS answered AR: because [ERR 207 E]"),
    "CR": (QUARANTINED, "the RIS answered CR: because [ERR 207 E]"),
    "none": (RETRYING, "no acknowledgement within 1 s"),
    "garbage": (RETRYING, "the answer is not an HL7 message"),
    "unframed": (RETRYING, "the answer is not an MLLP frame"),
    "wrong_id": (RETRYING, "the acknowledgement is of another message"),
    "wrong_id_first": (RETRYING, "the answer is more than one MLLP frame"),
    "half": (RETRYING, "no end of the acknowledgement"),
    "two_frames": (RETRYING, "the answer is more than one MLLP frame"),
    "close": (RETRYING, "no acknowledgement"),
    "reset": (RETRYING, "no acknowledgement"),
}


@pytest.fixture
def ris() -> Iterator[RisSimulator]:
    """A RIS that acknowledges everything."""
    with RisSimulator() as server:
        yield server


def findings(text: str = "Fracture : NON") -> Detections:
    return Detections.model_validate(
        {
            "StudyInstanceUID": "1.2", "status": "done", "version": "1",
            "flag": {"score": 1, "label": "normal"}, "hl7": text, "findings": [], "instances": [],
        }
    )  # fmt: skip


@pytest.fixture
def bench(tmp_path: Path, sqlite_ledger: Ledger, ris: RisSimulator) -> Iterator[Bench]:
    """Two RISs at one port: `hl7` keeps its connection, `hl7-2` does not."""
    made = Bench(
        tmp_path,
        sqlite_ledger,
        ris={
            name: Ris(
                name=name, host="127.0.0.1", port=ris.port, timeout_s=1, keep_alive_s=keep_alive_s
            )
            for name, keep_alive_s in (("hl7", 60), ("hl7-2", 0))
        },
    )
    made.api.findings_by_command["smarturgences"] = [findings()]
    yield made
    made.ports.mllp.close()


def changed(bench: Bench, **content: Any) -> None:
    """Other contents of the messages to `hl7`."""
    both = {**bench.ports.hl7, "hl7": dataclasses.replace(bench.ports.hl7["hl7"], **content)}
    bench.ports = dataclasses.replace(bench.ports, hl7=both)


def ready(bench: Bench, token: str = "t1", **attributes: str) -> Run:
    return bench.at(bench.run(1, token, **attributes), Step.DELIVER)


def deliver(bench: Bench, run: Run, clock: Clock, destination: str = "hl7") -> Delivery:
    """One try, when its time has come; the delivery afterwards."""
    delivery_id = f"{run.id}:{destination}"
    before = bench.ledger.deliveries.get(delivery_id)
    assert before is not None
    clock.now = max(clock.now, before.due_at or 0)
    guard.deliver(
        bench.ledger, bench.ports.retry, delivery_id, lambda d: send_message(d, bench.ports), 1
    )
    found = bench.ledger.deliveries.get(delivery_id)
    assert found is not None
    return found


def received(ris: RisSimulator) -> list[bytes]:
    return ris.messages


@pytest.mark.parametrize("answer", get_args(Answer))
def test_every_answer_has_its_outcome(
    bench: Bench, clock: Clock, ris: RisSimulator, answer: str
) -> None:
    state, said = ANSWERS[answer]
    run = ready(bench)
    ris.switches.set(answer=answer, text="because" if answer[1] in "ER" else "")
    found = deliver(bench, run, clock)
    assert found.state is state
    assert said in (found.waiting_for or found.error or "")
    ris.switches.set(answer="AA", text="")
    if state is RETRYING:
        assert deliver(bench, run, clock).state is DeliveryState.DELIVERED
        first, second = received(ris)
        assert first == second, "the same bytes, and so the same MSH-10"


def test_the_table_of_answers_is_in_the_documentation() -> None:
    rows = [line for line in DOCS.read_text().splitlines() if line.startswith("| `")]
    for answer, (state, _) in ANSWERS.items():
        row = next((line for line in rows if line.startswith(f"| `{answer}`")), "")
        assert state in row, f"{answer} is {state}"


def test_an_error_of_the_ris_is_tried_so_often_and_then_quarantined(
    bench: Bench, clock: Clock, ris: RisSimulator
) -> None:
    bench.ports = dataclasses.replace(bench.ports, retry=RetryPolicy())
    run = ready(bench)
    ris.switches.set(answer="AE")
    tries = 0
    while not (found := deliver(bench, run, clock)).state.is_terminal:
        tries += 1
        assert tries < 50
    assert found.state is QUARANTINED
    assert len(received(ris)) == 20
    assert "given up after 20 tries" in (found.error or "")
    assert len(set(received(ris))) == 1


def test_a_study_without_identity_is_sent_with_empty_fields_and_shown(
    bench: Bench, clock: Clock, ris: RisSimulator
) -> None:
    run = ready(bench, PatientID="", AccessionNumber="")
    assert deliver(bench, run, clock).state is DeliveryState.DELIVERED
    (message,) = received(ris)
    assert b"\rPID|||^^^MILVUE^PI||" in message
    assert b"P12345" not in message
    study = bench.ledger.studies.detail(run.study_uid)
    assert study is not None
    assert "the study has no PatientID, AccessionNumber" in study["events"][-1]["message"]


def test_a_study_without_identity_is_held_where_a_site_wants_that(
    bench: Bench, clock: Clock, ris: RisSimulator
) -> None:
    changed(bench, holds_incomplete=True)
    held = deliver(bench, ready(bench, AccessionNumber=""), clock)
    assert held.state is QUARANTINED
    assert "held: the study has no AccessionNumber" in (held.error or "")
    assert received(ris) == []
    assert deliver(bench, ready(bench, "t2"), clock).state is DeliveryState.DELIVERED


def test_a_message_switched_off_at_run_time_is_skipped(
    bench: Bench, clock: Clock, ris: RisSimulator
) -> None:
    changed(bench, is_enabled=False)
    assert deliver(bench, ready(bench), clock).state is DeliveryState.SKIPPED
    assert received(ris) == []


def test_what_a_second_ris_gets_is_its_own(bench: Bench, clock: Clock, ris: RisSimulator) -> None:
    options = dataclasses.replace(bench.ports.hl7["hl7"].options, receiving_application="ONE")
    changed(bench, options=options)
    run = ready(bench)
    for destination in ("hl7", "hl7-2"):
        assert deliver(bench, run, clock, destination).state is DeliveryState.DELIVERED
    assert [m.split(b"|")[4] for m in received(ris)] == [b"ONE", b"RIS"]


def test_the_message_is_kept_with_its_answer_until_retention(
    bench: Bench, clock: Clock, ris: RisSimulator
) -> None:
    run = ready(bench)
    as_it_would_be = messages.shown(run.study_uid, "hl7", bench.ports)
    assert not as_it_would_be.is_made
    assert b"|PREVIEW|" in as_it_would_be.message
    ris.switches.set(answer="AE", text="not now")
    deliver(bench, run, clock)
    made = messages.shown(run.study_uid, "hl7", bench.ports)
    assert made.is_made
    assert made.message == received(ris)[0]
    assert b"|not now" in (made.answer or b"")
    ris.switches.set(answer="AA", text="")
    for destination in ("hl7", "hl7-2"):
        deliver(bench, run, clock, destination)
    assert b"MSA|AA|" in (messages.shown(run.study_uid, "hl7", bench.ports, run.id).answer or b"")
    assert bench.do(existing(bench.ledger, run.id), cleanup).state is RunState.DONE
    file = bench.ports.spool.message_file(run.id, "hl7")
    assert file.parent.stat().st_mode & 0o007 == 0, "closed to other users"
    clock.now = time.time()
    apply_retention(bench.ports)
    assert file.is_file()
    clock.tick(bench.ports.retention_s + 1)
    apply_retention(bench.ports)
    assert not file.parent.exists()


def test_a_preview_says_what_is_missing(bench: Bench, ris: RisSimulator) -> None:
    bench.api.findings_by_command["smarturgences"] = [NotReady("running")]
    changed(bench, holds_incomplete=True)
    run = ready(bench, PatientID="")
    found = messages.shown(run.study_uid, "hl7", bench.ports)
    assert found.notes == (
        "the study has no PatientID",
        "it is held for that (HL7_INCOMPLETE_IDENTITY=hold)",
        "without findings: the AI is not ready",
    )
    assert received(ris) == []


IMAGES = Pacs(
    name="storescu",
    host="127.0.0.1",
    port=9,
    called_aet="PACS",
    calling_aet="MILVUE",
    connect_timeout_s=1,
    timeout_s=1,
)


@pytest.mark.parametrize(
    ("images", "state"),
    [
        (DeliveryState.DELIVERED, DeliveryState.DELIVERED),
        (DeliveryState.SKIPPED, DeliveryState.DELIVERED),
        (QUARANTINED, QUARANTINED),
    ],
)
def test_a_message_follows_its_images_where_a_site_wants_that(  # noqa: PLR0917 - fixtures
    tmp_path: Path,
    sqlite_ledger: Ledger,
    clock: Clock,
    ris: RisSimulator,
    images: DeliveryState,
    state: DeliveryState,
) -> None:
    peer = Ris(name="hl7", host="127.0.0.1", port=ris.port, timeout_s=1)
    bench = Bench(tmp_path, sqlite_ledger, pacs={"storescu": IMAGES}, ris={"hl7": peer})
    bench.api.findings_by_command["smarturgences"] = [findings()]
    changed(bench, after_images=True)
    run = ready(bench)
    waiting = deliver(bench, run, clock)
    assert waiting.waiting_for == "the images at storescu (HL7_AFTER_IMAGES)"
    assert received(ris) == []
    stored = sqlite_ledger.deliveries.claim(f"{run.id}:storescu", "me", 10)
    assert stored is not None
    sqlite_ledger.deliveries.finish(stored, images, "as told")
    found = deliver(bench, run, clock)
    assert found.state is state
    assert len(received(ris)) == (state is DeliveryState.DELIVERED)


def test_a_message_whose_images_are_long_away_seldom_looks_and_is_woken(
    tmp_path: Path, sqlite_ledger: Ledger, clock: Clock, ris: RisSimulator
) -> None:
    peer = Ris(name="hl7", host="127.0.0.1", port=ris.port, timeout_s=1)
    bench = Bench(tmp_path, sqlite_ledger, pacs={"storescu": IMAGES}, ris={"hl7": peer})
    changed(bench, after_images=True)
    run = ready(bench)
    clock.tick(250)
    waiting = deliver(bench, run, clock)
    assert waiting.due_at is not None
    assert waiting.due_at - clock() > 100
    sqlite_ledger.deliveries.wake_after_images(run.id)
    assert not [d for d in due(sqlite_ledger) if d == waiting.id]
    skip_delivery(f"{run.id}:storescu", "ada", "is replaced", bench.ports)
    assert [d for d in due(sqlite_ledger) if d == waiting.id]


def due(ledger: Ledger) -> list[str]:
    return [d.delivery_id for d in ledger.deliveries.due(stale_s=10, limit=9)]
