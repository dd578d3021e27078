"""`pacsor setup` by options, and with lines instead of menus."""

from __future__ import annotations

import io
import stat
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pacsor_tasks.cli import cli
from pacsor_tasks.settings import load
from pacsor_tasks.setup.plain import PlainScreen
from pacsor_tasks.setup.questions import Kind, Option, Question

CLIENT = "fr.acme.hosp.north.1"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "token").write_text("s3cret key\n")
    return tmp_path


def setup(site: Path, *arguments: str, stdin: str = "") -> Result:
    command = ["setup", "--directory", str(site), *arguments]
    return CliRunner().invoke(cli, command, input=stdin, catch_exceptions=True)


def first(site: Path, *more: str) -> Result:
    return setup(site, "--yes", "--client", CLIENT, "--token-file", str(site / "token"),
                 "--pacs", "PACS@pacs:104", *more)  # fmt: skip


def test_a_site_is_set_up_without_a_question(site: Path) -> None:
    done = first(site, "--product", "smarttrauma", "--pacs", "P2@[2001:db8::2]:105",
                 "--ris", "ris:2575", "--set", "RECEIVING_APPLICATION=R",
                 "--set", "RECEIVING_FACILITY=F", "--set", "REC_APP=OLD")  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "s3cret" not in done.output
    found = load({}, site / ".env")
    assert found.TOKEN.get_secret_value() == "s3cret key"
    assert found.storescu["storescu-2"].host == "2001:db8::2"
    assert found.cores["core"].destinations == ("storescu", "storescu-2", "hl7")
    assert found.INFERENCE_COMMANDS == ("detection",)
    assert (found.API_URL, found.SIGNED_URL) == ("http://integrator:8080", False)
    assert stat.S_IMODE((site / ".env").stat().st_mode) == 0o600


def test_an_ipv6_address_may_have_a_zone_and_the_wizards_ranges_hold(site: Path) -> None:
    done = first(site, "--pacs", "P2@[fe80::1%eth0]:104", "--ris", "[fe80::2%eth0]:2575",
                 "--set", "PACS_IP_3=fe80::3%eth0", "--set", "PACS_PORT_3=104",
                 "--set", "PACS_AET_3=P3", "--set", "DESTINATIONS=storescu-3",
                 "--set", "RECEIVING_APPLICATION=R", "--set", "RECEIVING_FACILITY=F")  # fmt: skip
    assert done.exit_code == 0, f"{done.output} {done.exception}"
    found = load({}, site / ".env")
    assert [found.storescu[f"storescu-{n}"].host for n in (2, 3)] == ["fe80::1%eth0",
                                                                      "fe80::3%eth0"]  # fmt: skip
    assert found.ris["hl7"].host == "fe80::2%eth0"
    refused = first(site, "--pacs", "P2@[fe80::x%eth0]:99", "--set", "PORT=80")
    assert str(refused.exception).splitlines() == [
        "PACS_IP_2: '[fe80::x%eth0]' is not an IPv6 address (no port here)",
        "PACS_PORT_2: '99' is not a port from 100 to 65535",
        "PORT: '80' is not a port from 1024 to 65535",
    ]


def test_an_existing_client_is_changed_by_options(site: Path) -> None:
    first(site)
    done = setup(site, "--yes", "--client", CLIENT, "--environment", "preprod", "--no-link")
    assert done.exit_code == 0, done.output
    found = load({}, site / ".env")
    assert found.API_URL == "https://preprod.predict.milvue.com"
    assert found.PACS_IP == "pacs"
    assert found.TOKEN.get_secret_value() == "s3cret key"


