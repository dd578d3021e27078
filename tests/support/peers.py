"""Programs the tests need beside them: skipped on a laptop, a failure where CI is set."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

#: Where Debian keeps servers that are not on everybody's PATH.
ELSEWHERE = ("/usr/sbin", "/usr/local/sbin", "/usr/lib/dcmtk/bin")


def require_program(name: str) -> Path:
    """The program's path; without it the test is skipped, or fails when CI is set."""
    found = shutil.which(name) or shutil.which(name, path=os.pathsep.join(ELSEWHERE))
    if found is None:
        message = f"{name} is not installed"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return Path(found)
