"""The dialogue: PACSOR's order of questions, one step back, the menu, what is saved and shown."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pacsor_tasks.settings import load
from pacsor_tasks.setup import compose, files, pages
from pacsor_tasks.setup import values as v
from pacsor_tasks.setup.dialogue import Dialogue, displayed
from pacsor_tasks.setup.questions import Surroundings
from tests.support.setup_screen import BACK, ScriptedScreen

CLIENT = "fr.acme.hosp.north.1"
WIZARD = [
    ("PRODUCT", ...), ("ENVIRONMENT", ...), ("CLIENT_NAME", CLIENT), ("TOKEN", "s3cret"),
    ("Connection to core", "on"), ("PACS_AET", "PACS"), ("PACS_IP", "pacs"), ("PACS_PORT", ...),
    ("Connection to storescu", "on"),
]  # fmt: skip
MENU = CLIENT
SAVE = [(MENU, "w"), ("LINK", "true")]


def run(directory: Path, script, test=lambda values, name: (True, f"{name} answers"), loaded=None):
    link = f"Make {directory / '.env'} lead to it"
    screen = ScriptedScreen([(link if name == "LINK" else name, text) for name, text in script])
    written = Dialogue(screen, directory, test, Surroundings("gw-01")).run(loaded)
    assert not screen._script, "not everything was asked"
    return written, screen


def test_a_new_configuration_is_asked_for_in_pacsors_order_and_saved(tmp_path: Path) -> None:
    written, screen = run(tmp_path, [*WIZARD, *SAVE])
    assert written is not None
    assert written.path == tmp_path / "env-files" / f".env.{CLIENT}"
    found = load({}, tmp_path / ".env")
    assert (found.PACS_IP, found.PACS_PORT, found.PACS_AET) == ("pacs", 104, "PACS")
    assert found.TOKEN.get_secret_value() == "s3cret"
    assert "s3cret" not in screen.shown
    assert (tmp_path / ".env").readlink() == Path("env-files") / f".env.{CLIENT}"
    for path in tmp_path.rglob("*"):
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), path
    assert files.read(written.path).values.items() >= {"PORT": "1040", "CONFIG_PROFILE": "WithSC",
        "DOCKER_IMAGE_TAG": "latest", "MILVUE_AET": "MILVUE"}.items()  # fmt: skip


@pytest.mark.parametrize(
    ("product", "environment", "asked_besides"),
    [
        ("suite", "prod", []),
        ("suite", "localor", []),
        ("smarttrauma", "localor", []),
        ("smarttrauma", "other", ["API_URL", "SIGNED_URL"]),
        ("techcare-trauma", "vmazure-us", []),
    ],
)
def test_the_first_steps_by_product(tmp_path, product, environment, asked_besides) -> None:
    more = [(name, "http://ai" if name == "API_URL" else ...) for name in asked_besides]
    script = [("PRODUCT", product), ("ENVIRONMENT", environment), *more, *WIZARD[2:], *SAVE]
    _, screen = run(tmp_path, script)
    expected = ["PRODUCT", "ENVIRONMENT", *asked_besides, "CLIENT_NAME", "TOKEN", "PACS_AET",
                "PACS_IP", "PACS_PORT"]  # fmt: skip
    assert [q.name for q in screen.asked if q.name] == expected


def test_back_goes_to_the_question_before_and_from_the_first_out(tmp_path: Path) -> None:
    script = [
        ("PRODUCT", ...), ("ENVIRONMENT", BACK), ("PRODUCT", "smarttrauma"), ("ENVIRONMENT", ...),
        ("CLIENT_NAME", BACK), ("ENVIRONMENT", BACK), ("PRODUCT", BACK),
    ]  # fmt: skip
    written, screen = run(tmp_path, script)
    assert written is None
    assert screen.asked[2].default == "suite"  # what was answered is proposed again
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_answer_is_refused_with_the_reason_and_asked_again(tmp_path: Path) -> None:
    script = [*WIZARD[:2], ("CLIENT_NAME", "acme"), *WIZARD[2:6], ("PACS_IP", ""),
              ("PACS_IP", "1.2.3.400"), *WIZARD[6:], *SAVE]  # fmt: skip
    _, screen = run(tmp_path, script)
    assert "country.partner.client.site.id" in screen.complaints[0]
    assert screen.complaints[1:] == ["an answer is needed", "'1.2.3.400' is not an IPv4 address"]


def test_a_peer_is_tried_until_it_answers_or_nobody_cares(tmp_path: Path) -> None:
    tried = []

    def test(values, name):
        tried.append((name, load(values, None).PACS_PORT))
        return values["PACS_PORT"] == "105", "as it is"

    script = [
        *WIZARD[:7], ("PACS_PORT", "104"), ("Connection to storescu", "test"),
        ("Connection to storescu", "back"), ("PACS_PORT", "105"),
        ("Connection to storescu", "test"), *SAVE,
    ]  # fmt: skip
    _, screen = run(tmp_path, script, test)
    assert tried == [("storescu", 104), ("storescu", 105)]
    assert [line for line in screen.said if "as it is" in line] == [
        "  PROBLEM  as it is", "  ok  as it is",
    ]  # fmt: skip


def test_a_configuration_is_loaded_changed_and_saved_with_what_is_not_ours(tmp_path: Path) -> None:
    run(tmp_path, [*WIZARD, *SAVE])
    path = files.path_for(tmp_path, CLIENT)
    path.write_text(path.read_text() + "# do not touch\nTHEIR_TOOL=yes $$x\n")
    script = [
        ("Configuration", "1"), (MENU, "6"), ("PACS_PORT", "11112"),
        ("Connection to storescu", "on"), (MENU, "2"), ("TOKEN", ""), ("Connection to core", "on"),
        *SAVE,
    ]  # fmt: skip
    _, screen = run(tmp_path, script)
    text = path.read_text()
    assert text.endswith("# do not touch\nTHEIR_TOOL=yes $$x\n")
    assert "PACS_PORT=11112\n" in text
    assert "TOKEN=s3cret\n" in text
    token = next(q for q in screen.asked if q.name == "TOKEN")
    assert (token.default, token.is_optional) == ("", True)
    assert "s3cret" not in screen.shown


HL7 = [
    (MENU, "h"), ("HL7", "true"), ("RIS_HOST_IP", "2001:db8::5"), ("RIS_HOST_PORT", ...),
    ("RECEIVING_APPLICATION", "RIS"), ("RECEIVING_FACILITY", "N"), ("HL7_LANGUAGE", "EN"),
    ("SENDING_APPLICATION", ...), ("SENDING_FACILITY", ...), ("INCLUDE_TECHCARE_REPORT", "true"),
    ("TECHCARE_REPORT_FORMAT", "HTML"), ("TCR_API_URL", ...), ("Connection to reports", "on"),
    ("Connection to hl7", "on"),
]  # fmt: skip
SECOND_PACS = [
    (MENU, "s"), ("Destinations", "a"), ("PACS_AET_2", "P2"), ("PACS_IP_2", "p2"),
    ("PACS_PORT_2", "105"), ("MILVUE_AET_2", ""), ("Connection to storescu-2", "on"),
    ("Destinations", "b"),
]  # fmt: skip
FILTER = [
    (MENU, "f"), ("Filters", "a"), ("tag", "Modality"), ("pattern", "("),
    ("pattern", "^(CR|DX)$"), ("Upload an instance that has the element", "m"), ("Filters", "b"),
]  # fmt: skip
RULES = '[{"tag":{"group":"0008","element":"0060"},"pattern":"DX","should_match":true}]'
SECOND_CORE = [
    (MENU, "c"), ("Further cores", "a"), ("API_URL_1", "http://b"), ("TOKEN_1", "k"),
    ("SIGNED_URL_1", "false"), ("INFERENCE_COMMANDS_1", ""), ("DESTINATIONS_1", "storescu-2"),
    ("Connection to core1", "on"), ("Further cores", "b"),
]  # fmt: skip


def test_hl7_destinations_filters_and_cores_are_behind_the_menu(tmp_path: Path) -> None:
    script = [*WIZARD, *HL7, *SECOND_PACS, *FILTER, *SECOND_CORE,
              (MENU, "x"), ("name", "RETENTION_DAY"), ("name", "RETENTION_DAYS"),
              ("RETENTION_DAYS", "7"), *SAVE]  # fmt: skip
    _, screen = run(tmp_path, script)
    found = load({}, tmp_path / ".env")
    assert found.ris["hl7"].host == "2001:db8::5"
    assert (found.INCLUDE_TECHCARE_REPORT, found.TECHCARE_REPORT_FORMAT) == (True, "HTML")
    assert found.TCR_API_URL == "https://app.report.milvue.com"
    assert found.storescu["storescu-2"].host == "p2"
    assert found.cores["core"].destinations == ("storescu", "hl7", "storescu-2")
    assert found.cores["core1"].destinations == ("storescu-2",)
    assert found.cores["core1"].signed_url is False
    assert found.DICOM_FILTERS[0].pattern == "^(CR|DX)$"
    assert found.RETENTION_DAYS == 7
    assert any("not a regular expression" in line for line in screen.complaints)
    assert any("did you mean RETENTION_DAYS" in line for line in screen.complaints)


def test_a_folder_is_mounted_and_every_kind_of_destination_is_offered(tmp_path: Path) -> None:
    (tmp_path / "docker-compose.yml").touch()
    script = [
        *WIZARD, (MENU, "s"), ("Destinations", "f"), ("FOLDER_PATH", "/mnt/it's $1"),
        ("Connection to folder", "on"), ("Destinations", "s"), ("STOW_URL", "https://web/rs"),
        ("STOW_TOKEN", ""), ("Connection to stow", "on"), ("Destinations", "w"),
        ("WEBHOOK_URL", "https://h/x?key=abc"), ("WEBHOOK_SECRET", "s3cret" * 3),
        ("Connection to webhook", "on"), ("Destinations", "b"), (MENU, "d"), *SAVE,
    ]  # fmt: skip
    _, screen = run(tmp_path, script)
    found = load({}, tmp_path / ".env")
    assert found.cores["core"].destinations == ("storescu", "folder", "stow", "webhook")
    assert "s3cret" not in screen.shown
    assert "abc" not in "".join(screen.said)
    text = (tmp_path / "env-files" / f"compose.{CLIENT}.yml").read_text()
    deliverer = YAML(typ="safe", pure=True).load(text)["services"]["deliverer"]
    assert deliverer == {
        "volumes": [
            {"type": "bind", "source": "/mnt/it's $$1", "target": "/mnt/it's $$1",
             "bind": {"create_host_path": False}}
        ]
    }  # fmt: skip
    values = files.read(tmp_path / ".env").values
    assert not compose.override(v.without_destination(values, "folder"))
    assert not compose.override({**values, "FOLDER_PATH": "/data/results"})


def test_what_is_in_a_list_is_changed_tried_and_removed(tmp_path: Path) -> None:
    tried = []

    def test(values, name):
        tried.append(name)
        if name == "core1":
            raise KeyboardInterrupt
        return True, "answers"

    script = [
        *WIZARD, *SECOND_PACS, *SECOND_CORE, *FILTER,
        (MENU, "s"), ("Destinations", "2"), ("storescu-2", "t"),
        ("Destinations", "2"), ("storescu-2", "c"), ("PACS_AET_2", ...), ("PACS_IP_2", "changed"),
        ("PACS_PORT_2", ...), ("MILVUE_AET_2", "US2"), ("Connection to storescu-2", "on"),
        ("Destinations", "1"), ("storescu", "b"), ("Destinations", "b"),
        (MENU, "c"), ("Further cores", "1"), ("core1", "t"), ("Further cores", "1"),
        ("core1", "c"), ("API_URL_1", BACK), ("Further cores", "b"), (MENU, "w"), ("LINK", BACK),
        (MENU, "c"), ("Further cores", "1"), ("core1", "r"), ("Further cores", "b"),
        (MENU, "f"), ("Filters", "1"), ("Filters", "j"),
        ("DICOM_FILTERS", RULES),
        ("Filters", "a"), ("tag", BACK), ("Filters", BACK),
        (MENU, "s"), ("Destinations", "1"), ("storescu", "r"), ("Destinations", "1"),
        ("storescu-2", "r"), ("Destinations", BACK), *SAVE,
    ]  # fmt: skip
    _, screen = run(tmp_path, script, test)
    assert tried == ["storescu-2", "core1"]
    assert "  PROBLEM  stopped" in screen.said
    assert any("the only one" in line for line in screen.said)
    found = load({}, tmp_path / ".env")
    assert set(found.cores) == {"core"}
    assert found.storescu["storescu-2"].host == "changed"
    assert found.storescu["storescu-2"].calling_aet == "US2"
    assert found.cores["core"].destinations == ("storescu-2",)
    assert [rule.pattern for rule in found.DICOM_FILTERS] == ["DX"]
    assert not [n for n in files.read(tmp_path / ".env").values if n.endswith("_1")]


def test_another_configuration_is_loaded_from_the_menu_and_a_broken_one_said_so(tmp_path) -> None:
    run(tmp_path, [*WIZARD, *SAVE])
    (tmp_path / "env-files" / ".env.broken").write_bytes(b"A=\xff")
    script = [
        ("Configuration", "n"), *WIZARD, (MENU, "o"), ("Configuration", "1"),
        ("Configuration", "2"), (MENU, "o"), ("Configuration", BACK), (MENU, "q"),
    ]  # fmt: skip
    _, screen = run(tmp_path, script)
    assert any("not UTF-8" in line for line in screen.said)


def test_a_directory_that_cannot_be_written_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "env-files").write_text("a file")
    script = [*WIZARD, *SAVE, (MENU, "q"), ("Leave without saving", "true")]
    _, screen = run(tmp_path, script)
    assert any("cannot be" in line for line in screen.said)


def test_what_is_backed_out_of_leaves_no_trace(tmp_path: Path) -> None:
    script = [
        *WIZARD, (MENU, "s"), ("Destinations", "a"), ("PACS_AET_2", "P2"), ("PACS_IP_2", BACK),
        ("PACS_AET_2", BACK), ("Destinations", BACK), (MENU, "h"), ("HL7", BACK), *SAVE,
    ]  # fmt: skip
    written, _ = run(tmp_path, script)
    values = files.read(written.path).values
    assert values["CALLBACK_URLS"] == "http://storescu:8000"
    assert not [name for name in values if name.endswith("_2") or name.startswith("RIS_")]


def test_what_would_not_start_is_not_saved_and_the_reason_said(tmp_path: Path) -> None:
    path = files.path_for(tmp_path, CLIENT)
    path.parent.mkdir()
    path.write_text(f"CLIENT_NAME={CLIENT}\nAPI_URL=https://a\nPACS_PORT=x\n")
    script = [("Configuration", ...), (MENU, "w"), (MENU, "q")]
    _, screen = run(tmp_path, script)
    assert "  TOKEN: required, and not set" in screen.said
    assert any(line.startswith("  PACS_PORT: ") for line in screen.said)


def test_leaving_with_changes_asks_and_without_does_not(tmp_path: Path) -> None:
    run(tmp_path, [*WIZARD, *SAVE])
    before = files.path_for(tmp_path, CLIENT).read_text()
    assert run(tmp_path, [("Configuration", "1"), (MENU, "q")])[0] is None
    script = [
        ("Configuration", "1"), (MENU, "7"), ("PORT", "1104"), (MENU, BACK),
        ("Leave without saving", "false"), (MENU, "q"), ("Leave without saving", "true"),
    ]  # fmt: skip
    assert run(tmp_path, script)[0] is None
    assert files.path_for(tmp_path, CLIENT).read_text() == before


def test_a_second_client_gets_a_file_of_its_own_and_another_is_not_written_over(tmp_path) -> None:
    run(tmp_path, [*WIZARD, *SAVE])
    other = "fr.acme.hosp.south.2"
    renamed = [
        ("Configuration", "1"),
        (MENU, "1"),
        ("CLIENT_NAME", other),
        (other, "w"),
        ("LINK", "false"),
    ]
    run(tmp_path, renamed)
    assert set(files.existing(tmp_path)) == {CLIENT, other}
    assert (tmp_path / ".env").readlink().name == f".env.{CLIENT}"
    path = files.path_for(tmp_path, CLIENT)
    again = [("Configuration", "2"), (other, "1"), ("CLIENT_NAME", CLIENT), (MENU, "w"),
             (f"{path} is there already. Write over it", ...), (MENU, "q"),
             ("Leave without saving", "true")]  # fmt: skip
    assert run(tmp_path, again)[0] is None


def test_what_another_wrote_meanwhile_is_not_lost(tmp_path: Path) -> None:
    run(tmp_path, [*WIZARD, *SAVE])
    path = files.path_for(tmp_path, CLIENT)

    def test(values, name):
        path.write_text(path.read_text() + "RETENTION_DAYS=9\n")
        return True, "answers"

    script = [("Configuration", "1"), (MENU, "t"), (MENU, "7"), ("PORT", "1104"), *SAVE,
              (MENU, "q"), ("Leave without saving", "true")]  # fmt: skip
    _, screen = run(tmp_path, script, test)
    assert any("load it again" in line for line in screen.said)
    assert "RETENTION_DAYS=9" in path.read_text()


def test_a_configuration_of_the_old_wizard_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / f"{CLIENT}.config").write_text(
        f"CLIENT_NAME={CLIENT}\nAPI_URL=https://predict.milvue.com\nTOKEN=s3cret key\n"
        "PACS_IP=10.1.1.1\nPACS_PORT=104\nPACS_AET=PACS\nHL7_ENABLE=true\nHL7_RIS_IP=10.1.1.2\n"
        "HL7_RIS_PORT=2575\nHL7_RECEIVING_APPLICATION=R\nHL7_RECEIVING_FACILITY=F\n"
    )
    written, screen = run(tmp_path, [("Configuration", "1"), *SAVE])
    found = load({}, written.path)
    assert found.ris["hl7"].host == "10.1.1.2"
    assert found.TOKEN.get_secret_value() == "s3cret key"
    assert "s3cret" not in screen.shown


def test_a_dotenv_that_was_no_link_is_put_aside_unreadable_for_others(tmp_path: Path) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_text(f"CLIENT_NAME={CLIENT}\nTOKEN=old\nAPI_URL=http://a\nPACS_IP=p\n"
                      "PACS_PORT=1\nPACS_AET=P\n")  # fmt: skip
    dotenv.chmod(0o644)
    run(tmp_path, [("Configuration", "1"), *SAVE])
    aside = tmp_path / "env-files" / "before-setup-1.env"
    assert stat.S_IMODE(aside.stat().st_mode) == 0o600
    assert aside.read_text().startswith("CLIENT_NAME")
    assert dotenv.is_symlink()


def test_the_display_masks_every_secret() -> None:
    values = {
        "TOKEN": "aaa", "TOKEN_1": "bbb", "PROVIDER_TOKEN": "ccc", "POSTGRES_PASSWORD": "ddd",
        "LEDGER_URL": "postgresql+psycopg://u:eee@h/x", "BROKER_URL": "redis://:fff@h/0",
        "FLOWER_BASIC_AUTH": "u:ggg", "THEIR_SECRET": "hhh", "PORT": "1040",
    }  # fmt: skip
    shown = "\n".join(displayed(values))
    assert "PORT=1040" in shown
    assert not [v for v in ("aaa", "bbb", "ccc", "ddd", "eee", "fff", "ggg", "hhh") if v in shown]


def test_the_menu_shows_what_is_in_effect_defaults_too() -> None:
    def menu(values: v.Values) -> dict[str, str]:
        return {entry.key: pages.shown(entry, values) for entry in pages.MENU}

    bare = menu({"API_URL": "https://a", "TOKEN": "x"})
    assert (bare["7"], bare["8"]) == ("1040", "MILVUE")
    assert (bare["9"], bare["p"]) == ("WithSC", "smarturgences,smartxpert")
    assert (bare["5"], bare["6"], bare["h"], bare["f"], bare["c"]) == ("", "", "no", "", "")
    given = menu({"PORT": "1041", "MILVUE_AET": "GW", "INFERENCE_COMMANDS": "trauma"})
    assert (given["7"], given["8"], given["p"]) == ("1041", "GW", "trauma")
    assert menu({"CORE_TYPE": "tcr"})["p"] == ""


def test_the_menu_says_how_many_filters_there_are() -> None:
    entry = next(entry for entry in pages.MENU if entry.key == "f")
    assert pages.shown(entry, {"DICOM_FILTERS": RULES}) == "1 rule"
    assert pages.shown(entry, {"DICOM_FILTERS": f"{RULES[:-1]},{RULES[1:]}"}) == "2 rules"
    assert pages.shown(entry, {"DICOM_FILTERS": "[{tag:"}) == "not readable"
    assert pages.shown(entry, {"DICOM_FILTERS": "[]"}) == ""


def test_every_line_of_the_menu_has_a_key_of_its_own_and_fits_a_terminal() -> None:
    keys = [entry.key for entry in pages.MENU]
    assert len(set(keys)) == len(keys)
    assert len(keys) < 24
    assert keys[:9] == list("123456789")  # as PACSOR's
    assert not {"j", "k"} & set(keys)
