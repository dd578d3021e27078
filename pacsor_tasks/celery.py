"""What `celery -A pacsor_tasks` loads.

Workers import the tasks (`imports` in `celeryconfig`); what only sends or watches does without the
pipeline's code.
"""

from __future__ import annotations

from pacsor_tasks.app import app

__all__ = ["app"]
