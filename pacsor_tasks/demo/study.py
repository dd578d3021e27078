"""The demo's study: real radiographs under new UIDs and an invented patient."""

from __future__ import annotations

import warnings
from datetime import datetime
from importlib.resources import files
from pathlib import Path

from pydicom import Dataset, dcmread
from pydicom.uid import generate_uid

from pacsor_tasks.errors import ConfigError

#: Two computed radiographs, each uncompressed and as lossless JPEG 2000.
RADIOGRAPHS = ("RG1_UNCR.dcm", "RG1_J2KR.dcm", "RG3_UNCR.dcm", "RG3_J2KR.dcm")


def make_study(into: Path) -> str:
    """Write the instances as files; pixels and transfer syntaxes stay as they are.

    Returns:
        The new StudyInstanceUID.

    Raises:
        ConfigError: The package with the radiographs is not installed.
    """
    source = _radiographs()
    into.mkdir(parents=True, exist_ok=True)
    now = datetime.now().astimezone()
    study_uid = str(generate_uid(prefix=None))
    series = {name[:3]: str(generate_uid(prefix=None)) for name in RADIOGRAPHS}
    for number, name in enumerate(RADIOGRAPHS, start=1):
        with warnings.catch_warnings():
            # The files are of 2004 and say some things that pydicom finds odd today.
            warnings.simplefilter("ignore")
            instance = dcmread(source / name)
            _readdress(instance, study_uid, series[name[:3]], number, now)
            instance.save_as(into / f"{number:02}.dcm", enforce_file_format=True)
    return study_uid


def _radiographs() -> Path:
    try:
        folder = Path(str(files("data_store"))) / "data"
    except ModuleNotFoundError:
        folder = Path("/nonexistent")
    if not (folder / RADIOGRAPHS[0]).is_file():
        raise ConfigError(
            "the demo's radiographs are missing: pip install pydicom-data, or give your own with"
            " --dicom DIR"
        )
    return folder


def _readdress(
    instance: Dataset, study_uid: str, series_uid: str, number: int, now: datetime
) -> None:
    instance.StudyInstanceUID = study_uid
    instance.SeriesInstanceUID = series_uid
    instance.SOPInstanceUID = str(generate_uid(prefix=None))
    instance.file_meta.MediaStorageSOPInstanceUID = instance.SOPInstanceUID
    instance.InstanceNumber = number
    instance.PatientName = "DEMO^RADIOGRAPH"
    instance.PatientID = "DEMO-0001"
    instance.PatientBirthDate = "19700101"
    instance.PatientSex = "O"
    instance.AccessionNumber = f"DEMO{now:%H%M%S}"
    instance.StudyID = "DEMO"
    instance.StudyDate = f"{now:%Y%m%d}"
    instance.StudyTime = f"{now:%H%M%S}"
    instance.InstitutionName = "DEMO"
    instance.ReferringPhysicianName = ""
