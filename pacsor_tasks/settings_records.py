"""The destinations in use as records, made from the settings of their kinds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from pacsor_tasks.settings_destinations import (
    FolderSettings,
    PacsSettings,
    StowSettings,
    WebhookSettings,
    values_of,
)
from pacsor_tasks.settings_routing import callbacks, number_suffix
from pacsor_tasks.settings_types import (
    FolderDestination,
    StorescuSettings,
    StowDestination,
    TlsSettings,
    WebhookDestination,
    lines,
    require,
)

if TYPE_CHECKING:
    from pacsor_tasks.settings import Settings


def storescu(settings: Settings, name: str) -> StorescuSettings:
    """One PACS destination; ValueError naming the setting that is missing or wrong."""
    suffix = number_suffix(name)
    values = values_of(PacsSettings, settings, settings.NUMBERED, suffix)
    tls = _tls(values, "PACS", values.PACS_TLS_NAME) if values.PACS_TLS else None
    host, port, called_aet = _required(values, name, "PACS_IP", "PACS_PORT", "PACS_AET")
    try:
        return StorescuSettings(
            name=name,
            host=host,
            port=port,
            called_aet=called_aet,
            calling_aet=values.MILVUE_AET,
            connect_timeout_s=values.PACS_CONNECT_TIMEOUT,
            timeout_s=values.PACS_TIMEOUT,
            associations=values.PACS_ASSOCIATIONS,
            rate=values.PACS_RATE,
            tls=tls,
        )
    except ValidationError as exc:
        names = {"host": "PACS_IP", "port": "PACS_PORT", "called_aet": "PACS_AET"}
        shown = {field: setting + suffix for field, setting in names.items()}
        raise ValueError(lines(exc, shown)) from exc


def stow(settings: Settings, name: str) -> StowDestination:
    """One DICOMweb destination; ValueError naming the setting that is missing or wrong."""
    values = values_of(StowSettings, settings, settings.NUMBERED, number_suffix(name))
    (url,) = _required(values, name, "STOW_URL")
    return StowDestination(
        name=name,
        url=url,
        token=values.STOW_TOKEN,
        user=values.STOW_USER,
        password=values.STOW_PASSWORD,
        connect_timeout_s=values.STOW_CONNECT_TIMEOUT,
        timeout_s=values.STOW_TIMEOUT,
        batch=values.STOW_BATCH,
        rate=values.STOW_RATE,
        tls=_tls(values, "STOW"),
    )


def folder(settings: Settings, name: str) -> FolderDestination:
    """One directory; ValueError naming the setting that is missing or wrong."""
    values = values_of(FolderSettings, settings, settings.NUMBERED, number_suffix(name))
    path: Path
    (path,) = _required(values, name, "FOLDER_PATH")
    return FolderDestination(
        name=name, path=path, layout=values.FOLDER_LAYOUT, rate=values.FOLDER_RATE
    )


def webhook(settings: Settings, name: str) -> WebhookDestination:
    """One webhook or plain callback; ValueError naming the setting that is missing or wrong."""
    url = callbacks(settings).get(name)
    if url is not None:
        # Nothing that is the webhook's own: neither its keys nor patient data.
        return WebhookDestination(
            name=name, url=url, secret=None, token=None, timeout_s=settings.WEBHOOK_TIMEOUT,
            include=(), after_images=False, rate=0, tls=TlsSettings(ca=None, cert=None, key=None),
        )  # fmt: skip
    values = values_of(WebhookSettings, settings, settings.NUMBERED, number_suffix(name))
    (url,) = _required(values, name, "WEBHOOK_URL")
    return WebhookDestination(
        name=name,
        url=url,
        secret=values.WEBHOOK_SECRET,
        token=values.WEBHOOK_TOKEN,
        timeout_s=values.WEBHOOK_TIMEOUT,
        include=values.WEBHOOK_INCLUDE,
        after_images=values.WEBHOOK_AFTER_IMAGES,
        rate=values.WEBHOOK_RATE,
        tls=_tls(values, "WEBHOOK"),
    )


def _tls(values: Any, prefix: str, name: str | None = None) -> TlsSettings:
    ca, cert, key, verify = (
        getattr(values, f"{prefix}_TLS_{what}") for what in ("CA", "CERT", "KEY", "VERIFY")
    )
    return TlsSettings(ca=ca, cert=cert, key=key, name=name, verify=verify)


def _required(values: Any, destination: str, *names: str) -> tuple[Any, ...]:
    """What the destination cannot do without; ValueError naming all that is missing."""
    found = tuple(getattr(values, name) for name in names)
    suffix = number_suffix(destination)
    missing = [name + suffix for name, value in zip(names, found, strict=True) if value is None]
    require(missing, destination)
    return found
