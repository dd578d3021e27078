"""Small real radiograph files for tests that move DICOM about."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

DATA = Path(str(files("data_store") / "data"))


def radiographs(*names: str) -> list[Path]:
    """Files of `pydicom-data`: RG1_UNCR, RG1_J2KR, RG3_UNCI, …"""
    return [DATA / f"{name}.dcm" for name in names or ("RG1_UNCR", "RG1_J2KR")]
