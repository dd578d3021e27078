"""Memory stays flat whatever the size: the client alone in a process, its peak from the kernel."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.http_script import Call, Reply, ScriptedServer

#: Bytes to move. The limit below holds for any size; 500 MB takes a few seconds more.
SIZE = int(os.environ.get("MILVUE_TEST_BYTES", "100_000_000"))
N = 4
GROWTH_LIMIT = 12_000_000

CLIENT = """
import json, sys
from pathlib import Path
from pacsor_tasks.milvue.client import MilvueClient, UploadItem

def peak():
    # Not ru_maxrss: that begins at the peak of the parent.
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024

url, signed, verb, directory = sys.argv[1:]
directory = Path(directory)
with MilvueClient(url, "token", signed_url=signed == "True") as client:
    client.check()
    before = peak()
    if verb == "upload":
        items = [UploadItem(p, p.stem) for p in sorted(directory.glob("*.dcm"))]
        done = []
        client.upload("1.2.3", items, done.append)
        moved = sum(item.path.stat().st_size for item in done)
    else:
        results = client.results("1.2.3", "smarturgences", directory / "results")
        moved = sum(path.stat().st_size for path in results.paths)
print(json.dumps({"growth": peak() - before, "peak": peak(), "moved": moved}))
"""


def large_study(directory: Path) -> None:
    syntax = b"1.2.840.10008.1.2.1\0"
    head = bytes(128) + b"DICM\x02\x00\x10\x00UI" + struct.pack("<H", len(syntax)) + syntax
    head += b"\xe0\x7f\x10\x00OW\0\0" + struct.pack("<I", SIZE // N)
    for n in range(N):
        with (directory / f"1.2.3.{n}.dcm").open("wb") as file:
            file.write(head)
            file.truncate(len(head) + SIZE // N)  # sparse: no disk needed


class Peer:
    """API and storage in one."""

    def __init__(self) -> None:
        self.server = ScriptedServer(self.answer, keep=False)

    def answer(self, call: Call) -> Reply:
        if call.path.endswith("/status"):
            return Reply(status=404, body=b'{"message": "unknown"}')
        if call.path.startswith("/blob/"):
            if call.method == "PUT":
                return Reply(status=201)
            n = int(call.path.removeprefix("/blob/"))
            return Reply(stream=lambda: self.blob(n), announced=SIZE // N)
        if call.method == "POST":
            urls = {f"1.2.3.{n}": f"{self.server.url}/blob/{n}" for n in range(N)}
            return Reply(body=json.dumps({"signed_urls": urls}).encode())
        if call.query["signed_url"] == "true":
            listed = [f"{self.server.url}/blob/{n}" for n in range(N)]
            return Reply(body=json.dumps({"status": "done", "signed_urls": listed}).encode())
        return Reply(
            stream=self.parts,
            content_type="multipart/related; boundary=x",
            announced=sum(map(len, self.parts())),
        )

    def blob(self, n: int) -> Iterator[bytes]:
        block, left = bytes([n, *range(255)]) * 4096, SIZE // N
        while left > 0:
            yield block[:left]
            left -= len(block)

    def parts(self) -> Iterator[bytes]:
        for n in range(N):
            yield b"--x\r\nContent-Type: application/dicom\r\n\r\n"
            yield from self.blob(n)
            yield b"\r\n"
        yield b"--x--\r\n"


@pytest.mark.parametrize("signed_url", [False, True])
@pytest.mark.parametrize("verb", ["upload", "download"])
def test_memory_does_not_grow_with_what_is_moved(
    verb: str, signed_url: bool, tmp_path: Path
) -> None:
    if not Path("/proc/self/status").exists():
        pytest.skip("no /proc here")
    if verb == "upload":
        large_study(tmp_path)
    with Peer().server as server:
        run = subprocess.run(
            [sys.executable, "-c", CLIENT, server.url, str(signed_url), verb, str(tmp_path)],
            check=True,
            capture_output=True,
            text=True,
        )
    told = json.loads(run.stdout.splitlines()[-1])
    assert told["moved"] >= SIZE
    assert told["growth"] < GROWTH_LIMIT, told
    print(verb, signed_url, told)  # noqa: T201 - the numbers, for -s
