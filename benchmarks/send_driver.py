"""Sends files as a library does it, and says what it took: ours, or pynetdicom's own SCU.

    python -m benchmarks.send_driver ours|pynetdicom PORT ASSOCIATIONS FILE...

Prints one line of JSON: seconds, cpu_s (user and system) and peak_bytes. The time is that from
before the association is asked for until after its release; what a worker does once, such as
importing, is not counted.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE

from pacsor_tasks.dicom.headers import read_header
from pacsor_tasks.dicom.scu import Pacs, StoreItem, store

MAX_PDU = 131_072


def main() -> None:
    """Send what the command line names."""
    kind, port, associations, *files = sys.argv[1:]
    prepare = {"ours": _ours, "pynetdicom": _pynetdicom}[kind]
    send = prepare(int(port), int(associations), [Path(file) for file in files])
    before, started = _cpu_s(), time.perf_counter()
    send()
    seconds, cpu_s = time.perf_counter() - started, _cpu_s() - before
    print(json.dumps({"seconds": seconds, "cpu_s": cpu_s, "peak_bytes": _peak_bytes()}))


def _ours(port: int, associations: int, files: Sequence[Path]) -> Callable[[], None]:
    pacs = Pacs(
        name="storescu",
        host="127.0.0.1",
        port=port,
        called_aet="SINK",
        calling_aet="BENCHMARK",
        connect_timeout_s=10,
        timeout_s=60,
        associations=associations,
    )
    items = [_item(path, number) for number, path in enumerate(files)]
    statuses: list[int] = []

    def send() -> None:
        store(pacs, items, lambda _item, status, _meaning: statuses.append(status))
        if len(statuses) != len(items) or any(statuses):
            sys.exit(f"{len(statuses)} of {len(items)} answered, {sum(map(bool, statuses))} badly")

    return send


def _item(path: Path, key: int) -> StoreItem:
    header = read_header(path)
    return StoreItem(
        key=key,
        path=path,
        sop_class_uid=header.sop_class_uid,
        sop_instance_uid=header.sop_instance_uid,
        transfer_syntax_uid=header.transfer_syntax_uid,
    )


def _pynetdicom(port: int, _associations: int, files: Sequence[Path]) -> Callable[[], None]:
    entity = AE(ae_title="BENCHMARK")
    entity.add_requested_context(read_header(files[0]).sop_class_uid, ExplicitVRLittleEndian)

    def send() -> None:
        association = entity.associate("127.0.0.1", port, max_pdu=MAX_PDU)
        if not association.is_established:
            sys.exit("no association")
        for number, file in enumerate(files):
            if association.send_c_store(file, msg_id=number % 0xFFFF + 1).Status:
                sys.exit(f"{file}: not stored")
        association.release()

    return send


def _peak_bytes() -> int:
    # Not ru_maxrss: that begins with what the process was before it became this program.
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
