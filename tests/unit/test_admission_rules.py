"""Who may send: the allow list's lines, and the order of the reasons."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from pacsor_tasks.errors import ConfigError
from pacsor_tasks.refusals import Reason
from pacsor_tasks.spool import Spool
from receiver.admission import APPLICATION_CONTEXT, REJECTIONS, Admission, plain_address
from receiver.allow_list import AllowFile, Caller, load, parse, refusal
from receiver.processes import Process, alive
from receiver.seats import Seat, Seats

RULES = """
# calling            from              called
CT1                  10.1.2.3
DX*                  10.1.0.0/16       MILVUE
MR?                  *                 MIL*      # any address
"CR ROOM 2"          2001:db8::/32
a.b                  192.0.2.0/24
"""
EXAMPLE = Path(__file__).parents[2] / "conf" / "allow.cfg.example"


def caller(calling: str, address: str, called: str = "MILVUE") -> Caller:
    return Caller(calling_aet=calling, called_aet=called, address=address)


@pytest.mark.parametrize(
    ("who", "reason"),
    [
        (caller("CT1", "10.1.2.3"), None),
        (caller("CT1", "10.1.2.3", "ANYTHING"), None),  # the rule names no called AE title
        (caller("CT1", "10.1.2.4"), Reason.ADDRESS),
        (caller("ct1", "10.1.2.3"), Reason.CALLING_AET),  # AE titles have case
        (caller("CT11", "10.1.2.3"), Reason.CALLING_AET),
        (caller("", "10.1.2.3"), Reason.CALLING_AET),
        (caller("DX", "10.1.255.255"), None),  # `*` is any number of characters
        (caller("DX_7", "10.1.0.1"), None),
        (caller("DX_7", "10.2.0.1"), Reason.ADDRESS),
        (caller("DX_7", "10.1.0.1", "OTHER"), Reason.CALLED_AET),
        (caller("MR1", "203.0.113.9", "MILVUE"), None),
        (caller("MR1", "203.0.113.9", "MIL"), None),
        (caller("MR", "203.0.113.9"), Reason.CALLING_AET),  # `?` is one character
        (caller("MR1", "203.0.113.9", "PACS"), Reason.CALLED_AET),
        (caller("CR ROOM 2", "2001:db8::7"), None),
        (caller("CR ROOM 2", "10.1.2.3"), Reason.ADDRESS),
        (caller("axb", "192.0.2.1"), Reason.CALLING_AET),  # a dot is a dot
        (caller("CT1", "no address"), Reason.ADDRESS),
    ],
)
def test_a_caller_is_let_in_by_one_line_that_fits(who: Caller, reason: Reason | None) -> None:
    assert refusal(parse(RULES, Path("allow.cfg")), who) is reason


@pytest.mark.parametrize(
    ("text", "line", "complaint"),
    [
        ("CT1", 1, "1 words where two or three belong"),
        ("# fine\n\nCT1 * MILVUE more", 3, "4 words"),
        ("CT1 10.1.2.300", 1, "'10.1.2.300' is not an address or network"),
        ("CT1 10.1.2.3/16", 1, "bits beyond its network are set"),
        ("CT1 *\nA_TITLE_THAT_IS_TOO_LONG *", 2, "is not an AE title"),
        ("CT\\1 *", 1, "is not an AE title"),
        ('"CR 1 *', 1, "a double quote without its end"),
        ('"" *', 1, "is not an AE title"),
    ],
)
def test_a_malformed_line_is_named(text: str, line: int, complaint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text, Path("conf/allow.cfg"))
    assert str(caught.value).startswith(f"RECEIVER_ALLOW: conf/allow.cfg, line {line}: ")
    assert complaint in str(caught.value)


@pytest.mark.parametrize("text", ["", "# only words\n\n"])
def test_a_file_without_a_rule_is_refused(text: str) -> None:
    # An editor empties a file before it writes it: that must not lock everybody out.
    with pytest.raises(ConfigError, match="has no rule"):
        parse(text, Path("allow.cfg"))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.cfg cannot be read: No such file"):
        load(tmp_path / "nowhere.cfg")


def test_the_example_can_be_read() -> None:
    assert len(load(EXAMPLE)) >= 3


def replace(path: Path, text: str) -> None:
    """As editors and `mv` do: a new file of that name, its time its own."""
    fresh = path.with_suffix(".new")
    fresh.write_text(text)
    os.utime(fresh, ns=(0, path.stat().st_mtime_ns + 1))
    fresh.rename(path)


def test_a_changed_file_counts_at_once_and_a_broken_one_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "allow.cfg"
    path.write_text("CT1 *\n")
    allowed = AllowFile(path)
    assert refusal(allowed.rules(), caller("CT2", "10.0.0.1")) is Reason.CALLING_AET
    replace(path, "CT2 *\n")
    assert refusal(allowed.rules(), caller("CT2", "10.0.0.1")) is None
    with capture_logs() as lines:
        replace(path, "CT3 *\nCT4\n")
        for _ in range(3):
            assert refusal(allowed.rules(), caller("CT2", "10.0.0.1")) is None
        path.unlink()
        for _ in range(3):
            assert refusal(allowed.rules(), caller("CT2", "10.0.0.1")) is None
    assert [line["event"] for line in lines] == ["allow_list.broken"] * 2, "told once each"
    assert lines[0]["log_level"] == "error"
    assert "line 2" in lines[0]["error"]
    path.write_text("CT5 *\n")
    assert refusal(allowed.rules(), caller("CT5", "10.0.0.1")) is None


def admission(tmp_path: Path, **changes: object) -> Admission:
    spool = Spool(tmp_path)
    spool.prepare()
    given: dict[str, object] = {
        "seats": Seats(Process(spool, "1-a"), 1),
        "is_disk_full": lambda: False,
        "rules": lambda: parse("CT1 10.0.0.0/8", Path("allow.cfg")),
        "own_aet": "MILVUE",
    }
    return Admission(**(given | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "who", "context", "reason"),
    [
        ({}, caller("CT1", "10.0.0.1"), APPLICATION_CONTEXT, None),
        ({}, caller("CT1", "10.0.0.1"), "1.2.3", Reason.APPLICATION_CONTEXT),
        ({}, caller("CT1", "10.0.0.1", "PACS"), APPLICATION_CONTEXT, Reason.CALLED_AET),
        ({"own_aet": None}, caller("CT1", "10.0.0.1", "PACS"), APPLICATION_CONTEXT, None),
        ({"rules": None}, caller("X", "192.0.2.1"), APPLICATION_CONTEXT, None),
        ({"is_disk_full": lambda: True}, caller("CT1", "10.0.0.1"), APPLICATION_CONTEXT,
         Reason.DISK_FULL),
        # what waiting does not mend is told first
        ({"is_disk_full": lambda: True}, caller("CT2", "10.0.0.1"), APPLICATION_CONTEXT,
         Reason.CALLING_AET),
    ],
)  # fmt: skip
def test_the_first_reason_that_holds_is_given(
    tmp_path: Path,
    changes: dict[str, object],
    who: Caller,
    context: str,
    reason: Reason | None,
) -> None:
    answer = admission(tmp_path, **changes).admit(who, context)
    assert isinstance(answer, Seat) if reason is None else answer is reason


def test_a_spool_that_cannot_be_written_lets_nobody_in(tmp_path: Path) -> None:
    admitting = admission(tmp_path)
    (tmp_path / "seats").rmdir()
    answer = admitting.admit(caller("CT1", "10.0.0.1"), APPLICATION_CONTEXT)
    assert answer is Reason.UNAVAILABLE


@pytest.mark.parametrize("reason", REJECTIONS)
def test_a_rejection_is_one_the_standard_knows(reason: Reason) -> None:
    # PS3.8 Table 9-21
    result, source, number = REJECTIONS[reason]
    assert result in {1, 2}
    assert number in {1: {1, 2, 3, 7}, 2: {1, 2}, 3: {1, 2}}[source]
    # A sender comes back by itself only after a transient one.
    assert (result == 2) == (source == 3)


def test_seats_are_counted_over_processes_and_those_of_the_dead_are_not(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.prepare()
    waits: list[float] = []
    with alive(spool) as one, alive(spool) as other:
        here, there = Seats(one, 3, 2, waits.append), Seats(other, 3, 2, waits.append)
        first, second = here.take("10.0.0.1"), there.take("10.0.0.1")
        assert here.take("10.0.0.1") is Reason.TOO_MANY_FROM_PEER
        third = here.take("fe80::1")
        assert there.take("10.0.0.3") is Reason.TOO_MANY
        assert waits, "an association that is just ending gets a moment"
        assert isinstance(second, Seat)
        second.free()
        second.free()
        assert isinstance(there.take("10.0.0.3"), Seat)
        assert isinstance(first, Seat)
        assert isinstance(third, Seat)
    with alive(spool) as later:
        seats = Seats(later, 1)
        assert isinstance(seats.take("10.0.0.9"), Seat), "the dead hold no seat"
        assert sum("@" in p.name for p in (tmp_path / "seats").iterdir()) == 1


@pytest.mark.parametrize(
    ("given", "plain"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("fe80::1%eth0", "fe80::1"),
        ("2001:DB8::0:1", "2001:db8::1"),
        ("unknown", "unknown"),
    ],
)
def test_an_address_is_compared_in_its_plain_form(given: str, plain: str) -> None:
    assert plain_address(given) == plain
