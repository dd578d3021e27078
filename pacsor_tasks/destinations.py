"""Makes what delivers from the settings: one object per destination, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from pacsor_tasks import folder as folders
from pacsor_tasks import webhook as webhooks
from pacsor_tasks.dicom import scu
from pacsor_tasks.dicom.scu import Pacs
from pacsor_tasks.dicomweb import stow
from pacsor_tasks.dicomweb.stow import StowServer
from pacsor_tasks.folder import Folder
from pacsor_tasks.http_out import Endpoint, basic, bearer
from pacsor_tasks.settings import Settings
from pacsor_tasks.settings_routing import number_suffix
from pacsor_tasks.settings_types import (
    StorescuSettings,
    StowDestination,
    TlsSettings,
    WebhookDestination,
    kind_of,
)
from pacsor_tasks.tls import Tls
from pacsor_tasks.webhook import Webhook

Probe = Callable[[], None]


def pacs_of(settings: Settings) -> dict[str, Pacs]:
    """Those that speak DICOM.

    Raises:
        ConfigError: A file of PACS_TLS_… cannot be used.
    """
    return {name: _pacs(found) for name, found in settings.storescu.items()}


def stow_of(settings: Settings) -> dict[str, StowServer]:
    """Those that speak DICOMweb.

    Raises:
        ConfigError: A file of STOW_TLS_… cannot be used.
    """
    return {
        name: StowServer(endpoint=_stow_endpoint(found), batch=found.batch)
        for name, found in settings.stow.items()
    }


def folders_of(settings: Settings) -> dict[str, Folder]:
    """Those that are a directory."""
    return {
        name: Folder(name=name, path=found.path, layout=found.layout, suffix=number_suffix(name))
        for name, found in settings.folders.items()
    }


def webhooks_of(settings: Settings) -> dict[str, Webhook]:
    """Those that get events.

    Raises:
        ConfigError: A file of WEBHOOK_TLS_… cannot be used.
    """
    return {
        name: Webhook(
            endpoint=_webhook_endpoint(found),
            secret=found.secret.get_secret_value().encode() if found.secret else None,
            include=found.include,
            after_images=found.after_images,
        )
        for name, found in settings.webhooks.items()
    }


def rates_of(settings: Settings) -> dict[str, float]:
    """Things per second by destination, for those that have a limit."""
    rates = {
        **{name: found.rate for name, found in settings.storescu.items()},
        **{name: found.rate for name, found in settings.stow.items()},
        **{name: found.rate for name, found in settings.folders.items()},
        **{name: found.rate for name, found in settings.ris.items()},
        **{name: found.rate for name, found in settings.webhooks.items()},
    }
    return {name: rate for name, rate in rates.items() if rate}


def probes_of(settings: Settings, timeout_s: float) -> Mapping[str, Probe]:
    """A cheap question to each destination that is no RIS, with short time limits.

    Raises:
        ConfigError: As the others here.
    """

    def quick(endpoint: Endpoint) -> Endpoint:
        return replace(endpoint, connect_timeout_s=timeout_s, timeout_s=timeout_s)

    def echo(pacs: Pacs) -> Probe:
        asked = replace(pacs, connect_timeout_s=timeout_s, timeout_s=timeout_s)
        return lambda: scu.echo(asked)

    def search(server: StowServer) -> Probe:
        return lambda: stow.probe(replace(server, endpoint=quick(server.endpoint)))

    def head(to: Webhook) -> Probe:
        return lambda: webhooks.probe(replace(to, endpoint=quick(to.endpoint)))

    def look(directory: Folder) -> Probe:
        return lambda: folders.probe(directory)

    return {
        **{name: echo(found) for name, found in pacs_of(settings).items()},
        **{name: search(found) for name, found in stow_of(settings).items()},
        **{name: look(found) for name, found in folders_of(settings).items()},
        **{name: head(found) for name, found in webhooks_of(settings).items()},
    }


def _pacs(found: StorescuSettings) -> Pacs:
    tls = _tls(found.tls, "PACS", found.name) if found.tls is not None else None
    return Pacs(
        name=found.name,
        host=found.host,
        port=found.port,
        called_aet=found.called_aet,
        calling_aet=found.calling_aet,
        connect_timeout_s=found.connect_timeout_s,
        timeout_s=found.timeout_s,
        associations=found.associations,
        tls=tls.context() if tls is not None else None,
        tls_name=tls.name if tls is not None else None,
    )


def _stow_endpoint(found: StowDestination) -> Endpoint:
    authorization = None
    if found.token is not None:
        authorization = bearer(found.token.get_secret_value())
    elif found.user is not None and found.password is not None:
        authorization = basic(found.user, found.password.get_secret_value())
    return Endpoint(
        name=found.name,
        url=found.url,
        authorization=authorization,
        connect_timeout_s=found.connect_timeout_s,
        timeout_s=found.timeout_s,
        tls=_tls(found.tls, "STOW", found.name),
        setting="STOW",
        suffix=number_suffix(found.name),
    )


def _webhook_endpoint(found: WebhookDestination) -> Endpoint:
    is_plain = kind_of(found.name) is None
    return Endpoint(
        name=found.name,
        url=found.url,
        authorization=bearer(found.token.get_secret_value()) if found.token else None,
        connect_timeout_s=found.timeout_s,
        timeout_s=found.timeout_s,
        tls=_tls(found.tls, "WEBHOOK", found.name),
        setting="" if is_plain else "WEBHOOK",
        suffix=number_suffix(found.name),
    )


def _tls(found: TlsSettings, prefix: str, name: str) -> Tls:
    made = Tls(
        ca=found.ca, cert=found.cert, key=found.key, name=found.name, verify=found.verify,
        setting=f"{prefix}_TLS", suffix=number_suffix(name),
    )  # fmt: skip
    made.context()  # a wrong file is told at start
    return made
