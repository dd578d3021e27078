"""Which questions follow each other: PACSOR's steps, and the pages behind its menu.

A page is a list of questions that depends on the answers so far, and a place in it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from pacsor_tasks.models import DestinationKind
from pacsor_tasks.settings_types import kind_of
from pacsor_tasks.setup import values as v
from pacsor_tasks.setup.filters import counted_rules
from pacsor_tasks.setup.masking import is_secret, masked
from pacsor_tasks.setup.products import OTHER
from pacsor_tasks.setup.questions import default_of
from pacsor_tasks.setup.values import Values

#: Before the name of a core or destination: a place to try the connection, not a setting.
TEST = "TEST "
#: What is asked of the simpler kinds of destinations.
OF_A_KIND = {
    DestinationKind.STOW: ("STOW_URL", "STOW_TOKEN"),
    DestinationKind.FOLDER: ("FOLDER_PATH",),
    DestinationKind.WEBHOOK: ("WEBHOOK_URL", "WEBHOOK_SECRET"),
}
Names = Callable[[Values], Sequence[str]]


@dataclass(frozen=True, slots=True)
class Page:
    """Questions in a row, the answers so far, and where one is."""

    names: Names
    values: Values
    index: int = 0

    @property
    def name(self) -> str | None:
        """The question to ask; None at the end."""
        names = self.names(self.values)
        return names[self.index] if self.index < len(names) else None

    def next(self, values: Values) -> Page:
        """The page after an answer."""
        return replace(self, values=values, index=self.index + 1)

    def back(self) -> Page | None:
        """The page at the question before; None: this is the first."""
        return replace(self, index=self.index - 1) if self.index else None


def wizard(values: Values) -> tuple[str, ...]:
    """PACSOR's first steps, in its order."""
    first = ("PRODUCT", *address(values), "CLIENT_NAME", "TOKEN", f"{TEST}core")
    return (*first, *pacs("storescu")(values)) if "storescu" in v.destinations(values) else first


def address(values: Values) -> tuple[str, ...]:
    """Where the AI service is."""
    is_other = v.environment_of(values) in {"", OTHER.key}
    return ("ENVIRONMENT", "API_URL", "SIGNED_URL") if is_other else ("ENVIRONMENT",)


def environment(values: Values) -> tuple[str, ...]:
    """Another environment, and the token that belongs to it."""
    return (*address(values), "TOKEN", f"{TEST}core")


def product(values: Values) -> tuple[str, ...]:
    """Another product; its environment if that was not clear."""
    return ("PRODUCT", *environment(values))


def pacs(name: str) -> Names:
    """One PACS."""
    settings = ["PACS_AET", "PACS_IP", "PACS_PORT", *(["MILVUE_AET"] if "-" in name else [])]
    names = (*(v.suffixed(setting, name) for setting in settings), TEST + name)
    return lambda values: names  # noqa: ARG005 - they do not depend on the answers


def ris(name: str) -> Names:
    """One RIS, and what its messages say."""

    def names(values: Values) -> tuple[str, ...]:
        peer = ("RIS_HOST_IP", "RIS_HOST_PORT")
        sides = ("RECEIVING_APPLICATION", "RECEIVING_FACILITY", "HL7_LANGUAGE")
        found = [v.suffixed(setting, name) for setting in (*peer, *sides)]
        if "-" not in name:
            found += ["SENDING_APPLICATION", "SENDING_FACILITY", "INCLUDE_TECHCARE_REPORT"]
            if v.is_true(values, "INCLUDE_TECHCARE_REPORT"):
                found += ["TECHCARE_REPORT_FORMAT", "TCR_API_URL", f"{TEST}reports"]
        return (*found, TEST + name)

    return names


def destination(name: str) -> Names:
    """One destination of any kind."""
    kind = kind_of(name)
    if kind is DestinationKind.STORESCU:
        return pacs(name)
    if kind is DestinationKind.HL7:
        return ris(name)
    settings = OF_A_KIND[kind] if kind is not None else ()
    return only(*(v.suffixed(setting, name) for setting in settings), TEST + name)


