"""C-STORE over TLS to DCMTK's storescp: whom we trust, what we show, and the rate."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from pacsor_tasks.dicom.scu import echo, store
from pacsor_tasks.errors import ConfigError, PeerUnavailable, RateLimited
from pacsor_tasks.tls import Tls
from tests.support.certificates import Authority, Certified
from tests.support.pacs_peers import Answers, item_of, pacs_at, received, storescp
from tests.support.studies import make_study


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """Of the site."""
    return Authority(tmp_path / "ca")


def secured(certified: Certified, *options: str) -> list[str]:
    return ["+tls", str(certified.key), str(certified.certificate), *options]


def test_a_pacs_over_tls_gets_what_it_is_sent(tmp_path: Path, authority: Authority):
    items = [item_of(f, i) for i, f in enumerate(make_study(tmp_path / "study", 4, side=256))]
    answers = Answers()
    with storescp(tmp_path / "pacs", *secured(authority.issue("pacs"), "-ic")) as peer:
        pacs = pacs_at(peer.port, tls=Tls(ca=authority.certificate).context())
        echo(pacs)
        store(pacs, items, answers)
    assert answers.statuses == [0] * 4
    assert set(received(tmp_path / "pacs")) == {item.sop_instance_uid for item in items}


def test_a_pacs_that_asks_for_our_certificate_gets_it(tmp_path: Path, authority: Authority):
    pacs_s, ours = authority.issue("pacs"), authority.issue("gateway")
    options = secured(pacs_s, "-rc", "+cf", str(authority.certificate))
    with storescp(tmp_path / "pacs", *options) as peer:
        shown = Tls(ca=authority.certificate, cert=ours.certificate, key=ours.key)
        echo(pacs_at(peer.port, tls=shown.context()))
        with pytest.raises(PeerUnavailable):
            echo(pacs_at(peer.port, tls=Tls(ca=authority.certificate).context()))


def test_a_pacs_of_another_ca_or_name_is_not_talked_to(tmp_path: Path, authority: Authority):
    other = Authority(tmp_path / "other", "Another CA")
    with storescp(tmp_path / "pacs", *secured(authority.issue("pacs"), "-ic")) as peer:
        with pytest.raises(PeerUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
            echo(pacs_at(peer.port, tls=Tls(ca=other.certificate).context()))
        trusted = Tls(ca=authority.certificate)
        with pytest.raises(PeerUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
            echo(pacs_at(peer.port, tls=trusted.context(), tls_name="elsewhere.example"))
        echo(pacs_at(peer.port, tls=trusted.context(), tls_name="localhost"))
        echo(pacs_at(peer.port, tls=Tls(verify=False).context()))


def test_plain_dicom_and_tls_do_not_mix(tmp_path: Path, authority: Authority):
    options = secured(authority.issue("pacs"), "-ic")
    with storescp(tmp_path / "tls", *options) as peer, pytest.raises(PeerUnavailable):
        echo(pacs_at(peer.port, connect_timeout_s=2))
    with storescp(tmp_path / "plain") as peer, pytest.raises(PeerUnavailable, match="no TLS"):
        echo(pacs_at(peer.port, connect_timeout_s=2, tls=Tls(verify=False).context()))


def test_a_file_that_is_wrong_is_named_with_its_setting(tmp_path: Path, authority: Authority):
    mine = authority.issue("gateway")
    missing = Tls(ca=tmp_path / "no.pem", setting="PACS_TLS", suffix="_2")
    with pytest.raises(ConfigError, match=r"PACS_TLS_CA_2=.*no.pem: No such file"):
        missing.context()
    swapped = Tls(cert=mine.key, key=mine.certificate, setting="PACS_TLS", suffix="_3")
    with pytest.raises(ConfigError, match="PACS_TLS_CERT_3="):
        swapped.context()


def test_before_each_instance_a_turn_is_taken(tmp_path: Path):
    items = [item_of(f, i) for i, f in enumerate(make_study(tmp_path / "study", 3))]
    turns, answers = [], Answers()

    def turn() -> None:
        turns.append(len(answers.given))

    with storescp(tmp_path / "pacs") as peer:
        store(peer, items, answers, turn)
    assert turns == [0, 1, 2]  # those before are settled


def test_who_is_out_of_turn_has_settled_those_before(tmp_path: Path):
    items = [item_of(f, i) for i, f in enumerate(make_study(tmp_path / "study", 4))]
    answers, left = Answers(), threading.Semaphore(2)

    def turn() -> None:
        if not left.acquire(blocking=False):
            raise RateLimited("used up", 5)

    with storescp(tmp_path / "pacs") as peer, pytest.raises(RateLimited):
        store(peer, items, answers, turn)
    assert [item.key for item, _, _ in answers.given] == [0, 1]
    assert len(received(tmp_path / "pacs")) == 2
