"""What an image may claim of a decoder, settled before anything of it is decoded."""

from __future__ import annotations

from dataclasses import dataclass

from imaging_node.dicom.header_scan import MOST_ELEMENTS, MOST_NESTING

_MEBIBYTE = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodingBudget:
    """The largest image that is decoded; the defaults admit 2 GB of frames, one at a time.

    Attributes:
        frame_samples: Rows x columns x samples per pixel of one frame.
        object_samples: The same times the number of frames.
        header_bytes: What precedes the pixel data.
        elements: Elements and items of all levels in front of the pixel data.
        nesting: Sequences within sequences.
        inflated_bytes: What a deflated dataset (PS3.5 A.5) may become.
    """

    frame_samples: int = 100_000_000
    object_samples: int = 4_000_000_000
    header_bytes: int = 64 * _MEBIBYTE
    elements: int = MOST_ELEMENTS
    nesting: int = MOST_NESTING
    inflated_bytes: int = 256 * _MEBIBYTE
