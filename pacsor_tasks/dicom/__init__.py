"""DICOM: headers, filters and the C-STORE SCU."""
