"""`python -m pacsor_core_folder.ai OUTBOX INBOX`: an "AI" that gives one instance back.

For trying a gateway out. Each complete study is answered with a copy of its first instance, under
a SOP Instance UID of its own, for every command named.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from pydicom import dcmread
from pydicom.uid import generate_uid


def answer(study: Path, inbox: Path, commands: Sequence[str]) -> None:
    """Give a study its results; they appear all at once."""
    partial = inbox / f".{study.name}"
    shutil.rmtree(partial, ignore_errors=True)
    for command in commands:
        (partial / command).mkdir(parents=True)
        result = dcmread(min(study.glob("*.dcm")))
        result.SOPInstanceUID = result.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        result.SeriesInstanceUID = generate_uid()
        result.save_as(partial / command / "result.dcm")
    partial.rename(inbox / study.name)


def main() -> None:
    """Answer until ended."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("outbox", type=Path)
    parser.add_argument("inbox", type=Path)
    parser.add_argument("--command", action="append", help="default: results")
    asked = parser.parse_args()
    while True:
        for marker in asked.outbox.glob("*/complete"):
            if not (asked.inbox / marker.parent.name).exists():
                answer(marker.parent, asked.inbox, asked.command or ["results"])
        time.sleep(0.2)


if __name__ == "__main__":
    main()
