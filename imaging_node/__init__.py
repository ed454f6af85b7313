"""DICOM imaging inference node."""

__version__ = "0.1.0"
