"""DICOM over TLS: DCMTK's senders, certificates, profiles, and peers that will not shake hands."""

from __future__ import annotations

import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pynetdicom import AE
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]  # made at import

from pacsor_tasks import healthcheck
from pacsor_tasks.cli import nodes, probes
from pacsor_tasks.cli.dicom_files import Tally
from pacsor_tasks.cli.send import send_all
from pacsor_tasks.dicom import scu
from pacsor_tasks.errors import ConfigError, PeerUnavailable
from pacsor_tasks.refusals import read
from pacsor_tasks.settings import load
from receiver.tls import PROFILES, TlsFiles, server_context, valid_until
from tests.support.certificates import Authority, Certified
from tests.support.dcmtk import ENVIRONMENT, storescu
from tests.support.instances import encode, make_dataset, write_study
from tests.support.net import wait_until
from tests.support.peers import require_program
from tests.support.raw_dicom import RELEASE_RP, RawPeer, associate_rq, dial
from tests.support.receivers import Receiver, receiver, settings_for


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def server(authority: Authority) -> Certified:
    return authority.issue("receiver")


@pytest.fixture(scope="module")
def modality(authority: Authority) -> Certified:
    return authority.issue("modality")


def settings(server: Certified, **more: object) -> dict[str, Any]:
    return {"RECEIVER_TLS_CERT": server.certificate, "RECEIVER_TLS_KEY": server.key, **more}


@pytest.fixture(scope="module")
def open_tls(tmp_path_factory: pytest.TempPathFactory, server: Certified) -> Iterator[Receiver]:
    """TLS, client certificates not asked for."""
    directory = tmp_path_factory.mktemp("tls")
    with receiver(directory, **settings(server, RECEIVER_ASSOCIATE_TIMEOUT=2)) as running:
        yield running


@pytest.fixture(scope="module")
def mutual(
    tmp_path_factory: pytest.TempPathFactory, server: Certified, authority: Authority
) -> Iterator[Receiver]:
    """TLS with client certificates required."""
    directory = tmp_path_factory.mktemp("mutual")
    with receiver(directory, **settings(server, RECEIVER_TLS_CA=authority.certificate)) as running:
        yield running


def anonymous(authority: Authority) -> tuple[str, ...]:
    """DCMTK's options: TLS without a certificate of its own."""
    return ("+tla", "+cf", str(authority.certificate))


def known(authority: Authority, certified: Certified) -> tuple[str, ...]:
    """DCMTK's options: TLS with a certificate."""
    return ("+tls", str(certified.key), str(certified.certificate),
            "+cf", str(authority.certificate))  # fmt: skip


def echoscu(port: int, *options: str) -> tuple[int, str]:
    command = [str(require_program("echoscu")), "-v", *options, "127.0.0.1", str(port)]
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=30, env=ENVIRONMENT
    )
    return done.returncode, done.stdout + done.stderr


def refused_details(running: Receiver) -> set[str]:
    """What the operator reads of failed handshakes."""
    return {k.refusal.detail for k in read(running.spool.root).kinds if k.refusal.reason == "tls"}


@pytest.mark.parametrize("profile", ["+px", "+py", "+pz"])
def test_dcmtk_sends_a_study_under_each_of_its_profiles(
    open_tls: Receiver, authority: Authority, tmp_path: Path, profile: str
) -> None:
    study_uid, files = write_study(tmp_path, 3, n_pixel_bytes=300_000)
    storescu(open_tls.port, *files, options=(*anonymous(authority), profile))
    (manifest,) = open_tls.wait_for_revisions(study_uid, 1)
    assert manifest.n_instances == 3


def test_pynetdicom_echoes_over_tls_13(open_tls: Receiver, authority: Authority) -> None:
    context = ssl.create_default_context(cafile=str(authority.certificate))
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    ae = AE("PYNET")
    ae.add_requested_context(Verification)
    association = ae.associate("127.0.0.1", open_tls.port, tls_args=(context, "localhost"))
    assert association.is_established
    assert association.send_c_echo().Status == 0
    association.release()


def test_a_client_certificate_is_required_where_a_ca_is_set(
    mutual: Receiver, authority: Authority, modality: Certified, tmp_path: Path
) -> None:
    assert echoscu(mutual.port, *known(authority, modality))[0] == 0
    study_uid, files = write_study(tmp_path / "sent", 2)
    storescu(mutual.port, *files, options=known(authority, modality))
    mutual.wait_for_revisions(study_uid, 1)
    strangers = Authority(tmp_path / "other", "Other CA")
    assert echoscu(mutual.port, *anonymous(authority))[0] != 0
    assert echoscu(mutual.port, *known(authority, strangers.issue("stranger")))[0] != 0
    wait_until(lambda: refused_details(mutual))
    # Who has none at all is, on this machine, the health check.
    assert refused_details(mutual) == {"certificate verify failed"}