def hl7(values: Values) -> tuple[str, ...]:
    """HL7 at all, and the first RIS."""
    is_on = any(map(v.is_ris, v.used_destinations(values)))
    return ("HL7", *ris("hl7")(values)) if is_on else ("HL7",)


def webps(values: Values) -> tuple[str, ...]:
    """Reports of other providers; a RIS to send them to, if there is none yet."""
    if not v.is_true(values, "WEBPS_ENABLE"):
        return ("WEBPS_ENABLE",)
    found = ("WEBPS_ENABLE", "WEBPS_PROVIDERS", "TCR_API_URL", f"{TEST}reports")
    is_new = "hl7" in v.used_destinations(values) and "hl7" not in v.destinations(values)
    return (*found, *ris("hl7")(values)) if is_new else found


def core(name: str) -> Names:
    """One further core."""
    settings = ("API_URL", "TOKEN", "SIGNED_URL", "INFERENCE_COMMANDS", "DESTINATIONS")
    names = (*(v.suffixed(setting, name) for setting in settings), TEST + name)
    return lambda values: names  # noqa: ARG005 - they do not depend on the answers


def only(*names: str) -> Names:
    """Always the same questions."""
    return lambda values: names  # noqa: ARG005


advanced = only(
    "DOCKER_IMAGE_TAG", "DEBUG", "CONFIG_PROFILE", "INFERENCE_COMMANDS", "NO_DUPLICATE_UPLOAD",
    "STUDY_QUIET_SECONDS", "ADMIN_TOKEN",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the main menu."""

    key: str
    title: str
    #: the settings it shows
    shows: tuple[str, ...] = ()
    #: the questions behind it; None: the dialogue knows what to do
    page: Names | None = None


MENU = (
    Entry("1", "Client name", ("CLIENT_NAME",), only("CLIENT_NAME")),
    Entry("2", "Token", ("TOKEN",), only("TOKEN", f"{TEST}core")),
    Entry("3", "Environment", ("API_URL",), environment),
    Entry("4", "AE title of the PACS", ("PACS_AET",), only("PACS_AET")),
    Entry("5", "Address of the PACS", ("PACS_IP",), only("PACS_IP")),
    Entry("6", "Port of the PACS", ("PACS_PORT",), only("PACS_PORT", f"{TEST}storescu")),
    Entry("7", "Port of the SCP", ("PORT",), only("PORT")),
    Entry("8", "AE title of the SCP", ("MILVUE_AET",), only("MILVUE_AET")),
    Entry("9", "Advanced", ("DOCKER_IMAGE_TAG", "CONFIG_PROFILE"), advanced),
    Entry("p", "Product", ("INFERENCE_COMMANDS",), product),
    Entry("h", "HL7", ("RIS_HOST_IP", "RIS_HOST_PORT"), hl7),
    Entry("s", "Destinations", ()),
    Entry("f", "Filters", ()),
    Entry("c", "Further cores", ("ADDITIONAL_CORES",)),
    Entry("r", "Reports of other providers", ("WEBPS_PROVIDERS",), webps),
    Entry("x", "Any other setting", ()),
    Entry("t", "Test the connections", ()),
    Entry("o", "Load another configuration", ()),
    Entry("d", "Display", ()),
    Entry("w", "Save and exit", ()),
    Entry("q", "Exit without saving", ()),
)


def _default(name: str, values: Values) -> str:
    if name == "INFERENCE_COMMANDS" and values.get("CORE_TYPE", "milvue").lower() != "milvue":
        return ""  # Milvue's own; another type has its own
    return default_of(name)


def shown(entry: Entry, values: Values) -> str:
    """What the menu says is in effect, defaults included; never a secret."""
    found = []
    for name in entry.shows:
        value = values.get(name) or _default(name, values)
        if value:
            found.append("set" if is_secret(name) else masked(name, value))
    if entry.key == "h" and not any(map(v.is_ris, v.used_destinations(values))):
        return "no"
    if entry.key == "f":
        return counted_rules(values)
    if entry.key == "s":
        found = [v.spoken(name) for name in v.used_destinations(values)]
    return (":" if entry.key == "h" else ", ").join(found)
