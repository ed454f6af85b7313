"""DICOM imaging inference node."""

__version__ = "0.3.0"
