"""An instance as the SCU sends it: its data set, as the file has it or re-encoded."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pydicom.uid import UID

from pacsor_tasks.dicom.headers import data_set_offset, data_set_start
from pacsor_tasks.dicom.negotiation import Pair
from pacsor_tasks.dicom.transcode import transcode
from pacsor_tasks.errors import BadResponse, Permanent, Retryable


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreItem:
    """One instance to deliver."""

    #: the caller's own
    key: int
    path: Path
    sop_class_uid: str
    sop_instance_uid: str
    #: as in the file
    transfer_syntax_uid: str

    @property
    def pair(self) -> Pair:
        """What it needs a presentation context for."""
        return Pair(self.sop_class_uid, self.transfer_syntax_uid)


class UnsendableError(Permanent):
    """An instance's file cannot be sent. Its bytes have not touched the wire."""


def opened(item: StoreItem, transfer_syntax_uid: str) -> BinaryIO:
    """The data set in a transfer syntax, at its start.

    Raises:
        UnsendableError: It cannot be read, is not what it was said to be, or cannot be re-encoded.
        Retryable: Disk trouble here.
    """
    try:
        return _open(item, transfer_syntax_uid)
    except Permanent as exc:
        raise UnsendableError(str(exc)) from exc
    except OSError as exc:
        raise Retryable(f"an instance cannot be opened: {exc.strerror}") from exc


def _open(item: StoreItem, transfer_syntax_uid: str) -> BinaryIO:
    if item.transfer_syntax_uid == transfer_syntax_uid:
        return _open_as_it_is(item)
    syntax, _ = data_set_offset(item.path)
    _require_syntax(item, syntax)
    with ExitStack() as stack:
        # Unnamed, and on the spool's disk: /tmp may be memory.
        copy = stack.enter_context(tempfile.TemporaryFile(dir=item.path.parent))
        transcode(item.path, transfer_syntax_uid, copy)
        copy.seek(0)
        stack.pop_all()
    return copy


def _open_as_it_is(item: StoreItem) -> BinaryIO:
    with ExitStack() as stack:
        try:
            data: BinaryIO = stack.enter_context(item.path.open("rb", buffering=0))
        except OSError as exc:
            raise BadResponse(f"the file cannot be read: {exc.strerror}") from exc
        syntax, start = data_set_start(data)
        _require_syntax(item, syntax)
        data.seek(start)
        stack.pop_all()
    return data


def _require_syntax(item: StoreItem, syntax: str) -> None:
    if syntax != item.transfer_syntax_uid:
        raise Permanent(f"the file is {name_of(syntax)}, not {name_of(item.transfer_syntax_uid)}")


def name_of(uid: str) -> str:
    """A UID for people."""
    return UID(uid).name
