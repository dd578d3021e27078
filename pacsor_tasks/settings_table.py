"""The table of all settings in Markdown, made from the settings themselves.

`python -m pacsor_tasks.settings_table > docs/settings.md`
"""

from __future__ import annotations

import sys

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from pacsor_tasks.environment import ALIASES, IGNORED, LEGACY, REMOVED
from pacsor_tasks.settings import Settings

INTRODUCTION = """\
# Settings

Read from the environment and from `.env` in the working directory; the environment wins. Empty
means not set. Lists are comma-separated, blanks and quotes around their members are dropped;
durations are seconds, or `90s`, `30m`, `72h`, `14d`. Booleans are written as people write them
(`true`, `1`, `yes`, `on`, `t`, `y` and their opposites, in any case). One layer of quotes around a
value is dropped, wherever it came from: PACSOR's defaults had them.

Dollars, in `.env` as Compose reads it, so that a site may change between Compose and `pacsor up`:

| written | read as |
|---|---|
| `DICOM_FILTERS=[…"^SR$$"…]`, bare or in double quotes | `^SR$` |
| `DICOM_FILTERS='[…"^SR$"…]'`, in single quotes | as it stands: `^SR$` |
| a lone `$` | as it stands; before a name (`$HOME`) with a warning: Compose puts a variable there |
| a variable of the environment | as it stands: Compose has read the file by then |

A second PACS is `storescu-2` with `PACS_IP_2`, `PACS_PORT_2`, `PACS_AET_2`, and any other of its
settings with `_2`; likewise a second RIS `hl7-2` with `RIS_HOST_IP_2`, … (docs/hl7.md), `stow-2`,
`folder-2`, `webhook-2`. What it leaves out is as for the first; but its address, credentials and
conditions (`…_CORES`, `…_COMMANDS`, `…_SOP_CLASSES`) are its own (docs/destinations.md).

A second core is named in `ADDITIONAL_CORES=core1` and reads `API_URL_1` and `TOKEN_1`, and may have
`INFERENCE_COMMANDS_1`, `CALLBACK_URLS_1` (or `DESTINATIONS_1`), `SIGNED_URL_1`, `DICOM_FILTERS_1`,
`NO_DUPLICATE_UPLOAD_1`, `UPLOAD_RATE_1`, `UPLOAD_PARALLEL_1`, `CORE_CONCURRENCY_1`, or
`CORE_TYPE_1=tcr` with `PROVIDER_TOKEN_1`, `ORGANIZATION_ID_1` (docs/techcare-report.md). What it
leaves out it inherits, but for `INFERENCE_COMMANDS_1`: that has its default then, as with PACSOR. A
type of core that a package brings has settings of its own, `CORE_<TYPE>_…` (docs/cores.md).

A name that begins with `PACSOR_` and is not below, or one in `.env` that is nearly a setting's, is
refused at start-up with the name that was probably meant. `pacsor config --explain` prints what
counts, where it came from to the line, and what it hides. PACSOR's own files become ours by
`pacsor migrate` (docs/migrating-from-pacsor.md).

| setting | default | meaning |
|---|---|---|
"""


def table() -> str:
    """The whole page."""
    fields = ((n, f) for n, f in Settings.model_fields.items() if n != "NUMBERED")
    rows = "".join(
        f"| `{name}` | {_default(field)} | {_meaning(name, field)} |\n" for name, field in fields
    )
    return INTRODUCTION + rows + _old_names() + _without_effect()


def _default(field: FieldInfo) -> str:
    if field.default_factory is not None:
        return "computed"
    if field.default is PydanticUndefined:
        return "**required**"
    if field.default in (None, (), ""):
        return "none"
    value = ",".join(field.default) if isinstance(field.default, tuple) else field.default
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _meaning(name: str, field: FieldInfo) -> str:
    aliases = sorted(alias for alias, today in ALIASES.items() if today == name)
    also = f" (also `{'`, `'.join(aliases)}`)" if aliases else ""
    return (field.description or "").replace("|", "\\|") + also


def _old_names() -> str:
    rows = "".join(f"| `{old}` | `{new}` |\n" for old, new in sorted(LEGACY.items()))
    return (
        "\n## Old names\n\nThey still work, with a warning.\n\n| old | write |\n|---|---|\n" + rows
    )


def _without_effect() -> str:
    removed, ignored = ("`, `".join(sorted(names)) for names in (REMOVED, IGNORED))
    return (
        "\n## Names that decide nothing\n\n"
        f"PACSOR has them no more either, and they are warned of: `{removed}`.\n\n"
        "For Docker Compose and the wizard, or PACSOR's own plumbing, and read past:\n"
        f"`{ignored}`.\n"
    )


if __name__ == "__main__":
    sys.stdout.write(table())
