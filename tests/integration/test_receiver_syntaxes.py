"""What arrives is stored in the transfer syntax it came in, bit for bit. Contract §2.3."""

from __future__ import annotations

import hashlib
import random
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import UID

from pacsor_tasks.dicom.elements import DEFLATED_LE, EXPLICIT_BE, IMPLICIT_LE
from pacsor_tasks.dicom.headers import data_set_offset, read_header
from receiver import profiles
from tests.support.instances import encode, make_dataset
from tests.support.net import wait_until
from tests.support.receivers import Receiver, association, receiver, send

CONTEXTS = profiles.load(profiles.PROJECT / "conf" / "filter.cfg", "WithSCRF")
SYNTAXES = CONTEXTS[0].transfer_syntax_uids
STORAGE = [c.sop_class_uid for c in CONTEXTS if c.sop_class_uid != "1.2.840.10008.1.1"]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    """A receiver with every context."""
    directory = tmp_path_factory.mktemp("syntaxes")
    with receiver(directory, CONFIG_PROFILE="WithSCRF", STUDY_QUIET_SECONDS=600) as up:
        yield up


def data_set(syntax: str, dataset: Dataset) -> bytes:
    """Pixels that no encoder would make twice, encoded or encapsulated as the syntax wants."""
    pixels = random.Random(syntax).randbytes(100_000)
    if UID(syntax).is_encapsulated:
        frames = [b"\xff\xd8" + pixels[:70_001] + b"\xff\xd9", pixels[70_001:]]
        dataset.PixelData = encapsulate(frames, has_bot=True)
        dataset["PixelData"].VR = "OB"
        dataset["PixelData"].is_undefined_length = True
        dataset.NumberOfFrames = 2
    else:
        dataset.PixelData = pixels
    raw = encode(dataset, implicit=syntax == IMPLICIT_LE, little=syntax != EXPLICIT_BE)
    if syntax == DEFLATED_LE:
        deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        raw = deflate.compress(raw) + deflate.flush()
        raw += b"\0" * (len(raw) % 2)
    return raw


def stored(running: Receiver, dataset: Dataset) -> Path:
    directory = running.spool.incoming_dir(str(dataset.StudyInstanceUID))
    return directory / f"{dataset.SOPInstanceUID}.dcm"


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("syntax", SYNTAXES, ids=[UID(uid).keyword for uid in SYNTAXES])
def test_each_syntax_is_stored_as_it_came(running: Receiver, syntax: str) -> None:
    dataset = make_dataset(SOPClassUID=STORAGE[1])
    sent = data_set(syntax, dataset)
    with association(running.port, [(STORAGE[1], (syntax,))]) as opened:
        answer = send(
            opened, sent, sop_instance_uid=dataset.SOPInstanceUID, sop_class_uid=STORAGE[1]
        )
        assert answer == (0x0000, "")
        opened.release()
    path = stored(running, dataset)
    in_file, start = data_set_offset(path)
    assert in_file == syntax
    assert digest(path.read_bytes()[start:]) == digest(sent)
    assert read_header(path).sop_instance_uid == dataset.SOPInstanceUID
    # Another reader's opinion of the file.
    read = dcmread(path)
    assert read.file_meta.TransferSyntaxUID == syntax
    assert read.file_meta.MediaStorageSOPInstanceUID == dataset.SOPInstanceUID
    assert read.file_meta.MediaStorageSOPClassUID == STORAGE[1]
    assert read.PixelData == dataset.PixelData


@pytest.mark.parametrize("sop_class", STORAGE, ids=[UID(uid).keyword for uid in STORAGE])
def test_each_sop_class_is_stored(running: Receiver, sop_class: str) -> None:
    dataset = make_dataset(SOPClassUID=sop_class)
    sent = encode(dataset)
    with association(running.port, [(sop_class, ("1.2.840.10008.1.2.1",))]) as opened:
        uid = dataset.SOPInstanceUID
        assert send(opened, sent, sop_instance_uid=uid, sop_class_uid=sop_class)[0] == 0x0000
        opened.release()
    path = stored(running, dataset)
    assert path.read_bytes()[data_set_offset(path)[1] :] == sent
    assert read_header(path).sop_class_uid == sop_class


def test_many_syntaxes_in_one_association_do_not_mix(running: Receiver) -> None:
    contexts = [(STORAGE[n % len(STORAGE)], (uid,)) for n, uid in enumerate(SYNTAXES[-6:])]
    with association(running.port, contexts) as opened:
        accepted = opened.accepted_contexts
        assert len(accepted) == len(contexts)
        for context in accepted:
            assert context.context_id is not None
            syntax = str(context.transfer_syntax[0])
            dataset = make_dataset(SOPClassUID=str(context.abstract_syntax))
            sent = data_set(syntax, dataset)
            # `send` takes the first context.
            opened._accepted_cx = {context.context_id: context}
            answer = send(
                opened,
                sent,
                sop_instance_uid=dataset.SOPInstanceUID,
                sop_class_uid=str(context.abstract_syntax),
            )
            assert answer[0] == 0x0000
            path = stored(running, dataset)
            in_file, start = data_set_offset(path)
            assert in_file == syntax
            assert digest(path.read_bytes()[start:]) == digest(sent)


def test_a_fragment_may_end_anywhere(running: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.support.receivers.PIECE_BYTES", 37)
    dataset = make_dataset(SOPClassUID=STORAGE[0], PixelData=bytes(range(256)) * 20)
    dataset.ProcedureCodeSequence = [Dataset(), Dataset()]
    dataset["ProcedureCodeSequence"].is_undefined_length = True
    sent = encode(dataset)
    with association(running.port, [(STORAGE[0], ("1.2.840.10008.1.2.1",))]) as opened:
        uid = dataset.SOPInstanceUID
        assert send(opened, sent, sop_instance_uid=uid, sop_class_uid=STORAGE[0])[0] == 0x0000
        opened.release()
    path = stored(running, dataset)
    assert path.read_bytes()[data_set_offset(path)[1] :] == sent
    wait_until(running.nothing_half_written)


def test_the_file_says_how_long_it_is(running: Receiver) -> None:
    dataset = make_dataset(SOPClassUID=STORAGE[0])
    with association(running.port, [(STORAGE[0], ("1.2.840.10008.1.2.1",))]) as opened:
        uid = dataset.SOPInstanceUID
        send(opened, encode(dataset), sop_instance_uid=uid, sop_class_uid=STORAGE[0])
        opened.release()
    content = stored(running, dataset).read_bytes()
    assert struct.unpack_from("<8sQ", content) == (b"PACSORTK", len(content))
    assert content[16:128] == bytes(112)
