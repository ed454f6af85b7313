"""From P-Values to the model's input, the same in training and in service; and the way back."""

from __future__ import annotations

from typing import Literal, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from imaging_node.domain.finding import FloatImage  # noqa: TC001 - names types at run time

ModelInput = npt.NDArray[np.float32]
"""One image as a network takes it: float32, shape (1, rows, columns), the 1 is the channel."""


class Preprocessing(BaseModel):
    """The declarative rules of one bundle: data, never code.

    Attributes:
        rows, columns: Model grid in pixels.
        resize: "stretch" fills the grid and gives up the aspect ratio.
        lower_percentile, upper_percentile: Of the resized image in [0, 100]; they become
            0 and 1 and what lies beyond is cut off.
        mean, standard_deviation: Of the training set after that, dimensionless.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: int = Field(ge=16, le=2048)
    columns: int = Field(ge=16, le=2048)
    resize: Literal["stretch"]
    lower_percentile: float = Field(ge=0, le=100)
    upper_percentile: float = Field(ge=0, le=100)
    mean: float
    standard_deviation: float = Field(gt=0)

    @model_validator(mode="after")
    def _percentiles_in_order(self) -> Preprocessing:
        if self.lower_percentile >= self.upper_percentile:
            raise ValueError("lower_percentile must be below upper_percentile")
        return self


class GriddedImage(NamedTuple):
    """An image on the model grid, before and after its stretch; the gates look at both.

    Attributes:
        grid: P-Values in [0, 1], shape (rules.rows, rules.columns).
        stretched: The same between its percentiles, in [0, 1].
    """

    grid: FloatImage
    stretched: FloatImage


def prepare(p_values: FloatImage, rules: Preprocessing) -> ModelInput:
    """`bring_to_grid`, then `standardise`: all that happens to an image on its way to a model."""
    return standardise(bring_to_grid(p_values, rules).stretched, rules)


def bring_to_grid(p_values: FloatImage, rules: Preprocessing) -> GriddedImage:
    """Bring one image onto the model grid.

    Args:
        p_values: P-Values in [0, 1], 1 is white; shape (rows, columns), both >= 1.
        rules: The bundle's.

    Raises:
        ValueError: `p_values` is not two-dimensional or is empty.
    """
    if p_values.ndim != 2 or p_values.size == 0:  # noqa: PLR2004 - rows and columns
        raise ValueError(f"expected P-Values of shape (rows, columns), got {p_values.shape}")
    grid = resize_to_grid(p_values, rules.rows, rules.columns)
    stretched = stretch_percentiles(grid, rules.lower_percentile, rules.upper_percentile)
    return GriddedImage(grid, stretched)


def resize_to_grid(image: FloatImage, rows: int, columns: int) -> FloatImage:
    """Fill a grid of (rows, columns), averaging along an axis that shrinks.

    OpenCV averages areas only when both axes shrink; an image that shrinks along one axis
    and grows along the other is therefore resized in two steps, or it would alias.
    """
    image_rows, image_columns = image.shape
    smaller = (min(rows, image_rows), min(columns, image_columns))
    resized = np.ascontiguousarray(image, dtype=np.float32)
    if smaller != image.shape:
        shrunk = cv2.resize(resized, smaller[::-1], interpolation=cv2.INTER_AREA)
        resized = np.asarray(shrunk, dtype=np.float32)
    if smaller != (rows, columns):
        grown = cv2.resize(resized, (columns, rows), interpolation=cv2.INTER_LINEAR)
        resized = np.asarray(grown, dtype=np.float32)
    return resized


def stretch_percentiles(image: FloatImage, lower: float, upper: float) -> FloatImage:
    """Map two percentiles of an image, each in [0, 100], to 0 and 1 and cut off what is beyond.

    An image without contrast comes back as zeros; `quality` refuses such images earlier.
    """
    low, high = np.percentile(image, (lower, upper))
    if not high > low:
        return np.zeros_like(image, dtype=np.float32)
    stretched = (image - np.float32(low)) / np.float32(high - low)
    clipped: FloatImage = np.clip(stretched, 0, 1).astype(np.float32)
    return clipped


def standardise(stretched: FloatImage, rules: Preprocessing) -> ModelInput:
    """Shift and scale an image of the model grid and give it its channel axis."""
    scaled = (stretched - np.float32(rules.mean)) / np.float32(rules.standard_deviation)
    return np.asarray(scaled[np.newaxis], dtype=np.float32)


def draw_back(grid_map: FloatImage, source_shape: tuple[int, int]) -> FloatImage:
    """Draw a map on the model grid back onto the source image: the inverse of the resize.

    Args:
        grid_map: Shape (rules.rows, rules.columns).
        source_shape: Rows and columns of the image that was prepared.

    Returns:
        float32 of `source_shape`. Model and source pixels cover the same field: the corner
        of one is the corner of the other.
    """
    rows, columns = source_shape
    drawn = cv2.resize(
        np.ascontiguousarray(grid_map, dtype=np.float32),
        (columns, rows),
        interpolation=cv2.INTER_LINEAR,
    )
    return np.asarray(drawn, dtype=np.float32)
