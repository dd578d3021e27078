"""The effective settings as anybody with the token may see them: secrets masked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import SecretStr

from pacsor_tasks.observability import MASK
from pacsor_tasks.settings import Settings

_PASSWORD_PARAMETER = re.compile(r"([?&](?:password|sslpassword|passfile)=)[^&]*", re.IGNORECASE)


def masked(settings: Settings) -> dict[str, Any]:
    """Settings, cores and destinations as JSON; no token, password or user name in it."""
    return {
        "settings": {
            name: _plain(getattr(settings, name))
            for name in type(settings).model_fields
            if name != "NUMBERED"
        },
        "cores": {name: _plain(core.model_dump()) for name, core in settings.cores.items()},
        "destinations": {
            name: _plain(destination.model_dump())
            for name, destination in {
                **settings.storescu,
                **settings.stow,
                **settings.folders,
                **settings.ris,
                **settings.webhooks,
            }.items()
        },
    }


def mask_url(url: str) -> str:
    """A URL without its user, password and password parameters; of one for HTTP, no parameters.

    Those of callbacks and webhooks are other people's, and one may be a key.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        return url
    if "@" in rest:
        rest = f"{MASK}@{rest.rpartition('@')[2]}"
    if scheme.lower() in {"http", "https"} and "?" in rest:
        return f"{scheme}{separator}{rest.partition('?')[0]}?{MASK}"
    return scheme + separator + _PASSWORD_PARAMETER.sub(rf"\1{MASK}", rest)


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, SecretStr):
        return MASK
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if hasattr(value, "model_dump"):
        return _plain(value.model_dump())
    return mask_url(str(value))
