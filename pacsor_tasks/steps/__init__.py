"""The steps of a run: ordinary functions over ports, without Celery."""
