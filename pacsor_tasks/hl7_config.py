"""What counts for the HL7 destinations now: the settings, and what was loaded at run time.

A configuration is loaded by writing its checked values to `hl7/active.json` in DATA_DIR, which all
processes share. Each looks at that file before it makes a message, so that none works with the old
values once the new ones are there. They count until another is loaded or it is put away, restarts
included.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import structlog

from pacsor_tasks.conf_files import conf_file, read_json_object
from pacsor_tasks.errors import ConfigError, NotFound, Retryable
from pacsor_tasks.hl7.kept import Ris
from pacsor_tasks.hl7.message import MessageOptions
from pacsor_tasks.hl7.report import ReportFormat
from pacsor_tasks.hl7.template import CONFORMANT_TEMPLATE, DEFAULT_TEMPLATE, Template
from pacsor_tasks.hl7.template_file import read_template
from pacsor_tasks.ports import Hl7Content
from pacsor_tasks.settings import Settings
from pacsor_tasks.settings_hl7 import Hl7Values, loadable, strangers
from pacsor_tasks.settings_peers import hl7_values, ris
from pacsor_tasks.settings_routing import number_suffix
from pacsor_tasks.spool import write_durably
from pacsor_tasks.tls import Tls

log = structlog.get_logger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration loaded at run time."""

    #: the file's stem
    name: str
    #: epoch seconds, UTC
    at: float
    #: by setting
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Effective:
    ris: Mapping[str, Ris]
    contents: Mapping[str, Hl7Content]
    values: Mapping[str, Hl7Values]
    loaded: Loaded | None = None
    #: of the file it was made from
    stamp: object = field(default=None)


class Hl7Config:
    """The HL7 destinations as they are configured now.

    Args:
        settings: Of this process, as read at its start.

    Raises:
        ConfigError: A template, certificate or the loaded configuration is wrong, or the one of
            LOAD_CONFIG_AT_INIT speaks of a destination that is not there.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._file = settings.DATA_DIR.absolute() / "hl7" / "active.json"
        self._templates: dict[tuple[str | None, bool], Template] = {}
        self._check_at_init(settings.LOAD_CONFIG_AT_INIT)
        self._lock = threading.Lock()
        self._effective = self._built(self._stamp())
        for destination in self._effective.ris.values():
            if destination.tls is not None:
                destination.tls.context()
        names = tuple(self._effective.ris)
        self.ris: Mapping[str, Ris] = _Live(names, lambda: self._current().ris)
        self.contents: Mapping[str, Hl7Content] = _Live(names, lambda: self._current().contents)

    @property
    def loaded(self) -> Loaded | None:
        """What was loaded at run time, if anything."""
        return self._current().loaded

    def shown(self) -> dict[str, Any]:
        """What is in effect, as JSON."""
        now = self._current()
        loaded = now.loaded
        return {
            "at_init": self._settings.LOAD_CONFIG_AT_INIT,
            "loaded": None
            if loaded is None
            else {"name": loaded.name, "at": loaded.at, "values": dict(loaded.values)},
            "destinations": {
                name: values.model_dump(mode="json") for name, values in now.values.items()
            },
        }

    def load(self, name: str) -> Loaded:
        """Make a file of HL7_CONF_DIR count, in every process of the gateway.

        Raises:
            NotFound: No such file.
            ConfigError: A bad name, or anything wrong with a key: nothing is changed then.
        """
        given = self._file_of(name)
        loaded = Loaded(name, time.time(), loadable(given))
        self._refuse_strangers(given)
        if loaded.values.get("ENABLE_HL7") and not self._settings.ENABLE_HL7:
            raise ConfigError("ENABLE_HL7: false at start, so there is no destination; restart")
        self._make(loaded, None)
        content = {"name": loaded.name, "at": loaded.at, "values": dict(loaded.values)}
        self._file.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        write_durably(self._file, json.dumps(content).encode())
        log.info("hl7_config.loaded", name=name, keys=sorted(loaded.values))
        return loaded

    def unload(self) -> bool:
        """Put the loaded configuration away; False when there was none."""
        try:
            self._file.unlink()
        except FileNotFoundError:
            return False
        log.info("hl7_config.unloaded")
        return True

    def _file_of(self, name: str) -> dict[str, Any]:
        return read_json_object(conf_file(self._settings.HL7_CONF_DIR, name, ".json"))

    def _check_at_init(self, stem: str | None) -> None:
        # Only here is known which destinations there are; everything else `load` has checked.
        try:
            self._refuse_strangers(self._file_of(stem) if stem else {})
        except (ConfigError, NotFound) as exc:
            said = (f"LOAD_CONFIG_AT_INIT={stem}: {line}" for line in str(exc).splitlines())
            raise ConfigError("\n".join(said)) from exc

    def _refuse_strangers(self, given: Mapping[str, Any]) -> None:
        if not self._settings.ENABLE_HL7:
            return  # then none of the destinations is there
        unknown = strangers(given, {number_suffix(name) for name in self._settings.ris})
        if unknown:
            raise ConfigError("\n".join(unknown))

    def _current(self) -> _Effective:
        stamp = self._stamp()
        if stamp != self._effective.stamp:
            with self._lock:
                if stamp != self._effective.stamp:
                    self._effective = self._rebuilt(stamp)
        return self._effective

    def _rebuilt(self, stamp: object) -> _Effective:
        try:
            made = self._built(stamp)
        except ConfigError as exc:
            # Not the old values instead: somebody meant them to end.
            raise Retryable(f"the HL7 configuration loaded at run time: {exc}") from exc
        log.info("hl7_config.changed", name=made.loaded.name if made.loaded else None)
        return made

    def _stamp(self) -> object:
        try:
            stat = self._file.stat()
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise Retryable(f"{self._file}: {exc.strerror}") from exc
        return stat.st_mtime_ns, stat.st_ino, stat.st_size

    def _built(self, stamp: object) -> _Effective:
        loaded = _read(self._file) if stamp is not None else None
        return self._make(loaded, stamp)

    def _make(self, loaded: Loaded | None, stamp: object) -> _Effective:
        settings, given = self._settings, loaded.values if loaded else {}
        try:
            values = {name: hl7_values(settings, name, given) for name in settings.ris}
            peers = {name: ris(settings, name, given) for name in settings.ris}
        except ValueError as exc:
            raise ConfigError(str(exc)) from exc
        _require_reports(settings, values)
        enabled = bool(given.get("ENABLE_HL7", settings.ENABLE_HL7))
        return _Effective(
            ris={
                name: Ris(
                    name=name,
                    host=peer.host,
                    port=peer.port,
                    timeout_s=peer.timeout_s,
                    keep_alive_s=peer.keep_alive_s,
                    tls=Tls(**peer.tls.model_dump()) if peer.tls is not None else None,
                )
                for name, peer in peers.items()
            },
            contents={
                name: content_of(
                    own,
                    self._template(own),
                    is_enabled=enabled,
                    report_patience_s=settings.TCR_REPORT_PATIENCE,
                )
                for name, own in values.items()
            },
            values=values,
            loaded=loaded,
            stamp=stamp,
        )

    def _template(self, values: Hl7Values) -> Template:
        """A site's own, read once per process so that an edited file does not count in halves."""
        key = (values.LOAD_TEMPLATE_AT_INIT, values.HL7_CONFORMANT)
        if key not in self._templates:
            base = CONFORMANT_TEMPLATE if values.HL7_CONFORMANT else DEFAULT_TEMPLATE
            self._templates[key] = self._read_template(values, base)
        return self._templates[key]

    @staticmethod
    def _read_template(values: Hl7Values, base: Template) -> Template:
        if values.LOAD_TEMPLATE_AT_INIT is None:
            return base
        try:
            path = conf_file(values.HL7_CONF_DIR, values.LOAD_TEMPLATE_AT_INIT, ".py")
        except NotFound as exc:
            raise ConfigError(f"LOAD_TEMPLATE_AT_INIT: {exc}") from exc
        return read_template(path, base)


