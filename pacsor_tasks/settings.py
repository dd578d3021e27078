"""Every setting: name, type, default, unit and what it does; validated once at start-up.

Read by entry points, `wiring` and `celeryconfig` only; everything below gets plain values.
Source: contract §2.2 (PACSOR's names and defaults), architecture §7 (new names).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from pacsor_tasks import core_plugins
from pacsor_tasks import settings_peers as peers
from pacsor_tasks import settings_records as records
from pacsor_tasks.conf_files import conf_file, read_json_object
from pacsor_tasks.environment import NUMBERED, misspelt, normalise, read_environment
from pacsor_tasks.errors import ConfigError, NotFound
from pacsor_tasks.models import DestinationKind
from pacsor_tasks.settings_destinations import DestinationSettings
from pacsor_tasks.settings_doubts import undecided, unused, without_findings
from pacsor_tasks.settings_hl7 import Hl7Settings, loadable
from pacsor_tasks.settings_receiver import ReceptionSettings
from pacsor_tasks.settings_routing import core_suffixes, doubts, kind_in_use
from pacsor_tasks.settings_techcare import TechCareSettings
from pacsor_tasks.settings_types import (
    CommaList,
    Commands,
    CoreSettings,
    Count,
    FilterRules,
    FolderDestination,
    Port,
    RisSettings,
    Seconds,
    StorescuSettings,
    StowDestination,
    UrlIfAny,
    WebhookDestination,
    kind_of,
    lines,
)
from pacsor_tasks.settings_whole import shortcomings

__all__ = ["Settings", "kind_of", "load", "load_with_warnings"]


class Settings(DestinationSettings, TechCareSettings, Hl7Settings, ReceptionSettings):
    """The whole configuration of a gateway, frozen."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", case_sensitive=True)

    # --- core
    API_URL: UrlIfAny = Field(
        description="Base URL of the Milvue API; a core of an installed type may do without"
    )
    TOKEN: SecretStr = Field(
        description="Milvue API key; a core of an installed type may do without"
    )
    SIGNED_URL: bool = Field(
        True, description="Upload and download by signed URLs (cloud: true; on premises: false)"
    )
    INFERENCE_COMMANDS: Commands = Field(
        ("smarturgences", "smartxpert"), description="What is asked of the AI, comma-separated"
    )
    DICOM_FILTERS: FilterRules = Field(
        (),
        description="Which instances are uploaded: JSON rules with tag, pattern, should_match",
    )
    NO_DUPLICATE_UPLOAD: bool = Field(
        True, description="Do not upload an instance twice to a core (a relaunch does)"
    )
    CALLBACK_URLS: CommaList = Field(
        ("http://storescu:8000",),
        description="Destinations in PACSOR's form: the host is the destination's name; a URL with"
        " another host gets plain HTTP callbacks",
    )
    ALSO_TO_PACS: CommaList = Field(
        (),
        description="Destinations beside those of CALLBACK_URLS or DESTINATIONS, so that two"
        " compose files can add to them; docker-compose.multi-scu.yml sets it",
    )
    ALSO_TO_RIS: CommaList = Field((), description="Likewise; docker-compose.hl7.yml sets it")
    DESTINATIONS: CommaList = Field(
        (),
        description="Destinations by name (storescu, storescu-2, hl7, stow, folder, webhook; "
        "docs/destinations.md); wins over CALLBACK_URLS",
    )
    ADDITIONAL_CORES: CommaList = Field(
        (), description="Further cores by name (core1): each reads API_URL_1, TOKEN_1, …"
    )
    OUTPUT_FORMAT: str | None = Field(
        None, description="overlay, highbit or gsps; unset: the API's default"
    )
    OUTPUT_LANGUAGE: str | None = Field(
        None, description="Language of the result images (fr, en, es, de, it, pt)"
    )
    OUTPUT_SELECTION: str | None = Field(None, description="all, no_recap, no_negatives or none")
    OUTPUT_TIMEZONE: str | None = Field(
        None, description="Time zone written in the results, e.g. +2"
    )
    RECAP_THEME: str | None = Field(None, description="dark or light")
    STRUCTURED_REPORT_FORMAT: str | None = Field(None, description="lite, normal, full or none")
    STATIC_REPORT_FORMAT: str | None = Field(None, description="rgb, pdf or none")
    API_CONNECT_TIMEOUT: Seconds = Field(10, gt=0, description="Seconds to connect to the API")
    API_READ_TIMEOUT: Seconds = Field(120, gt=0, description="Seconds without a byte from the API")
    CORE_CONCURRENCY: Annotated[int, Field(ge=0)] | None = Field(
        None,
        description="Uploads, looks and downloads of one core at once, over all workers and hosts;"
        " 0: any number. Unset: any number for a single core, else so many that one of"
        " WORKER_CONCURRENCY's slots stays free for the last core when all others are slow",
    )
    UPLOAD_PARALLEL: Count = Field(4, description="Signed uploads at once per run")
    UPLOAD_RATE: float = Field(
        0, ge=0, description="Instances per second per core, over all workers; 0: no limit"
    )
    POLL_INTERVAL: Seconds = Field(
        2, gt=0, description="Seconds to the second look at a prediction; grows by half each time"
    )
    POLL_MAX_INTERVAL: Seconds = Field(
        30, gt=0, description="Longest pause between two looks at a prediction"
    )
    PREDICTION_TIMEOUT: Seconds = Field(
        1800,
        description="A prediction running longer is polled with backoff, then fails at the horizon",
    )

    # --- destinations
    DESTINATION_ASSOCIATIONS: Count = Field(
        2, description="Deliveries to one destination at once, over all workers and hosts"
    )
    DELIVERY_RETRY_HORIZON: Seconds = Field(
        259200, description="Seconds of retries (72h), then the delivery is quarantined"
    )
    RETRY_MAX_DELAY: Seconds = Field(300, gt=0, description="Longest pause between two tries")

    # --- processes
    PACSOR_STRICT_ENVIRONMENT: bool = Field(
        False,
        description="Every variable of the environment is meant for the gateway, as in `.env`: a"
        " misspelt one stops the start; the compose file sets it",
    )
    WORKER_CONCURRENCY: Count = Field(
        4, description="Slots of the worker that takes studies in and talks to the AI"
    )
    DELIVERY_CONCURRENCY: Count = Field(
        4, description="Slots of the worker that delivers; more than DESTINATION_ASSOCIATIONS"
    )
    HEARTBEAT_FILE: Path | None = Field(
        None, description="File that a worker or beat touches while it works, for a health check"
    )
    ADMIN_HOST: str = Field(
        "127.0.0.1", description="Address of the admin pages; beyond loopback only with ADMIN_TOKEN"
    )
    ADMIN_PORT: Port = Field(7000, description="Port of the admin pages")
    ADMIN_TOKEN: SecretStr | None = Field(
        None, description="Bearer token of everything but /healthz"
    )
    ADMIN_ALLOW_GET_RELAUNCH: bool = Field(
        False, description="GET /relaunch/{uid} from a browser acts at once, instead of asking"
    )
    FLOWER_HOST: str = Field(
        "127.0.0.1", description="Address of Flower; beyond loopback only with FLOWER_BASIC_AUTH"
    )
    FLOWER_PORT: Port = Field(5555, description="Port of Flower")
    FLOWER_BASIC_AUTH: SecretStr | None = Field(None, description="user:password of Flower")
    RETENTION_DAYS: float = Field(
        30, gt=0, description="Days that the pixels of finished studies are kept for a relaunch"
    )
    LEDGER_RETENTION_DAYS: float = Field(
        730,
        gt=0,
        description="Days that a study stays on the pages after its last event, its pixels gone;"
        " then it counts as never seen",
    )

    #: variables whose names are no settings', by their full name: numbered ones (API_URL_1,
    #: PACS_IP_2, …) and those of an installed type of core (CORE_FOLDER_OUTBOX, …)
    NUMBERED: dict[str, str] = Field(default_factory=dict, exclude=True, repr=False)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what `load` collected: aliases and `.env` are settled before validation."""
        del settings_cls, env_settings, dotenv_settings, file_secret_settings
        return (init_settings,)

    @model_validator(mode="after")
    def _whole(self) -> Settings:
        missing = shortcomings(self)
        if missing:
            raise ValueError("\n".join(missing))
        return self

    @property
    def cores(self) -> dict[str, CoreSettings]:
        """The cores by name, `core` first."""
        suffixes = core_suffixes(self)
        return {name: peers.core(self, name, suffix) for name, suffix in suffixes.items()}

    @property
    def storescu(self) -> dict[str, StorescuSettings]:
        """The PACS destinations in use, by name."""
        return {n: records.storescu(self, n) for n in self._used(DestinationKind.STORESCU)}

    @property
    def stow(self) -> dict[str, StowDestination]:
        """The DICOMweb destinations in use, by name."""
        return {n: records.stow(self, n) for n in self._used(DestinationKind.STOW)}

    @property
    def folders(self) -> dict[str, FolderDestination]:
        """The directories in use, by name."""
        return {n: records.folder(self, n) for n in self._used(DestinationKind.FOLDER)}

    @property
    def ris(self) -> dict[str, RisSettings]:
        """The HL7 destinations in use, by name; none when ENABLE_HL7 is false."""
        return {n: peers.ris(self, n) for n in self._used(DestinationKind.HL7)}

    @property
    def webhooks(self) -> dict[str, WebhookDestination]:
        """The webhooks in use by name, and the plain callbacks of CALLBACK_URLS."""
        return {n: records.webhook(self, n) for n in self._used(DestinationKind.WEBHOOK)}

    def _used(self, kind: DestinationKind) -> list[str]:
        return [name for name in peers.used_destinations(self) if kind_in_use(name) is kind]

    @property
    def ledger_url(self) -> str:
        """SQLAlchemy URL of the ledger."""
        return self.LEDGER_URL or f"sqlite:///{self.DATA_DIR.absolute() / 'ledger.sqlite3'}"

    @property
    def embedded_redis_dir(self) -> Path:
        """Directory of the embedded Redis; its URL is in the file `url` there while it runs."""
        return self.DATA_DIR.absolute() / "redis"

    @property
    def broker_url(self) -> str:
        """Redis URL of the broker.

        Raises:
            ConfigError: BROKER_URL is not set and no embedded Redis was started in DATA_DIR.
        """
        if self.BROKER_URL:
            return self.BROKER_URL
        try:
            return (self.embedded_redis_dir / "url").read_text().strip()
        except FileNotFoundError as exc:
            raise ConfigError(
                f"BROKER_URL: not set, and no embedded Redis in DATA_DIR={self.DATA_DIR}: start"
                " `pacsor up` there or set BROKER_URL"
            ) from exc


def load(environ: Mapping[str, str] | None = None, dotenv: Path | None = Path(".env")) -> Settings:
    """Read and validate the settings.

    Args:
        environ: The variables; None means the process environment.
        dotenv: A file they override; None reads no file.

    Raises:
        ConfigError: One line per wrong setting: its name, what is wrong, what was meant.
    """
    settings, _ = load_with_warnings(environ, dotenv)
    return settings


def load_with_warnings(
    environ: Mapping[str, str] | None = None, dotenv: Path | None = Path(".env")
) -> tuple[Settings, list[str]]:
    """As `load`, with the warnings an operator should see: old names, near misses."""
    values, warnings = normalise(read_environment(environ, dotenv))
    known = set(Settings.model_fields) - {"NUMBERED"}
    plugged = core_plugins.plugged_names(values)
    errors, near = misspelt(values, known | plugged, dotenv)
    given: dict[str, Any] = {name: values[name] for name in known if name in values}
    numbered: dict[str, Any] = {
        n: value for n, value in values.items() if NUMBERED.match(n) or n in plugged
    }
    loaded: dict[str, Any] = {}
    try:
        loaded = at_init(values)
    except ConfigError as exc:
        errors.append(str(exc))
    given |= {name: value for name, value in loaded.items() if name in known}
    given["NUMBERED"] = numbered | {n: str(v) for n, v in loaded.items() if n not in known}
    errors += undecided(given, numbered)
    peers.fill_in(given)
    try:
        settings = Settings(**given)
    except ValidationError as exc:
        errors += [*lines(exc).splitlines(), *_behind(exc, given)]
    if errors:
        raise ConfigError("\n".join(errors))
    return settings, [
        *warnings,
        *near,
        *unused(settings),
        *doubts(settings),
        *without_findings(settings),
    ]


def _behind(exc: ValidationError, given: Mapping[str, Any]) -> list[str]:
    """What is wrong besides single values: looked at as if those that are had not been given."""
    wrong = {str(error["loc"][0]) for error in exc.errors() if error["loc"]}
    if not wrong:
        return []
    rest = {"API_URL": "http://unset", "TOKEN": "unset"} | {
        name: value for name, value in given.items() if name not in wrong
    }
    try:
        Settings(**rest)
    except ValidationError as more:
        return [line for line in lines(more).splitlines() if line.split(":")[0] not in wrong]
    return []


def at_init(values: Mapping[str, str]) -> dict[str, Any]:
    """The configuration that LOAD_CONFIG_AT_INIT names, by settings; it wins over the environment.

    Raises:
        ConfigError: It is not there, or has a bad key.
    """
    stem = values.get("LOAD_CONFIG_AT_INIT")
    if not stem:
        return {}
    directory = Path(values.get("HL7_CONF_DIR", Settings.model_fields["HL7_CONF_DIR"].default))
    try:
        return loadable(read_json_object(conf_file(directory, stem, ".json")))
    except (ConfigError, NotFound) as exc:
        said = (f"LOAD_CONFIG_AT_INIT={stem}: {line}" for line in str(exc).splitlines())
        raise ConfigError("\n".join(said)) from exc
