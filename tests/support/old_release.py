"""What an earlier version leaves in its volumes: the ledger of an older revision, and a spool.

The rows are made through today's ledger and copied without the columns that the older one did not
have. `python -m tests.support.old_release` leaves it all in DATA_DIR and says the studies' UIDs.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, MetaData, select, text

from pacsor_tasks.ledger import Ledger, NewInstance, NewRevision, Target
from pacsor_tasks.ledger.engine import open_engine
from pacsor_tasks.ledger.schema import metadata
from pacsor_tasks.models import DeliveryState, PeerKind, PeerName, Step
from pacsor_tasks.spool import INSTANCE_SUFFIX, MANIFEST, Manifest, Spool
from tests.support.ledger_seed import PACS, RIS, Seed, new_ledger
from tests.support.studies import DX, make_study, study_uid_of

#: The last one before runs could begin at a step and deliveries choose among results.
REVISION = "0005"
#: PACSOR's volumes, and what sites keep beside.
PACSOR_LEFTOVERS = ("inputs/1.2.3/0001.dcm", "outputs/1.2.3/result.dcm", "pgdata/PG_VERSION")


@dataclass(frozen=True)
class Left:
    """The studies by what had become of them, and the run whose message may still be queued."""

    done: str
    #: at its upload, the worker gone
    uploading: str
    #: a PACS refused its results for good; they are on disk
    quarantined: str
    filtered: str
    failed: str
    #: in the outbox: the ledger does not know it
    unrecorded: str
    #: not complete yet
    incoming: str
    run_id: str


def leave(data: Path, url: str) -> Left:
    """Fill DATA_DIR and an empty database as the older version left them."""
    spool = Spool(data / "spool")
    spool.prepare()
    made: list[Left] = []
    old_ledger(url, lambda ledger: made.append(_studies(Seed(ledger), spool)))
    for name in PACSOR_LEFTOVERS:
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        (data / name).write_bytes(b"PACSOR's\n")
    return made[0]


def old_ledger(url: str, fill: Callable[[Ledger], None], revision: str = REVISION) -> None:
    """Make the ledger of an older revision, with what `fill` puts into one of today's."""
    migrate_to(url, revision)
    with tempfile.TemporaryDirectory() as directory:
        todays = new_ledger(Path(directory), time.time)
        try:
            fill(todays)
            _copy(todays, url)
        finally:
            todays.close()


def migrate_to(url: str, revision: str) -> None:
    """Bring an empty or older ledger to a revision, by the migrations themselves."""
    engine = open_engine(url)
    with engine.connect() as connection:
        config = Config()
        config.set_main_option("script_location", "pacsor_tasks:ledger/migrations")
        config.set_main_option("path_separator", "os")
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
        connection.commit()
    engine.dispose()


def tables_of(url: str) -> MetaData:
    """The tables as they are in the database now."""
    engine, found = open_engine(url), MetaData()
    found.reflect(engine)
    engine.dispose()
    return found


def _copy(source: Ledger, url: str) -> None:
    target, old = open_engine(url), tables_of(url)
    with source.engine.connect() as reading, target.begin() as writing:
        for table in metadata.sorted_tables:
            there = old.tables.get(table.name)
            if there is None:
                continue
            columns = [c for c in table.columns if c.name in there.columns]
            rows = [dict(row) for row in reading.execute(select(*columns)).mappings()]
            if rows:
                writing.execute(there.insert(), rows)
            if rows and target.dialect.name == "postgresql" and "id" in there.columns:
                _count_on(writing, table.name)
    target.dispose()


def _count_on(writing: Connection, table: str) -> None:
    """PostgreSQL's numbers go on behind those that were copied."""
    sequence = f"pg_get_serial_sequence('{table}', 'id')"
    highest = f"(SELECT max(id) FROM {table})"
    is_numbered = writing.execute(text(f"SELECT {sequence}")).scalar()
    if is_numbered:
        writing.execute(text(f"SELECT setval({sequence}, {highest})"))


