"""Which transfer syntaxes this machine can decode."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Final

from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import (
    JPEG2000,
    UID,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    RLELossless,
)

from imaging_node.dicom.transfer_syntaxes import TRANSFER_SYNTAXES

# What decodes damage without a word, after the codec before it has refused.
_SILENT: Final = {
    JPEGBaseline8Bit: "pillow",
    JPEGExtended12Bit: "pillow",
    JPEG2000Lossless: "pillow",
    JPEG2000: "pillow",
    RLELossless: "pylibjpeg",
}


def choose_codecs() -> None:
    """Import the codecs of this process, without those that do not tell of damage."""
    decodable_syntaxes()
    get_decoder(JPEGExtended12Bit).add_plugin(
        "gdcm_12_bit", ("imaging_node.dicom.gdcm_extended", "decode_frame")
    )
    for syntax, plugin in _SILENT.items():
        decoder = get_decoder(syntax)
        # Not listed where it is not installed.
        if plugin in decoder.available_plugins:
            decoder.remove_plugin(plugin)


def decodable_syntaxes() -> dict[str, bool]:
    """Name of every accepted transfer syntax, and whether a decoder process has a codec for it.

    Any process may ask: it chooses nothing.
    """
    return {UID(each).name: _has_decoder(UID(each)) for each in TRANSFER_SYNTAXES}


def _has_decoder(syntax: UID) -> bool:
    decoder = get_decoder(syntax)
    used = set(decoder.available_plugins) - {_SILENT.get(syntax)}
    is_added = syntax == JPEGExtended12Bit and find_spec("gdcm") is not None
    return decoder.is_native or is_added or bool(used)
