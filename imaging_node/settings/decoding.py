"""What an image may claim of a decoder."""

from __future__ import annotations

from pydantic import Field

from imaging_node.settings.section import Section


class DecodingSettings(Section):
    """Budgets, checked before anything is decoded; a larger image is "not analysed"."""

    max_frame_samples: int = Field(
        100_000_000,
        ge=1,
        le=2_000_000_000,
        description="Rows x columns x samples per pixel of one frame.",
    )
    max_object_samples: int = Field(
        4_000_000_000,
        ge=1,
        description="The same times the number of frames; a frame at a time is in memory.",
    )
    max_header_mib: int = Field(
        64, ge=1, le=2048, description="Length of what precedes the pixel data."
    )
    max_elements: int = Field(
        200_000, ge=1000, description="Elements and items in front of the pixel data."
    )
    max_nesting: int = Field(32, ge=1, le=64, description="Sequences within sequences.")
    max_inflated_mib: int = Field(
        256,
        ge=1,
        le=65536,
        description="What a deflated dataset may become; to decode it takes two and a quarter times"
        " as much of scoring.decoder_memory_mib.",
    )
