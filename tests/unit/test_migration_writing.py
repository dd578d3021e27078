"""What is written: all of it or nothing, and nothing that others could not read before."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from pacsor_tasks.cli import cli
from pacsor_tasks.errors import PacsorError
from tests.support.migrating import SITE, installed, migrated, plan_of, under
from tests.support.pacsor_installs import ROOT

KEY = '{"type": "service_account", "private_key": "-----BEGIN PRIVATE KEY-----"}\n'


@pytest.fixture
def narrow_umask() -> Iterator[None]:
    before = os.umask(0o027)
    yield
    os.umask(before)


def with_conf(install: Path, **files: tuple[str, int]) -> Path:
    conf = install / "conf"
    conf.mkdir()
    for name, (text, mode) in files.items():
        path = conf / name.replace("_", ".")
        path.write_text(text)
        path.chmod(mode)
    return install


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def tree(root: Path) -> dict[Path, bytes | None]:
    return {path: path.read_bytes() if path.is_file() else None for path in root.rglob("*")}


@pytest.mark.parametrize("is_private", [True, False])
@pytest.mark.parametrize("content", [KEY, "[]", "{", '{"REC_APP": "A", "password": "x"}'])
def test_json_that_is_no_configuration_of_messages_is_not_copied(
    content: str, is_private: bool, tmp_path: Path
) -> None:
    install = with_conf(
        installed(tmp_path / "p", env=SITE), gcp_json=(content, 0o600 if is_private else 0o644)
    )
    done = migrated(install, tmp_path / "ours")
    assert not (tmp_path / "ours" / "conf" / "gcp.json").exists()
    assert "conf/gcp.json: not copied" in under(plan_of(install), "look at this")
    assert "conf/gcp.json" not in done.output.partition("\n\n")[0]  # it is none of those taken
    assert "BEGIN" not in done.output


def test_what_the_containers_user_has_to_read_everybody_can(
    tmp_path: Path, narrow_umask: None
) -> None:
    filter_cfg = (ROOT / "conf" / "filter.cfg").read_text()
    install = with_conf(
        installed(tmp_path / "p", env=SITE),
        filter_cfg=(filter_cfg, 0o600),
        site_json=('{"REC_APP": "A"}', 0o600),
        site_py=('SEG_PID = "PID"\n', 0o600),
    )
    migrated(install, tmp_path / "ours")
    conf = tmp_path / "ours" / "conf"
    assert mode(conf) == 0o755
    found = {path.name: mode(path) for path in conf.iterdir()}
    assert found == {"filter.cfg": 0o644, "site.json": 0o644, "site.py": 0o644}
    assert mode(tmp_path / "ours" / ".env") == 0o600


def test_a_conf_that_is_there_keeps_its_mode(tmp_path: Path) -> None:
    (tmp_path / "ours" / "conf").mkdir(parents=True)
    (tmp_path / "ours" / "conf").chmod(0o750)
    migrated(installed(tmp_path / "p", env=SITE), tmp_path / "ours")
    assert mode(tmp_path / "ours" / "conf") == 0o750


@pytest.mark.parametrize(("before", "after"), [(0o600, 0o600), (0o640, 0o600), (0o644, 0o644)])
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("site_py", ""),
        ("site_py", "LOAD_TEMPLATE_AT_INIT=site\n"),
        ("site_json", "LOAD_CONFIG_AT_INIT=site\n"),
    ],
)
def test_what_would_be_refused_is_no_wider_than_it_was(
    name: str, settings: str, before: int, after: int, tmp_path: Path
) -> None:
    install = installed(tmp_path / "p", env=SITE + settings)
    with_conf(install, **{name: ("password = open('x')\n", before)})
    migrated(install, tmp_path / "ours", code=1 if settings else 0)
    assert mode(tmp_path / "ours" / "conf" / name.replace("_", ".")) == after
    said = under(plan_of(install), "look at this")
    assert ("the container's user cannot read it" in said) is (after == 0o600)


@pytest.mark.parametrize("taken", [".env", "conf/filter.cfg", "conf/site.json"])
def test_a_place_that_cannot_be_written_over_leaves_everything_as_it_was(
    taken: str, tmp_path: Path
) -> None:
    install = with_conf(
        installed(tmp_path / "p", env=SITE),
        filter_cfg=((ROOT / "conf" / "filter.cfg").read_text(), 0o644),
        site_json=('{"REC_APP": "A"}', 0o644),
    )
    into = tmp_path / "ours"
    (into / "conf").mkdir(parents=True)
    for name in {".env", "conf/filter.cfg", "conf/site.json"} - {taken}:
        (into / name).write_text("mine")
    (into / taken).mkdir()
    before = tree(into)
    for options in (["--force"], []):
        arguments = ["migrate", str(install), "--into", str(into), *options]
        done = CliRunner().invoke(cli, arguments)
        assert isinstance(done.exception, PacsorError)
        assert str(into / taken) in str(done.exception)
        assert "nothing was written" in str(done.exception)
        assert tree(into) == before


def test_a_file_that_cannot_be_written_leaves_no_half(tmp_path: Path) -> None:
    """The name is as long as one may be, so that there is no room for one beside it."""
    install = with_conf(installed(tmp_path / "p", env=SITE))
    (install / "conf" / f"{'a' * 250}.json").write_text('{"REC_APP": "A"}')
    into = tmp_path / "ours"
    done = CliRunner().invoke(cli, ["migrate", str(install), "--into", str(into)])
    assert isinstance(done.exception, PacsorError)
    assert "cannot be written" in str(done.exception)
    assert [path.name for path in into.rglob("*")] == ["conf"]


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    into, theirs = tmp_path / "ours", tmp_path / "theirs"
    into.mkdir()
    theirs.write_text("theirs")
    (into / ".env").symlink_to(theirs)
    migrated(installed(tmp_path / "p", env=SITE), into, "--force")
    assert theirs.read_text() == "theirs"
    assert not (into / ".env").is_symlink()
