"""Env files: what Compose reads and what the gateway reads are the same."""

from __future__ import annotations

import json
import shutil
import stat
import subprocess
from pathlib import Path
from unicodedata import category

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pacsor_tasks.env_file import clean, parse, quoted, read, render, write_private
from pacsor_tasks.environment import read_environment
from pacsor_tasks.errors import ConfigError
from tests.support.compose_env import compose_reads

#: What quoting is about, more often than by chance; and anything else that is a character.
awkward = st.text(st.sampled_from("""'"\\$#= {}[]():;,nrt0aé\u00a0\t""" + "PATH"), max_size=24)
anything = st.text(st.characters(exclude_categories=["Cs"]), max_size=24)
RULES = [
    {"tag": {"group": "0008", "element": "0060"}, "pattern": "^(CR|DX)$", "should_match": True},
    {"tag": {"group": "0010", "element": "0010"}, "pattern": "^TEST", "should_match": False},
]
WITH_BACKSLASH = [{**RULES[0], "pattern": r"^\d+ it's #1\$$"}]


@given(awkward | anything)
def test_what_is_written_is_read_alike_by_compose_and_by_the_gateway(value: str) -> None:
    wanted = value.strip()
    try:
        line = f"NAME={quoted('NAME', value)}\n"
    except ConfigError:
        has_control = any(category(character) == "Cc" for character in wanted)
        assert has_control or clean(wanted) != wanted or wanted.endswith("\\")
        return
    assert parse(line).values == {"NAME": wanted}
    assert parse(line).warnings == []
    for is_old in (True, False):
        # The container's environment is cleaned once more when the settings are read.
        assert clean(compose_reads(line, is_old=is_old)["NAME"]) == wanted


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("https://predict.milvue.com", "https://predict.milvue.com"),
        ("smarturgences,smartxpert", "smarturgences,smartxpert"),
        ("a b", "'a b'"),
        ("pa$$word", "'pa$$word'"),
        ("it's", "it's"),
        ("it's $5", "it's $$5"),
        ("it's #1", '"it\'s #1"'),
        ("^\\d", "'^\\d'"),
        ("^\\\\d$", "^\\\\d$$"),
        ("", ""),
    ],
)
def test_a_value_is_written_as_plainly_as_it_can_be(value: str, written: str) -> None:
    assert quoted("NAME", value) == written


@pytest.mark.parametrize("rules", [RULES, WITH_BACKSLASH], ids=["plain", "with a backslash"])
@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
def test_filters_keep_their_json(rules: list[dict], separators: tuple[str, str]) -> None:
    text = json.dumps(rules, separators=separators)
    written = render({"DICOM_FILTERS": text})
    assert json.loads(parse(written).values["DICOM_FILTERS"]) == rules
    for is_old in (True, False):
        assert json.loads(compose_reads(written, is_old=is_old)["DICOM_FILTERS"]) == rules


@pytest.mark.parametrize("value", ["a\nb", "a\x00", "a\x85b", "'a'", '"a"', "' # \\", "\ud800"])
def test_what_would_be_read_differently_is_refused_without_repeating_it(value: str) -> None:
    with pytest.raises(ConfigError, match=r"^TOKEN: ") as refused:
        quoted("TOKEN", value)
    assert value not in str(refused.value).removeprefix("TOKEN: ")


@pytest.mark.parametrize("name", ["", "A B", "1A", "A=B", "A\n", "É"])
def test_a_name_is_a_name(name: str) -> None:
    with pytest.raises(ConfigError, match="not the name of a variable"):
        quoted(name, "x")


@pytest.mark.parametrize(
    ("written", "read_as"),
    [
        ("A=^SR$$", "^SR$"),  # as Compose reads it
        ('A="^SR$$"', "^SR$"),
        ("A='^SR$$'", "^SR$$"),  # single quotes: literal
        ("export A='^SR$$'", "^SR$$"),
        ("A=^SR$", "^SR$"),
        ("A=\\$$$$", "\\$$"),  # a dollar, then the end
        ("A='\"smarturgences\"'", "smarturgences"),  # PACSOR's defaults until 2.10
        ("A= x  # why", "x"),
        ("A=x#y", "x#y"),
        ("A=", ""),
    ],
)
def test_dollars_and_quotes_are_read_as_compose_does(written: str, read_as: str) -> None:
    assert parse(written).values == {"A": read_as}


