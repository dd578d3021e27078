"""What a STOW-RS answer says of each instance: a table over PS3.18 §10.5.3."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pacsor_tasks.dicomweb.answers import Said, lists, read
from tests.support.dicomweb_peers import stored

A, B = "1.2.3", "1.2.4"


def body(*args: Any, **more: Any) -> bytes:
    return stored(*args, **more).body


@pytest.mark.parametrize(
    ("status", "answer", "says"),
    [
        # 200: everything was stored, said or not
        (200, body({A: None, B: None}), {A: 0, B: 0}),
        (200, b"", {A: 0, B: 0}),
        (204, b"", {A: 0, B: 0}),
        (200, b"<NativeDicomModel/>", {A: 0, B: 0}),
        (200, b"[]", {A: 0, B: 0}),
        (200, b"[" * 200_000, {A: 0, B: 0}),
        (200, b'{"00081199": {"Value": "no"}, "00081198": 5}', {A: 0, B: 0}),
        # … but a failure that is named is one, whatever the status
        (200, body({A: None}, {B: 0xA700}), {A: 0, B: 0xA700}),
        # 202: some failed or have warnings
        (202, body({A: None}, {B: 0x0110}), {A: 0, B: 0x0110}),
        (202, body({A: 0xB000}, {B: 0xC122}), {A: 0xB000, B: 0xC122}),
        (202, body({A: None}), {A: 0}),
        (202, b"", {}),
        # 409: nothing was stored
        (409, body({}, {A: 0xA900, B: 0x0122}), {A: 0xA900, B: 0x0122}),
        (409, body({}, {A: 0x0111}), {A: 0x0111}),
        (409, b"busy", {}),
        (409, b"[" * 200_000, {}),  # more than a parser takes
        # a number of thousands of digits is none
        (409, json.dumps({"00081198": {"Value": [
            {"00081155": {"Value": [A]}, "00081197": {"Value": ["9" * 5000]}}]}}).encode(),
         {A: 0x0110}),
        (400, b"{}", {}),
        # no reason: it may pass; no warning of that number: it was stored
        (409, json.dumps({"00081198": {"Value": [{"00081155": {"Value": [A]}}]}}).encode(),
         {A: 0x0110}),
        (202, body({A: 0xC000}), {A: 0xB000}),
        # of others nobody asked
        (202, body({"9.9": None, A: None}), {A: 0}),
        # seen in the field: padded UIDs, numbers as text, the data set as an array
        (202, json.dumps([{"00081198": {"Value": [
            {"00081155": {"Value": [A + "\0"]}, "00081197": {"Value": ["42752"]}}]}}]).encode(),
         {A: 0xA700}),
    ],
)  # fmt: skip
def test_an_answer_about_two_instances_says_this_of_each(
    status: int, answer: bytes, says: dict[str, int]
):
    assert {uid: said.status for uid, said in read(status, answer, {A, B}).items()} == says


@pytest.mark.parametrize(
    ("status", "answer", "says"),
    [
        (202, b"", 0xB000),  # it was taken, with a warning that is not told
        (409, b"", 0xC000),
        (413, b"too large", 0xC000),
        (400, b"{}", 0xC000),
    ],
)
def test_of_a_request_about_one_instance_the_status_says_enough(
    status: int, answer: bytes, says: int
):
    assert read(status, answer, {A}) == {A: Said(says)}


def test_a_search_finds_the_instance_or_not():
    found = json.dumps([{}, {"00080018": {"vr": "UI", "Value": [A]}}]).encode()
    assert lists(found, A)
    for body_ in (found.replace(b"1.2.3", B.encode()), b"{}", b"<none/>", b"", b"[" * 200_000):
        assert not lists(body_, A)


def test_the_words_are_the_standards():
    found = read(202, body({}, {A: 0xA700}), {A})
    assert "Out of Resources" in found[A].words
