"""Deletion test of the maps: does hiding what a map points at cost the score?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt

from imaging_node.inference.saliency import ensemble_map

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

FloatArray = npt.NDArray[np.float32]
HIDDEN_SHARE = 0.1
BLUR_PIXELS = 63
COARSE_GRID = (7, 7)
BOOTSTRAP_DRAWS = 2000
SEED = 11


@dataclass(frozen=True, slots=True, kw_only=True)
class DeletionResult:
    """Mean fall of the pooled logit when a tenth of each film is blurred away.

    Attributes:
        images: How many films were tested.
        own: Hidden where the film's own map is highest.
        random: Hidden where a random map as coarse as the CNN's is highest.
        foreign: Hidden where another film's map is highest: like anatomy, wrong film.
        lowest: Hidden where the film's own map is lowest.
        least_gain: Lower end of the 95 % bootstrap interval of the mean of own - random.
    """

    images: int
    own: float
    random: float
    foreign: float
    lowest: float
    least_gain: float

    @property
    def is_passed(self) -> bool:
        """Whether the maps point at what matters better than chance does."""
        return self.least_gain > 0


def delete_and_score(
    inputs: FloatArray,
    predict: Callable[[FloatArray], tuple[FloatArray, Sequence[FloatArray]]],
) -> DeletionResult:
    """Run the test on films that are called present.

    Args:
        inputs: Model inputs, shape (n, 1, rows, columns), n >= 2.
        predict: To pooled logits, shape (n,), and each member's maps, shape (n, 1, h, w).
    """
    before, member_maps = predict(inputs)
    weights = [1 / len(member_maps)] * len(member_maps)
    rows, columns = inputs.shape[2:]
    maps = np.stack(
        [
            ensemble_map([each[index, 0] for each in member_maps], weights, rows, columns)
            for index in range(len(inputs))
        ]
    )

    def fall(guides: FloatArray) -> FloatArray:
        hidden = np.stack(
            [_hide(image[0], guide)[None] for image, guide in zip(inputs, guides, strict=True)]
        )
        return np.asarray(before - predict(hidden)[0], np.float32)

    generator = np.random.default_rng(SEED)
    coarse = generator.normal(size=(len(inputs), *COARSE_GRID)).astype(np.float32)
    chance = np.stack([ensemble_map([each], [1.0], rows, columns) for each in coarse])
    own, random = fall(maps), fall(chance)
    gains = (own - random)[generator.integers(0, len(own), (BOOTSTRAP_DRAWS, len(own)))].mean(1)
    return DeletionResult(
        images=len(inputs),
        own=float(own.mean()),
        random=float(random.mean()),
        foreign=float(fall(np.roll(maps, 1, axis=0)).mean()),
        lowest=float(fall(-maps).mean()),
        least_gain=float(np.percentile(gains, 2.5)),
    )


def _hide(image: FloatArray, guide: FloatArray) -> FloatArray:
    """Blur the share of an image where a guide of the same shape is highest."""
    blurred = cv2.blur(image, (BLUR_PIXELS, BLUR_PIXELS))
    return np.where(guide >= np.quantile(guide, 1 - HIDDEN_SHARE), blurred, image).astype(
        np.float32
    )
