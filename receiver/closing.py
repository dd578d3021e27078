"""Turns a stable study into a revision. A crash at any point loses nothing: `resume_study` goes on.

    incoming/<study>  ──rename, under the study's lock──►  ready/<study>/.<token>    nobody sees it
        late re-sends dropped, revision.json written, outbox/<token> written, all synced
    ready/<study>/.<token>  ──rename──►  ready/<study>/<token>                       complete

So the lock is held for one rename, however large the study, and arrivals of that very moment begin
the next revision.
"""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import structlog

from pacsor_tasks.dicom.headers import is_uid
from pacsor_tasks.errors import Permanent
from pacsor_tasks.spool import (
    INSTANCE_SUFFIX,
    MANIFEST,
    Manifest,
    Spool,
    fsync_dir,
    make_shared,
    revisions_in,
    write_durably,
)
from receiver import journal
from receiver.associations import forget_released
from receiver.incoming import DuplicatePolicy, Outcome, compare

log = structlog.get_logger(__name__)

DROPPED = frozenset({Outcome.SAME, Outcome.KEPT_FIRST})
TOKEN_TIME = "%Y%m%dT%H%M%SZ"  # noqa: S105 - a time format


@dataclass(frozen=True, slots=True)
class Closer:
    """Makes revisions. One at a time per spool: the sweeper's."""

    spool: Spool
    policy: DuplicatePolicy

    def close(
        self, study_uid: str, reason: str, is_still_stable: Callable[[], bool]
    ) -> Manifest | None:
        """Close a study.

        Args:
            study_uid: A study that is coming in.
            reason: Why it is stable, for the manifest.
            is_still_stable: Asked once more when nothing can arrive.

        Returns:
            Its manifest; None if it is not stable after all, or nothing ever arrived.

        Raises:
            OSError: The spool cannot be written. Nothing is lost; try again, and
                `resume_study`.
        """
        incoming = self.spool.incoming_dir(study_uid)
        study_dir = self.spool.root / "ready" / study_uid
        with self.spool.study_lock(study_uid, exclusive=True):
            if not incoming.is_dir() or not is_still_stable():
                return None
            if not any(_instances(incoming)):
                # Its first instance failed to be written.
                shutil.rmtree(incoming)
                return None
            journal.append(incoming, "closed", reason=reason)
            making = _move(incoming, study_dir)
            (self.spool.root / "requests" / study_uid).unlink(missing_ok=True)
            forget_released(self.spool, study_uid)
        return self._finish(study_uid, making)

    def half_closed(self) -> list[str]:
        """The studies with a revision that a crash or an error left in the making."""
        studies = (path for path in (self.spool.root / "ready").iterdir() if is_uid(path.name))
        return sorted(path.name for path in studies if any(path.glob(".*")))

    def resume_study(self, study_uid: str) -> list[Manifest]:
        """Finish what was left of a study half closed; what is finished. Safe to repeat.

        Raises:
            OSError: The spool cannot be written. Nothing is lost; try again.
        """
        study_dir = self.spool.root / "ready" / study_uid
        return [self._finish(study_uid, path) for path in sorted(study_dir.glob(".*"))]

    def drop_stale_entries(self) -> None:
        """Drop outbox entries that nothing belongs to. What is half closed writes its own again."""
        announced = {token for _, token in self.spool.outbox()}
        for token in set(self.spool.outbox_tokens()) - announced:
            self.spool.acknowledge(token)

    def _finish(self, study_uid: str, making: Path) -> Manifest:
        token = making.name[1:]
        late = dict(self._late(making))
        dropped = {path for path, outcome in late.items() if outcome in DROPPED}
        manifest = _written_manifest(making) or _write_manifest(study_uid, making, late, dropped)
        for path in dropped:
            path.unlink(missing_ok=True)
        journal.remove(making)
        fsync_dir(making)
        entry = json.dumps({"study_uid": study_uid}).encode()
        write_durably(self.spool.root / "outbox" / token, entry)
        making.rename(making.parent / token)
        for directory in (making.parent, making.parent.parent, self.spool.root / "incoming"):
            fsync_dir(directory)
        log.info(
            "study.closed",
            study_uid=study_uid,
            revision=token,
            reason=manifest.reason,
            n_instances=manifest.n_instances,
            n_dropped=len(dropped),
            size_bytes=manifest.size_bytes,
        )
        return manifest

    def _late(self, making: Path) -> Iterator[tuple[Path, Outcome]]:
        """The instances that an earlier revision holds already, and what that means."""
        earlier = [making.parent / token for token in reversed(revisions_in(making.parent))]
        for path in _instances(making):
            outcome = None
            for held in (directory / path.name for directory in earlier):
                if held.exists() and outcome is not Outcome.SAME:
                    outcome = compare(path, held, self.policy)
            if outcome is not None:
                yield path, outcome


def _written_manifest(making: Path) -> Manifest | None:
    """The manifest of before a crash: then its story is the whole one."""
    for partial in making.glob(f".{MANIFEST}.*"):
        partial.unlink()
    try:
        return Manifest.from_json((making / MANIFEST).read_text())
    except (FileNotFoundError, Permanent):
        return None


def _write_manifest(
    study_uid: str, making: Path, late: Mapping[Path, Outcome], dropped: set[Path]
) -> Manifest:
    for path, outcome in late.items():
        journal.append(making, outcome, instance_uid=path.stem)
    records = journal.read(making)
    stats = {path: path.stat() for path in _instances(making)}
    arrivals = [stat.st_mtime for stat in stats.values()] or [making.stat().st_mtime]
    kept = [stat.st_size for path, stat in stats.items() if path not in dropped]
    manifest = Manifest(
        study_uid=study_uid,
        token=making.name[1:],
        reason=next((r["reason"] for r in reversed(records) if r["kind"] == "closed"), "quiet"),
        first_at=_iso(min(arrivals)),
        last_at=_iso(max(arrivals)),
        n_instances=len(kept),
        size_bytes=sum(kept),
        calling_aets=journal.calling_aets(records),
        events=journal.events(records),
    )
    write_durably(making / MANIFEST, manifest.to_json().encode())
    return manifest


def new_token(earlier: list[str], now: datetime) -> str:
    """A revision's token: unique, and after those of the study's earlier revisions.

    Also when the clock was set back in between.
    """
    last = max((token.partition("-")[0] for token in earlier), default="")
    stamp = now.strftime(TOKEN_TIME)
    if stamp <= last:
        with suppress(ValueError):
            after = datetime.strptime(last, TOKEN_TIME).replace(tzinfo=UTC) + timedelta(seconds=1)
            stamp = after.strftime(TOKEN_TIME)
    return f"{stamp}-{secrets.token_hex(4)}"


def _move(incoming: Path, study_dir: Path) -> Path:
    while True:
        make_shared(study_dir)
        making = study_dir / f".{new_token(revisions_in(study_dir), datetime.now(UTC))}"
        try:
            return incoming.rename(making)
        except FileNotFoundError:
            # Retention may have removed the empty directory just now.
            if not incoming.is_dir():
                raise


def _instances(directory: Path) -> Iterator[Path]:
    return (path for path in sorted(directory.iterdir()) if path.suffix == INSTANCE_SUFFIX)


def _iso(epoch_s: float) -> str:
    return datetime.fromtimestamp(epoch_s, UTC).isoformat(timespec="milliseconds")
