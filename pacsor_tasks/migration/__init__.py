"""From a PACSOR installation to the gateway's own configuration.

Env files themselves are read and written by `pacsor_tasks.env_file`.
"""

from pacsor_tasks.migration.config_file import read_config
from pacsor_tasks.migration.filters import Filters, repaired

__all__ = ["Filters", "read_config", "repaired"]
