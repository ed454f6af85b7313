"""How far an image lies from those that the model was made with, in the model's own features.

Features of two depths are compared with those of the training images: the Mahalanobis distance
within their main directions, what lies outside of these, and, at the greater depth, the distance
to the nearest neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from imaging_node.domain.finding import NotAnalysedReason
from imaging_node.inference.film_measures import Refusal

FloatArray = npt.NDArray[np.float32]
NEIGHBOURS = 5


class DeclaredDepth(BaseModel):
    """One depth of the features.

    Attributes:
        name: Ends the names of its distances, e.g. "deep".
        first, last: Columns of the graph's `features` that belong to it, last exclusive.
        space: `.npy`, float32, shape (1 + k, last - first): the mean of the training images,
            then k directions, scaled so that training images have variance 1 along each.
        residual_scale: Root mean square of what training images keep outside of them, > 0.
        neighbours: `.npy`, float32, shape (n, k): training images in that space; "" for none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z]+$")
    first: int = Field(ge=0)
    last: int = Field(ge=1)
    space: str
    residual_scale: float = Field(gt=0)
    neighbours: str = ""

    @property
    def distance_names(self) -> list[str]:
        """What `Depth.distances` measures at this depth."""
        kinds = ["distance", "residual", *(["neighbours"] if self.neighbours else [])]
        return [f"{kind}_{self.name}" for kind in kinds]


class DeclaredFamiliarity(BaseModel):
    """The bundle's `familiarity`.

    Attributes:
        limits: Largest distance that passes, each > 0, by the name of the distance; from the
            calibration split.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    depths: tuple[DeclaredDepth, ...] = Field(min_length=1)
    limits: dict[str, Annotated[float, Field(gt=0)]] = Field(min_length=1)

    @model_validator(mode="after")
    def _limits_of_known_distances(self) -> DeclaredFamiliarity:
        known = {name for depth in self.depths for name in depth.distance_names}
        if unknown := set(self.limits) - known:
            raise ValueError(f"limits of distances that no depth measures: {sorted(unknown)}")
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class Depth:
    """`DeclaredDepth` with its arrays; `directions` has orthogonal rows."""

    name: str
    first: int
    last: int
    mean: FloatArray
    directions: FloatArray
    residual_scale: float
    neighbours: FloatArray | None

    def distances(self, features: FloatArray) -> dict[str, float]:
        """Dimensionless distances of one image, about 1 for training images.

        Args:
            features: All of the graph's, shape (d,).
        """
        centred = features[self.first : self.last] - self.mean
        place = self.directions @ centred
        # The directions are scaled; their squared lengths undo it on the way back.
        within = (place / (self.directions**2).sum(1)) @ self.directions
        residual = centred - within
        found = {
            f"distance_{self.name}": float(np.sqrt(np.mean(place**2))),
            f"residual_{self.name}": float(np.sqrt(np.mean(residual**2))) / self.residual_scale,
        }
        if self.neighbours is not None:
            apart = np.sqrt(((self.neighbours - place) ** 2).mean(1))
            found[f"neighbours_{self.name}"] = float(np.sort(apart)[:NEIGHBOURS].mean())
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Familiarity:
    """Knows what the training images looked like to the model."""

    depths: tuple[Depth, ...]
    limits: Mapping[str, float]

    def distances(self, features: FloatArray) -> dict[str, float]:
        """Every distance of one image by name; `features` has shape (d,)."""
        return {
            name: value
            for depth in self.depths
            for name, value in depth.distances(features).items()
        }

    def check(self, distances: Mapping[str, float]) -> list[Refusal]:
        """At most one refusal: for the distance that exceeds its limit the most."""
        excess, name = max((distances[name] / limit, name) for name, limit in self.limits.items())
        if excess <= 1:
            return []
        return [
            Refusal(
                reason=NotAnalysedReason.UNFAMILIAR,
                detail=f"{name} {distances[name]:.2f}, limit {self.limits[name]:.2f}",
            )
        ]


def fit_space(features: FloatArray, directions: int) -> tuple[FloatArray, float]:
    """Main directions of training features.

    Args:
        features: Of one depth, shape (n, d), n > directions.
        directions: How many to keep, < d.

    Returns:
        The array of `DeclaredDepth.space` and its `residual_scale`.
    """
    mean = features.mean(0, dtype=np.float64)
    centred = features - mean
    _, singular, axes = np.linalg.svd(centred, full_matrices=False)
    deviations = singular[:directions] / np.sqrt(len(features))
    kept = axes[:directions]
    residual = centred - (centred @ kept.T) @ kept
    space = np.concatenate([mean[np.newaxis], kept / deviations[:, np.newaxis]])
    return space.astype(np.float32), float(np.sqrt(np.mean(residual**2)))
