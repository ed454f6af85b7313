"""DICOM imaging inference node."""

__version__ = "0.2.0"
