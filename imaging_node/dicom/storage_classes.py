"""The SOP classes that the listener serves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pynetdicom.presentation import AllStoragePresentationContexts

if TYPE_CHECKING:
    from collections.abc import Sequence

VERIFICATION = "1.2.840.10008.1.1"

STORAGE_CLASSES = (
    "1.2.840.10008.5.1.4.1.1.1",  # CR
    "1.2.840.10008.5.1.4.1.1.1.1",  # DX for presentation
    "1.2.840.10008.5.1.4.1.1.1.1.1",  # DX for processing
    "1.2.840.10008.5.1.4.1.1.1.2",  # mammography for presentation
    "1.2.840.10008.5.1.4.1.1.1.2.1",  # mammography for processing
    "1.2.840.10008.5.1.4.1.1.2",  # CT
    "1.2.840.10008.5.1.4.1.1.2.1",  # enhanced CT
    "1.2.840.10008.5.1.4.1.1.2.2",  # legacy converted enhanced CT
    "1.2.840.10008.5.1.4.1.1.4",  # MR
    "1.2.840.10008.5.1.4.1.1.4.1",  # enhanced MR
    "1.2.840.10008.5.1.4.1.1.4.3",  # enhanced MR colour
    "1.2.840.10008.5.1.4.1.1.4.4",  # legacy converted enhanced MR
    "1.2.840.10008.5.1.4.1.1.7",  # secondary capture
    "1.2.840.10008.5.1.4.1.1.7.1",  # multi-frame single bit secondary capture
    "1.2.840.10008.5.1.4.1.1.7.2",  # multi-frame grayscale byte secondary capture
    "1.2.840.10008.5.1.4.1.1.7.3",  # multi-frame grayscale word secondary capture
    "1.2.840.10008.5.1.4.1.1.7.4",  # multi-frame true colour secondary capture
)


def allowed_storage_classes(setting: str | Sequence[str]) -> tuple[str, ...]:
    """The storage SOP class UIDs that `dicom.storage_classes` stands for."""
    if setting == "images":
        return STORAGE_CLASSES
    if setting == "all":
        every = (str(each.abstract_syntax) for each in AllStoragePresentationContexts)
        return tuple(dict.fromkeys((*STORAGE_CLASSES, *every)))
    return tuple(setting)
