"""Makes the cores: one factory per type, from plain values.

A factory takes a `CoreConfig` and gives a `CoreClient`; docs/cores.md is written for those who
write one.
"""

from __future__ import annotations

from collections.abc import Mapping

from pacsor_tasks.core_api import CoreClient, CoreConfig, CoreFactory
from pacsor_tasks.milvue.client import MilvueClient
from pacsor_tasks.routes import Route
from pacsor_tasks.settings import Settings
from pacsor_tasks.settings_types import CoreSettings
from pacsor_tasks.tcr.client import TcrAccess, TcrClient, TcrRoutes


def milvue(config: CoreConfig) -> CoreClient:
    """The Milvue API. Options: signed_url."""
    return MilvueClient(
        config.url,
        config.token,
        signed_url=config.options.get("signed_url") == "true",
        connect_timeout_s=config.connect_timeout_s,
        read_timeout_s=config.read_timeout_s,
        parallel=config.parallel,
    )


def tcr(config: CoreConfig, settings: Settings) -> TcrClient:
    """A provider of TechCare Report. Options: organization_id."""
    access = TcrAccess(
        url=config.url,
        token=config.token,
        routes=_routes(settings),
        organization_id=config.options.get("organization_id", ""),
        header=settings.TCR_AUTH_HEADER,
        token_setting="PROVIDER_TOKEN",  # noqa: S106 - a name
    )
    return TcrClient(access, timeouts_s=(config.connect_timeout_s, config.read_timeout_s))


def factories(settings: Settings) -> Mapping[str, CoreFactory]:
    """By CORE_TYPE."""
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
        ConfigError: The URL or the token cannot be used.
    """
    longest_s = float("inf") if at_most_s is None else at_most_s
    config = CoreConfig(
        name=core.name,
        url=core.api_url,
        token=core.token.get_secret_value(),
        connect_timeout_s=min(settings.API_CONNECT_TIMEOUT, longest_s),
        read_timeout_s=min(settings.API_READ_TIMEOUT, longest_s),
        parallel=settings.UPLOAD_PARALLEL,
        options={
            "signed_url": str(core.signed_url).lower(),
            "organization_id": core.organization_id,
        },
    )
    return factories(settings)[core.type](config)


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
