"""The ledger's tables. Times are epoch seconds (UTC) as double precision; ids of runs are UUIDs.

Patient data is not stored here: a study is its UID.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    false,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(column_0_label)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

#: An INTEGER PRIMARY KEY is what SQLite numbers by itself.
Serial = BigInteger().with_variant(Integer(), "sqlite")
Uid = String(64)

study = Table(
    "study",
    metadata,
    Column("study_uid", Uid, primary_key=True),
    Column("created_at", Double, nullable=False),
    Column("updated_at", Double, nullable=False),
    Index("ix_study_updated_at", "updated_at", "study_uid"),
)

revision = Table(
    "revision",
    metadata,
    Column("id", Serial, primary_key=True),
    Column("study_uid", Uid, ForeignKey("study.study_uid"), nullable=False),
    Column("number", Integer, nullable=False),
    #: the directory's name below ready/<study_uid>/
    Column("token", String(80), nullable=False),
    Column("created_at", Double, nullable=False),
    #: why the study counted as stable: quiet, max_wait, requested
    Column("reason", String(32), nullable=False),
    Column("n_instances", Integer, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    #: when retention removed its pixels; null while they are held
    Column("removed_at", Double),
    UniqueConstraint("token"),
    UniqueConstraint("study_uid", "number", name="uq_revision_study_uid_number"),
    Index("ix_revision_held", "removed_at", "created_at"),
)

instance = Table(
    "instance",
    metadata,
    Column("id", Serial, primary_key=True),
    Column("revision_id", Serial, ForeignKey("revision.id"), nullable=False),
    Column("sop_instance_uid", Uid, nullable=False),
    Column("sop_class_uid", Uid, nullable=False),
    Column("series_uid", Uid, nullable=False),
    Column("transfer_syntax_uid", Uid, nullable=False),
    Column("path", Text, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    #: why its header could not be read
    Column("error", Text),
    UniqueConstraint("revision_id", "path", name="uq_instance_revision_id_path"),
)

run = Table(
    "run",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("study_uid", Uid, ForeignKey("study.study_uid"), nullable=False),
    Column("revision_id", Serial, ForeignKey("revision.id"), nullable=False),
    Column("core", String(64), nullable=False),
    Column("state", String(16), nullable=False),
    Column("step", String(16), nullable=False),
    Column("force", Boolean, nullable=False),
    Column("owner", String(64)),
    Column("lease_until", Double, nullable=False),
    #: null once terminal
    Column("due_at", Double),
    Column("waiting_for", Text),
    Column("attempts", Integer, nullable=False),
    #: processes in a row that died while they held the lease
    Column("losses", Integer, nullable=False, server_default="0"),
    Column("step_since", Double, nullable=False),
    #: when a message for the present step was last published; 0: the sweep has to
    Column("enqueued_at", Double, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("finished_at", Double),
    Column("error", Text),
    #: put off because its core is paused or away
    Column("held", Boolean, nullable=False, server_default=false()),
    #: the step that a relaunch began at; null: it was not relaunched
    Column("from_step", String(16)),
    #: the one destination that a relaunch was for; null: all
    Column("only_destination", String(64)),
    #: who asks for a relaunch twice by the same key gets one
    Column("request_key", String(64)),
    Index("ix_run_due_at", "due_at", "lease_until"),
    Index("ix_run_core_due_at", "core", "due_at"),
    Index("ix_run_core_lease", "core", "lease_until"),
    Index("ix_run_study_uid", "study_uid", "core", "created_at"),
    # Without it SQLite goes through all runs of a state for each study of a page.
    Index("ix_run_study_uid_state", "study_uid", "state"),
    Index("ix_run_revision_id", "revision_id"),
    Index("ix_run_state", "state", "created_at"),
)

run_instance = Table(
    "run_instance",
    metadata,
    Column("run_id", String(36), ForeignKey("run.id"), primary_key=True),
    Column("instance_id", Serial, ForeignKey("instance.id"), primary_key=True),
    Column("outcome", String(16), nullable=False),
    #: the rule that filtered it, or why it was not uploaded; never a value of the instance
    Column("reason", Text),
    #: the rule's place in DICOM_FILTERS, from 1
    Column("rule", Integer),
    #: what it looked at, as (GGGG,EEEE)
    Column("tag", String(11)),
    Index("ix_run_instance_instance_id", "instance_id"),
)

upload = Table(
    "upload",
    metadata,
    Column("core", String(64), primary_key=True),
    Column("sop_instance_uid", Uid, primary_key=True),
    Column("run_id", String(36), nullable=False),
    Column("uploaded_at", Double, nullable=False),
)

command = Table(
    "command",
    metadata,
    Column("run_id", String(36), ForeignKey("run.id"), primary_key=True),
    Column("name", String(64), primary_key=True),
    #: done, empty, forbidden, failed
    Column("outcome", String(16), nullable=False),
    Column("reason", Text),
)

result = Table(
    "result",
    metadata,
    Column("id", Serial, primary_key=True),
    Column("run_id", String(36), ForeignKey("run.id"), nullable=False),
    Column("command", String(64), nullable=False),
    Column("sop_instance_uid", Uid, nullable=False),
    Column("sop_class_uid", Uid, nullable=False),
    Column("transfer_syntax_uid", Uid, nullable=False),
    Column("path", Text, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    UniqueConstraint("run_id", "path", name="uq_result_run_id_path"),
)

delivery = Table(
    "delivery",
    metadata,
    #: "<run id>:<destination>"
    Column("id", String(128), primary_key=True),
    Column("run_id", String(36), ForeignKey("run.id"), nullable=False),
    Column("study_uid", Uid, nullable=False),
    Column("destination", String(64), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("state", String(16), nullable=False),
    Column("owner", String(64)),
    Column("lease_until", Double, nullable=False),
    #: null before the results are there, and once terminal
    Column("due_at", Double),
    Column("waiting_for", Text),
    Column("attempts", Integer, nullable=False),
    Column("losses", Integer, nullable=False, server_default="0"),
    Column("active_since", Double),
    Column("enqueued_at", Double, nullable=False),
    Column("finished_at", Double),
    Column("sent", Integer, nullable=False),
    Column("total", Integer, nullable=False),
    Column("control_id", String(20)),
    #: JSON: which of the run's results it is about; null: all
    Column("selection", Text),
    Column("error", Text),
    #: put off because its destination is paused or away
    Column("held", Boolean, nullable=False, server_default=false()),
    Index("ix_delivery_due_at", "due_at", "lease_until"),
    Index("ix_delivery_destination_due_at", "destination", "due_at"),
    Index("ix_delivery_destination_lease", "destination", "lease_until"),
    Index("ix_delivery_run_id", "run_id"),
    Index("ix_delivery_destination", "destination", "state"),
)

delivery_instance = Table(
    "delivery_instance",
    metadata,
    Column("delivery_id", String(128), ForeignKey("delivery.id"), primary_key=True),
    Column("result_id", Serial, ForeignKey("result.id"), primary_key=True),
    #: DIMSE status of the last answer
    Column("status", Integer, nullable=False),
    Column("meaning", Text, nullable=False),
    Column("delivered", Boolean, nullable=False),
    Column("at", Double, nullable=False),
    Index("ix_delivery_instance_result_id", "result_id"),
)

#: What is known of a core or destination beside its settings; no row: it is well.
peer = Table(
    "peer",
    metadata,
    #: core, destination
    Column("kind", String(16), primary_key=True),
    Column("name", String(64), primary_key=True),
    Column("paused_at", Double),
    Column("paused_by", String(64)),
    Column("pause_reason", Text),
    #: failed tries in a row; a slow one counts more
    Column("strikes", Integer, nullable=False, server_default="0"),
    #: since when it is left alone; null: it is not
    Column("opened_at", Double),
    #: when it is probed; null while opened: a probe got through, and one at a time is tried
    Column("probe_at", Double),
    #: how often it was left alone in a row
    Column("probes", Integer, nullable=False, server_default="0"),
    #: what the last failed try said
    Column("error", Text),
)

event = Table(
    "event",
    metadata,
    Column("id", Serial, primary_key=True),
    Column("at", Double, nullable=False),
    #: "" for an event of a peer
    Column("study_uid", Uid, nullable=False),
    Column("run_id", String(36)),
    Column("destination", String(64)),
    Column("kind", String(32), nullable=False),
    Column("message", Text, nullable=False),
    #: the operator whose doing it was
    Column("by", String(64)),
    #: "<kind> <name>" of the peer that was paused, left alone, …
    Column("peer", String(80)),
    Index("ix_event_study_uid", "study_uid", "id"),
    Index("ix_event_at", "at"),
    Index("ix_event_peer", "peer", "id"),
    sqlite_autoincrement=True,
)
