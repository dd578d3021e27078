"""What may not be seen: a secret by its name, and a password or key inside of a URL."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pacsor_tasks import core_plugins
from pacsor_tasks.admin.config_view import mask_url
from pacsor_tasks.observability import MASK
from pacsor_tasks.settings_types import SECRETS, comma_list
from pacsor_tasks.setup.values import base_of

SECRET_NAME = re.compile(r"TOKEN|PASSWORD|SECRET|BASIC_AUTH|CREDENTIAL|API_?KEY")
#: Lists of URLs; in any other value a comma belongs to the URL.
LISTS = frozenset({"CALLBACK_URLS", "DESTINATIONS"})


def is_secret(name: str) -> bool:
    """Whether a value must not be shown, whatever it is; names of others' too."""
    base, _ = base_of(name)
    is_of_a_plugin = name.startswith("CORE_") and core_plugins.is_secret(name)
    return base in SECRETS or is_of_a_plugin or SECRET_NAME.search(name) is not None


def is_hidden(name: str, value: str) -> bool:
    """Whether there is something in a value that must not be shown."""
    return is_secret(name) or any(mask_url(part) != part for part in _parts(name, value))


def masked(name: str, value: str) -> str:
    """A value as it may be shown."""
    if is_secret(name):
        return MASK
    return ",".join(map(mask_url, _parts(name, value))) if is_hidden(name, value) else value


def _parts(name: str, value: str) -> Sequence[str]:
    base, _ = base_of(name)
    found: Sequence[str] = comma_list(value) if base in LISTS else (value.strip(),)
    return found
