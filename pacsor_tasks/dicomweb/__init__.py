"""DICOMweb: results go to a server by STOW-RS."""