def test_leaving_localor_with_its_token_is_said(site: Path) -> None:
    first(site, "--environment", "localor")
    leaving = ("--yes", "--client", CLIENT, "--environment", "prod")
    (site / "another").write_text("another")
    done = setup(site, *leaving, "--no-link", "--token-file", str(site / "another"))
    assert done.exit_code == 0, done.output
    assert "TOKEN" not in done.output
    first_again = setup(site, "--yes", "--client", CLIENT, "--environment", "localor")
    assert "TOKEN" not in first_again.output
    done = setup(site, *leaving)
    assert "note: TOKEN: still localor's, for https://predict.milvue.com" in done.output
    assert done.exit_code == 0, done.output


def test_it_begins_with_a_file(site: Path) -> None:
    source = site / "theirs.env"
    source.write_text(
        "# theirs\nAPI_URL=http://ai:1\nTOKEN='a b'\nPACS_IP=p\nPACS_PORT=1\nPACS_AET=P\n"
    )
    done = setup(site, "--yes", "--from-file", str(source), "--client", CLIENT)
    assert done.exit_code == 0, done.output
    text = (site / ".env").read_text()
    assert "# theirs\n" in text
    assert "TOKEN='a b'\n" in text
    assert source.read_text().startswith("# theirs\n")
    again = setup(site, "--yes", "--from-file", str(source), "--client", CLIENT)
    assert again.exit_code == 1
    assert "there already" in str(again.exception)


def test_pacsors_own_localor_keeps_its_network(site: Path) -> None:
    source = site / "o.env"
    source.write_text("API_URL=http://integrator:8080\nTOKEN=s3cret\nSIGNED_URL=false\n"
                      "PACS_IP=p\nPACS_PORT=104\nPACS_AET=P\n")  # fmt: skip
    done = setup(site, "--yes", "--from-file", str(source), "--client", CLIENT)
    assert done.exit_code == 0, f"{done.output} {done.exception}"
    assert "note: API_URL is localor's" in done.output
    assert "milvue-net" in (site / "env-files" / f"compose.{CLIENT}.yml").read_text()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--client", CLIENT], "TOKEN: required"),
        (["--client", "acme"], "country.partner.client.site.id"),
        (["--pacs", "PACS@x"], "AET@host:port"),
        (["--ris", "::1:2575"], "host:port"),
        (["--product", "tct"], "suite, smarttrauma, techcare-trauma"),
        (["--environment", "moon"], "prod, preprod"),
        (["--set", "TOKEN=abc"], "--secret TOKEN=FILE"),
        (["--set", "PACS_PROT=1"], "no such setting"),
        (["--set", "PACS_PORT"], "NAME=VALUE"),
        (["--secret", "TOKEN=/nowhere"], "cannot be read"),
        (["--from-file", "/nowhere"], "cannot be read"),
    ],
)
def test_what_is_missing_or_wrong_is_named_and_nothing_written(site, arguments, says) -> None:
    done = setup(site, "--yes", *arguments)
    assert done.exit_code == 1
    assert says in str(done.exception)
    assert "abc" not in str(done.exception)
    assert [path.name for path in site.iterdir()] == ["token"]


def test_all_that_is_wrong_with_the_options_is_named_at_once(site: Path) -> None:
    done = setup(site, "--yes", "--client", "acme", "--environment", "moon", "--pacs", "PACS@x",
                 "--pacs", "P2@1.2.3.400:104", "--ris", "ris", "--token-file", "/nowhere",
                 "--secret", "TOKNE=/nowhere", "--set", "STOW_TOKEN=SEKRET", "--set", "PACS_PROT=1",
                 "--set", "PORT", "--set", "RETENTION_DAYS=-1")  # fmt: skip
    said = str(done.exception)
    for part in (
        "CLIENT_NAME: 'acme'", "ENVIRONMENT: 'moon'", "--pacs: 'PACS@x'", "PACS_IP_2: '1.2.3.400'",
        "--ris: 'ris'", "TOKEN: /nowhere cannot be read", "TOKNE: no such setting",
        "STOW_TOKEN: give it by", "PACS_PROT: no such", "'PORT': write NAME=VALUE", "RETENTION_D",
    ):  # fmt: skip
        assert part in said
    assert len(said.splitlines()) == 11
    assert "SEKRET" not in said
    assert [path.name for path in site.iterdir()] == ["token"]


