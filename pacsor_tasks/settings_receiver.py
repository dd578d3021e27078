"""The settings of reception: where things are, who may send what, when a study is complete."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator
from pydantic_settings import BaseSettings

from pacsor_tasks.disk import Watermark, Watermarks
from pacsor_tasks.settings_types import (
    AeTitle,
    CommaList,
    Count,
    Fullness,
    Lower,
    Node,
    Port,
    Seconds,
    node,
)


def _log_level(value: Any) -> Any:
    """DCMTK, which PACSOR's storescp is, has a level above ours and one below."""
    word = value.strip().lower() if isinstance(value, str) else value
    return {"trace": "debug", "fatal": "error"}.get(word, word)


LogLevel = Annotated[
    Literal["debug", "info", "warn", "warning", "error"], BeforeValidator(_log_level)
]


class ReceptionSettings(BaseSettings):
    """What the receiver reads, and what everybody shares."""

    # --- where things are
    DATA_DIR: Path = Field(
        Path("data"), description="Directory of the spool, the SQLite ledger and the embedded Redis"
    )
    BROKER_URL: str | None = Field(
        None,
        description="Redis URL of the Celery broker; unset: the embedded Redis in DATA_DIR",
    )
    LEDGER_URL: str | None = Field(
        None,
        description="URL of the ledger (postgresql+psycopg://…); unset: SQLite in DATA_DIR",
    )
    PACSOR_LOG_LEVEL: LogLevel = Field("info", description="Least severe log line that is written")
    LOG_FORMAT: Annotated[Literal["json", "console"], Lower] = Field(
        "json", description="Log lines as JSON, or coloured for a person"
    )

    # --- receiver
    RECEIVER_HOST: str = Field("0.0.0.0", description="Address the SCP listens on")  # noqa: S104 - a DICOM node is reached from the network
    PORT: Port = Field(1040, description="Port of the SCP")
    RECEIVER_AET: AeTitle = Field(
        "MILVUE", description="AE title of the SCP (see RECEIVER_CHECK_CALLED_AET)"
    )
    CONFIG_PROFILE: str = Field(
        "WithSC",
        description="Profile of FILTER_CFG: which SOP classes and transfer syntaxes are accepted",
    )
    FILTER_CFG: Path = Field(
        Path("conf/filter.cfg"), description="Association profiles, DCMTK syntax"
    )
    RECEIVER_PROCESSES: Count = Field(
        default_factory=lambda: min(4, os.cpu_count() or 1),
        description="Receiver processes on the one port (default: one per core, at most 4)",
    )
    RECEIVER_MAX_ASSOCIATIONS: Count = Field(
        128, description="Associations at once, over all receiver processes"
    )
    RECEIVER_MAX_ASSOCIATIONS_PER_PEER: int = Field(
        0,
        ge=0,
        description="Associations at once from one address; 0: no limit of its own (behind a"
        " balancer or Docker's proxy all senders have one address)",
    )
    RECEIVER_MAX_PDU: int = Field(
        131072, ge=4096, le=16777216, description="Largest PDU the SCP takes, bytes"
    )
    RECEIVER_IDLE_TIMEOUT: Seconds = Field(
        60, description="Seconds of silence after which an association is aborted"
    )
    RECEIVER_ASSOCIATE_TIMEOUT: Seconds = Field(
        30,
        gt=0,
        description="Seconds from the connection to the whole association request, the TLS"
        " handshake included",
    )
    RECEIVER_ALLOW: Path | None = Field(
        None, description="File that says who may send (conf/allow.cfg.example); unset: everybody"
    )
    RECEIVER_CHECK_CALLED_AET: bool = Field(
        False, description="Reject associations that call another AE title than RECEIVER_AET"
    )
    RECEIVER_TLS_CERT: Path | None = Field(
        None,
        description="PEM file of the SCP's certificate and its chain: PORT speaks TLS only",
    )
    RECEIVER_TLS_KEY: Path | None = Field(None, description="PEM file of its private key")
    RECEIVER_TLS_CA: Path | None = Field(
        None, description="PEM file of the CAs whose client certificates are required of senders"
    )
    RECEIVER_TLS_PROFILE: Annotated[
        Literal["bcp195", "modified", "non-downgrading", "extended"], Lower
    ] = Field(
        "bcp195",
        description="Profile of PS3.15 Annex B: bcp195 (B.12), modified (B.13), and the retired"
        " non-downgrading (B.10) and extended (B.11); TLS 1.2 at least",
    )
    DISK_HIGH_WATERMARK: Fullness = Field(
        "1GB",
        description="Receiving stops when less is free on the spool's disk (1GB), or when a larger"
        " share of it is in use (95%)",
    )
    DISK_LOW_WATERMARK: Fullness = Field(
        "2GB", description="… and goes on when so much is free again (2GB; 90%)"
    )
    DURABILITY: Annotated[Literal["instance", "group", "none"], Lower] = Field(
        "group",
        description="What is synced before an instance is answered: its data and its name; its"
        " data, together with what else arrives; nothing (unsafe)",
    )
    STUDY_QUIET_SECONDS: Seconds = Field(
        30, description="A study is stable when no instance came for so many seconds"
    )
    STUDY_MAX_WAIT_SECONDS: Seconds = Field(
        600, description="… or so many seconds after its first instance, whatever else happens"
    )
    STABLE_ON_RELEASE: bool = Field(
        False,
        description="The last association of a study released: it is stable at once. For modalities"
        " that send a study whole in one association",
    )
    STORAGE_COMMITMENT: bool = Field(
        False,
        description="Answer Storage Commitment; one that covers all that is held of a study makes"
        " it stable at once",
    )
    STORAGE_COMMITMENT_PEERS: CommaList = Field(
        (),
        description="AET@host:port of those who asked for commitment and have hung up: where the"
        " result is reported",
    )
    DUPLICATE_POLICY: Annotated[Literal["keep-first", "replace"], Lower] = Field(
        "keep-first", description="Same SOP Instance UID with other bytes: which one stays"
    )

    @model_validator(mode="after")
    def _reception(self) -> ReceptionSettings:
        _ = self.commitment_peers
        try:
            _ = self.disk_watermarks
        except ValueError as exc:
            raise ValueError(f"DISK_HIGH_WATERMARK, DISK_LOW_WATERMARK: {exc}") from exc
        if (self.RECEIVER_TLS_CERT is None) != (self.RECEIVER_TLS_KEY is None):
            missing = "KEY" if self.RECEIVER_TLS_KEY is None else "CERT"
            raise ValueError(f"RECEIVER_TLS_{missing}: certificate and key belong together")
        if self.RECEIVER_TLS_CA is not None and self.RECEIVER_TLS_CERT is None:
            raise ValueError("RECEIVER_TLS_CA: needs RECEIVER_TLS_CERT and RECEIVER_TLS_KEY")
        return self

    @property
    def disk_watermarks(self) -> Watermarks:
        """Where receiving stops, and where it goes on."""
        high, low = (
            Watermark.parse(text) for text in (self.DISK_HIGH_WATERMARK, self.DISK_LOW_WATERMARK)
        )
        return Watermarks(high, low)

    @property
    def commitment_peers(self) -> dict[str, Node]:
        """Where results of Storage Commitment are reported, by AE title."""
        nodes = (node(text, "STORAGE_COMMITMENT_PEERS") for text in self.STORAGE_COMMITMENT_PEERS)
        return {found.ae_title: found for found in nodes}

    @property
    def spool_dir(self) -> Path:
        """The spool, absolute."""
        return self.DATA_DIR.absolute() / "spool"
