"""`python -m receiver`: the DICOM storage SCP of the gateway."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import structlog

from pacsor_tasks.errors import ConfigError
from pacsor_tasks.observability import configure_logging
from pacsor_tasks.settings import load_with_warnings

EXIT_CONFIG = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the receiver, or one of its processes.

    Returns:
        The exit status: 2 when the settings are wrong (what is wrong is on stderr).
    """
    args = _parse(arguments)
    try:
        settings, warnings = load_with_warnings()
        configure_logging(settings.PACSOR_LOG_LEVEL, settings.LOG_FORMAT)
        port = settings.PORT if args.port is None else args.port
        # Only what is needed is loaded: an SCP process knows no Celery, the parent no pynetdicom.
        if args.ready_file is not None:
            from receiver import child

            return child.run(settings, port, args.ready_file)
        for warning in warnings:
            structlog.get_logger(__name__).warning("settings.warning", message=warning)
        from pacsor_tasks import pipeline
        from receiver import service

        service.run(settings, port, args.port_file, pipeline.enqueue_ingest)
    except ConfigError as exc:
        sys.stderr.write(f"{exc}\n")
        return EXIT_CONFIG
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m receiver", description=__doc__)
    parser.add_argument("--port", type=int, help="instead of PORT; 0: any free port")
    parser.add_argument("--port-file", type=Path, help="gets the port's number when it listens")
    parser.add_argument("--ready-file", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
