"""Makes the cores: one factory per type, from plain values.

A factory takes a `CoreConfig` and gives a `CoreClient`; docs/cores.md is written for those who
write one. The types that are not ours come from installed packages (`core_plugins`) and stand
behind a shield (`plugged_core`).
"""

from __future__ import annotations

from collections.abc import Mapping

import structlog
from pydantic import SecretStr

from pacsor_tasks import core_plugins
from pacsor_tasks.core_api import CoreClient, CoreConfig, CoreFactory
from pacsor_tasks.errors import ConfigError
from pacsor_tasks.milvue.client import MilvueClient
from pacsor_tasks.milvue.dialect import Dialect
from pacsor_tasks.plugged_core import AbsentCore, shielded
from pacsor_tasks.routes import Route
from pacsor_tasks.settings import Settings
from pacsor_tasks.settings_types import CoreSettings
from pacsor_tasks.tcr.client import TcrAccess, TcrClient, TcrRoutes

log = structlog.get_logger(__name__)


def milvue(config: CoreConfig) -> CoreClient:
    """The Milvue API. Options: signed_url."""
    return MilvueClient(
        config.url,
        config.token,
        signed_url=config.options.get("signed_url") == "true",
        connect_timeout_s=config.connect_timeout_s,
        read_timeout_s=config.read_timeout_s,
        parallel=config.parallel,
        dialect=Dialect(
            url_setting=f"API_URL{_suffix(config)}", token_setting=f"TOKEN{_suffix(config)}"
        ),
    )


def _suffix(config: CoreConfig) -> str:
    number = config.name.removeprefix("core")
    return f"_{number}" if number else ""


def tcr(config: CoreConfig, settings: Settings) -> TcrClient:
    """A provider of TechCare Report. Options: organization_id."""
    access = TcrAccess(
        url=config.url,
        token=config.token,
        routes=_routes(settings),
        organization_id=config.options.get("organization_id", ""),
        header=settings.TCR_AUTH_HEADER,
        token_setting=f"PROVIDER_TOKEN{_suffix(config)}",
    )
    return TcrClient(access, timeouts_s=(config.connect_timeout_s, config.read_timeout_s))


def factories(settings: Settings) -> Mapping[str, CoreFactory]:
    """Our own, by CORE_TYPE."""
    return {"milvue": milvue, "tcr": lambda config: tcr(config, settings)}


def client_of(
    core: CoreSettings, settings: Settings, *, at_most_s: float | None = None
) -> CoreClient:
    """The client of one core; it opens no connection yet.

    Args:
        core: Which.
        settings: The gateway's.
        at_most_s: Shorter time limits than the settings', for a probe.

    Raises:
        ConfigError: The URL or the token cannot be used, or its package makes no core.
    """
    config = _config(core, settings, at_most_s)
    ours = factories(settings).get(core.type)
    if ours is not None:
        return ours(config)
    return shielded(core_plugins.make(core.type, config), _name(core))


def running_client_of(core: CoreSettings, settings: Settings) -> CoreClient:
    """As `client_of`, for a process that has started.

    A package's core that cannot be made now is one that is away: the others go on.

    Raises:
        ConfigError: One of our own types cannot be made.
    """
    try:
        return client_of(core, settings)
    except ConfigError as exc:
        if core.type in core_plugins.BUILT_IN:
            raise
        log.error("core.absent", core=core.name, type=core.type, error=str(exc))  # noqa: TRY400
        return AbsentCore(str(exc))


def prove_packages(settings: Settings) -> None:
    """Make every core of an installed type once, at start-up, and let it go again.

    Raises:
        ConfigError: One line per core that cannot be made.
    """
    wrong = []
    for core in settings.cores.values():
        if core.type in core_plugins.BUILT_IN:
            continue
        try:
            client_of(core, settings).close()
        except ConfigError as exc:
            wrong.append(str(exc))
    if wrong:
        raise ConfigError("\n".join(dict.fromkeys(wrong)))


def _name(core: CoreSettings) -> str:
    return f"{core.name} (CORE_TYPE {core.type})"


def _config(core: CoreSettings, settings: Settings, at_most_s: float | None) -> CoreConfig:
    longest_s = float("inf") if at_most_s is None else at_most_s
    ours = {"signed_url": str(core.signed_url).lower(), "organization_id": core.organization_id}
    return CoreConfig(
        name=core.name,
        url=core.api_url,
        token=core.token.get_secret_value(),
        connect_timeout_s=min(settings.API_CONNECT_TIMEOUT, longest_s),
        read_timeout_s=min(settings.API_READ_TIMEOUT, longest_s),
        parallel=core.upload_parallel,
        options=ours if core.type in core_plugins.BUILT_IN else _plain(core.options),
    )


def _plain(options: Mapping[str, str | SecretStr]) -> dict[str, str]:
    return {
        name: value.get_secret_value() if isinstance(value, SecretStr) else value
        for name, value in options.items()
    }


def report_client(token: str, settings: Settings, *, at_most_s: float | None = None) -> TcrClient:
    """The client of TCR_API_URL that reads reports with a core's token.

    Raises:
        ConfigError: The URL or the token cannot be used.
    """
    longest_s = float("inf") if at_most_s is None else at_most_s
    access = TcrAccess(
        url=settings.TCR_API_URL or "",
        token=token,
        routes=_routes(settings),
        organization_id=settings.ORGANIZATION_ID,
        header=settings.TCR_AUTH_HEADER,
    )
    timeouts_s = (settings.API_CONNECT_TIMEOUT, settings.API_READ_TIMEOUT)
    return TcrClient(
        access, timeouts_s=(min(timeouts_s[0], longest_s), min(timeouts_s[1], longest_s))
    )


def _routes(settings: Settings) -> TcrRoutes:
    return TcrRoutes(
        report=Route(settings.TCR_REPORT_PATH),
        upload=Route(settings.TCR_UPLOAD_PATH),
        status=Route(settings.TCR_STATUS_PATH),
        access=Route(settings.WEBPS_ACCESS_PATH),
    )
