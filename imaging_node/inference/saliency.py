"""The exact map of the ensemble: where the pooled logit came from, on the source image."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from imaging_node.domain.finding import FloatImage, SaliencyMap
from imaging_node.inference.preprocessing import draw_back

if TYPE_CHECKING:
    from collections.abc import Sequence


def ensemble_map(
    member_maps: Sequence[FloatImage], weights: Sequence[float], rows: int, columns: int
) -> FloatImage:
    """Weighted sum of the members' maps of one finding on the model grid.

    Args:
        member_maps: Evidence in logits, each of shape (h, w) on its member's own grid; rows
            and columns must be whole multiples of h and w, for only then does bilinear
            enlargement keep the mean.
        weights: Of the members, summing to 1.
        rows, columns: Model grid.

    Returns:
        float32, shape (rows, columns); its mean plus the weighted biases is the pooled logit.

    Raises:
        ValueError: A member's grid does not divide the model grid.
    """
    total = np.zeros((rows, columns), np.float32)
    for member_map, weight in zip(member_maps, weights, strict=True):
        if rows % member_map.shape[0] or columns % member_map.shape[1]:
            raise ValueError(f"a grid of {member_map.shape} does not divide ({rows}, {columns})")
        enlarged = cv2.resize(
            np.ascontiguousarray(member_map, dtype=np.float32),
            (columns, rows),
            interpolation=cv2.INTER_LINEAR,
        )
        total += np.float32(weight) * enlarged
    return total


def map_on_source(
    grid_map: FloatImage, *, label: str, sop_instance_uid: str, source_shape: tuple[int, int]
) -> SaliencyMap:
    """Draw a map on the model grid back through the inverse of the preprocessing."""
    return SaliencyMap(
        label=label,
        sop_instance_uid=sop_instance_uid,
        values=draw_back(grid_map, source_shape),
    )
