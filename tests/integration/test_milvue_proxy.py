"""The API through a proxy, as the environment names it."""

from __future__ import annotations

import pytest

from pacsor_tasks.errors import PacsorError
from pacsor_tasks.milvue.client import MilvueClient
from tests.support.pacs_peers import raw_server


@pytest.mark.parametrize(("no_proxy", "expected"), [("", 1), ("api.invalid", 0)])
def test_the_environments_proxy_is_used_unless_the_host_is_excepted(
    monkeypatch: pytest.MonkeyPatch, no_proxy: str, expected: int
):
    asked: list[bytes] = []

    def serve(connection: object) -> None:
        asked.append(connection.recv(4096).splitlines()[0])  # type: ignore[attr-defined]
        connection.sendall(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n")  # type: ignore[attr-defined]

    with raw_server(serve) as proxy:
        for name in ("http_proxy", "no_proxy", "HTTP_PROXY", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.port}")
        monkeypatch.setenv("NO_PROXY", no_proxy)
        with (
            MilvueClient("http://api.invalid", "key", signed_url=False, connect_timeout_s=2) as api,
            pytest.raises(PacsorError),
        ):
            api.status("1.2.3")
    assert asked == [b"GET http://api.invalid/v3/studies/1.2.3/status HTTP/1.1"] * expected
