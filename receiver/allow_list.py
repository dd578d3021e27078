"""Who may send: a small file of rules, read again when it changes.

    # calling AE title   address or network   called AE title (may be left out)
    CT1                  10.1.2.3
    DX*                  10.1.0.0/16          MILVUE
    "CR ROOM 2"          *

An association is let in when one line fits. `*` and `?` in AE titles stand for any characters; an
AE title with blanks stands in double quotes.
"""

from __future__ import annotations

import ipaddress
import re
import threading
from dataclasses import dataclass
from pathlib import Path

import structlog

from pacsor_tasks.errors import ConfigError
from pacsor_tasks.refusals import Reason

log = structlog.get_logger(__name__)

PROJECT = Path(__file__).resolve().parent.parent
ANY = "*"
_WORD = re.compile(r'"([^"]*)"|([^\s"]+)')
_PATTERN = re.compile(r"[\x20-\x5b\x5d-\x7e]{1,16}")

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
#: What tells one version of the file from another: (inode, mtime in ns, bytes).
Version = tuple[int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who asks for an association."""

    calling_aet: str
    called_aet: str
    #: without a zone, and IPv4 as IPv4
    address: str


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of the file."""

    calling: re.Pattern[str]
    #: None: any
    network: Network | None
    called: re.Pattern[str] | None

    def fits_address(self, address: str) -> bool:
        """Whether the network holds the address."""
        if self.network is None:
            return True
        try:
            return ipaddress.ip_address(address) in self.network
        except ValueError:
            return False


Rules = tuple[Rule, ...]


def refusal(rules: Rules, caller: Caller) -> Reason | None:
    """Why a caller is not let in; None if it is."""
    named = [rule for rule in rules if rule.calling.fullmatch(caller.calling_aet)]
    if not named:
        return Reason.CALLING_AET
    near = [rule for rule in named if rule.fits_address(caller.address)]
    if not near:
        return Reason.ADDRESS
    if not any(rule.called is None or rule.called.fullmatch(caller.called_aet) for rule in near):
        return Reason.CALLED_AET
    return None


def parse(text: str, path: Path) -> Rules:
    """Read the rules.

    Raises:
        ConfigError: A line is malformed (file, line, what), or there is no rule at all.
    """
    rules = []
    for number, line in enumerate(text.splitlines(), start=1):
        stripped = line.strip()
        if stripped and not stripped.startswith("#"):
            try:
                rules.append(_rule(stripped))
            except ValueError as exc:
                raise ConfigError(f"RECEIVER_ALLOW: {path}, line {number}: {exc}") from exc
    if not rules:
        # An editor empties a file before it writes it; and nobody runs a receiver for nobody.
        raise ConfigError(f"RECEIVER_ALLOW: {path} has no rule; `* *` lets everybody in")
    return tuple(rules)


def load(path: Path) -> Rules:
    """Read the file.

    Args:
        path: Relative paths count from the working directory, then from the project's.

    Raises:
        ConfigError: It cannot be read or is malformed.
    """
    return _read(located(path))[0]


def located(path: Path) -> Path:
    """The file a setting means."""
    if not path.is_absolute() and not path.exists() and (PROJECT / path).exists():
        return PROJECT / path
    return path


class AllowFile:
    """The rules as they stand in the file. A broken new version changes nothing but the log.

    Args:
        path: As in RECEIVER_ALLOW.

    Raises:
        ConfigError: The file cannot be read or is malformed.
    """

    def __init__(self, path: Path) -> None:
        self.path = located(path).absolute()
        self._guard = threading.Lock()
        self._rules, self._version = _read(self.path)

    def rules(self) -> Rules:
        """The rules, of the newest version that can be read. Costs one look at the file's times."""
        with self._guard:
            version = _version(self.path)
            if version != self._version:
                self._version = version
                self._reload()
            return self._rules

    def _reload(self) -> None:
        try:
            self._rules, self._version = _read(self.path)
        except ConfigError as exc:
            log.error("allow_list.broken", error=str(exc), kept_rules=len(self._rules))  # noqa: TRY400 - the error is the whole story
        else:
            log.info("allow_list.read", path=str(self.path), n_rules=len(self._rules))


def _read(path: Path) -> tuple[Rules, Version | None]:
    version = _version(path)  # before the text: what is written in between is seen next time
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"RECEIVER_ALLOW: {path} cannot be read: {reason}") from exc
    return parse(text, path), version


def _version(path: Path) -> Version | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_mtime_ns, stat.st_size


def _rule(line: str) -> Rule:
    words = _words(line)
    if not 2 <= len(words) <= 3:
        raise ValueError(
            f"{len(words)} words where two or three belong: calling AE title, address or network,"
            " called AE title"
        )
    return Rule(
        calling=_aet(words[0]),
        network=_network(words[1]),
        called=_aet(words[2]) if len(words) == 3 else None,
    )


def _words(line: str) -> list[str]:
    words: list[str] = []
    at = 0
    while at < len(line):
        if line[at].isspace():
            at += 1
        elif line[at] == "#":
            break
        else:
            match = _WORD.match(line, at)
            if match is None:
                raise ValueError("a double quote without its end")
            words.append(match[2] if match[1] is None else match[1].strip())
            at = match.end()
    return words


def _aet(word: str) -> re.Pattern[str]:
    if not _PATTERN.fullmatch(word):
        raise ValueError(f"{word!r} is not an AE title (1 to 16 characters, no backslash)")
    parts: dict[str, str] = {"*": ".*", "?": "."}
    return re.compile("".join(parts.get(letter, re.escape(letter)) for letter in word), re.DOTALL)


def _network(word: str) -> Network | None:
    if word == ANY:
        return None
    try:
        return ipaddress.ip_network(word)
    except ValueError as exc:
        # "… has host bits set" says what is wrong; anything else that it is no address at all
        reason = "bits beyond its network are set" if "host bits" in str(exc) else "not one"
        raise ValueError(f"{word!r} is not an address or network: {reason}") from exc