def _studies(seed: Seed, spool: Spool) -> Left:
    done, quarantined, filtered, failed = (f"1.2.840.99.{n}" for n in range(1, 5))
    seed.done(done)
    (run_id,) = seed.receive(quarantined)
    seed.bring_to(run_id, Step.DELIVER)
    seed.delivered(run_id, "hl7", 1)
    seed.end(run_id, "storescu", DeliveryState.QUARANTINED, "0xA900: refused for good", 1)
    for result in range(3):
        path = spool.root / f"results/{run_id}/smarturgences/{result}.dcm"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"a result")
    seed.filter_out(seed.receive(filtered)[0])
    seed.fail(seed.receive(failed)[0], Step.FILTER, "upload: the API refused the token")
    seed.ledger.peers.pause(PeerName(PeerKind.DESTINATION, "storescu-9"), "Ada", "its disk is full")
    held = _files(spool, "quiet")
    left = _uploading(seed, held)
    unrecorded, incoming = _files(spool, "quiet"), _files(spool, "quiet")
    entry = json.dumps({"study_uid": unrecorded.study_uid})
    (spool.root / "outbox" / unrecorded.token).write_text(entry)
    _not_complete(spool, incoming)
    return Left(
        done=done, uploading=held.study_uid, quarantined=quarantined, filtered=filtered,
        failed=failed, unrecorded=unrecorded.study_uid, incoming=incoming.study_uid, run_id=left,
    )  # fmt: skip


def _uploading(seed: Seed, held: _Held) -> str:
    """A run whose worker went away in the middle of its upload."""
    revision = NewRevision(
        study_uid=held.study_uid, token=held.token, reason="quiet", instances=held.instances
    )
    (run_id,) = seed.ledger.intake.add_revision(
        revision, [Target(core="core", destinations=(PACS, RIS))]
    )
    run = seed.claim(run_id, Step.FILTER)
    seed.ledger.runs.advance(run, Step.UPLOAD, ("filter.done", "2 of 2 instances"))
    assert seed.ledger.runs.claim(run_id, Step.UPLOAD, "worker@gone:1", 1)
    return run_id


@dataclass(frozen=True)
class _Held:
    study_uid: str
    token: str
    instances: list[NewInstance]


def _files(spool: Spool, reason: str) -> _Held:
    """A revision in `ready/`, with its manifest."""
    with tempfile.TemporaryDirectory() as directory:
        files = make_study(Path(directory), 2, side=32)
        study_uid = study_uid_of(files)
        token = f"20250801T120000-{study_uid[-8:]}"
        place = spool.root / "ready" / study_uid / token
        place.mkdir(parents=True)
        instances = [_moved(file, place, spool.root, study_uid) for file in files]
    size = sum(i.size_bytes for i in instances)
    manifest = Manifest(
        study_uid=study_uid, token=token, reason=reason, first_at="2025-08-01T12:00:00+00:00",
        last_at="2025-08-01T12:00:01+00:00", n_instances=len(instances), size_bytes=size,
    )  # fmt: skip
    (place / MANIFEST).write_text(manifest.to_json())
    return _Held(study_uid, token, instances)


def _moved(file: Path, place: Path, root: Path, study_uid: str) -> NewInstance:
    from pydicom import dcmread

    ds = dcmread(file, stop_before_pixels=True)
    path = place / f"{ds.SOPInstanceUID}{INSTANCE_SUFFIX}"
    path.write_bytes(file.read_bytes())
    assert study_uid == ds.StudyInstanceUID
    return NewInstance(
        sop_instance_uid=ds.SOPInstanceUID,
        sop_class_uid=DX,
        series_uid=ds.SeriesInstanceUID,
        transfer_syntax_uid=ds.file_meta.TransferSyntaxUID,
        path=str(path.relative_to(root)),
        size_bytes=path.stat().st_size,
    )


def _not_complete(spool: Spool, held: _Held) -> None:
    """A study still coming in, and a partial file where the older receiver had them."""
    ready = spool.root / "ready" / held.study_uid / held.token
    incoming = spool.root / "incoming" / held.study_uid
    ready.rename(incoming)
    ready.parent.rmdir()
    (incoming / MANIFEST).unlink()
    (spool.root / "tmp" / "0001.part").write_bytes(b"cut off")


def main() -> None:
    """Leave it in DATA_DIR, and a message of an older worker in the broker where there is one."""
    data = Path(os.environ["DATA_DIR"])
    left = leave(data, f"sqlite:///{data / 'ledger.sqlite3'}")
    if os.environ.get("BROKER_URL"):
        from pacsor_tasks.app import app

        app.send_task("pacsor.upload", args=[left.run_id], queue="transfer")
    sys.stdout.write(f"{json.dumps(asdict(left))}\n")


if __name__ == "__main__":
    main()
