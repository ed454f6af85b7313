"""pydicom decoder plug-in: JPEG Extended with 12 bits through GDCM.

pydicom's own GDCM plug-in refuses more than 8 bits, because it would tell GDCM the bits of the
header instead of those of the codestream.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import gdcm
from pydicom.pixels.utils import _get_jpg_parameters  # the parser that pydicom's runner uses
from pydicom.uid import JPEGExtended12Bit

if TYPE_CHECKING:
    from pydicom.pixels.decoders.base import DecodeRunner

DECODER_DEPENDENCIES: Final = {JPEGExtended12Bit: ("python-gdcm>=3.0.10",)}

_BYTE_BITS: Final = 8


def is_available(uid: str) -> bool:
    """True for JPEG Extended (1.2.840.10008.1.2.4.51)."""
    return uid in DECODER_DEPENDENCIES


def decode_frame(src: bytes, runner: DecodeRunner) -> bytes:
    """Samples of one frame, 16 bits each, little endian."""
    precision = int(_get_jpg_parameters(src).get("precision", runner.bits_stored))
    bits_allocated = _BYTE_BITS if precision <= _BYTE_BITS else 2 * _BYTE_BITS
    runner.set_option("bits_allocated", bits_allocated)
    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(src)
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((runner.columns, runner.rows, 1))
    image.SetDataElement(element)
    interpretation = gdcm.PhotometricInterpretation.GetPIType(runner.photometric_interpretation)
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(interpretation))
    syntax = gdcm.TransferSyntax.GetTSType(str(JPEGExtended12Bit))
    image.SetTransferSyntax(gdcm.TransferSyntax(syntax))
    image.SetPixelFormat(
        gdcm.PixelFormat(runner.samples_per_pixel, bits_allocated, precision, precision - 1, 0)
    )
    # GDCM returns char* as str.
    samples: bytes = image.GetBuffer().encode("utf-8", "surrogateescape")
    return samples
