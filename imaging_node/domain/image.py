"""A decoded image, as every model and every picture of the node sees it."""

from __future__ import annotations

from dataclasses import dataclass

from imaging_node.domain.finding import FloatImage


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodedImage:
    """P-Values of one frame (PS3.14): after Modality LUT, VOI LUT and MONOCHROME1 inversion.

    Attributes:
        sop_instance_uid: Image the pixels come from.
        p_values: float32, shape (rows, columns) as stored, in [0, 1], 1 is white.
        row_to_column_spacing: Height of a pixel over its width, > 0; 1 is square.
    """

    sop_instance_uid: str
    p_values: FloatImage
    row_to_column_spacing: float = 1.0
