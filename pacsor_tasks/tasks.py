"""Every task, on one page. Thin: the guard decides whether it is a task's turn, the step does it.

Names are permanent, since messages outlive a deployment. The one argument of a run's task is the
run id, of a delivery's the delivery id; patient data is never one.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import structlog
from celery import current_task
from celery.signals import beat_init, setup_logging, worker_init, worker_process_shutdown

from pacsor_tasks import (
    cores,
    guard,
    heartbeat,
    observability,
    operations,
    pipeline,
    polling,
    reconcile,
    relaunching,
    wiring,
)
from pacsor_tasks.app import app
from pacsor_tasks.errors import ConfigError, Conflict, NotFound, PeerUnavailable
from pacsor_tasks.ledger import Relaunch, migrate
from pacsor_tasks.ledger.gate import ASKING
from pacsor_tasks.models import Delivery, PeerKind, PeerName, Run, Step
from pacsor_tasks.outcomes import Advance, End, Ended, Moved, Wait
from pacsor_tasks.ports import Ports
from pacsor_tasks.settings import load
from pacsor_tasks.steps.cleanup import apply_retention, forget_old
from pacsor_tasks.steps.cleanup import cleanup as cleanup_step
from pacsor_tasks.steps.download import download as download_step
from pacsor_tasks.steps.fan_out import fan_out as fan_out_step
from pacsor_tasks.steps.filter import filter_instances
from pacsor_tasks.steps.hl7 import send_message
from pacsor_tasks.steps.ingest import ingest as ingest_step
from pacsor_tasks.steps.poll import poll as poll_step
from pacsor_tasks.steps.store import store_results
from pacsor_tasks.steps.upload import upload as upload_step
from pacsor_tasks.steps.webhook import post_event

log = structlog.get_logger(__name__)

RunStep = Callable[[Run, Ports], Advance | Wait | End | Moved]
DeliveryStep = Callable[[Delivery, Ports], Wait | Ended]


@app.task(name="pacsor.ingest")
def ingest(study_uid: str, paths: Sequence[str]) -> None:
    """Record a stable study's instances and launch one run per core."""
    ports = wiring.ports()
    with _deferred():
        operations.launch_all(ingest_step(study_uid, paths, ports), ports)


@app.task(name="pacsor.filter")
def filter_(run_id: str) -> None:
    """Choose the instances that go to the AI."""
    _run(run_id, Step.FILTER, filter_instances)


@app.task(name="pacsor.upload")
def upload(run_id: str) -> None:
    """Upload them."""
    _run(run_id, Step.UPLOAD, _asking_the_core(upload_step))


@app.task(name="pacsor.poll")
def poll(run_id: str) -> None:
    """Ask once for the prediction."""
    _run(run_id, Step.POLL, _asking_the_core(poll_step))


@app.task(name="pacsor.download")
def download(run_id: str) -> None:
    """Fetch and check the results."""
    _run(run_id, Step.DOWNLOAD, _asking_the_core(download_step))


@app.task(name="pacsor.fan_out")
def fan_out(run_id: str) -> None:
    """Make every delivery due."""
    _run(run_id, Step.FAN_OUT, fan_out_step)


@app.task(name="pacsor.store")
def store(delivery_id: str) -> None:
    """Store the results at one PACS, DICOMweb server or directory."""
    _deliver(delivery_id, store_results)


@app.task(name="pacsor.hl7")
def hl7(delivery_id: str) -> None:
    """Send the message to one RIS."""
    _deliver(delivery_id, send_message)


@app.task(name="pacsor.webhook")
def webhook(delivery_id: str) -> None:
    """Post the event to one URL."""
    _deliver(delivery_id, post_event)


@app.task(name="pacsor.cleanup")
def cleanup(run_id: str) -> None:
    """Remove the delivered results."""
    _run(run_id, Step.CLEANUP, cleanup_step)


@app.task(name="pacsor.poll_due")
def poll_due(run_ids: Sequence[str]) -> None:
    """Ask for many predictions on one connection, and launch the rest of those that are ready."""
    ports = wiring.ports()
    with _deferred():
        for core in polling.poll_all(run_ids, ports):
            reconcile.launch_next_run(core, ports)


