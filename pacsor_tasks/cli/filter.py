"""`pacsor filter`: which rule of DICOM_FILTERS keeps or skips each file, and why."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from pacsor_tasks.cli.common import load_settings, quiet_logs
from pacsor_tasks.cli.dicom_files import Source, Tally, batches
from pacsor_tasks.dicom.filters import Verdict, decision_of, explain, is_identifying
from pacsor_tasks.dicom.rules import FilterRule
from pacsor_tasks.errors import ConfigError, Permanent

WARNING = "pacsor: what follows is patient data: --show-values prints what stands in the files"


@dataclass(frozen=True)
class RuleSet:
    """The rules of one core, or of several that have the same."""

    cores: tuple[str, ...]
    rules: Sequence[FilterRule]

    @property
    def name(self) -> str:
        """For people."""
        return ", ".join(self.cores)


@dataclass(frozen=True)
class Judged:
    """What one set of rules says of one file."""

    #: keep, skip or unreadable
    decision: str
    reason: str | None
    verdicts: Sequence[Verdict] = ()


@click.command()
@click.argument(
    "paths",
    nargs=-1,
    required=True,
    type=click.Path(exists=True, path_type=Path),
    metavar="FILE | DIRECTORY | ZIP…",
)
@click.option("--explain", "explains", is_flag=True, help="Say what every rule found.")
@click.option("--core", help="Only by the rules of this core.")
@click.option("--rules", "text", metavar="JSON", help="These rules instead of DICOM_FILTERS.")
@click.option("--json", "as_json", is_flag=True, help="A JSON object per file and set of rules.")
@click.option(
    "--show-values", is_flag=True, help="Print patterns and values too: they are PATIENT DATA."
)
def filter(  # noqa: PLR0913 - one option each
    paths: tuple[Path, ...],
    *,
    explains: bool,
    core: str | None,
    text: str | None,
    as_json: bool,
    show_values: bool,
) -> None:
    """Say which rule of DICOM_FILTERS keeps or skips each file, as the gateway would decide.

    Nothing is sent or changed. Without --show-values no value of a file is printed, nor a pattern
    that would tell one. Exit status: 0 every file could be judged, 1 not every one, 2 usage or
    settings.
    """
    quiet_logs()
    sets = _sets(core, text)
    if show_values:
        click.echo(WARNING, err=True)
    printer = _Json(show_values) if as_json else _Lines(sets, explains, show_values)
    tally = Tally()
    for label, source in _each(paths, tally):
        for of in sets:
            printer.show(label, of, _judge(of, source))
    printer.end(tally)
    sys.exit(0 if printer.counts["unreadable"] == 0 and printer.counts.total() else 1)


def _sets(core: str | None, text: str | None) -> list[RuleSet]:
    if text is not None:
        return [RuleSet(("--rules",), _parsed(text))]
    cores = load_settings().cores
    if core is not None and core not in cores:
        raise ConfigError(f"{core!r} is no configured core: there is {', '.join(cores)}")
    grouped: dict[tuple[FilterRule, ...], list[str]] = {}
    for name, settings in cores.items():
        if core in {None, name}:
            grouped.setdefault(settings.filters, []).append(name)
    return [RuleSet(tuple(names), rules) for rules, names in grouped.items()]


def _parsed(text: str) -> Sequence[FilterRule]:
    from pydantic import TypeAdapter, ValidationError

    from pacsor_tasks.settings_types import FilterRules, lines

    try:
        found: Sequence[FilterRule] = TypeAdapter(FilterRules).validate_python(text)
    except ValidationError as exc:
        if any(error["type"] == "tuple_type" and not error["loc"] for error in exc.errors()):
            raise ConfigError("--rules: not a list of rules, [{…}, …]") from exc
        raise ConfigError(f"--rules: {lines(exc)}".replace("\n", "; ")) from exc
    return found


def _each(paths: Sequence[Path], tally: Tally) -> Iterator[tuple[str, Source | str]]:
    """(label, what is to be judged, or why it cannot be), as it comes."""
    for batch in batches(paths, tally):
        yield from ((source.label, source) for source in batch)
        yield from tally.unreadable
        tally.unreadable.clear()
    yield from tally.unreadable


def _judge(of: RuleSet, source: Source | str) -> Judged:
    if isinstance(source, str):
        return Judged("unreadable", source)
    try:
        verdicts = explain(of.rules, source.item.path)
    except Permanent as exc:
        return Judged("unreadable", str(exc))
    decision = decision_of(verdicts)
    return Judged("keep" if decision.keep else "skip", decision.reason, verdicts)


class _Printer:
    def __init__(self, show_values: bool) -> None:
        self.show_values = show_values
        self.counts: Counter[str] = Counter()

    def show(self, label: str, of: RuleSet, judged: Judged) -> None:
        """Print what became of one file."""
        self.counts[judged.decision] += 1
        self._print(label, of, judged)

    def end(self, tally: Tally) -> None:
        """Say how many there were."""
        parts = [f"{self.counts[d]} {said}" for d, said in SAID.items() if self.counts[d]]
        parts += [f"{tally.not_dicom} not DICOM, left out"] if tally.not_dicom else []
        click.echo(", ".join(parts) or "no DICOM file found", err=True)

    def _print(self, label: str, of: RuleSet, judged: Judged) -> None:
        raise NotImplementedError


SAID = {"keep": "kept", "skip": "skipped", "unreadable": "could not be judged"}


class _Lines(_Printer):
    def __init__(self, sets: Sequence[RuleSet], explains: bool, show_values: bool) -> None:
        super().__init__(show_values)
        self.is_one = len(sets) == 1
        self.explains = explains

    def _print(self, label: str, of: RuleSet, judged: Judged) -> None:
        whose = "" if self.is_one else f"  [{of.name}]"
        why = judged.reason or ("" if of.rules else "there are no rules")
        click.echo(f"{judged.decision:<4}  {label}{whose}" + (why and f"  {why}"))
        for verdict in judged.verdicts if self.explains or self.show_values else ():
            click.echo(f"      {verdict.reason}: {'skips' if verdict.skips else 'keeps'}")
            if self.show_values:
                values = ", ".join(map(repr, verdict.values)) or "none"
                click.echo(f"          pattern {verdict.rule.pattern!r}, values: {values}")


class _Json(_Printer):
    def _print(self, label: str, of: RuleSet, judged: Judged) -> None:
        by = next((v for v in judged.verdicts if v.skips), None)
        click.echo(
            json.dumps(
                {
                    "file": label,
                    "cores": list(of.cores),
                    "decision": judged.decision,
                    "rule": by.number if by else None,
                    "reason": judged.reason,
                    "rules": [self._verdict(v) for v in judged.verdicts],
                }
            )
        )

    def _verdict(self, verdict: Verdict) -> dict[str, Any]:
        hidden = is_identifying(verdict.rule.tag) and not self.show_values
        shown: dict[str, Any] = {
            "rule": verdict.number,
            "tag": verdict.tag,
            "keyword": verdict.keyword,
            "pattern": None if hidden else verdict.rule.pattern,
            "should_match": verdict.rule.should_match,
            "found": verdict.found.name.lower(),
            "skips": verdict.skips,
        }
        return {**shown, "values": list(verdict.values)} if self.show_values else shown
