"""Destinations as the settings say: names, inheritance, conditions, callbacks, what is doubtful."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pacsor_tasks import destinations
from pacsor_tasks.cli.config import _is_secret
from pacsor_tasks.environment import OF_ONE_FOLDER, OF_ONE_PACS, OF_ONE_STOW, OF_ONE_WEBHOOK
from pacsor_tasks.errors import ConfigError
from pacsor_tasks.settings import Settings, load, load_with_warnings
from pacsor_tasks.settings_destinations import (
    OWN,
    FolderSettings,
    PacsSettings,
    StowSettings,
    WebhookSettings,
)
from pacsor_tasks.settings_routing import selection
from tests.support.certificates import Authority

REQUIRED = {
    "API_URL": "https://predict.example", "TOKEN": "key",
    "PACS_IP": "192.0.2.1", "PACS_PORT": "104", "PACS_AET": "PACS",
}  # fmt: skip
PACS_2 = {"PACS_IP_2": "192.0.2.2", "PACS_PORT_2": "11112", "PACS_AET_2": "TWO"}
CORE_1 = {"ADDITIONAL_CORES": "core1", "API_URL_1": "https://other.example", "TOKEN_1": "k1"}
HL7 = {
    "RIS_HOST_IP": "192.0.2.3", "RIS_HOST_PORT": "2575", "REC_APP": "RIS", "REC_FAC": "SITE",
}  # fmt: skip


def settings(**given: str) -> Settings:
    return load({**REQUIRED, **given}, None)


def warned(**given: str) -> list[str]:
    return load_with_warnings({**REQUIRED, **given}, None)[1]


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (OF_ONE_PACS, PacsSettings),
        (OF_ONE_STOW, StowSettings),
        (OF_ONE_FOLDER, FolderSettings),
        (OF_ONE_WEBHOOK, WebhookSettings),
    ],
)
def test_every_setting_of_a_destination_may_have_a_number(names: tuple[str, ...], kind: Any):
    assert set(names) == set(kind.model_fields)


def test_there_may_be_several_of_every_kind():
    found = settings(
        DESTINATIONS="storescu,storescu-2,stow,stow-2,folder,folder-2,webhook,webhook-2",
        STOW_URL="https://a.example/dicom-web/", STOW_URL_2="http://b:8080",
        FOLDER_PATH="/one", FOLDER_PATH_2="/two", FOLDER_LAYOUT_2="{core}/{sop_uid}",
        WEBHOOK_URL="https://c.example/in?key=1", WEBHOOK_URL_2="http://d", **PACS_2,
    )  # fmt: skip
    assert list(found.storescu) == ["storescu", "storescu-2"]
    assert found.stow["stow"].url == "https://a.example/dicom-web"
    assert found.stow["stow-2"].url == "http://b:8080"
    assert found.folders["folder"].path == Path("/one")
    assert found.folders["folder-2"].layout == "{core}/{sop_uid}"
    assert found.webhooks["webhook"].url == "https://c.example/in?key=1"
    assert found.webhooks["webhook-2"].url == "http://d"


def test_a_further_one_takes_what_is_not_said_but_no_address_key_or_condition():
    found = settings(
        DESTINATIONS="storescu,storescu-2,stow,stow-2,webhook,webhook-2",
        MILVUE_AET="GATE", MILVUE_AET_2="GATE2", PACS_TLS="true", PACS_TLS_NAME="pacs.site",
        PACS_TIMEOUT="90", PACS_RATE="5", PACS_RATE_2="7", PACS_SOP_CLASSES="SR",
        STOW_URL="https://a", STOW_URL_2="https://b", STOW_TOKEN="mine", STOW_BATCH="3",
        WEBHOOK_URL="https://c", WEBHOOK_URL_2="https://d",
        WEBHOOK_SECRET="a secret of 16 or more", WEBHOOK_INCLUDE="patient_id", **PACS_2,
    )  # fmt: skip
    first, second = found.storescu["storescu"], found.storescu["storescu-2"]
    assert (first.calling_aet, second.calling_aet) == ("GATE", "GATE2")
    assert second.tls is not None
    assert (second.tls.name, second.timeout_s) == ("pacs.site", 90)
    assert (first.rate, second.rate) == (5, 7)
    assert selection(found, "storescu").sop_class_names == ("SR",)
    assert not selection(found, "storescu-2")
    assert found.stow["stow-2"].token is None
    assert found.stow["stow-2"].batch == 3
    assert found.webhooks["webhook-2"].secret is None
    assert found.webhooks["webhook-2"].include == ()
    assert {"STOW_TOKEN", "WEBHOOK_SECRET", "PACS_SOP_CLASSES", "RIS_CORES"} <= OWN


def test_a_condition_on_the_core_says_where_its_results_go():
    found = settings(
        DESTINATIONS="storescu,storescu-2,hl7", PACS_CORES_2="core1", RIS_CORES="core",
        **PACS_2, **CORE_1, **HL7,
    )  # fmt: skip
    assert found.cores["core"].destinations == ("storescu", "hl7")
    assert found.cores["core1"].destinations == ("storescu", "storescu-2")


def test_one_without_tls_takes_nothing_of_the_first_one_s_tls(tmp_path: Path):
    ca = str(Authority(tmp_path / "ca").certificate)
    given = {"DESTINATIONS": "storescu,storescu-2", "PACS_TLS": "true", "PACS_TLS_CA": ca, **PACS_2}
    assert settings(**given, PACS_TLS_2="No").storescu["storescu-2"].tls is None
    inherited = settings(**given).storescu["storescu-2"].tls
    assert inherited is not None
    assert str(inherited.ca) == ca
    with pytest.raises(ConfigError, match="PACS_TLS_2"):
        settings(**given, PACS_TLS_2="false", PACS_TLS_NAME_2="pacs.site")


def test_a_provider_s_core_delivers_nowhere_rather_than_where_a_condition_forbids_it():
    provider = {
        "ADDITIONAL_CORES": "core1", "CORE_TYPE_1": "tcr", "TCR_API_URL": "https://tcr.example",
        "PROVIDER_TOKEN_1": "k", "ORGANIZATION_ID_1": "7",
    }  # fmt: skip
    found = settings(DESTINATIONS="storescu,hl7", RIS_CORES="core", **provider, **HL7)
    assert found.cores["core"].destinations == ("storescu", "hl7")
    assert found.cores["core1"].destinations == ()
    found = settings(DESTINATIONS="storescu", RIS_CORES="core", **provider, **HL7)
    assert found.cores["core1"].destinations == ()
    found = settings(DESTINATIONS="storescu", **provider, **HL7)
    assert found.cores["core1"].destinations == ("hl7",)


def test_conditions_on_commands_and_sop_classes_are_what_a_delivery_is_about():
    found = settings(PACS_COMMANDS="smarturgences", PACS_SOP_CLASSES="sr, EncapsulatedPDFStorage")
    about = selection(found, "storescu")
    assert about.takes("smarturgences", "1.2.840.10008.5.1.4.1.1.88.33")
    assert about.takes("smarturgences", "1.2.840.10008.5.1.4.1.1.104.1")
    assert not about.takes("smarturgences", "1.2.840.10008.5.1.4.1.1.7")
    assert not about.takes("smartxpert", "1.2.840.10008.5.1.4.1.1.88.33")
    assert str(about) == "sr, EncapsulatedPDFStorage of smarturgences"
    assert selection(settings(), "storescu").takes("any", "1.2.3")


# --- CALLBACK_URLS


def test_a_url_whose_host_is_no_destination_is_a_plain_callback():
    found = settings(
        CALLBACK_URLS="http://storescu:8000,http://bridge:9000/hook,http://10.0.0.7/in?site=3",
        WEBHOOK_SECRET="of the webhook alone, not of these", WEBHOOK_TIMEOUT="7",
    )  # fmt: skip
    names = found.cores["core"].destinations
    assert names[:2] == ("storescu", "bridge-9000-hook")
    assert names[2].startswith("10.0.0.7-in-")
    bridge = found.webhooks["bridge-9000-hook"]
    assert (bridge.url, bridge.secret, bridge.timeout_s) == ("http://bridge:9000/hook", None, 7)
    assert found.webhooks[names[2]].url == "http://10.0.0.7/in?site=3"
    assert all(":" not in name and len(name) <= 64 for name in names)


def test_a_callback_has_the_same_name_whatever_stands_beside_it():
    alone = settings(CALLBACK_URLS="http://bridge:9000/hook")
    others = settings(
        DESTINATIONS="storescu", ADDITIONAL_CORES="core1", API_URL_1="http://o", TOKEN_1="k",
        CALLBACK_URLS_1="http://bridge:9001/hook,http://bridge:9000/hook",
    )  # fmt: skip
    assert alone.cores["core"].destinations == ("bridge-9000-hook",)
    assert others.cores["core1"].destinations == ("bridge-9001-hook", "bridge-9000-hook")
    assert set(others.webhooks) == {"bridge-9001-hook", "bridge-9000-hook"}


def test_a_long_url_gets_a_name_the_ledger_can_keep():
    (name,) = settings(CALLBACK_URLS=f"http://bridge/{'x' * 200}").cores["core"].destinations
    assert len(name) == 64


def test_plain_callbacks_are_told_of_since_a_misspelt_name_makes_one_too():
    (line,) = warned(CALLBACK_URLS="http://storescp:8000")
    assert "'storescp' is no destination's name: it gets plain callbacks" in line
    assert "did you mean storescu?" in line
    (line,) = warned(CALLBACK_URLS="http://bridge:9000")
    assert "docs/destinations.md" in line


# --- refused


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"DESTINATIONS": "stow"}, "STOW_URL: required by destination stow"),
        ({"DESTINATIONS": "stow-2", "STOW_URL": "http://a"}, "STOW_URL_2: required by"),
        ({"DESTINATIONS": "folder"}, "FOLDER_PATH: required by destination folder"),
        ({"DESTINATIONS": "webhook-3"}, "WEBHOOK_URL_3: required by destination webhook-3"),
        ({"DESTINATIONS": "ftp"}, "DESTINATIONS: unknown destination 'ftp'; known are storescu"),
        ({"FOLDER_PATH": "share"}, "FOLDER_PATH: 'share' is not an absolute path"),
        ({"FOLDER_LAYOUT": "../{sop_uid}"}, "FOLDER_LAYOUT: .* is not a relative path"),
        ({"FOLDER_LAYOUT": "/x/{sop_uid}"}, "FOLDER_LAYOUT: .* is not a relative path"),
        ({"FOLDER_LAYOUT": "{study_uid}"}, "FOLDER_LAYOUT: .* needs {sop_uid}"),
        ({"FOLDER_LAYOUT": "{patient_id}/{sop_uid}"}, "FOLDER_LAYOUT: .*the placeholders are"),
        ({"FOLDER_LAYOUT": "{sop_uid.x}"}, "FOLDER_LAYOUT: .*the placeholders are"),
        ({"FOLDER_LAYOUT": ".x/{sop_uid}"}, "FOLDER_LAYOUT: .*begin with a dot"),
        ({"PACS_SOP_CLASSES": "SR,XX"}, "PACS_SOP_CLASSES: 'XX' is no SOP class: write CR, DX"),
        ({"PACS_SOP_CLASSES_2": "XX", "DESTINATIONS": "storescu-2", **PACS_2},
         "PACS_SOP_CLASSES_2: 'XX' is no SOP class"),
        ({"PACS_TLS_CA": "/ca.pem"}, "PACS_TLS: PACS_TLS_CA, _CERT, _NAME and _VERIFY mean"),
        ({"PACS_TLS": "1", "PACS_TLS_CERT": "/c.pem"}, "PACS_TLS_KEY: certificate and key belong"),
        ({"DESTINATIONS": "storescu-2", "PACS_TLS_2": "1", "PACS_TLS_KEY_2": "/k", **PACS_2},
         "PACS_TLS_CERT_2: certificate and key belong"),
        ({"DESTINATIONS": "storescu-2", **PACS_2, "PACS_PORT_2": "70000"},
         r"PACS_PORT_2: Input should be less than .*\(it is '70000'\)"),
        ({"STOW_USER": "u"}, "STOW_USER: STOW_USER and STOW_PASSWORD belong together"),
        ({"STOW_USER": "u", "STOW_PASSWORD": "p", "STOW_TOKEN": "t"}, "STOW_TOKEN: either"),
        ({"STOW_URL": "pacs/dicom-web"}, "STOW_URL: 'pacs/dicom-web' is not an http"),
        ({"STOW_BATCH": "0"}, r"STOW_BATCH: .*greater than or equal to 1 \(it is '0'\)"),
        ({"PACS_RATE": "-1"}, r"PACS_RATE: .*\(it is '-1'\)"),
        ({"WEBHOOK_URL": "ftp://x"}, "WEBHOOK_URL: 'ftp://x' is not an http"),
        ({"WEBHOOK_URL": "http://u:p@x/"}, "WEBHOOK_URL: .* with a user or password"),
        ({"WEBHOOK_INCLUDE": "patient_id,weight"}, "WEBHOOK_INCLUDE.1: Input should be"),
        ({"CALLBACK_URLS": "http://u:p@bridge/"}, "CALLBACK_URLS: .* with a user or password"),
        ({"CALLBACK_URLS": "bridge:8000"}, "CALLBACK_URLS: .* is not a URL like"),
        ({"CALLBACK_URLS": "http://a-1/b,http://a/1/b,http://a-1-b"}, "would both be named"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_refused_with_the_setting_and_the_value(given: dict[str, str], says: str):
    with pytest.raises(ConfigError, match=says):
        settings(**given)


def test_no_secret_is_repeated():
    secret = "short"
    with pytest.raises(ConfigError) as caught:
        settings(WEBHOOK_SECRET=secret)
    assert "WEBHOOK_SECRET" in str(caught.value)
    assert secret not in str(caught.value).removeprefix("WEBHOOK_SECRET")
    for name in ("API_URL", "STOW_URL", "WEBHOOK_URL", "CALLBACK_URLS", "TCR_API_URL"):
        with pytest.raises(ConfigError, match=f"{name}: 'https://peer.example/x' was given with"):
            settings(**{name: "https://me:hidden@peer.example/x?key=hidden"})
    found = settings(
        DESTINATIONS="stow,webhook", STOW_URL="https://a", STOW_TOKEN="hidden-1",
        WEBHOOK_URL="https://b", WEBHOOK_SECRET="hidden-2-hidden-2",
    )  # fmt: skip
    shown = repr(found) + repr(found.stow) + repr(found.webhooks)
    shown += repr(destinations.stow_of(found)) + repr(destinations.webhooks_of(found))
    assert "hidden" not in shown
    assert _is_secret("STOW_PASSWORD_2")
    assert _is_secret("WEBHOOK_SECRET_2")
    assert not _is_secret("STOW_URL_2")


def test_a_certificate_that_cannot_be_read_is_named_at_start(tmp_path: Path):
    given = {"DESTINATIONS": "storescu-2", "PACS_TLS_2": "true", **PACS_2}
    wrong = settings(**given, PACS_TLS_CA_2=str(tmp_path / "no.pem"))
    with pytest.raises(ConfigError, match=r"PACS_TLS_CA_2=.*No such file"):
        destinations.pacs_of(wrong)
    authority = Authority(tmp_path / "ca")
    right = settings(**given, PACS_TLS_CA_2=str(authority.certificate), PACS_TLS_NAME_2="pacs")
    pacs = destinations.pacs_of(right)["storescu-2"]
    assert pacs.tls is not None
    assert pacs.tls_name == "pacs"


# --- doubtful


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"PACS_CORES": "core,core3"}, "PACS_CORES: there is no core 'core3': never true"),
        ({"PACS_CORES_2": "core", "DESTINATIONS_1": "storescu-2", **PACS_2, **CORE_1},
         "PACS_CORES_2: core does not deliver to storescu-2: never true"),
        ({"PACS_CORES": "core1", **CORE_1}, "core: no destination takes its results"),
        ({"PACS_COMMANDS": "smarturgences,chest"},
         "PACS_COMMANDS: no core that delivers to storescu asks for 'chest': never true"),
        ({"RIS_COMMANDS": "chest", "DESTINATIONS": "storescu,hl7", **HL7},
         "RIS_COMMANDS: no core that delivers to hl7 asks for 'chest'"),
        ({"PACS_SOP_CLASSES": "sr", "STRUCTURED_REPORT_FORMAT": "none"},
         "PACS_SOP_CLASSES: never true with STRUCTURED_REPORT_FORMAT=none"),
        ({"PACS_TLS": "true", "PACS_TLS_VERIFY": "no"},
         "PACS_TLS_VERIFY=false: whoever answers for storescu is trusted"),
        ({"DESTINATIONS": "stow", "STOW_URL": "http://pacs", "STOW_TOKEN": "k"},
         "STOW_TOKEN: sent in the clear, STOW_URL is no https"),
        ({"STOW_URL": "https://pacs"}, "STOW_URL: nothing is delivered to stow; name it in DES"),
        ({"WEBHOOK_URL_2": "https://x"}, "WEBHOOK_URL_2: nothing is delivered to webhook-2"),
        (PACS_2, "PACS_IP_2: nothing is delivered to storescu-2"),
    ],
)  # fmt: skip
def test_what_was_probably_meant_otherwise_is_told(given: dict[str, str], says: str):
    assert any(says in line for line in warned(**given)), warned(**given)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"DESTINATIONS": "storescu,storescu-2", "PACS_SOP_CLASSES": "SR", "PACS_CORES_2": "core",
         **PACS_2},
        {"DESTINATIONS": "stow", "STOW_URL": "http://127.0.0.1:8042/dicom-web", "STOW_TOKEN": "k"},
        {"DESTINATIONS": "storescu,hl7", "RIS_COMMANDS": "smartxpert", **HL7},
        {"ENABLE_HL7": "false", "RIS_HOST_IP_2": "192.0.2.9"},
    ],
)  # fmt: skip
def test_what_is_well_is_not_doubted(given: dict[str, str]):
    assert warned(**given) == []


def test_rates_are_those_of_every_kind():
    found = settings(
        DESTINATIONS="storescu,hl7,stow,folder,webhook", PACS_RATE="1", RIS_RATE="2", STOW_RATE="3",
        STOW_URL="https://a", FOLDER_PATH="/f", WEBHOOK_URL="https://b", WEBHOOK_RATE="0.5", **HL7,
    )  # fmt: skip
    assert destinations.rates_of(found) == {"storescu": 1, "hl7": 2, "stow": 3, "webhook": 0.5}


@pytest.mark.parametrize(
    "url", ["http://:s3cret@host/x", "http://me:s3cret@host/x", "http://me@host"]
)
def test_a_callback_with_a_password_is_refused_without_repeating_it(url: str):
    with pytest.raises(ConfigError, match=r"CALLBACK_URLS: .*with a user or password") as caught:
        settings(CALLBACK_URLS=url)
    assert "s3cret" not in str(caught.value)


def test_what_follows_a_hash_is_refused():
    with pytest.raises(ConfigError, match="what follows # is never sent"):
        settings(CALLBACK_URLS="http://host/x#y")


@pytest.mark.parametrize(
    "given", [{"CALLBACK_URLS": ","}, {"CALLBACK_URLS": "http://hl7:8000", "ENABLE_HL7": "false"}]
)
def test_a_core_without_a_destination_is_told_of(given: dict[str, str]):
    _, warnings = load_with_warnings({**REQUIRED, **given}, None)
    assert "core: no destination is named: they go nowhere" in warnings


@pytest.mark.parametrize(
    ("given", "of_core", "of_core1"),
    [
        ({}, ("storescu", "storescu-2", "hl7"), ("storescu", "storescu-2", "hl7")),
        ({"DESTINATIONS": "hl7"}, ("hl7", "storescu-2"), ("hl7", "storescu-2")),
        ({"DESTINATIONS_1": "storescu"}, ("storescu", "storescu-2", "hl7"), ("storescu",)),
        ({"CALLBACK_URLS": ","}, ("storescu-2", "hl7"), ("storescu-2", "hl7")),
    ],
)
def test_what_compose_files_add_comes_beside_what_is_named(
    given: dict[str, str], of_core: tuple[str, ...], of_core1: tuple[str, ...]
):
    found = settings(
        **PACS_2, **CORE_1, **HL7, ALSO_TO_PACS="storescu-2", ALSO_TO_RIS="hl7", **given
    )
    assert [core.destinations for core in found.cores.values()] == [of_core, of_core1]


def test_what_they_add_has_to_be_a_destination():
    with pytest.raises(ConfigError, match="ALSO_TO_RIS: unknown destination 'ris'"):
        settings(ALSO_TO_RIS="ris")