def test_an_environment_is_not_blamed_for_its_product(site: Path) -> None:
    done = setup(site, "--yes", "--product", "tct", "--environment", "vmazure-us")
    assert "PRODUCT: 'tct'" in str(done.exception)
    assert "ENVIRONMENT" not in str(done.exception)


def test_the_token_of_a_further_core_is_that_cores(site: Path) -> None:
    (site / "another").write_text("s3cret two")
    done = first(site, "--set", "ADDITIONAL_CORES=core1,core2", "--set", "API_URL_1=http://b",
                 "--set", "API_URL_2=http://c", "--secret", f"TOKEN_1={site / 'token'}",
                 "--secret", f"TOKEN_2={site / 'another'}")  # fmt: skip
    assert done.exit_code == 0, f"{done.output} {done.exception}"
    assert load({}, site / ".env").cores["core2"].token.get_secret_value() == "s3cret two"


def test_a_token_may_come_by_stdin(site: Path) -> None:
    done = setup(site, "--yes", "--client", CLIENT, "--token-file", "-", "--pacs", "P@p:104",
                 stdin="by stdin\n")  # fmt: skip
    assert done.exit_code == 0, done.output
    assert load({}, site / ".env").TOKEN.get_secret_value() == "by stdin"


def test_saved_only_if_every_peer_answers(site: Path) -> None:
    done = setup(site, "--yes", "--check", "--client", CLIENT, "--token-file", str(site / "token"),
                 "--api-url", "http://127.0.0.1:9", "--pacs", "PACS@127.0.0.1:109")  # fmt: skip
    assert done.exit_code == 3
    assert [line[:26].strip() for line in done.output.splitlines()[:2]] == [
        "PROBLEM  API core", "PROBLEM  PACS storescu",
    ]  # fmt: skip
    assert "s3cret" not in done.output
    assert [path.name for path in site.iterdir()] == ["token"]


LINES = ["1", "", CLIENT, "s3cret", "2", "PACS", "<", "", "pacs", "", "2", "w", "1"]


def test_lines_do_what_menus_do(site: Path) -> None:
    done = setup(site, stdin="\n".join([*LINES, ""]))
    assert done.exit_code == 0, done.output
    assert load({}, site / ".env").PACS_IP == "pacs"
    assert "s3cret" not in done.output


def test_the_end_of_input_writes_nothing(site: Path) -> None:
    done = setup(site, stdin="\n".join(LINES[:5]))
    assert done.exit_code == 1
    assert "nothing was written" in done.output
    assert [path.name for path in site.iterdir()] == ["token"]


SEVERAL = Question("A", "A", kind=Kind.CHOICE, options=(Option("aa", "A"), Option("bb", "B")))
MENU = Question("A", "A", kind=Kind.CHOICE, options=(Option("q", "Q"), Option("w", "W")))


@pytest.mark.parametrize(
    ("typed", "question", "answer"),
    [
        ("\n", Question("A", "A", default="d"), "d"),
        (" x \n", Question("A", "A", default="d"), "x"),
        ("-\n", Question("A", "A", default="d", is_optional=True), ""),
        ("<\n", Question("A", "A"), None),
        ("\nbad\nx\n", Question("A", "A"), "x"),
        ("2\n", SEVERAL, "bb"),
        ("3\nbb\n", SEVERAL, "bb"),
        ("q\n", MENU, "q"),
        ("\n", Question("TOKEN", "T", kind=Kind.SECRET, is_optional=True), ""),
    ],
)  # fmt: skip
def test_a_line_is_an_answer(typed: str, question: Question, answer: str | None) -> None:
    screen = PlainScreen(io.StringIO(typed), io.StringIO())
    assert screen.ask(question, lambda text: "no" if text == "bad" else "") == answer