@app.task(name="pacsor.reconcile")
def sweep() -> None:
    """Launch what is due, orphaned or was never enqueued."""
    with _deferred():
        reconcile.reconcile(wiring.ports())


@app.task(name="pacsor.relaunch", throws=(NotFound, Conflict))  # a failure, but no traceback
def relaunch(
    study_uid: str,
    from_step: str | None = None,
    only: str | None = None,
    core: str | None = None,
    by: str = "celery",
) -> None:
    """Send a study through its cores again; from a step on, for one destination, on one core."""
    key = current_task.request.id  # the same message may come twice
    try:
        wish = Relaunch(from_step=relaunching.start_named(from_step), only=only, by=by, key=key)
        relaunching.relaunch(study_uid, wiring.ports(), wish, core)
    except (NotFound, Conflict) as exc:
        # Nobody waits for the answer, and Celery would tell of it at a level that is not written.
        log.warning("relaunch.refused", study_uid=study_uid, error=str(exc))
        raise


@app.task(name="pacsor.retention")
def retention() -> None:
    """Remove the pixels, and at last the rows, of old studies; enqueue what was never recorded."""
    ports = wiring.ports()
    with _deferred():
        recovered = reconcile.recover_ready(ports)
        removed = apply_retention(ports)
        log.info(
            "retention.applied", removed=removed, forgotten=forget_old(ports), recovered=recovered
        )


def _run(run_id: str, step: Step, action: RunStep) -> None:
    ports, goes_on = wiring.ports(), False
    with _deferred():
        goes_on = guard.run_step(
            ports.ledger, ports.retry, run_id, step, lambda run: action(run, ports),
            slots_of=ports.slots_of_core,
        )  # fmt: skip
    if not goes_on:
        _end_chain()
    if step in ASKING:
        with _deferred():
            reconcile.launch_after(run_id, ports)


def _end_chain() -> None:
    """Let this copy of the chain end here: the ledger knows what comes next.

    `Ignore` would do the same, but Celery keeps of every exception a picture of the whole stack:
    100 kB for each study that waits, until the garbage collector comes round to it.
    """
    current_task.request.chain = current_task.request.callbacks = None


def _asking_the_core(action: RunStep) -> RunStep:
    """A step that is not tried while the run's core does not answer."""
    return lambda run, ports: ports.breaker.call(
        PeerName(PeerKind.CORE, run.core), lambda: action(run, ports)
    )


def _deliver(delivery_id: str, action: DeliveryStep) -> None:
    ports = wiring.ports()
    with _deferred():
        delivery_id = reconcile.first_in_line(delivery_id, ports)
        run_id, _, destination = delivery_id.partition(":")
        if guard.deliver(
            ports.ledger,
            ports.retry,
            delivery_id,
            lambda delivery: action(delivery, ports),
            ports.slots_of(destination),
        ):
            pipeline.launch(run_id, Step.CLEANUP, ())
        if ports.wakes_messages(destination):
            ports.ledger.deliveries.wake_after_images(run_id)
        reconcile.launch_next(destination, ports, after=delivery_id)


@contextmanager
def _deferred() -> Iterator[None]:
    """Without the ledger or the broker nothing is decided here: the sweep launches it again."""
    try:
        yield
    except PeerUnavailable as exc:
        log.warning("task.deferred", error=str(exc))


@setup_logging.connect
def _logging(**_: object) -> None:
    settings = load()
    observability.configure_logging(settings.PACSOR_LOG_LEVEL, settings.LOG_FORMAT)


@worker_init.connect
def _prepare(**_: object) -> None:
    settings = load()
    try:
        cores.prove_packages(settings)  # imported here, once for all children
        migrate(settings.ledger_url)
    except ConfigError as exc:
        # Celery would log what a signal's receiver raises, and go on.
        print(f"pacsor: {exc}", file=sys.stderr)  # noqa: T201 - logging is set up later
        raise SystemExit(1) from exc
    heartbeat.of_worker(settings.HEARTBEAT_FILE)


@beat_init.connect
def _prepare_beat(**_: object) -> None:
    heartbeat.of_beat(load().HEARTBEAT_FILE)


@worker_process_shutdown.connect
def _close(**_: object) -> None:
    wiring.close()
