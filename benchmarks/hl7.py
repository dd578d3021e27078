"""ORU^R01 messages a second on one connection: this gateway's client beside other authors'.

`python -m benchmarks.hl7 [--write-docs]`; about two minutes. All send to the same sink, a process
that reads frames and answers AA, and wait for each acknowledgement before the next message. The
others send a message that is ready; ours is measured so too, and with the making of each.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path

import click
import hl7
import hl7.client
import hl7.mllp

from benchmarks import docs
from pacsor_tasks.hl7.ack import check
from pacsor_tasks.hl7.example import STUDY, example_message
from pacsor_tasks.hl7.kept import Connections, Ris
from pacsor_tasks.hl7.message import MessageOptions, build_message, new_control_id
from pacsor_tasks.hl7.report import Report, ReportFormat
from tests.support.mllp_peers import node_modules

HERE = Path(__file__).parent
TIMEOUT_S = 30.0
#: report's bytes → messages per round
SIZES = {1_000: 2000, 100_000: 500, 1_000_000: 100}
ROUNDS = 5
OPTIONS = MessageOptions(
    sending_application="MILVUE_GATEWAY",
    sending_facility="MILVUE",
    receiving_application="RIS",
    receiving_facility="BENCH",
)
Client = Callable[[int, bytes, int], float]


def message_of(size: int, number: int = 0) -> bytes:
    """A message with a report of about that many bytes, B64; the number is in MSH-10."""
    text = "Épaule : pas de fracture déplacée. " * (size * 3 // 4 // 38)
    return build_message(
        STUDY, OPTIONS, control_id=f"GW{number:08}", at=datetime.now().astimezone(),
        inference="Fracture : NON\nLuxation : NON", report=Report(parts={"results": text}),
    )  # fmt: skip


def ours(port: int, message: bytes, count: int) -> float:
    """Our client on its kept connection; the message is ready."""
    connections, ris = Connections(), _ris(port)
    began = time.perf_counter()
    for _ in range(count):
        connections.deliver(ris, message, "GW00000000")
    took_s = time.perf_counter() - began
    connections.close()
    return took_s


def ours_built(port: int, message: bytes, count: int) -> float:
    """The same, each message made anew with a control id of its own."""
    connections, ris = Connections(), _ris(port)
    text = "Épaule : pas de fracture déplacée. " * (len(message) * 3 // 4 // 38)
    report = Report(parts={"results": text})
    began = time.perf_counter()
    for _ in range(count):
        now = datetime.now().astimezone()
        control_id = new_control_id(now)
        made = build_message(
            STUDY, OPTIONS, control_id=control_id, at=now, inference="Fracture : NON",
            report=report,
        )  # fmt: skip
        connections.deliver(ris, made, control_id)
    took_s = time.perf_counter() - began
    connections.close()
    return took_s


def ours_alone(port: int, message: bytes, count: int) -> float:
    """Our client with a connection per message, as a RIS with RIS_KEEP_ALIVE=0 gets them."""
    connections, ris = Connections(), replace(_ris(port), keep_alive_s=0)
    began = time.perf_counter()
    for _ in range(count):
        connections.deliver(ris, message, "GW00000000")
    return time.perf_counter() - began


def hl7_blocking(port: int, message: bytes, count: int) -> float:
    """`hl7.client.MLLPClient`: no time limits, one `recv` for the answer, which nobody looks at."""
    with hl7.client.MLLPClient("127.0.0.1", port) as client:
        began = time.perf_counter()
        for _ in range(count):
            client.send_message(message)
        return time.perf_counter() - began


def hl7_asyncio(port: int, message: bytes, count: int) -> float:
    """`hl7.mllp.open_hl7_connection`; it parses the acknowledgement."""

    async def run() -> float:
        reader, writer = await hl7.mllp.open_hl7_connection(
            "127.0.0.1", port, limit=1 << 24, encoding="utf-8"
        )
        parsed = hl7.parse(message.decode())
        began = time.perf_counter()
        for _ in range(count):
            writer.writemessage(parsed)
            await writer.drain()
            await reader.readmessage()
        took_s = time.perf_counter() - began
        writer.close()
        return took_s

    return asyncio.run(run())


def node(script: str, port: int, message: bytes, count: int) -> float:
    """A client from npm; it measures itself."""
    file = Path(os.environ.get("TMPDIR", "/tmp")) / f"pacsor-bench-{os.getpid()}.hl7"
    file.write_bytes(message)
    try:
        done = subprocess.run(
            ["node", str(HERE / "hl7_clients.js"), script, str(port), str(file), str(count)],
            env={**os.environ, "NODE_PATH": str(node_modules())},
            capture_output=True, text=True, timeout=300, check=True,
        )  # fmt: skip
    finally:
        file.unlink()
    return float(json.loads(done.stdout.strip().splitlines()[-1])["seconds"])


CLIENTS: dict[str, Client] = {
    "this gateway, message ready": ours,
    "this gateway, each message made": ours_built,
    "this gateway, a connection per message": ours_alone,
    "`hl7` 0.4.5, blocking client (no time limit, answer not read)": hl7_blocking,
    "`hl7` 0.4.5, asyncio client": hl7_asyncio,
    "npm `simple-hl7` 3.3.0": partial(node, "simple-hl7"),
    "npm `node-hl7-client`": partial(node, "node-hl7-client"),
}


def _ris(port: int) -> Ris:
    return Ris(name="hl7", host="127.0.0.1", port=port, timeout_s=TIMEOUT_S, keep_alive_s=60)


@contextmanager
def sink() -> Iterator[int]:
    """The sink in a process of its own; its port."""
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.hl7_sink"], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.terminate()


def measure(size: int, count: int) -> dict[str, float]:
    """Messages a second by client, the best of the rounds, which are taken in turns.

    Other work on the machine only ever slows a round down.
    """
    message = message_of(size)
    best = dict.fromkeys(CLIENTS, 0.0)
    for _ in range(ROUNDS):
        for name, client in CLIENTS.items():
            with sink() as port:
                client(port, message, max(3, count // 20))  # warm
                best[name] = max(best[name], count / client(port, message, count))
    return best


def table() -> str:
    """The results in Markdown."""
    found = {size: measure(size, count) for size, count in SIZES.items()}
    heads = " | ".join(f"{size // 1000:,} kB" for size in SIZES)
    rows = [f"| messages/s, each acknowledged | {heads} |", "|---|" + "---|" * len(SIZES)]
    for name in CLIENTS:
        cells = " | ".join(f"{found[size][name]:,.0f}" for size in SIZES)
        rows.append(f"| {name} | {cells} |")
    return "\n".join(rows)


def building() -> str:
    """How fast messages are made alone."""
    rows = ["| messages made a second, not sent | 1 kB report | example, HTML |", "|---|---|---|"]
    now = datetime.now().astimezone()
    html = replace(OPTIONS, report_format=ReportFormat.HTML)
    cells = []
    made: list[Callable[[], bytes]] = [
        lambda: message_of(1000),
        lambda: example_message(html, control_id="GW1", at=now),
    ]
    for make in made:
        began, count = time.perf_counter(), 0
        while time.perf_counter() - began < 2:
            make()
            count += 1
        cells.append(f"{count / (time.perf_counter() - began):,.0f}")
    return "\n".join([*rows, f"| this gateway | {' | '.join(cells)} |"])


@click.command()
@click.option("--write-docs", is_flag=True, help="Put the tables into docs/benchmarks.md.")
def main(write_docs: bool) -> None:
    """Measure and print; see the module."""
    check(b"MSH|^~\\&\rMSA|AA|x\r", "x")
    text = f"{table()}\n\n{building()}"
    click.echo(text)
    if write_docs:
        docs.write("hl7", text)


if __name__ == "__main__":
    main()
