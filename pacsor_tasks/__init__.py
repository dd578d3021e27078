"""pacsor-tasks: the gateway between a hospital's imaging network and an AI service."""

__version__ = "0.1.0"
