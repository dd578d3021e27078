"""What the simulated TechCare Report API can be told to do."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from simulators.switches import Words


class TcrSwitches(BaseModel):
    """Values in force for one request. Durations in seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: accepted tokens; none: any
    tokens: Words = ()
    #: of a report
    status: Literal["done", "running", "empty", "error", "nonsense"] = "done"
    #: of a study that a provider sent
    study_status: Literal["done", "running", "error"] = "done"
    #: only studies that were sent, or given a report, are known
    known_only: bool = False
    #: this answer in place of the right one
    fault: Annotated[int, Field(ge=400, le=599)] | None = None
    retry_after: str | None = None
    #: drop the connection without an answer
    reset: bool = False
    #: before the answer
    delay_s: Annotated[float, Field(ge=0)] = 0
    #: name another study in the answer
    other_study: bool = False
    #: answer with this text in place of JSON
    body: str | None = None
