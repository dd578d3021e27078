"""Celery's configuration. Each value that is not a default has its reason beside it.

Redis redelivers, loses and doubles messages whatever is set here: the ledger decides what is done
and what is next. These settings only make that rare and the workers unkillable.
"""

from __future__ import annotations

import sys

from kombu import Queue

from pacsor_tasks.errors import ConfigError
from pacsor_tasks.settings import Settings, load


def _settings() -> Settings:
    try:
        settings = load()
        _ = settings.broker_url
    except ConfigError as exc:
        # Celery's commands would show a traceback of the lazy loading machinery.
        print(f"pacsor: {exc}", file=sys.stderr)  # noqa: T201 - logging may not be set up yet
        raise SystemExit(2) from exc
    return settings


_SETTINGS = _settings()

imports = ("pacsor_tasks.tasks",)
broker_url = _SETTINGS.broker_url
broker_transport_options = {
    # Longer than task_time_limit, or a long task would run twice at once. Recovery does not wait
    # for it: leases in the ledger are seconds long.
    "visibility_timeout": 1800,
    "unacked_restore_interval": 10,
    "unacked_restore_throttle": 1,  # the default looks for unacknowledged messages each 100 s
    # Without these a silently dropped connection hangs a worker for ever. Short, since the waits of
    # a chain add up: each process finds out by itself, when it next consumes or publishes.
    "socket_timeout": 5,
    "socket_connect_timeout": 5,
    "socket_keepalive": True,
    "health_check_interval": 4,
}
broker_connection_retry_on_startup = True
broker_connection_max_retries = None
broker_pool_acquire_timeout = 30
redis_socket_timeout = 5
redis_socket_connect_timeout = 5
redis_socket_keepalive = True
redis_retry_on_timeout = True

task_acks_late = True
task_reject_on_worker_lost = True  # else a killed child's task counts as done
task_ignore_result = True  # state is in the ledger; results cost a fifth of the throughput
task_time_limit = 900
task_soft_time_limit = 840
task_serializer = "json"
result_serializer = "json"
accept_content = ["json"]
task_publish_retry_policy = {
    "max_retries": 3,
    "interval_start": 0,
    "interval_step": 0.2,
    "interval_max": 1,
}
task_send_sent_event = True
task_create_missing_queues = False
task_default_queue = "transfer"
task_queues = [Queue(name) for name in ("ingest", "transfer", "deliver", "control")]
task_routes = {
    "pacsor.ingest": {"queue": "ingest"},
    # "pacsor.retention" takes minutes: it goes with the transfers, by default.
    "pacsor.store": {"queue": "deliver"},
    "pacsor.hl7": {"queue": "deliver"},
    "pacsor.webhook": {"queue": "deliver"},
    # Its own small worker: a backlog cannot starve recovery.
    "pacsor.reconcile": {"queue": "control"},
    "pacsor.relaunch": {"queue": "control"},
}

worker_prefetch_multiplier = 1  # the backlog stays in Redis
worker_concurrency = _SETTINGS.WORKER_CONCURRENCY
worker_cancel_long_running_tasks_on_connection_loss = False  # True loses tasks on Redis
worker_enable_remote_control = True  # False hangs workers after a Redis restart
worker_soft_shutdown_timeout = 5.0  # then the message goes back to the queue
worker_max_tasks_per_child = 2000
worker_max_memory_per_child = 400_000  # kB
worker_send_task_events = True  # Flower
worker_hijack_root_logger = False
worker_redirect_stdouts = False
enable_utc = True
timezone = "UTC"

beat_max_loop_interval = 1
beat_schedule_filename = str(_SETTINGS.DATA_DIR.absolute() / "beat-schedule")
beat_schedule = {
    "reconcile": {
        "task": "pacsor.reconcile",
        "schedule": 1.0,
        # A sweep that could not run in time is not worth running.
        "options": {"expires": 4},
    },
    "retention": {"task": "pacsor.retention", "schedule": 3600.0, "options": {"expires": 3000}},
}
