"""Which files of an installation count, and that each line of them leaves a word in the report."""

from __future__ import annotations

from pathlib import Path

import pytest

from pacsor_tasks.errors import PacsorError
from pacsor_tasks.migration import read_config
from tests.support.migrating import SITE, installed, plan_of, under
from tests.support.pacsor_installs import pacsor_2_11

LOOK = "look at this"
LATIN_1 = "# configuré à l'hôpital\n".encode("latin-1")


@pytest.mark.parametrize(
    ("says", "is_read", "is_doubtful"),
    [
        ("", True, True),
        ("COMPOSE_PROJECT_NAME=mine\n", True, True),
        ("COMPOSE_PROJECT_NAME=pacsor-a-b\n", True, False),
        ("CLIENT_NAME=a.b\n", True, False),
        ("COMPOSE_PROJECT_NAME=pacsor-other\n", False, False),
        ("CLIENT_NAME=other\n", False, False),
    ],
)
def test_a_chosen_client_has_the_live_env_unless_that_is_anothers(
    says: str, is_read: bool, is_doubtful: bool, tmp_path: Path
) -> None:
    install = installed(tmp_path, env=SITE + says)
    for client in ("a.b", "other"):
        (install / "scripts" / f"{client}.config").write_text(f"PACS_AET={client}\n")
    plan = plan_of(install, "a.b")
    assert plan.values.get("TOKEN") == ("s3cr3t" if is_read else None)
    read, not_read = ".env, scripts/a.b.config", "scripts/other.config"
    if not is_read:
        read, not_read = "scripts/a.b.config", ".env, scripts/other.config"
    assert f"read {read} not read: {not_read}" in under(plan, "PACSOR in")
    assert ("taken for a.b's" in under(plan, LOOK)) is is_doubtful


def test_a_clients_own_env_comes_before_the_live_one(tmp_path: Path) -> None:
    install = pacsor_2_11(tmp_path / "pacsor")
    (install / ".env").unlink()
    (install / ".env").write_text(SITE)
    plan = plan_of(install, "be.partner.imaging.south.3")
    assert plan.values["PACS_AET"] == "CHUPACS"
    assert "not read: .env" in under(plan, "PACSOR in")


def test_what_a_link_leads_to_is_read_and_not_named_twice(tmp_path: Path) -> None:
    assert "not read" not in under(plan_of(pacsor_2_11(tmp_path / "pacsor")), "PACSOR in")


@pytest.mark.parametrize("suffix", [".bak", ".orig", ".old", ".save", "~", ".tmp", ".swp"])
def test_a_copy_that_nobody_uses_is_no_second_client(suffix: str, tmp_path: Path) -> None:
    install = pacsor_2_11(tmp_path / "pacsor")
    (install / ".env").unlink()
    name = f".env.be.partner.imaging.south.3{suffix}"
    (install / "env-files" / name).write_text("TOKEN=old\n")
    plan = plan_of(install)
    assert plan.values["PACS_AET"] == "CHUPACS"
    assert f"not read: env-files/{name}" in under(plan, "PACSOR in")


def test_an_unreadable_config_beside_a_sound_env_is_passed_over(tmp_path: Path) -> None:
    install = installed(tmp_path, env=SITE)
    config = install / "scripts" / "a.config"
    config.write_bytes(b"TOKEN=x\n" + LATIN_1)
    plan = plan_of(install)
    assert plan.problems == []
    assert "a.config: cannot be read: line 2 is not UTF-8 text" in under(plan, LOOK)
    assert "not read: scripts/a.config" in under(plan, "PACSOR in")
    (install / ".env").unlink()
    with pytest.raises(PacsorError, match="line 2 is not UTF-8 text"):
        plan_of(install)


def test_an_env_that_is_no_utf_8_is_refused_with_the_line(tmp_path: Path) -> None:
    install = installed(tmp_path, env=SITE)
    (install / ".env").write_bytes(SITE.encode() + LATIN_1)
    with pytest.raises(PacsorError, match=r"\.env cannot be read: line 6 is not UTF-8 text"):
        plan_of(install)


def test_a_compose_files_comment_may_be_in_any_coding(tmp_path: Path) -> None:
    install = installed(tmp_path, env=SITE)
    (install / "compose.yaml").write_bytes(LATIN_1 + b"include: [compose/compose.webps.yaml]\n")
    assert plan_of(install).values["WEBPS_ENABLE"] == "true"


