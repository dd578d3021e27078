"""Every switch of the simulated PACS."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from simulators.switches import Words


def _status(value: Any) -> Any:
    """A DIMSE status may be written as text: 0xA700."""
    return int(value, 0) if isinstance(value, str) else value


class PacsSwitches(BaseModel):
    """Values in force for one association, echo or instance. Durations in seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: A-ASSOCIATE-RJ
    reject: (
        Literal["permanent", "calling_aet", "called_aet", "transient", "congestion", "local_limit"]
        | None
    ) = None
    refuse_sop_classes: Words = ()
    refuse_transfer_syntaxes: Words = ()
    #: refuse every compressed transfer syntax
    uncompressed_only: bool = False
    #: associate: accept the connection, never answer the association; store: never answer C-STORE
    silent: Literal["associate", "store"] | None = None
    #: before each C-STORE answer
    delay_s: Annotated[float, Field(ge=0)] = 0
    #: answer to C-STORE; what is no success or warning (0xB…) is not kept
    status: Annotated[int, Field(ge=0, le=0xFFFF), BeforeValidator(_status)] = 0x0000
    #: A-ABORT in place of an answer once an association has brought so many instances
    abort_after: Annotated[int, Field(ge=0)] | None = None
    #: the same by dropping the TCP connection
    drop_after: Annotated[int, Field(ge=0)] | None = None
    #: else only the journal knows what came
    keep_files: bool = True


_STORE = frozenset({"store"})
_ASSOCIATE = frozenset({"associate"})
OPERATIONS: dict[str, frozenset[str]] = {
    "reject": _ASSOCIATE,
    "refuse_sop_classes": _ASSOCIATE,
    "refuse_transfer_syntaxes": _ASSOCIATE,
    "uncompressed_only": _ASSOCIATE,
    "silent": frozenset({"associate", "store"}),
    "delay_s": _STORE,
    "status": _STORE,
    "abort_after": _STORE,
    "drop_after": _STORE,
    "keep_files": _STORE,
}
SCOPES = ("operation", "calling_aet", "sop_instance_uid")