def test_plain_dicom_is_refused_with_a_reason(open_tls: Receiver) -> None:
    assert echoscu(open_tls.port)[0] != 0
    wait_until(lambda: refused_details(open_tls))
    assert "it does not speak TLS" in " ".join(refused_details(open_tls))


def test_an_old_tls_is_not_spoken(open_tls: Receiver) -> None:
    openssl = str(require_program("openssl"))
    done = subprocess.run(
        [openssl, "s_client", "-connect", f"127.0.0.1:{open_tls.port}", "-tls1_1",
         "-cipher", "ALL:@SECLEVEL=0"],
        check=False, capture_output=True, text=True, timeout=30, input="",
    )  # fmt: skip
    assert done.returncode != 0
    assert "Cipher is (NONE)" in done.stdout


def test_handshakes_that_stall_hold_up_nobody(open_tls: Receiver, authority: Authority) -> None:
    stalled = [dial(open_tls.port) for _ in range(20)]
    try:
        for peer in stalled[::2]:
            peer.send(b"\x16\x03\x01\x02\x00\x01\x00")  # a ClientHello that never goes on
        began = time.monotonic()
        assert echoscu(open_tls.port, *anonymous(authority))[0] == 0
        assert time.monotonic() - began < 10
        for peer in stalled:
            assert peer.ended(15)
    finally:
        for peer in stalled:
            peer.close()


def test_a_request_that_trickles_in_over_tls_is_bounded(
    open_tls: Receiver, authority: Authority
) -> None:
    with closing(secured(open_tls.port, authority)) as sock:
        request = iter(associate_rq())

        def is_hung_up_on() -> bool:
            try:
                sock.sendall(bytes([next(request)]))
            except OSError:
                return True
            return False

        wait_until(is_hung_up_on, timeout_s=15, interval_s=0.1)


def test_many_small_pdus_in_one_record_all_arrive(open_tls: Receiver, authority: Authority) -> None:
    # What TLS has decrypted and nobody has read is invisible to `select` and `poll`.
    peer = RawPeer(secured(open_tls.port, authority))
    with closing(peer.sock):
        peer.associate()
        peer.max_pdu = 106
        dataset = make_dataset(PixelData=bytes(12_000))
        assert peer.store(dataset.SOPInstanceUID, encode(dataset)) == 0
        assert peer.release() == RELEASE_RP


def test_the_health_check_speaks_tls(open_tls: Receiver, mutual: Receiver) -> None:
    for running in (open_tls, mutual):
        address = f"127.0.0.1:{running.port}"
        assert healthcheck.main(["dicom-tls", address]) == 0
        assert healthcheck.main(["tcp", address]) == 0
        # As the admin pages look whether somebody listens: every five seconds.
        with closing(dial(running.port).sock):
            pass
        assert echoscu(running.port)[0] != 0
        wait_until(lambda running=running: refused_details(running))  # type: ignore[misc]
        assert not {d for d in refused_details(running) if "eof" in d or "hung up" in d}
    assert "peer did not return a certificate" not in refused_details(mutual)


def test_who_is_refused_reads_why_however_slow_it_is(mutual: Receiver) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    plain = socket.create_connection(("127.0.0.1", mutual.port), 10)
    # In TLS 1.3 the handshake is over for the client before its certificate was asked after.
    with context.wrap_socket(plain) as sock:
        time.sleep(0.3)
        sock.sendall(associate_rq())
        with pytest.raises(ssl.SSLError, match="CERTIFICATE_REQUIRED"):
            sock.recv(1)


def test_our_own_sender_and_checks_speak_tls_to_our_own_receiver(
    mutual: Receiver, server: Certified, authority: Authority, tmp_path: Path
) -> None:
    found = load(
        settings_for(
            tmp_path,
            PORT=mutual.port,
            **settings(server, RECEIVER_TLS_CA=authority.certificate),
        ),
        None,
    )
    ours = nodes.own_receiver(found, "PACSOR")
    scu.echo(ours)
    study_uid, sent = write_study(tmp_path / "sent", 2, n_pixel_bytes=3_000_000)
    outcome = send_all(sent, ours, Tally())
    assert (outcome.sent, outcome.refused, outcome.stopped) == (2, [], None)
    mutual.wait_for_revisions(study_uid, 1)
    findings = {p.name: probes.try_probe(p) for p in probes.all_probes(found)
                if p.name in {"PORT", "RECEIVER_TLS"}}  # fmt: skip
    assert "answers C-ECHO" in findings["PORT"].text
    # The test's certificate is one of two days.
    assert "is valid until" in findings["RECEIVER_TLS"].text
    plain = replace(ours, tls=None)
    with pytest.raises(PeerUnavailable):
        scu.echo(plain)
    with pytest.raises(PeerUnavailable, match="no TLS"):
        scu.echo(replace(ours, tls=ssl.create_default_context()))