@pytest.mark.parametrize("name", ["env", "a_config"])
@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ("NO_DUPLICATE_UPLOAD\n", "NO_DUPLICATE_UPLOAD: line 6 is a name without `=`"),
        ("x9kQ7\n", "line 6 is a name without `=`"),
        ("PACS_AET=Q\n", "PACS_AET: given twice, in lines 5 and 6"),
        ("REC_APP=A\nRECEIVING_APPLICATION=B\n", "REC_APP: not used"),
        ("RECEIVING_APPLICATION=B\nREC_APP=A\n", "REC_APP: not used"),
        ("INCLUDEREPORT=true\nINCLUDE_REPORT=false\n", "INCLUDEREPORT: not used"),
        ("HL7_RIS_IP=a\nRIS_HOST_IP=b\n", "HL7_RIS_IP: "),
    ],
)  # fmt: skip
def test_no_line_that_counts_for_nothing_vanishes(
    lines: str, says: str, name: str, tmp_path: Path
) -> None:
    plan = plan_of(installed(tmp_path, **{name: SITE + lines}))
    assert says in under(plan, LOOK)
    assert "x9kQ7" not in under(plan, LOOK)  # it may be a piece of a secret


def test_of_two_names_of_a_setting_the_report_says_which_counts(tmp_path: Path) -> None:
    lines = "REC_APP=A\nRECEIVING_APPLICATION=B\nREC_FAC=F\nRECEIVING_FACILITY=F\nRIS_HOST=r\n"
    plan = plan_of(installed(tmp_path, env=SITE + lines))
    values = [plan.values[n] for n in ("RECEIVING_APPLICATION", "RECEIVING_FACILITY")]
    assert values == ["B", "F"]
    assert "RECEIVING_APPLICATION (line 7) says something else and counts" in under(plan, LOOK)
    assert "REC_FAC: RECEIVING_FACILITY says the same" in under(plan, "not carried over")
    assert under(plan, "changed") == "RIS_HOST: is called RIS_HOST_IP"


def test_of_two_names_in_a_config_the_settings_own_counts() -> None:
    for lines in ("HL7_RIS_IP=a\nRIS_HOST_IP=b\n", "RIS_HOST_IP=b\nHL7_RIS_IP=a\n"):
        assert read_config(lines).values == {"RIS_HOST_IP": "b"}


@pytest.mark.parametrize(
    ("lines", "values", "heading", "says"),
    [
        ("HL7_RIS_IP=r\n", {"RIS_HOST_IP": "r"}, LOOK, "HL7_RIS_IP: the wizard's name for RIS"),
        ("HL7_RIS_IP=r\nRIS_HOST_IP=x\n", {"RIS_HOST_IP": "x"}, LOOK, "says something else"),
        ("HL7_RIS_IP=r\nRIS_HOST_IP=r\n", {"RIS_HOST_IP": "r"}, "not carried", "says the same"),
        ("HL7_TCR_OUT_FORMAT=HTML\n", {"TECHCARE_REPORT_FORMAT": "HTML"}, LOOK, "taken"),
        ("HL7_ENABLE=false\n", {}, "not carried over", "HL7_ENABLE: the wizard's own"),
        ("HL7_ENABLE=true\n", {"CALLBACK_URLS": "http://storescu:8000,http://hl7:8000"}, LOOK,
         "HL7_ENABLE: the wizard's"),
        ("HL7_ENABLE=true\nCALLBACK_URLS=http://hl7:8000\n", {"CALLBACK_URLS": "http://hl7:8000"},
         "not carried over", "HL7_ENABLE: the wizard's own"),
        ("VERSION=latest\n", {}, "not carried over", "VERSION: PACSOR's version"),
    ],
)  # fmt: skip
def test_the_wizards_own_names_in_an_env_are_read_as_in_its_config(
    lines: str, values: dict[str, str], heading: str, says: str, tmp_path: Path
) -> None:
    plan = plan_of(installed(tmp_path, env=SITE + lines))
    assert {name: plan.values.get(name) for name in values} == values
    assert says in under(plan, heading)
    assert "nobody knows it" not in under(plan, LOOK)


def test_a_second_line_of_what_only_the_config_has_is_shown(tmp_path: Path) -> None:
    config = (
        "TCR_API_URL=https://a.example\nTCR_API_URL=https://b.example\nPACS_AET=1\nPACS_AET=P\n"
    )
    plan = plan_of(installed(tmp_path, env=SITE, a_config=config))
    assert plan.values["TCR_API_URL"] == "https://b.example"
    assert "TCR_API_URL: given twice, in lines 1 and 2" in under(plan, LOOK)
    assert "PACS_AET" not in under(plan, LOOK)
