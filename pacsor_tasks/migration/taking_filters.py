"""What becomes of DICOM_FILTERS: nothing that a shell may have changed is taken in silence."""

from __future__ import annotations

from collections.abc import Iterator

from pacsor_tasks.migration.config_file import COMPARE
from pacsor_tasks.migration.filters import Filters, agree, repaired
from pacsor_tasks.migration.outcome import Kind, Plan

NAME = "DICOM_FILTERS"
DAMAGED = "damaged by the wizard of PACSOR: see above"


def take_filters(plan: Plan) -> None:
    """As they are written; else an intact copy; else what can be made good; else a person."""
    value = plan.values.get(NAME)
    if value is None:
        return
    filters = repaired(value)
    if _is_taken_from_copy(plan, value, filters) or not filters.problem:
        return
    if filters.text is not None:
        plan.values[NAME] = filters.text
        plan.say(Kind.LOOK, NAME, f"{filters.problem}; {COMPARE}")
        plan.comments[NAME] = f"In PACSOR's file: {value}"
        return
    plan.values[NAME] = DAMAGED
    anew = f"{filters.problem}; write it anew: comments in .env say what was found"
    plan.say(Kind.LOOK, NAME, anew)
    plan.comments[NAME] = "\n".join(_candidates(value, filters))


def _is_taken_from_copy(plan: Plan, value: str, filters: Filters) -> bool:
    """Compare with what the wizard keeps, and take that where it alone is intact."""
    env, config = plan.install.env, plan.install.config
    copy = config.text.values.get(NAME) if env and config else None
    if copy is None or config is None:
        return False
    is_taken = bool(filters.problem) and not repaired(copy).problem
    counting = config.path.name if is_taken else ".env"
    if not agree(value, copy):
        plan.say(Kind.LOOK, NAME, f".env and {config.path.name} differ; {counting} counts")
    if is_taken:
        plan.change(NAME, copy, f"damaged in .env; taken from {config.path.name}")
    return is_taken


def _candidates(value: str, filters: Filters) -> Iterator[str]:
    yield f"In PACSOR's file: {value}"
    if filters.guess:
        yield f"Probably meant: {NAME}='{filters.guess}'"
    if filters.as_found:
        yield f"If the digits at a pattern's end are the site's own: {NAME}='{filters.as_found}'"