def content_of(
    values: Hl7Values,
    template: Template,
    *,
    is_enabled: bool = True,
    report_patience_s: float = 0.0,
) -> Hl7Content:
    """What goes into the messages of one destination."""
    return Hl7Content(
        options=MessageOptions(
            sending_application=values.SENDING_APPLICATION,
            sending_facility=values.SENDING_FACILITY,
            receiving_application=values.RECEIVING_APPLICATION,
            receiving_facility=values.RECEIVING_FACILITY,
            language=values.HL7_LANGUAGE,
            processing_id=values.PROC_ID,
            populate_pid=values.POPULATE_PID,
            populate_pv1=values.POPULATE_PV1,
            populate_orc=values.POPULATE_ORC,
            populate_zds=values.POPULATE_ZDS,
            siuid_in_obx1=values.SIUID_IN_OBX1,
            report_format=ReportFormat(values.TECHCARE_REPORT_FORMAT),
            obx_uppercase=values.OBX_UPPERCASE,
            swap_name_affixes=values.HL7_SWAP_NAME_AFFIXES,
            template=template,
        ),
        language=values.HL7_LANGUAGE,
        default_issuer=values.DEF_PID_ISSUER,
        detections_command=values.DETECTION_INFERENCE_COMMAND
        if values.INCLUDE_DETECTIONS_FINDINGS
        else None,
        measures_command=values.MEASURES_INFERENCE_COMMAND
        if values.INCLUDE_MEASURES_FINDINGS
        else None,
        results_timeout_s=values.HTTP_TIMEOUT,
        include_report=values.INCLUDE_TECHCARE_REPORT,
        report_patience_s=report_patience_s,
        is_enabled=is_enabled,
        holds_incomplete=values.HL7_INCOMPLETE_IDENTITY == "hold",
        after_images=values.HL7_AFTER_IMAGES,
    )


def _require_reports(settings: Settings, values: Mapping[str, Hl7Values]) -> None:
    """What `settings_peers.require_reports` asks of the settings, of what was loaded too."""
    wanting = [name for name, own in values.items() if own.INCLUDE_TECHCARE_REPORT]
    if wanting and settings.TCR_API_URL is None:
        raise ConfigError(
            f"INCLUDE_TECHCARE_REPORT ({', '.join(wanting)}): reports come from TCR_API_URL, which"
            " is not set"
        )


def _read(path: Path) -> Loaded:
    found = read_json_object(path)
    try:
        return Loaded(str(found["name"]), float(found["at"]), loadable(found["values"]))
    except (KeyError, TypeError, ValueError, AttributeError) as exc:
        raise ConfigError(f"{path}: not what was written there; remove it") from exc


class _Live(Mapping[str, T]):
    """A mapping whose keys stay and whose values are looked up anew each time."""

    def __init__(self, names: Sequence[str], now: Callable[[], Mapping[str, T]]) -> None:
        self._names = names
        self._now = now

    def __getitem__(self, name: str) -> T:
        if name not in self._names:
            raise KeyError(name)
        return self._now()[name]

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
