"""Run-time switches of a simulator: typed values, in general or for one scope or N times."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

import structlog
from pydantic import BaseModel, BeforeValidator, ValidationError

from pacsor_tasks.errors import ConfigError

log = structlog.get_logger(__name__)

M = TypeVar("M", bound=BaseModel)


def _words(value: Any) -> Any:
    if isinstance(value, str):
        return tuple(word.strip() for word in value.split(",") if word.strip())
    return value


#: Words, also written as one comma-separated string.
Words = Annotated[tuple[str, ...], BeforeValidator(_words)]


@dataclass(slots=True)
class _Rule:
    """Values that hold where every part of the scope matches, and how often they still apply."""

    values: dict[str, Any]
    scope: dict[str, str]
    times: int | None

    def matches(self, scope: Mapping[str, str | None]) -> bool:
        return all(scope.get(key) == value for key, value in self.scope.items())


class Switches(Generic[M]):
    """The switches in force, asked once per request.

    A rule with a scope or a number of times wins over the general values, the latest first. A rule
    limited to N times is used up by requests that look at one of its values, not by others.

    Args:
        model: Names, types and defaults of the switches.
        scopes: What a rule may be narrowed to, e.g. ``study_uid``.
        operations: Switches that only some operations look at; the others concern all of them.
        initial: The values that `clear` goes back to.
        file: JSON as taken by `apply`, read again whenever it changes.

    Raises:
        ConfigError: An unknown switch or a value it cannot have.
    """

    def __init__(
        self,
        model: type[M],
        *,
        scopes: Sequence[str] = (),
        operations: Mapping[str, frozenset[str]] | None = None,
        initial: Mapping[str, Any] | None = None,
        file: Path | None = None,
    ) -> None:
        self._model = model
        self._scopes = tuple(scopes)
        self._operations = dict(operations or {})
        self._initial = self._validated(initial or {})
        self._file = file
        self._stamp: tuple[int, int] | None = None
        self._lock = threading.RLock()
        self._base: dict[str, Any] = dict(self._initial)
        self._rules: list[_Rule] = []
        self._reread()

    def set(self, *, times: int | None = None, **entries: Any) -> None:
        """Set switches; keywords that name a scope narrow the rule.

        Args:
            times: How many requests the rule applies to; None for all from now on.
            entries: Switches and scopes, e.g. ``fault=500, operation="status"``.
        """
        scope = {key: str(entries.pop(key)) for key in self._scopes if entries.get(key) is not None}
        values = self._validated({k: v for k, v in entries.items() if k not in self._scopes})
        if times is not None and times < 1:
            raise ConfigError(f"times must be 1 or more, not {times}")
        with self._lock:
            if scope or times is not None:
                self._rules.append(_Rule(values, scope, times))
            else:
                self._base |= values

    def apply(self, document: object) -> None:
        """Set from JSON: one object of the keywords of `set`, or a list of them, in order."""
        for entry in document if isinstance(document, list) else [document]:
            if not isinstance(entry, dict):
                raise ConfigError("switches are a JSON object or a list of objects")
            self.set(**entry)

    def clear(self) -> None:
        """Forget every rule and go back to the initial values."""
        with self._lock:
            self._rules.clear()
            self._base = dict(self._initial)

    def take(self, **scope: str | None) -> M:
        """The values for this request, using up the rules limited in number that it looks at."""
        return self._effective(scope, use_up=True)

    def peek(self, **scope: str | None) -> M:
        """The values for such a request, without using anything up."""
        return self._effective(scope, use_up=False)

    def describe(self) -> dict[str, Any]:
        """The general values and the rules in force, as JSON data."""
        with self._lock:
            self._reread()
            rules = [
                {**rule.scope, "times": rule.times, **self._jsonable(rule.values)}
                for rule in self._rules
            ]
            return {"values": self._model(**self._base).model_dump(mode="json"), "rules": rules}

    def _effective(self, scope: Mapping[str, str | None], *, use_up: bool) -> M:
        operation = scope.get("operation")
        with self._lock:
            self._reread()
            values = dict(self._base)
            for rule in self._rules:
                if not rule.matches(scope) or not self._concerns(rule, operation):
                    continue
                values |= rule.values
                if use_up and rule.times is not None:
                    rule.times -= 1
            self._rules = [rule for rule in self._rules if rule.times != 0]
        return self._model(**values)

    def _concerns(self, rule: _Rule, operation: str | None) -> bool:
        """A rule concerns an operation that looks at one of its values."""
        if operation is None:
            return True
        everywhere: frozenset[str] = frozenset({operation})
        return any(operation in self._operations.get(name, everywhere) for name in rule.values)

    def _validated(self, values: Mapping[str, Any]) -> dict[str, Any]:
        try:
            model = self._model.model_validate(dict(values))
        except ValidationError as exc:
            reasons = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in exc.errors())
            raise ConfigError(f"switches: {reasons}") from exc
        return {name: getattr(model, name) for name in model.model_fields_set}

    def _jsonable(self, values: Mapping[str, Any]) -> dict[str, Any]:
        return self._model(**values).model_dump(mode="json", include=set(values))

    def _reread(self) -> None:
        """A switches file replaces everything set before it.

        One that cannot be read, perhaps half written, stops a start and later changes nothing.
        """
        if self._file is None or not self._file.is_file():
            return
        stat = self._file.stat()
        if (stat.st_mtime_ns, stat.st_size) == self._stamp:
            return
        is_first, self._stamp = self._stamp is None, (stat.st_mtime_ns, stat.st_size)
        before = self._base, self._rules
        self._base, self._rules = dict(self._initial), []
        try:
            self.apply(json.loads(self._file.read_bytes()))
        except (ValueError, ConfigError) as exc:
            self._base, self._rules = before
            if is_first:
                raise ConfigError(f"{self._file}: {exc}") from exc
            log.warning("switches.unreadable", file=str(self._file), reason=str(exc))
