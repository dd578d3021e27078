"""Answers: which are right, as the settings themselves see it; and what they change."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pacsor_tasks.env_file import parse
from pacsor_tasks.environment import OF_ONE_CORE, normalise
from pacsor_tasks.errors import ConfigError
from pacsor_tasks.settings import Settings, load
from pacsor_tasks.settings_routing import OF_ONE
from pacsor_tasks.setup import files
from pacsor_tasks.setup import values as v
from pacsor_tasks.setup.document import HEADER, rewritten
from pacsor_tasks.setup.files import Loaded
from pacsor_tasks.setup.filters import described, rules_of, tag_of, with_rules
from pacsor_tasks.setup.masking import is_secret
from pacsor_tasks.setup.peers import peers, settings_for
from pacsor_tasks.setup.products import COMMON, PRODUCTS
from pacsor_tasks.setup.questions import (
    CATALOGUE,
    Surroundings,
    answered,
    current,
    question,
)
from pacsor_tasks.setup.validation import checked, known_name, problems

CLIENT = "fr.acme.hosp.north.1"
SITE = {
    **COMMON, "CLIENT_NAME": CLIENT, "API_URL": "https://predict.milvue.com", "TOKEN": "key",
    "PACS_IP": "192.0.2.1", "PACS_PORT": "104", "PACS_AET": "PACS",
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "text", "written"),
    [
        ("CLIENT_NAME", "fr.acme.hosp.north.1", None),
        ("CLIENT_NAME", " us.a_b.c-d.e.0 ", "us.a_b.c-d.e.0"),
        ("API_URL", "https://predict.milvue.com/", "https://predict.milvue.com"),
        ("API_URL", "http://integrator:8080", None),
        ("API_URL", "http://[2001:db8::7]:8080/base", None),
        ("API_URL_1", "http://other:1", None),
        ("PACS_IP", "192.0.2.10", None),
        ("PACS_IP", "pacs.hospital.example", None),
        ("PACS_IP", "pacs_2", None),  # a container's name
        ("PACS_IP", "2001:db8::1", None),
        ("PACS_IP", "[2001:db8::1]", "2001:db8::1"),
        ("PACS_IP_2", "fe80::1%eth0", None),
        ("RIS_HOST_IP", "ris", None),
        ("PACS_PORT", "4242", None),
        *(("PACS_PORT", port, None) for port in ("100", "104", "65535")),
        ("PACS_PORT_2", "0104", "104"),
        *(("PORT", port, None) for port in ("1024", "11112", "65535")),
        ("PACS_AET", "A B", None),
        ("PACS_AET", '"PACS"', "PACS"),  # as PACSOR's defaults were written
        ("TOKEN", "it's $5 #1", None),
        ("DOCKER_IMAGE_TAG", "v2.11.0", None),
        ("DOCKER_IMAGE_TAG", "dev.0a1b2c3d", None),
        ("INFERENCE_COMMANDS", "smarturgences, smartxpert", None),
        ("STUDY_QUIET_SECONDS", "90s", None),
        ("PACS_PORT", "", ""),
        ("STOW_URL_2", "https://dicomweb/rs/", "https://dicomweb/rs"),
        ("FOLDER_PATH", "/mnt/results", None),
        ("WEBHOOK_URL_3", "https://h/x?key=1", None),
    ],
)
def test_a_right_answer_is_written_as_it_is_meant(name: str, text: str, written: str | None):
    assert checked(name, text, SITE) == (text if written is None else written)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *(("CLIENT_NAME", x) for x in ("fr", "fr.a.b.c", "f.a.b.c.1", "fr.a.b.c.1.2", "fr.a..c.1",
                                       "countries.a.b.c.1", "fr.a/../b.c.d.1", "fr.a b.c.d.1")),
        *(("API_URL", x) for x in ("predict.milvue.com", "ftp://a", "http://", "http://a:99999",
                                   "http://a b", "http://300.1.1.1", "http://a?x", "http://[::1")),
        ("API_URL", "http://user:pw@host"),
        *(("PACS_IP", x) for x in ("256.1.1.1", "1.2.3", "01.2.3.4", "1.2.3.4:104", "a..b", "-a",
                                   "::1:x", "a b", "http://pacs", "x" * 64)),
        *(("PACS_PORT", x) for x in ("0", "65536", "-1", "1_04", "104.0", "x", "999999", "99")),
        *(("PORT", x) for x in ("80", "104", "1023", "65536")),
        *(("PACS_PORT_2", x) for x in ("0", "99")),
        ("RIS_HOST_PORT_2", "70000"),
        ("PACS_AET", "SEVENTEENLETTERSX"),
        ("PACS_AET_2", "A\\B"),
        ("PORT", "7000"),  # the status page's
        ("DICOM_FILTERS", "[{"),
        ("DICOM_FILTERS", '[{"tag":{"group":"8","element":"60"},"pattern":"","should_match":1}]'),
        ("DICOM_FILTERS_1", "{}"),
        ("INFERENCE_COMMANDS", ","),
        ("INFERENCE_COMMANDS_1", "../x"),
        ("HL7_LANGUAGE_2", "DE"),
        ("DOCKER_IMAGE_TAG", "latest!"),
        ("TOKEN", "two\nlines"),
        ("RIS_TIMEOUT", "-1"),
        ("FOLDER_PATH", "results"),
        ("STOW_URL_2", "dicomweb"),
        ("WEBHOOK_SECRET", "short"),
    ],
)  # fmt: skip
def test_a_wrong_answer_is_refused(name: str, text: str):
    with pytest.raises(ConfigError):
        checked(name, text, SITE)


@pytest.mark.parametrize("name", ["TOKEN", "TOKEN_1", "ADMIN_TOKEN", "FLOWER_BASIC_AUTH"])
def test_a_refused_secret_is_not_repeated(name: str):
    assert is_secret(name)
    with pytest.raises(ConfigError) as refused:
        answered(name, "s3cret\x07", SITE)
    assert "s3cret" not in str(refused.value)


def test_a_port_that_a_site_has_already_may_stay():
    values = SITE | {"PORT": "104", "PACS_PORT": "80"}
    assert answered("PACS_PORT", "80", answered("PORT", "104", values)) == values
    assert not problems(values)


def test_an_answer_is_judged_by_itself_not_by_what_is_still_missing():
    values = answered("RIS_TLS_CERT", "cert.pem", answered("RIS_TLS", "true", SITE))
    assert any(line.startswith("RIS_TLS_KEY") for line in problems(values))
    assert not problems(answered("RIS_TLS_KEY", "key.pem", values))


def test_a_name_that_is_none_is_refused_with_the_one_that_was_meant():
    assert known_name("SEN_APP", {}) == "SENDING_APPLICATION"
    assert known_name("PACS_IP_2", {}) == "PACS_IP_2"
    assert known_name("THEIRS", {"THEIRS": "x"}) == "THEIRS"
    with pytest.raises(ConfigError, match="did you mean CALLBACK_URLS"):
        known_name("CALBACK_URLS", {})


@pytest.mark.parametrize("product", PRODUCTS.values(), ids=PRODUCTS)
def test_a_product_decides_commands_environment_and_upload(product):
    values = v.with_product(COMMON, product.key)
    first = question("ENVIRONMENT", values, Surroundings()).default
    assert first == product.environments[0].key
    values = v.with_environment(values, first)
    found = load({**SITE, **values}, None)
    assert product.commands == found.INFERENCE_COMMANDS
    assert product.environments[0].url == found.API_URL
    assert (product.is_signed and not product.environments[0].is_local) == found.SIGNED_URL
    assert product.has_measures == found.INCLUDE_MEASURES_FINDINGS
    assert v.product_of(values) is product
    assert v.environment_of(values) == first


def test_the_same_product_again_changes_nothing_and_another_takes_the_environment_away():
    values = v.with_api_url(v.with_product(COMMON, "suite"), "https://predict.milvue.com")
    assert values["SIGNED_URL"] == "true"
    assert v.with_product(values, "suite") == values
    other = v.with_product(values, "smarttrauma")
    assert not {"API_URL", "SIGNED_URL"} & set(other)
    assert other["DETECTION_INFERENCE_COMMAND"] == "detection"


def test_commands_of_a_sites_own_are_kept_as_they_are():
    values = SITE | {"INFERENCE_COMMANDS": "smartchest", "SIGNED_URL": "false"}
    asked = question("PRODUCT", values, Surroundings())
    assert asked.default == asked.options[0].value == ""
    assert answered("PRODUCT", "", values) == values
    assert answered("ENVIRONMENT", "prod", values) == values


def test_destinations_are_named_in_the_form_the_site_uses():
    assert v.with_destination({}, "hl7")["CALLBACK_URLS"] == "http://storescu:8000,http://hl7:8000"
    assert v.with_destination({"DESTINATIONS": "storescu"}, "hl7") == {
        "DESTINATIONS": "storescu,hl7"
    }
    urls = {"CALLBACK_URLS": "http://storescu:8000, http://hl7:8000/x,https://ours.example/cb"}
    assert v.with_destination(urls, "hl7") == urls
    assert v.without_destination(urls, "hl7") == {
        "CALLBACK_URLS": "http://storescu:8000,https://ours.example/cb"
    }
    assert v.destinations(urls) == ("storescu", "hl7", "https://ours.example/cb")
    plain = v.without_destination(urls, "https://ours.example/cb")
    assert v.destinations(plain) == ("storescu", "hl7")


def test_a_destination_is_added_under_the_next_name_and_removed_with_its_settings():
    values = v.with_destination(SITE, "storescu-2") | {"PACS_IP_2": "b", "PACS_PORT_2": "1"}
    assert v.free_name(values, "storescu") == "storescu-3"
    assert v.free_name(values, "hl7") == "hl7"
    assert v.without_destination(values, "storescu-2") == SITE
    assert v.used_destinations(v.with_destination(SITE, "hl7") | {"ENABLE_HL7": "false"}) == (
        "storescu",
    )


def test_one_ae_title_for_the_site_until_they_are_told_apart():
    assert answered("MILVUE_AET", "GW", SITE)["RECEIVER_AET"] == "GW"
    apart = SITE | {"RECEIVER_AET": "IN"}
    assert answered("MILVUE_AET", "OUT", apart)["RECEIVER_AET"] == "IN"


def test_a_clients_project_follows_its_name_unless_it_was_chosen():
    values = answered("CLIENT_NAME", "FR.Acme.hosp.north.1", {})
    assert values["COMPOSE_PROJECT_NAME"] == "pacsor-fr-acme-hosp-north-1"
    renamed = answered("CLIENT_NAME", "fr.b.c.d.2", values)
    assert renamed["COMPOSE_PROJECT_NAME"] == "pacsor-fr-b-c-d-2"
    chosen = {**values, "COMPOSE_PROJECT_NAME": "pacsor"}
    assert answered("CLIENT_NAME", "fr.b.c.d.2", chosen)["COMPOSE_PROJECT_NAME"] == "pacsor"


def test_a_rule_is_made_of_an_element_and_a_pattern():
    assert tag_of("Modality") == tag_of("(0008, 0060)") == tag_of("00080060")
    for text in ("Modalty", "0008", "", "xxxxyyyy"):
        with pytest.raises(ConfigError):
            tag_of(text)
    rule = {"tag": tag_of("Modality"), "pattern": "^(CR|DX)$", "should_match": True}
    values = with_rules(SITE, [rule])
    assert rules_of(values) == [rule]
    assert described(rule) == "Modality (0008,0060) must match ^(CR|DX)$"
    assert "DICOM_FILTERS" not in with_rules(values, [])
    with pytest.raises(ConfigError, match="not a regular expression"):
        with_rules(SITE, [rule | {"pattern": "("}])


def test_a_peer_can_be_tried_before_the_rest_is_known():
    only_pacs = {"PACS_IP": "10.0.0.1", "PACS_PORT": "104", "PACS_AET": "P", "MILVUE_AET": "US"}
    found = load(settings_for(only_pacs, "storescu"), None).storescu["storescu"]
    assert (found.host, found.port, found.called_aet, found.calling_aet) == (
        "10.0.0.1", 104, "P", "US",
    )  # fmt: skip
    second = settings_for(
        {"API_URL_1": "http://b", "TOKEN_1": "t", "CALLBACK_URLS_1": "x"}, "core1"
    )
    assert load(second, None).cores["core1"].api_url == "http://b"
    third = settings_for({"RIS_HOST_IP_3": "r", "RIS_HOST_PORT_3": "2"}, "hl7-3")
    assert load(third, None).ris["hl7-3"].port == 2
    for name, kind, setting in (
        ("stow-2", "stow", "STOW_URL_2"),
        ("webhook", "webhooks", "WEBHOOK_URL"),
    ):
        found = getattr(load(settings_for({setting: "http://x"}, name), None), kind)
        assert found[name].url == "http://x"
    plain = {**SITE, "CALLBACK_URLS": "http://storescu:8000,http://ours/cb?key=1"}
    (callback,) = set(peers(plain)) - {"core", "storescu"}
    assert callback in {
        hook.url for hook in load(settings_for(plain, callback), None).webhooks.values()
    }
    assert v.spoken(callback) == "http://ours/cb"
    everybody = v.with_destination(SITE, "hl7") | {"ADDITIONAL_CORES": "core1"}
    assert peers(everybody) == ("core", "core1", "storescu", "hl7")


# --- whatever is answered, what is written loads

NAMES = sorted(
    {*CATALOGUE, "DICOM_FILTERS", "RIS_TLS_CERT", "ADMIN_HOST", "FLOWER_BASIC_AUTH", "LOG_FORMAT"}
    | {f"{n}_1" for n in OF_ONE_CORE} | {f"{n}_2" for of_one in OF_ONE.values() for n in of_one}
)  # fmt: skip
PLAUSIBLE = [
    "true", "false", "", "suite", "smarttrauma", "techcare-trauma", "localor", "other", "prod",
    "http://a:80", "10.0.0.1", "host", "104", "A B", "it's", '"', "$$", "a # b", "FR", CLIENT,
    "storescu,hl7", "storescu-2", "debug", "[]", "\\", "'\\", "é", "smarturgences",
    json.dumps([{"tag": tag_of("Modality"), "pattern": "^'\\d$", "should_match": True}]),
]  # fmt: skip
ANSWERS = st.lists(
    st.tuples(st.sampled_from(NAMES), st.sampled_from(PLAUSIBLE) | st.text(max_size=12)),
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(ANSWERS)
def test_whatever_is_answered_what_is_written_loads_and_is_what_was_answered(answers) -> None:
    values: v.Values = SITE
    for name, text in answers:
        try:
            values = answered(name, text, values)
        except ConfigError:
            continue
        assert isinstance(current(name, values), str)
    with tempfile.TemporaryDirectory() as directory:
        if problems(values):
            with pytest.raises(ConfigError):
                files.save(Path(directory), Loaded({}), values)
            assert not [p for p in Path(directory).rglob("*") if p.is_file() or p.is_symlink()]
            return
        path = files.save(Path(directory), Loaded({}), values).path
        load({}, path)
        assert files.read(path).values.items() >= values.items() - {("COMPOSE_FILE", "")}


@given(
    st.lists(
        st.sampled_from(
            ["# a comment", "", "TOKEN=a", "TOKEN='b c'", "export PORT=1 # why", "SEN_APP=x",
             "INCLUDEREPORT=false", 'A="1 # 2"', "A=$$x", "open='", "B=", "  C = d", "junk line",
             "SENDING_APPLICATION=y", "\tPORT=2"]
        )
    ),
    st.dictionaries(
        st.sampled_from(["TOKEN", "PORT", "A", "SENDING_APPLICATION", "PACS_IP", "Z_OTHER", "B"]),
        st.sampled_from(["a", "b c", "it's $5", "1 # 2", "x"]),
    ),
)  # fmt: skip
def test_a_file_with_other_values_in_it_says_these_values_and_keeps_its_comments(lines, values):
    text = "\n".join(lines)
    found, _ = normalise({n: x for n, x in parse(rewritten(text, values)).values.items() if x})
    assert found == values
    if "open='" not in lines:  # the quote may take comments in
        n_comments = rewritten(text, values).splitlines().count("# a comment")
        assert n_comments == lines.count("# a comment")


def test_what_did_not_change_stays_as_it_was_written():
    text = (
        "# our site\nexport TOKEN='a b'  # the key\n\n# old\nREPORTFORMAT=B64\nSEN_APP=x\n"
        "THEIRS=$$y\nPORT=1040\n"
    )
    read_as, _ = normalise(parse(text).values)
    values = {**read_as, "PORT": "1041", "RECEIVER_AET": "GW", "RIS_HOST_IP": "ris"}
    assert rewritten(text, values) == (
        "# our site\nexport TOKEN='a b'  # the key\n\n# old\nTECHCARE_REPORT_FORMAT=B64\n"
        "SEN_APP=x\nRIS_HOST_IP=ris\nTHEIRS=$$y\nPORT=1041\nRECEIVER_AET=GW\n"
    )


def test_a_heading_goes_with_the_last_setting_under_it():
    ris = {"RIS_HOST_IP": "ris", "RIS_HOST_PORT": "2575"}
    text = rewritten(HEADER, SITE | ris | {"RETENTION_DAYS": "7", "PORT": "1041"})
    assert "\n\n# --- HL7\n" in text
    assert "\n\n# --- Other settings\n" in text
    without = rewritten(text, SITE)
    assert without == rewritten(HEADER, SITE)
    assert rewritten(without, SITE | ris).endswith(
        "\n\n# --- HL7\nRIS_HOST_IP=ris\nRIS_HOST_PORT=2575\n"
    )


def test_a_heading_with_a_comment_under_it_or_of_somebody_else_stays():
    kept = "# --- HL7\n# RIS_HOST_IP=ris\n\n# --- Ours\n\n# --- Operation\nPACSOR_LOG_LEVEL=\n"
    assert rewritten(kept + "\n# --- Other settings\nRETENTION_DAYS=7\n", {}) == kept


def test_an_optional_secret_is_kept_by_an_empty_answer_and_taken_away_by_a_dash():
    values = answered("WEBHOOK_SECRET", "x" * 16, SITE)
    assert answered("WEBHOOK_SECRET", "", values) == values
    assert answered("WEBHOOK_SECRET", "-", values) == SITE
    assert answered("TOKEN", "-", SITE)["TOKEN"] == "-"  # that one cannot be missing


def test_every_setting_can_be_asked_for():
    for name in Settings.model_fields:
        assert question(name, SITE, Surroundings()).title
