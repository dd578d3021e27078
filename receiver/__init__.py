"""The acceptor side of DICOM: C-STORE in, stable studies out."""
