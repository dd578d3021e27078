"""Instances that were answered, but whose names a crash of the machine has undone.

With DURABILITY=group an instance is durable before it has its name in the study's directory. If
that name is lost, its sealed file is still in `tmp/`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import structlog

from pacsor_tasks.dicom.headers import read_header
from pacsor_tasks.errors import BadResponse
from pacsor_tasks.spool import Spool
from receiver.associations import OpenAssociation
from receiver.durability import Durability, is_whole, sync
from receiver.incoming import DuplicatePolicy, Incoming
from receiver.processes import Living, Process, partials

log = structlog.get_logger(__name__)

#: In the place of a process id: no living process ever has it, so its marks hold up no study.
RESCUER = "rescue"


@dataclass(frozen=True, slots=True)
class Rescuer:
    """Puts such instances into their studies. One at a time per spool: the sweeper's."""

    spool: Spool
    policy: DuplicatePolicy

    def rescue(self) -> set[str]:
        """Look at the partial files of dead processes. Those that are not whole stay as they are.

        Returns:
            The names of those that are whole and could not be put into their studies now.
        """
        living = Living(self.spool)
        left = set()
        for path in partials(self.spool):
            if not living.owns(path.name) and not self._is_done(path):
                left.add(path.name)
        return left

    def _is_done(self, path: Path) -> bool:
        try:
            # With a second name it is in its study, or was: only this one is left over.
            if path.stat().st_nlink == 1 and is_whole(path):
                self._publish(path)
        except BadResponse as exc:
            log.warning("spool.not_rescued", reason=str(exc), partial=path.name)
        except OSError as exc:
            log.warning("spool.not_rescued", reason=exc.strerror, partial=path.name)
            return False
        return True

    def _publish(self, path: Path) -> None:
        header = read_header(path)
        process = Process(self.spool, RESCUER)
        association = OpenAssociation(process, calling_aet="", peer="")
        incoming = Incoming(process, self.policy, durability=Durability.INSTANCE)
        try:
            # Only its process may have died, right before the sync.
            sync(path)
            outcome = incoming.publish(path, header, association)
        finally:
            association.close()
        path.unlink(missing_ok=True)
        log.warning(
            "spool.instance_rescued",
            study_uid=header.study_uid,
            instance_uid=header.sop_instance_uid,
            outcome=outcome.value,
        )
