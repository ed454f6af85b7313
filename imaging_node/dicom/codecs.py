"""Which transfer syntaxes this machine can decode."""

from __future__ import annotations

from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import UID

from imaging_node.dicom.transfer_syntaxes import TRANSFER_SYNTAXES


def decodable_syntaxes() -> dict[str, bool]:
    """Name of every accepted transfer syntax, and whether a decoder for it is installed."""
    return {UID(each).name: get_decoder(UID(each)).is_available for each in TRANSFER_SYNTAXES}
