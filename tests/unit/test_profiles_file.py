"""filter.cfg: what is shipped, what DCMTK's syntax allows, and what is refused with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from pacsor_tasks.errors import ConfigError
from receiver.profiles import PROJECT, Context, load

SHIPPED = PROJECT / "conf" / "filter.cfg"
BASE = "1.2.840.10008.5.1.4.1.1."
CR_DX = ["1.2.840.10008.1.1", f"{BASE}1", f"{BASE}1.1", f"{BASE}1.1.1"]
SYNTAX = "1.2.840.10008.1.2."
#: contract §2.3, in its order
ANY = [
    *(SYNTAX + s for s in ("4.91", "4.90", "4.51", "4.50", "4.70", "4.81", "4.80", "5")),
    *(SYNTAX + f"4.{n}" for n in range(100, 109)),
    *(SYNTAX + s for s in ("1.99", "1", "2")),
    "1.2.840.10008.1.2",
]
VALID = """\
[[TransferSyntaxes]]
[Plain]
TransferSyntax1 = LocalEndianExplicit
TransferSyntax2 = 1.2.840.10008.1.2
[[PresentationContexts]]
[Images]
PresentationContext1 = ComputedRadiographyImageStorage\\Plain
[[Profiles]]
[Mine]
PresentationContexts = Images
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "filter.cfg"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("profile", "classes"),
    [
        ("Default", CR_DX),
        ("WithSC", [*CR_DX, f"{BASE}7"]),
        ("WithRF", [*CR_DX, f"{BASE}12.2", f"{BASE}12.2.1"]),
        ("WithSCRF", [*CR_DX, f"{BASE}7", f"{BASE}12.2", f"{BASE}12.2.1"]),
        ("withscrf", [*CR_DX, f"{BASE}7", f"{BASE}12.2", f"{BASE}12.2.1"]),
    ],
)
def test_the_shipped_profiles(profile: str, classes: list[str]) -> None:
    contexts = load(SHIPPED, profile)
    assert [context.sop_class_uid for context in contexts] == classes
    assert all(list(context.transfer_syntax_uids) == ANY for context in contexts)


def test_a_relative_path_is_also_looked_up_in_the_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load(Path("conf/filter.cfg"), "Default")


def test_names_and_uids_mean_the_same(tmp_path: Path) -> None:
    assert load(written(tmp_path, VALID), "mine") == (
        Context(f"{BASE}1", ("1.2.840.10008.1.2.1", "1.2.840.10008.1.2")),
    )


def test_comments_blank_lines_case_and_spaces_do_not_matter(tmp_path: Path) -> None:
    text = VALID.replace("[[Profiles]]", "# a comment\n\n  [[ PROFILES ]]  ")
    text = text.replace("TransferSyntax1 = ", "transfersyntax1=").replace("\\Plain", " \\ PLAIN")
    assert load(written(tmp_path, text), "MINE") == load(written(tmp_path, VALID), "Mine")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        # the key that silently lost a class in PACSOR 1.0
        ("TransferSyntax2", "TransferSyntax1", "line 4: TransferSyntax1 is there twice, first in"),
        ("TransferSyntax2", "TransferSyntax3", "line 4: [plain] has transfersyntax3, but not"),
        ("TransferSyntax2", "Foo", "line 4: [plain] has foo, but not"),
        ("LocalEndianExplicit", "JPEG3000", "line 3: 'JPEG3000' is not a transfer syntax known"),
        ("ComputedRadiographyImageStorage", "CRStorage", "line 7: 'CRStorage' is not a SOP class"),
        ("\\Plain", "\\Fancy", "line 7: 'ComputedRadiographyImageStorage\\\\Fancy' is not"),
        ("\\Plain", "", "line 7: 'ComputedRadiographyImageStorage' is not SOPClass"),
        ("= Images", "= Pictures", "line 10: no presentation contexts [Pictures]"),
        ("PresentationContexts = ", "Contexts = ", "line 9: [mine] has no PresentationContexts"),
        ("[Images]", "[Images", "line 6: neither [[part]], [section] nor Key = Value"),
        ("[[Profiles]]", "[[Profile]]", "line 8: unknown part [[Profile]]"),
        ("[[Profiles]]", "[[TransferSyntaxes]]", "line 8: [[TransferSyntaxes]] is there twice"),
        ("[[TransferSyntaxes]]", "", "line 2: [Plain] stands before any [[part]]"),
        ("[Plain]", "", "line 3: TransferSyntax1 stands before any [section]"),
        ("[Mine]", "[Mine]\n[mine]", "line 10: [mine] is there twice, first in line 9"),
        ("[Plain]\n", "[Plain]\n[Empty]\n", "line 2: [plain] is empty"),
        ("\\Plain", f"\\Plain\nPresentationContext2 = {BASE}1\\Plain", f"line 8: {BASE}1 is in"),
        ("LocalEndianExplicit", "", "line 3: neither [[part]]"),
    ],
)  # fmt: skip
def test_what_is_malformed_is_refused_with_its_line(
    tmp_path: Path, old: str, new: str, said: str
) -> None:
    assert old in VALID
    path = written(tmp_path, VALID.replace(old, new, 1))
    with pytest.raises(ConfigError) as caught:
        load(path, "Mine")
    assert f"FILTER_CFG: {path}, {said}" in str(caught.value)


def test_an_unknown_profile_is_refused_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"CONFIG_PROFILE: .* no profile 'Any' .*default, withsc"):
        load(SHIPPED, "Any")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"FILTER_CFG: .*none\.cfg cannot be read: No such file"):
        load(tmp_path / "none.cfg", "Default")
    (tmp_path / "x.cfg").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load(tmp_path / "x.cfg", "Default")
    with pytest.raises(ConfigError, match="has: none"):
        load(written(tmp_path, ""), "Default")
