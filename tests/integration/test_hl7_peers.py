"""Our MLLP client against servers of other authors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from pacsor_tasks.hl7 import mllp
from pacsor_tasks.hl7.ack import AckError, AckRejected, check
from tests.support.hl7_example import example, example_of_size
from tests.support.mllp_peers import Ris, hl7_package_server, mllp2http_server, node_server
from tests.support.net import wait_until

SERVERS = ("hl7", "mllp2http", "node-hl7-server", "simple-hl7")


def start(name: str, directory: Path, code: str = "AA") -> AbstractContextManager[Ris]:
    if name == "hl7":
        return hl7_package_server(code)
    if name == "mllp2http":
        return mllp2http_server(code)
    return node_server(f"{name.replace('-', '_')}.js", directory / name, code)


@pytest.fixture(scope="module", params=SERVERS)
def ris(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ris]:
    with start(request.param, tmp_path_factory.mktemp("ris")) as server:
        yield server


@pytest.mark.parametrize("size_bytes", [1_000, 1_000_000, 3_000_000])
def test_a_message_of_any_size_arrives_as_sent_and_is_acknowledged(
    ris: Ris, size_bytes: int
) -> None:
    control_id = f"GW{size_bytes}"
    message = (
        example(control_id=control_id)
        if size_bytes == 1_000
        else example_of_size(size_bytes, control_id)
    )
    before = len(ris.received())

    answer = mllp.exchange("127.0.0.1", ris.port, message, timeout_s=30)

    assert check(answer, control_id).code == "AA"
    wait_until(lambda: len(ris.received()) == before + 1)
    assert ris.received()[-1] == message


@pytest.mark.parametrize("name", ["hl7", "mllp2http", "simple-hl7"])
def test_messages_follow_each_other_on_one_connection(name: str, tmp_path: Path) -> None:
    # node-hl7-server 2.5.0 keeps the first message and acknowledges it again with the second.
    with (
        start(name, tmp_path) as ris,
        mllp.Connection("127.0.0.1", ris.port, timeout_s=30) as connection,
    ):
        for number in range(5):
            answer = connection.exchange(example(control_id=f"GW{number}"))
            assert check(answer, f"GW{number}").control_id == f"GW{number}"


@pytest.mark.parametrize("name", SERVERS)
@pytest.mark.parametrize(("code", "error"), [("AE", AckError), ("AR", AckRejected)])
def test_a_refusal_is_read_from_every_server(
    name: str, code: str, error: type[Exception], tmp_path: Path
) -> None:
    message = example(control_id="GW1")
    with start(name, tmp_path, code) as ris:
        answer = mllp.exchange("127.0.0.1", ris.port, message, timeout_s=30)
    with pytest.raises(error):
        check(answer, "GW1")
