"""The receiver's health check against a real SCP of another author."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from pynetdicom import AE, evt
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]  # made at import

from pacsor_tasks import healthcheck
from tests.support.net import free_port, wait_until
from tests.support.peers import require_program


def test_dcmtk_accepts_the_association_and_its_release(tmp_path: Path) -> None:
    port = free_port()
    command = [str(require_program("storescp")), "-v", "-od", str(tmp_path), str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as storescp:
        assert storescp.stdout is not None
        try:
            wait_until(lambda: healthcheck.main(["tcp", f"127.0.0.1:{port}"]) == 0)
            assert healthcheck.main(["dicom", f"127.0.0.1:{port}"]) == 0
        finally:
            storescp.terminate()
        said = storescp.stdout.read().decode()
    assert "Association Acknowledged" in said
    assert "Association Release" in said


@pytest.mark.parametrize("maximum", [1, 0])
def test_an_scp_is_alive_with_and_without_room(maximum: int) -> None:
    ae = AE()
    ae.add_supported_context(Verification)
    released: list[evt.Event] = []
    server = ae.start_server(
        ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_RELEASED, released.append)]
    )
    assert server is not None
    ae._maximum_associations = maximum  # the setter does not take 0
    try:
        assert healthcheck.main(["dicom", f"127.0.0.1:{server.server_address[1]}"]) == 0
        wait_until(lambda: len(released) == maximum)
    finally:
        server.shutdown()
