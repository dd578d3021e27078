"""The table of all settings in Markdown, made from the settings themselves.

`python -m pacsor_tasks.settings_table > docs/settings.md`
"""

from __future__ import annotations

import sys

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from pacsor_tasks.environment import ALIASES, LEGACY
from pacsor_tasks.settings import Settings

INTRODUCTION = """\
# Settings

Read from the environment and from `.env` in the working directory; the environment wins. Empty
means not set. Lists are comma-separated; durations are seconds, or `90s`, `30m`, `72h`, `14d`.
Booleans are written as people write them (`true`, `1`, `yes`, `off`, …). `$$` in a pattern of
`DICOM_FILTERS` is read as `$`, as Compose files need it.

A second PACS is `storescu-2` with `PACS_IP_2`, `PACS_PORT_2`, `PACS_AET_2`, and any other of its
settings with `_2`; likewise a second RIS `hl7-2` with `RIS_HOST_IP_2`, … (docs/hl7.md), `stow-2`,
`folder-2`, `webhook-2`. What it leaves out is as for the first; but its address, credentials and
conditions (`…_CORES`, `…_COMMANDS`, `…_SOP_CLASSES`) are its own (docs/destinations.md). A second core is named in
`ADDITIONAL_CORES=core1` and reads `API_URL_1` and `TOKEN_1`, and may have `INFERENCE_COMMANDS_1`,
`CALLBACK_URLS_1` (or `DESTINATIONS_1`), `SIGNED_URL_1`, `DICOM_FILTERS_1`, `NO_DUPLICATE_UPLOAD_1`,
`UPLOAD_RATE_1`, `UPLOAD_PARALLEL_1`, `CORE_CONCURRENCY_1`, or `CORE_TYPE_1=tcr` with
`PROVIDER_TOKEN_1`, `ORGANIZATION_ID_1` (docs/techcare-report.md); what it leaves out it inherits. A
type of core that a package brings has settings of its own, `CORE_<TYPE>_…` (docs/cores.md).

A name that begins with `PACSOR_` and is not below, or one in `.env` that is nearly a setting's, is
refused at start-up with the name that was probably meant. `pacsor config` prints what counts and
where it came from.

| setting | default | meaning |
|---|---|---|
"""


def table() -> str:
    """The whole page."""
    fields = ((n, f) for n, f in Settings.model_fields.items() if n != "NUMBERED")
    rows = "".join(
        f"| `{name}` | {_default(field)} | {_meaning(name, field)} |\n" for name, field in fields
    )
    return INTRODUCTION + rows + _old_names()


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


if __name__ == "__main__":
    sys.stdout.write(table())
