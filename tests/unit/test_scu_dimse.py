"""Command sets and PDVs, checked against pynetdicom's own coding."""

from __future__ import annotations

from io import BytesIO

import pytest
from pydicom.uid import UID
from pynetdicom.dimse_messages import C_ECHO_RQ, C_STORE_RQ
from pynetdicom.dimse_primitives import C_ECHO, C_STORE
from pynetdicom.dsutils import encode
from pynetdicom.pdu import P_DATA_TF

from pacsor_tasks.dicom import dimse
from pacsor_tasks.errors import BadResponse


def test_a_c_store_command_is_the_one_pynetdicom_writes() -> None:
    request = C_STORE()
    request.MessageID, request.Priority = 7, 0
    request.AffectedSOPClassUID = UID("1.2.840.10008.5.1.4.1.1.7")
    request.AffectedSOPInstanceUID = UID("1.2.3.44")
    request.DataSet = BytesIO(b"\0\0")
    message = C_STORE_RQ()
    message.primitive_to_message(request)
    message.command_set.CommandDataSetType = 0
    expected = encode(message.command_set, True, True)
    assert expected is not None
    ours = dimse.c_store_rq(7, "1.2.840.10008.5.1.4.1.1.7", "1.2.3.44")
    assert dimse.parse_command(ours) == dimse.parse_command(expected)
    assert ours == expected


def test_a_c_echo_command_is_the_one_pynetdicom_writes() -> None:
    request = C_ECHO()
    request.MessageID = 9
    request.AffectedSOPClassUID = UID("1.2.840.10008.1.1")
    message = C_ECHO_RQ()
    message.primitive_to_message(request)
    assert dimse.c_echo_rq(9, "1.2.840.10008.1.1") == encode(message.command_set, True, True)


def test_a_p_data_pdu_is_one_pynetdicom_reads() -> None:
    pdu = P_DATA_TF()
    pdu.decode(dimse.p_data_head(5, dimse.IS_COMMAND | dimse.IS_LAST, 3) + b"abc")
    (item,) = pdu.presentation_data_value_items
    assert item.presentation_context_id == 5
    assert item.presentation_data_value == b"\3abc"


def test_pdvs_are_cut_out_of_a_pdu() -> None:
    body = b"\0\0\0\5\1\1abc" + b"\0\0\0\2\1\3"
    found = [(p.context_id, p.is_command, p.is_last, bytes(p.value)) for p in dimse.pdvs(body)]
    assert found == [(1, True, False, b"abc"), (1, True, True, b"")]


@pytest.mark.parametrize(
    "body", [b"\0\0\0\xff\1\1abc", b"\0\0\0\1\1", b"\0\0", b"\0\0\0\5\1\1abc\0"]
)
def test_a_malformed_pdv_is_a_bad_response(body: bytes) -> None:
    with pytest.raises(BadResponse):
        list(dimse.pdvs(body))


@pytest.mark.parametrize(
    "command",
    [
        b"\0\0\0\1",  # ends inside an element's head
        b"\0\0\0\1\xff\0\0\0ab",  # … inside its value
        b"\x08\0\x16\0\0\0\0\0",  # not of group 0000
    ],
)
def test_a_malformed_command_set_is_a_bad_response(command: bytes) -> None:
    with pytest.raises(BadResponse):
        dimse.parse_command(command)


@pytest.mark.parametrize("value", [None, b"", b"\1", b"\1\0\0\0"])
def test_a_number_that_is_not_one_is_a_bad_response(value: bytes | None) -> None:
    with pytest.raises(BadResponse, match=r"\(0000,0900\)"):
        dimse.number({} if value is None else {0x900: value}, 0x900)
