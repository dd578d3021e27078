"""The peers a configuration names, and a configuration that is complete enough to try one."""

from __future__ import annotations

import re
from collections.abc import Callable

from pacsor_tasks.environment import OF_ONE_CORE
from pacsor_tasks.settings_routing import OF_ONE
from pacsor_tasks.settings_types import kind_of
from pacsor_tasks.setup import values as v
from pacsor_tasks.setup.validation import COMPLETE
from pacsor_tasks.setup.values import Values

#: Tries a peer: the settings, its name; whether it is well, and what to say.
Tester = Callable[[Values, str], tuple[bool, str]]
#: A person waits.
PATIENCE = {"PACS_CONNECT_TIMEOUT": "5", "PACS_TIMEOUT": "10", "RIS_TIMEOUT": "5"}
_WHERE_RESULTS_GO = {"DESTINATIONS", "CALLBACK_URLS"}


def peers(values: Values) -> tuple[str, ...]:
    """Cores, destinations and TechCare Report, by name."""
    has_reports = v.is_true(values, "INCLUDE_TECHCARE_REPORT") or v.is_true(values, "WEBPS_ENABLE")
    reports = ("reports",) if has_reports and values.get("TCR_API_URL") else ()
    return (*v.cores(values), *reports, *v.used_destinations(values))


def settings_for(values: Values, peer: str) -> dict[str, str]:
    """What is set of a peer, and something for all that is not: it loads before the rest is known.

    A plain callback is tried with all there is.
    """
    if peer == "reports":
        own: tuple[str, ...] = ("TCR_API_URL", "TOKEN", "TCR_AUTH_HEADER", "TCR_REPORT_PATH")
    elif re.fullmatch("core[0-9]*", peer):
        own = OF_ONE_CORE
    elif (kind := kind_of(peer)) is not None:
        own = OF_ONE[kind]
    else:
        return v.changed(values, PATIENCE)
    names = {*own, *(v.suffixed(name, peer) for name in own)} - _WHERE_RESULTS_GO
    names -= {v.suffixed(name, peer) for name in _WHERE_RESULTS_GO}
    found = COMPLETE | {n: value for n, value in values.items() if n in names} | PATIENCE
    found["DESTINATIONS"] = peer if kind_of(peer) is not None else "storescu"
    if own is OF_ONE_CORE and peer != "core":
        found["ADDITIONAL_CORES"] = peer
    return found
