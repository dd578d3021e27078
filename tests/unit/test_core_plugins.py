"""Types of cores that packages bring: how they are found, loaded and refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from pacsor_tasks import core_plugins
from pacsor_tasks.core_api import CoreConfig
from pacsor_tasks.errors import ConfigError
from tests.support.packages import add_package

GOOD = """
class Core:
    def upload(self, study_uid, items, on_uploaded, before_put=None): ...
    def status(self, study_uid): ...
    def results(self, study_uid, command, into, params=None): ...
    def check(self): ...
    def close(self): ...

def make(config):
    core = Core()
    core.config = config
    return core
"""
VARIABLES = {
    "CORE_TYPE": "Folder", "CORE_TYPE_2": "my-ai", "CORE_TYPE_3": "tcr", "CORE_TCR_X": "1",
    "CORE_FOLDER_OUTBOX": "/o", "CORE_FOLDER_OUTBOX_1": "/o1", "CORE_FOLDER_TOKEN_12": "t",
    "CORE_MY_AI_URL": "u", "CORE_OTHER_URL": "v", "CORE_CONCURRENCY": "2",
}  # fmt: skip


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that is searched for packages."""
    found = tmp_path / "site"
    found.mkdir()
    monkeypatch.syspath_prepend(str(found))
    return found


def config(name: str = "core1", **options: str) -> CoreConfig:
    return CoreConfig(
        name=name, url="", token="s3cret", connect_timeout_s=1, read_timeout_s=1, parallel=1,
        options=options,
    )  # fmt: skip


def refused(name: str, **options: str) -> str:
    with pytest.raises(ConfigError) as caught:
        core_plugins.make(name, config(**options))
    return str(caught.value)


def test_a_type_is_found_by_its_entry_point_and_made_from_the_core_s_own_values(site: Path):
    add_package(site, "good", GOOD)
    assert core_plugins.known("good") == "good"
    made = core_plugins.make("good", config(outbox="/o"))
    assert made.config.options == {"outbox": "/o"}  # type: ignore[attr-defined]


def test_a_type_that_nobody_brings_is_refused_with_the_names_there_are(site: Path):
    add_package(site, "one_more", GOOD)
    with pytest.raises(ValueError, match=r"no type 'onemore' .* milvue, tcr, .*one_more"):
        core_plugins.known("onemore")
    assert "no type 'onemore' is installed" in refused("onemore")


def test_our_own_names_cannot_be_taken(site: Path):
    add_package(site, "milvue", GOOD)
    assert "milvue" not in core_plugins.installed()


def test_two_packages_of_one_name_are_refused_and_both_named(site: Path):
    add_package(site, "twice", GOOD)
    (site / "pacsor_core_twice-0.3.dist-info").rename(site / "first-0.3.dist-info")
    meta = site / "first-0.3.dist-info" / "METADATA"
    meta.write_text(meta.read_text().replace("pacsor-core_twice", "first"))
    add_package(site, "twice", GOOD, value="other")
    with pytest.raises(ValueError, match=r"two packages bring 'twice': .* of first 0\.3"):
        core_plugins.known("twice")


@pytest.mark.parametrize(
    ("name", "source", "value", "says"),
    [
        # it cannot be imported
        ("missing", "import no_such_thing", "make",
         "core_missing:make of pacsor-core_missing 0.3 cannot be imported: ModuleNotFoundError"),
        ("syntax", "def", "make", "cannot be imported: SyntaxError"),
        ("exits", "raise SystemExit(3)", "make", "cannot be imported: SystemExit: 3"),
        ("nothing", "", "make", "cannot be imported: AttributeError"),
        # it is no factory, or one that fails
        ("value", "make = {}", "make", "is a dict, no function that makes a core"),
        ("wants", "def make(): ...", "make", "core1 (CORE_TYPE wants): the core cannot be made: T"),
        ("fails", "def make(c): raise KeyError('x')", "make", "cannot be made: KeyError: 'x'"),
        ("quits", "def make(c): raise SystemExit('bye')", "make", "cannot be made: SystemExit: by"),
        # it makes something else
        ("none", "def make(c): return None", "make", "a NoneType is no core: it has no upload(); "),
        ("half", GOOD.replace("def results", "def result"), "make", "it has no results()"),
        ("args", GOOD.replace("on_uploaded, before_put=None", "on_uploaded"), "make",
         "a Core is no core: its upload() does not take (study_uid, items, on_uploaded, before_pu"),
        ("finds", GOOD + "Core.findings = lambda self, uid: None", "make",
         "its findings() does not take (study_uid, command, language)"),
    ],
)  # fmt: skip
def test_a_package_that_does_not_keep_to_the_interface_is_refused_and_says_why(
    site: Path, name: str, source: str, value: str, says: str
):
    add_package(site, name, source, value=value)
    assert says in refused(name)


def test_what_a_package_says_of_the_settings_is_shown_without_their_secrets(site: Path):
    source = (
        "from pacsor_tasks.errors import ConfigError\n"
        "def make(c): raise ConfigError(f'{c.name}: {c.token} {c.options} are wrong')"
    )
    add_package(site, "tells", source)
    assert refused("tells", api_key="k3y", place="here") == (
        "core1: *** {'api_key': '***', 'place': 'here'} are wrong"
    )


def test_a_package_that_was_loaded_needs_not_be_there_any_more(site: Path):
    add_package(site, "gone", GOOD)
    core_plugins.make("gone", config())
    for path in (*site.glob("*.dist-info/*"), *site.glob("*.py")):
        path.unlink()
    core_plugins.make("gone", config())


def test_the_variables_of_a_package_are_told_from_others():
    assert core_plugins.plugged_names(VARIABLES) == {
        "CORE_FOLDER_OUTBOX", "CORE_FOLDER_OUTBOX_1", "CORE_FOLDER_TOKEN_12", "CORE_MY_AI_URL",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "number", "options"),
    [
        ("folder", "", {"outbox": "/o"}),
        ("folder", "1", {"outbox": "/o1"}),
        ("folder", "2", {"outbox": "/o"}),
        ("folder", "12", {"outbox": "/o", "token": "t"}),
        ("my-ai", "2", {"url": "u"}),
    ],
)
def test_a_core_has_the_options_of_its_type_its_own_first(
    kind: str, number: str, options: dict[str, str]
):
    assert core_plugins.options_of(VARIABLES, kind, number) == options


@pytest.mark.parametrize(
    ("name", "is_secret"),
    [("token", True), ("CORE_X_API_KEY_1", True), ("password", True), ("keyboard", False),
     ("outbox", False), ("client_secret", True)],
)  # fmt: skip
def test_secrets_are_known_by_their_names(name: str, is_secret: bool):
    assert core_plugins.is_secret(name) is is_secret