def test_the_health_check_of_the_container_follows_the_setting(
    open_tls: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"127.0.0.1:{open_tls.port}"
    monkeypatch.delenv("RECEIVER_TLS_CERT", raising=False)
    assert healthcheck.main(["receiver", address]) == 1
    monkeypatch.setenv("RECEIVER_TLS_CERT", "receiver.pem")
    assert healthcheck.main(["receiver", address]) == 0


def secured(port: int, authority: Authority) -> ssl.SSLSocket:
    context = ssl.create_default_context(cafile=str(authority.certificate))
    return context.wrap_socket(
        socket.create_connection(("127.0.0.1", port), 30), server_hostname="localhost"
    )


def files(server: Certified, **changes: object) -> TlsFiles:
    given: dict[str, Any] = {
        "certificate": server.certificate, "key": server.key, "client_ca": None,
        "profile": "bcp195",
    }  # fmt: skip
    return TlsFiles(**(given | changes))


@pytest.fixture(scope="module")
def unusable(
    tmp_path_factory: pytest.TempPathFactory,
    authority: Authority,
    server: Certified,
    modality: Certified,
) -> Path:
    """Files that are of no use, each in its way."""
    directory = tmp_path_factory.mktemp("unusable")
    (directory / "rubbish").write_text("-----BEGIN NOTHING-----\n")
    (directory / "other").write_bytes(modality.key.read_bytes())
    (directory / "locked").write_bytes(authority.lock(server).key.read_bytes())
    return directory


@pytest.mark.parametrize(
    ("field", "what", "complaint"),
    [
        ("certificate", "missing", r"^RECEIVER_TLS_CERT: .*missing cannot be read: No such file"),
        ("certificate", "rubbish", r"^RECEIVER_TLS_CERT: .*rubbish is not a certificate in PEM"),
        ("key", "missing", r"^RECEIVER_TLS_KEY: .*missing cannot be read: No such file"),
        ("key", "rubbish", r"^RECEIVER_TLS_KEY: .*not a private key in PEM form"),
        ("key", "other", r"^RECEIVER_TLS_KEY: .*it is not the key of RECEIVER_TLS_CERT"),
        ("key", "locked", r"^RECEIVER_TLS_KEY: .*without a password"),
        ("client_ca", "missing", r"^RECEIVER_TLS_CA: .*cannot be read"),
        ("client_ca", "rubbish", r"^RECEIVER_TLS_CA: .*is not a certificate in PEM"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_by_its_setting(
    server: Certified, unusable: Path, field: str, what: str, complaint: str
) -> None:
    with pytest.raises(ConfigError, match=complaint):
        server_context(files(server, **{field: unusable / what}))


def test_a_key_that_is_too_short_is_named(authority: Authority) -> None:
    with pytest.raises(ConfigError, match=r"^RECEIVER_TLS_KEY: .*too short"):
        server_context(files(authority.issue("short", key="rsa:1024")))


def test_a_start_with_a_bad_certificate_is_refused(tmp_path: Path, server: Certified) -> None:
    bad: dict[str, Any] = {
        "RECEIVER_TLS_CERT": tmp_path / "nowhere.pem",
        "RECEIVER_TLS_KEY": server.key,
    }
    complaint = r"RECEIVER_TLS_CERT: .*nowhere\.pem cannot be read"
    with pytest.raises(AssertionError, match=complaint), receiver(tmp_path, **bad):
        pass


def test_when_a_certificate_expires_is_known(server: Certified) -> None:
    until = valid_until(server.certificate)
    assert 0 < until.timestamp() - time.time() <= 2 * 86400


@pytest.mark.parametrize("profile", PROFILES)
def test_a_profile_offers_its_suites_and_no_others(server: Certified, profile: str) -> None:
    context = server_context(files(server, profile=profile))
    names = {suite["name"] for suite in context.get_ciphers()}
    of_tls_12 = {name for name in names if not name.startswith("TLS_")}
    assert of_tls_12 == set(PROFILES[profile].suites)
    # Forward secrecy and authenticated encryption everywhere. RFC 9325 §4.1, §4.2
    assert all(name.startswith("ECDHE") for name in of_tls_12)
    assert not any(weak in name for name in names for weak in ("CBC", "SHA1", "RC4", "3DES"))
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2


def test_an_elliptic_certificate_is_served(tmp_path: Path, authority: Authority) -> None:
    elliptic = authority.issue("elliptic", key="ec")
    with receiver(tmp_path, **settings(elliptic, RECEIVER_TLS_PROFILE="modified")) as running:
        assert echoscu(running.port, *anonymous(authority), "+pz")[0] == 0
