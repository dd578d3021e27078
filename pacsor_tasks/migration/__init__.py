"""From a PACSOR installation to the gateway's own configuration."""

from pacsor_tasks.env_file import EnvText, parse, quoted, read, render, write, write_private

__all__ = ["EnvText", "parse", "quoted", "read", "render", "write", "write_private"]
