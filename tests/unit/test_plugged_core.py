"""The shield: whatever a package's core does, the pipeline meets errors and answers of ours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from billiard.exceptions import SoftTimeLimitExceeded
from structlog.testing import capture_logs

from pacsor_tasks.core_api import (
    CoreClient,
    GivesFindings,
    Outcome,
    Results,
    StudyState,
    StudyStatus,
    UploadItem,
)
from pacsor_tasks.errors import BadResponse, NotReady, PacsorError, PeerUnavailable, Retryable
from pacsor_tasks.plugged_core import AbsentCore, PluggedCore, shielded

ITEMS = [UploadItem(Path(f"{n}.dcm"), f"1.2.{n}") for n in range(3)]


class Core:
    """Does what a test says."""

    def __init__(self, does: Callable[..., Any] = lambda *_: None) -> None:
        self.does = does

    def upload(
        self, study_uid: str, items: Sequence[UploadItem], on_uploaded: Any, put: Any
    ) -> None:
        self.does(items, on_uploaded, put)

    def status(self, study_uid: str) -> Any:
        return self.does()

    def results(self, study_uid: str, command: str, into: Path, params: Any) -> Any:
        return self.does(into)

    def check(self) -> None:
        self.does()

    def close(self) -> None:
        self.does()


def plugged(does: Callable[..., Any]) -> PluggedCore:
    return shielded(cast(CoreClient, Core(does)), "core1 (CORE_TYPE x)")


def raising(exc: BaseException) -> Callable[..., Any]:
    def does(*_: Any) -> None:
        raise exc

    return does


@pytest.mark.parametrize(
    ("raised", "becomes", "says"),
    [
        (NotReady("not yet"), NotReady, "not yet"),
        (ConnectionResetError(104, "reset"), PeerUnavailable, "ConnectionResetError reset in che"),
        (TimeoutError(), PeerUnavailable, "TimeoutError in check()"),
        (KeyError("DOE^JANE"), Retryable, "internal error KeyError in check()"),
        (SystemExit(1), Retryable, "internal error SystemExit in check()"),
    ],
)
def test_every_error_becomes_one_of_ours(raised: BaseException, becomes: type, says: str):
    with capture_logs() as logs, pytest.raises(PacsorError) as caught:
        plugged(raising(raised)).check()
    assert type(caught.value) is becomes
    assert says in str(caught.value)
    assert "DOE" not in f"{caught.value}{logs}"


def test_the_task_s_time_limit_goes_through():
    with pytest.raises(SoftTimeLimitExceeded):
        plugged(raising(SoftTimeLimitExceeded())).status("1.2")


@pytest.mark.parametrize(
    "answer", [None, "done", {"state": "done"}, StudyStatus(state=cast(StudyState, "done!"))]
)
def test_a_status_that_is_none_is_a_bad_response(answer: object):
    with pytest.raises(BadResponse, match=r"status\(\) answered .*, not a StudyStatus"):
        plugged(lambda: answer).status("1.2")


@pytest.mark.parametrize("odd", [object(), b"bytes", 7, ["a", "list"]])
@pytest.mark.parametrize("field", ["message", "version"])
def test_a_message_that_is_no_text_is_a_bad_response(tmp_path: Path, field: str, odd: Any):
    status = StudyStatus(**{"state": StudyState.ERROR, field: odd})
    with pytest.raises(BadResponse, match=r"^core1 .*: status\(\) answered \w+, not a text"):
        plugged(lambda: status).status("1.2")
    if field == "message":
        results = Results(outcome=Outcome.EMPTY, message=odd)
        with pytest.raises(BadResponse, match=r"^core1 .*: results\(\) answered \w+, not a text"):
            plugged(lambda _: results).results("1.2", "results", tmp_path / "into")


def test_a_message_is_one_safe_line_and_may_be_none(tmp_path: Path):
    said = StudyStatus(state=StudyState.ERROR, message="one\ntwo\0 \ud800", version=cast(str, None))
    assert plugged(lambda: said).status("1.2") == StudyStatus(
        state=StudyState.ERROR, message="one two ?"
    )
    silent = Results(outcome=Outcome.EMPTY, message=cast(str, None))
    found = plugged(lambda _: silent).results("1.2", "results", tmp_path / "into")
    assert found == Results(outcome=Outcome.EMPTY)


def test_results_come_from_their_folder_which_is_there_and_empty(tmp_path: Path):
    into = tmp_path / "deep" / "into"
    into.mkdir(parents=True)
    (into / "left-over.dcm").touch()

    def does(folder: Path) -> Results:
        assert list(folder.iterdir()) == []
        (folder / "a.dcm").touch()
        return Results(outcome=Outcome.DONE, paths=[(folder / "a.dcm").resolve()])

    found = plugged(does).results("1.2", "results", into)
    assert found.paths == [into / "a.dcm"]


@pytest.mark.parametrize(
    "named",
    ["../secret", "missing.dcm", "link.dcm", "circle", ".", "\0", "a\0b", "\ud800", "x" * 300],
)
def test_results_from_elsewhere_are_a_bad_response(tmp_path: Path, named: str):
    (tmp_path / "secret").touch()

    def does(folder: Path) -> Results:
        (folder / "link.dcm").symlink_to(tmp_path / "secret")
        (folder / "circle").symlink_to(folder / "circle")
        return Results(outcome=Outcome.DONE, paths=[folder / named])

    with pytest.raises(BadResponse, match="no file in `into`"):
        plugged(does).results("1.2", "results", tmp_path / "into")


def test_results_of_another_shape_are_a_bad_response(tmp_path: Path):
    with pytest.raises(BadResponse, match=r"results\(\) answered list"):
        plugged(lambda folder: [folder]).results("1.2", "results", tmp_path / "into")


@pytest.mark.parametrize(
    "paths", [None, "a.dcm", 7, {"a.dcm": 1}, iter(()), [None], [b"a.dcm"], [7]]
)
def test_paths_of_another_type_are_a_bad_response(tmp_path: Path, paths: Any):
    answer = Results(outcome=Outcome.DONE, paths=paths)
    with pytest.raises(BadResponse, match=r"^core1 .*: results\(\) answered \w+, not a "):
        plugged(lambda _: answer).results("1.2", "results", tmp_path / "into")


def test_an_upload_tells_of_each_instance_and_takes_its_turns():
    told: list[str] = []

    def does(items: Sequence[UploadItem], take: Any, turn: Any) -> None:
        for item in items:
            turn()
            take(item)

    plugged(does).upload(
        "1.2", ITEMS, lambda i: told.append(i.sop_instance_uid), lambda: told.append("turn")
    )
    assert told == ["turn", "1.2.0", "turn", "1.2.1", "turn", "1.2.2"]


def test_an_upload_that_forgets_instances_does_not_count_as_done():
    def does(items: Sequence[UploadItem], take: Any, turn: Any) -> None:
        take(items[0])

    with pytest.raises(BadResponse, match="for all but 2 of 3 instances"):
        plugged(does).upload("1.2", ITEMS, lambda _: None)


@pytest.mark.parametrize(
    "odd", ["foo", None, [], UploadItem(Path("9.dcm"), "1.2.9"), UploadItem(Path("0.dcm"), "1.2.1")]
)
def test_a_core_that_tells_of_what_it_was_not_given_is_stopped(odd: Any):
    told: list[UploadItem] = []

    def does(items: Sequence[UploadItem], take: Any, turn: Any) -> None:
        with suppress(Exception):  # what a careless core does
            take(odd)
        for item in items:
            take(item)

    with pytest.raises(
        BadResponse, match=r"^core1 .*: upload\(\) called on_uploaded\(\) with \w+, "
    ):
        plugged(does).upload("1.2", ITEMS, told.append)
    assert told == []


def test_a_core_cannot_overhear_that_the_run_was_taken_away():
    lost = Retryable("the lease was lost")
    taken: list[UploadItem] = []

    def does(items: Sequence[UploadItem], take: Any, turn: Any) -> None:
        for item in items:
            try:
                turn()
            except Exception:  # noqa: BLE001 - what a careless core does
                continue
            take(item)
        for item in items:
            take(item)

    with pytest.raises(Retryable) as caught:
        plugged(does).upload("1.2", ITEMS, taken.append, raising(lost))
    assert caught.value is lost
    assert taken == []


def test_a_core_that_cannot_be_closed_is_let_go():
    plugged(raising(ValueError("x"))).close()


def test_only_a_core_with_findings_gives_findings():
    core = Core()
    assert not isinstance(shielded(cast(CoreClient, core), "c"), GivesFindings)
    core.findings = lambda *_: SimpleNamespace(model_dump=lambda: {"a": 1})  # type: ignore[attr-defined]
    found = shielded(cast(CoreClient, core), "c")
    assert isinstance(found, GivesFindings)
    assert found.findings("1.2", "results").model_dump() == {"a": 1}
    core.findings = lambda *_: {"a": 1}  # type: ignore[attr-defined]
    with pytest.raises(BadResponse, match=r"findings\(\) answered dict, not findings whose"):
        shielded(cast(CoreClient, core), "c").findings("1.2", "results", "en")  # type: ignore[attr-defined]


def test_a_core_that_could_not_be_made_is_away(tmp_path: Path):
    core: CoreClient = AbsentCore("its package is gone")
    for ask in (
        core.check,
        lambda: core.upload("1.2", ITEMS, lambda _: None, before_put=lambda: None),
        lambda: core.status("1.2"),
        lambda: core.results("1.2", "c", tmp_path, {}),
    ):
        with pytest.raises(PeerUnavailable, match="its package is gone"):
            ask()
    core.close()
