"""The client and the simulated service: whole conversations, and the faults of contract §5.1."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pydicom
import pytest

from pacsor_tasks.errors import (
    BadResponse,
    NotReady,
    PacsorError,
    PeerUnavailable,
    RateLimited,
    Rejected,
    Retryable,
)
from pacsor_tasks.milvue.client import (
    CommandForbidden,
    Detections,
    ExpiredUrl,
    FormattingError,
    Measures,
    MilvueClient,
    Outcome,
    StudyState,
    UnknownStudy,
    UploadItem,
)
from simulators.milvue import MilvueSimulator
from tests.support.net import wait_until
from tests.support.studies import make_study, study_uid_of

TOKEN = "8f14e45f-ceea-467f-a8cb-7b3a3c8b0d11"
BOTH = pytest.mark.parametrize("signed_url", [False, True], ids=["direct", "signed"])


@pytest.fixture(scope="module")
def simulator() -> Iterator[MilvueSimulator]:
    with MilvueSimulator(token=TOKEN) as running:
        yield running


@pytest.fixture
def milvue(simulator: MilvueSimulator) -> MilvueSimulator:
    simulator.reset()
    return simulator


class Site:
    """A study and a client of it."""

    def __init__(
        self, milvue: MilvueSimulator, directory: Path, *, signed_url: bool, n: int = 3
    ) -> None:
        files = make_study(directory / "study", n)
        self.uid = study_uid_of(files)
        self.items = [
            UploadItem(f, str(pydicom.dcmread(f, stop_before_pixels=True).SOPInstanceUID))
            for f in files
        ]
        self.into = directory / "results"
        self.done: list[UploadItem] = []
        self.client = MilvueClient(
            milvue.url,
            TOKEN,
            signed_url=signed_url,
            connect_timeout_s=5,
            read_timeout_s=10,
            parallel=2,
        )

    def upload(self) -> None:
        rest = [item for item in self.items if item not in self.done]
        self.client.upload(self.uid, rest, self.done.append)

    def predict(self) -> None:
        self.upload()
        wait_until(lambda: self.client.status(self.uid).state is StudyState.DONE)

    def results(self, command: str = "smarturgences") -> list[Path]:
        return self.client.results(self.uid, command, self.into).paths


@pytest.fixture
def site(milvue: MilvueSimulator, tmp_path: Path) -> Iterator[Callable[..., Site]]:
    made: list[Site] = []

    def make(*, signed_url: bool, n: int = 3) -> Site:
        made.append(Site(milvue, tmp_path, signed_url=signed_url, n=n))
        return made[-1]

    yield make
    for one in made:
        one.client.close()


@BOTH
def test_a_study_goes_up_and_its_results_come_back(
    signed_url: bool, milvue: MilvueSimulator, site: Callable[..., Site]
) -> None:
    here = site(signed_url=signed_url)
    with pytest.raises(UnknownStudy):
        here.client.status(here.uid)
    here.predict()
    paths = here.results()
    assert paths
    assert {str(pydicom.dcmread(path).StudyInstanceUID) for path in paths} == {here.uid}
    for item in here.items:
        assert milvue.journal.uploads(item.sop_instance_uid) == 1
        assert milvue.journal.puts(item.sop_instance_uid) == int(signed_url)
    assert milvue.journal.tokens(here.uid) == {TOKEN}
    detections = here.client.findings(here.uid, "smarturgences", "fr")
    assert isinstance(detections, Detections)
    assert detections.instances
    assert isinstance(here.client.findings(here.uid, "smartxpert", "fr"), Measures)
    here.client.mark_interesting(here.uid)
    here.client.check()


def test_storage_at_google_takes_the_same_puts(
    milvue: MilvueSimulator, site: Callable[..., Site]
) -> None:
    milvue.switches.set(storage="gcs")
    here = site(signed_url=True)
    here.predict()
    assert here.results()


def test_a_wrong_token_is_refused_by_every_call(
    milvue: MilvueSimulator, site: Callable[..., Site]
) -> None:
    here = site(signed_url=False)
    with MilvueClient(milvue.url, "wrong", signed_url=False) as stranger:
        for call in (
            stranger.check,
            lambda: stranger.status(here.uid),
            lambda: stranger.upload(here.uid, here.items, here.done.append),
            lambda: stranger.results(here.uid, "smarturgences", here.into),
            lambda: stranger.findings(here.uid, "smarturgences"),
            lambda: stranger.mark_interesting(here.uid),
        ):
            with pytest.raises(Rejected, match="TOKEN"):
                call()


@BOTH
@pytest.mark.parametrize(
    ("switches", "error"),
    [
        ({"fault": 429, "retry_after": "7"}, RateLimited),
        ({"fault": 429}, RateLimited),
        ({"fault": 500}, PeerUnavailable),
        ({"fault": 503, "fault_early": True}, PeerUnavailable),
        ({"fault": 400}, Rejected),
        ({"fault": "reset"}, PeerUnavailable),
        ({"fault": "reset", "reset_after_bytes": 3000}, PeerUnavailable),
        ({"fault": "reset_after"}, PeerUnavailable),
    ],
)
def test_a_fault_in_the_post_is_got_over_by_a_repeat(
    switches: dict[str, Any],
    error: type[PacsorError],
    signed_url: bool,
    milvue: MilvueSimulator,
    site: Callable[..., Site],
) -> None:
    here = site(signed_url=signed_url)
    milvue.switches.set(operation="upload", times=1, **switches)
    with pytest.raises(error) as caught:
        here.upload()
    if "retry_after" in switches:
        assert isinstance(caught.value, Retryable)
        assert caught.value.retry_after_s == 7
    assert not here.done
    here.predict()
    assert sorted(i.sop_instance_uid for i in here.done) == sorted(
        i.sop_instance_uid for i in here.items
    )


@pytest.mark.parametrize(
    ("switches", "error"),
    [
        ({"fault": 503}, PeerUnavailable),
        ({"fault": "reset", "reset_after_bytes": 500}, PeerUnavailable),
        ({"expired": True}, ExpiredUrl),
    ],
)
def test_a_fault_in_one_put_costs_only_that_put(
    switches: dict[str, Any],
    error: type[PacsorError],
    milvue: MilvueSimulator,
    site: Callable[..., Site],
) -> None:
    here = site(signed_url=True, n=12)
    milvue.switches.set(operation="put", times=1, **switches)
    with pytest.raises(error):
        here.upload()
    here.predict()
    assert {milvue.journal.uploads(i.sop_instance_uid) for i in here.items} == {1}


def test_a_url_left_out_is_a_bad_response(
    milvue: MilvueSimulator, site: Callable[..., Site]
) -> None:
    milvue.switches.set(omit_uids=2)
    here = site(signed_url=True)
    with pytest.raises(BadResponse, match="no signed URL for 2 of 3"):
        here.upload()


@BOTH
@pytest.mark.parametrize("wrapping", ["raw", "wrapped"])
def test_every_form_of_running_and_of_nothing_is_told_apart(
    wrapping: str, signed_url: bool, milvue: MilvueSimulator, site: Callable[..., Site]
) -> None:
    here = site(signed_url=signed_url)
    milvue.switches.set(running_times=3, json_wrapping=wrapping)
    here.upload()
    with pytest.raises(NotReady):
        here.results()
    here.predict()
    milvue.switches.set(e3_running_times=1)
    with pytest.raises(NotReady):
        here.results()
    assert here.results()
    milvue.switches.set(e3_shape="status_empty", e3_signed="empty_list")
    assert here.client.results(here.uid, "smarturgences", here.into).outcome is Outcome.EMPTY
    assert not list(here.into.iterdir())


@pytest.mark.parametrize(
    ("switches", "outcome"),
    [
        ({"e3_shape": "dicom"}, Outcome.DONE),
        ({"e3_shape": "dicom", "boundary_length": 1}, Outcome.DONE),
        ({"e3_shape": "dicom", "boundary_length": 70, "chunk_bytes": 1000}, Outcome.DONE),
        ({"e3_shape": "dicom", "chunk_bytes": 997, "slow_chunk_s": 0.001}, Outcome.DONE),
        ({"e3_shape": "dicom+gzip"}, Outcome.DONE),
        ({"e3_shape": "empty"}, Outcome.EMPTY),
        ({"e3_shape": "empty", "boundary_length": 70}, Outcome.EMPTY),
        ({"e3_shape": "empty", "boundary_length": 1}, Outcome.EMPTY),
        ({"e3_shape": "status_empty"}, Outcome.EMPTY),
        ({"e3_shape": "status_empty", "json_wrapping": "wrapped"}, Outcome.EMPTY),
        ({"e3_shape": "status_done"}, Outcome.EMPTY),
        ({"e3_shape": "forbidden"}, Outcome.FORBIDDEN),
        ({"e3_shape": "forbidden", "json_wrapping": "wrapped"}, Outcome.FORBIDDEN),
    ],
)
def test_each_shape_of_a_direct_answer_has_its_outcome(
    switches: dict[str, Any],
    outcome: Outcome,
    milvue: MilvueSimulator,
    site: Callable[..., Site],
) -> None:
    here = site(signed_url=False)
    here.predict()
    milvue.switches.set(**switches)
    results = here.client.results(here.uid, "smarturgences", here.into)
    assert results.outcome is outcome
    for path in results.paths:
        assert str(pydicom.dcmread(path).StudyInstanceUID) == here.uid


@pytest.mark.parametrize(
    ("switches", "error"),
    [
        ({"e3_shape": "running"}, NotReady),
        ({"e3_shape": "formatting_error"}, FormattingError),
        ({"e3_shape": "formatting_error", "formatting_status": 400}, FormattingError),
        ({"e3_shape": "wrong_content_type"}, BadResponse),
        ({"e3_shape": "truncated"}, PeerUnavailable),
        ({"fault": 502, "operation": "results"}, PeerUnavailable),
        ({"fault": "reset", "operation": "results"}, PeerUnavailable),
    ],
)
def test_each_failing_answer_has_its_error_and_leaves_nothing(
    switches: dict[str, Any],
    error: type[PacsorError],
    milvue: MilvueSimulator,
    site: Callable[..., Site],
) -> None:
    here = site(signed_url=False)
    here.predict()
    milvue.switches.set(times=1, **switches)
    with pytest.raises(error):
        here.results()
    assert not list(here.into.iterdir())
    assert here.results()


@pytest.mark.parametrize(
    ("switches", "error"),
    [
        ({"e3_signed": "list_running"}, NotReady),
        ({"expired": True, "operation": "download"}, ExpiredUrl),
        ({"fault": 500, "operation": "download"}, PeerUnavailable),
        ({"fault": "reset", "reset_after_bytes": 1000, "operation": "download"}, PeerUnavailable),
    ],
)
def test_each_failing_signed_answer_has_its_error_and_leaves_nothing(
    switches: dict[str, Any],
    error: type[PacsorError],
    milvue: MilvueSimulator,
    site: Callable[..., Site],
) -> None:
    here = site(signed_url=True)
    here.predict()
    milvue.switches.set(times=1, **switches)
    with pytest.raises(error):
        here.results()
    assert not list(here.into.iterdir())
    assert here.results()


@pytest.mark.parametrize("shape", ["empty_list", "absent"])
def test_no_signed_results_is_empty(
    shape: str, milvue: MilvueSimulator, site: Callable[..., Site]
) -> None:
    here = site(signed_url=True)
    here.predict()
    milvue.switches.set(e3_signed=shape)
    assert here.client.results(here.uid, "smarturgences", here.into).outcome is Outcome.EMPTY


@BOTH
def test_an_answer_that_repeats_itself_gives_each_result_once(
    signed_url: bool, milvue: MilvueSimulator, site: Callable[..., Site]
) -> None:
    here = site(signed_url=signed_url)
    here.predict()
    once = len(here.results())
    milvue.switches.set(duplicate=True)
    assert len(here.results()) == once


def test_findings_wait_are_forbidden_or_unknown(
    milvue: MilvueSimulator, site: Callable[..., Site]
) -> None:
    here = site(signed_url=False)
    here.predict()
    for word, error in (
        ("running", NotReady),
        ("forbidden", CommandForbidden),
        ("not_found", UnknownStudy),
    ):
        milvue.switches.set(findings=word)
        with pytest.raises(error):
            here.client.findings(here.uid, "smarturgences", "en")


def test_an_error_of_the_ai_is_a_state(milvue: MilvueSimulator, site: Callable[..., Site]) -> None:
    milvue.switches.set(outcome="error", status_message="no image", running_times=0)
    here = site(signed_url=False)
    here.upload()
    wait_until(lambda: here.client.status(here.uid).state is not StudyState.RUNNING)
    found = here.client.status(here.uid)
    assert (found.state, found.message) == (StudyState.ERROR, "no image")


def test_a_slow_api_is_given_up_and_asked_again(
    milvue: MilvueSimulator, site: Callable[..., Site]
) -> None:
    here = site(signed_url=False)
    here.predict()
    milvue.switches.set(delay_s=1, operation="status", times=1)
    with MilvueClient(milvue.url, TOKEN, signed_url=False, read_timeout_s=0.2) as hasty:
        with pytest.raises(PeerUnavailable, match="no answer in time"):
            hasty.status(here.uid)
        assert hasty.status(here.uid).state is StudyState.DONE
