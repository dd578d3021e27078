"""Packages that bring a type of core, as an installer leaves them on disk."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

FOLDER_CORE = Path(__file__).parents[2] / "examples" / "core-folder"


def add_package(site: Path, name: str, source: str, *, value: str = "make") -> None:
    """A package with one module and the entry point of a type of core, both of its name."""
    module = f"core_{name}"
    site.mkdir(exist_ok=True)
    (site / f"{module}.py").write_text(source)
    info = site / f"pacsor_{module}-0.3.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: pacsor-{module}\nVersion: 0.3\n")
    (info / "entry_points.txt").write_text(f"[pacsor_tasks.cores]\n{name} = {module}:{value}\n")


def install_folder_core(directory: Path) -> Path:
    """The example, installed by pip into a directory for PYTHONPATH."""
    source, site = directory / "source", directory / "site"
    shutil.copytree(FOLDER_CORE, source, ignore=shutil.ignore_patterns("build", "*.egg-info"))
    subprocess.run(
        [
            sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index",
            "--no-build-isolation", "--disable-pip-version-check", "--target", site, source,
        ],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return site
