"""The Celery application. Its configuration (`celeryconfig`) is read when it is first used."""

from __future__ import annotations

from celery import Celery

app = Celery("pacsor")
app.config_from_object("celeryconfig")