def test_what_is_odd_is_said_with_its_line_and_without_a_value() -> None:
    found = parse("\n# a comment\nTOKEN=secret1\n\nTOKEN=secret2\nB='open\nC=$HOME/x\nD=1\nD=1\n")
    assert found.values == {"TOKEN": "secret2", "C": "$HOME/x", "D": "1"}
    assert found.lines == {"TOKEN": 5, "C": 7, "D": 9}
    assert found.unreadable == [6]
    assert [warning.partition(":")[0] for warning in found.warnings] == [
        "TOKEN", "line 6", "C (line 7)",
    ]  # fmt: skip
    assert "lines 3 and 5" in found.warnings[0]
    assert "secret" not in "".join(found.warnings)


def test_a_name_without_a_value_is_told_from_an_empty_one() -> None:
    found = parse("A=\n\nB\nexport C\n")
    assert (found.values, found.bare) == ({"A": ""}, {"B": 3, "C": 4})


def test_a_file_is_its_owners_alone_and_is_not_written_over(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    values = {"TOKEN": "one two", "PORT": "1040"}
    write_private(path, render(values, {"PORT": "of the SCP"}, "Ours\n\nend"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text() == "# Ours\n#\n# end\nTOKEN='one two'\n\n# of the SCP\nPORT=1040\n"
    with pytest.raises(ConfigError, match="there already"):
        write_private(path, render({"TOKEN": "other"}))
    assert read(path).values["TOKEN"] == "one two"
    path.chmod(0o644)
    write_private(path, render({"TOKEN": "other"}), is_forced=True)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [child.name for child in tmp_path.iterdir()] == [".env"]


def test_a_link_is_replaced_and_what_it_leads_to_stays(tmp_path: Path) -> None:
    (tmp_path / "theirs").write_text("TOKEN=x\n")
    (tmp_path / ".env").symlink_to("theirs")
    (tmp_path / "dangling").symlink_to("nowhere")
    for name in (".env", "dangling"):
        with pytest.raises(ConfigError, match="there already"):
            write_private(tmp_path / name, "")
    write_private(tmp_path / ".env", render({"TOKEN": "y"}), is_forced=True)
    assert (tmp_path / "theirs").read_text() == "TOKEN=x\n"
    assert not (tmp_path / ".env").is_symlink()


def test_a_file_that_cannot_be_read_or_written_is_named(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"B=x\nA=\xff\n")
    with pytest.raises(ConfigError, match="line 2 is not UTF-8"):
        read(tmp_path / ".env")
    with pytest.raises(ConfigError, match="No such file"):
        read(tmp_path / "none")
    with pytest.raises(ConfigError, match="cannot be written: No such file"):
        write_private(tmp_path / "none" / ".env", render({}))


def test_the_settings_read_the_file_with_the_same_eyes(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    values = {"TOKEN": "it's $5", "DICOM_FILTERS": json.dumps(WITH_BACKSLASH)}
    write_private(path, render(values))
    found = read_environment({}, path)
    assert found["TOKEN"] == "it's $5"
    assert json.loads(found["DICOM_FILTERS"]) == WITH_BACKSLASH


def test_compose_itself_reads_what_is_written(tmp_path: Path) -> None:
    docker = shutil.which("docker")
    version = [str(docker), "compose", "version"]
    if docker is None or subprocess.run(version, capture_output=True, check=False).returncode:
        pytest.skip("the Compose plugin is not installed")
    values = {
        f"V{number}": value
        for number, value in enumerate(
            ["a b", "pa$$w", "it's", "it's $5", "it's #1", "^\\d", "^\\\\d$",
             "a\\'b # \\\\ \"c\" $x", "\\0", "' \\n", json.dumps(RULES), json.dumps(WITH_BACKSLASH)]
        )
    }  # fmt: skip
    write_private(tmp_path / "site.env", render(values))
    (tmp_path / "compose.yml").write_text("services: {a: {image: a, env_file: [site.env]}}\n")
    done = subprocess.run(
        [docker, "compose", "-f", "compose.yml", "config", "--format", "json"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    shown = json.loads(done.stdout)["services"]["a"]["environment"]
    assert {name: value.replace("$$", "$") for name, value in shown.items()} == values
