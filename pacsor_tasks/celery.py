"""What `celery -A pacsor_tasks` loads: the application with its tasks registered."""

from __future__ import annotations

from pacsor_tasks import tasks
from pacsor_tasks.app import app

__all__ = ["app", "tasks"]
