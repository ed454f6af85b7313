"""Is a bundle's map what it claims to be, and does it point at what matters?"""

from __future__ import annotations

import csv
import gzip
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt

from chest_xray.images import PREPROCESSING, IndexedImage, read_p_values
from chest_xray.scoring import run
from imaging_node.inference.preprocessing import prepare
from imaging_node.inference.saliency import ensemble_map

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import onnxruntime

    from chest_xray.scoring import ScoredImages

FloatArray = npt.NDArray[np.float32]
HIDDEN_SHARE = 0.1
BLUR_PIXELS = 37
COARSE_GRID = (7, 7)
RANDOM_MAPS = 3
LEAST_AGREEMENT = 0.999
LARGEST_INCOMPLETENESS = 1e-3
LARGEST_RANDOM_CORRELATION = 0.3
LEAST_DELETION_SHARE = 0.6
SEED = 11
NATIVE_PIXELS = 1024
_BOX_NAMES = {"Infiltrate": "Infiltration"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplanationChecks:
    """What the maps of one bundle were found to be.

    Attributes:
        agreement: Least correlation of a member's map with Captum's, over the golden images.
        incompleteness: Largest difference of a map's mean plus biases from the pooled logit.
        random_correlation: Mean size of the correlation of the maps with those of a head whose
            weights were drawn anew: a map that stays the same whatever the head is explains
            nothing of it. Without its sign, for with a head every map has its opposite: signed,
            the mean is 0 for any network.
        chance_correlation: The same of the maps of random heads among themselves, which is what
            the grids and features leave to chance.
        deletion_share: Of the flagged films with the finding, those whose score falls more when
            the tenth that the own map ranks highest is blurred than with random maps; with its
            95 % interval by Wilson.
        deletion_films: How many films that was, one of each patient.
        boxes, hits: Boxes that radiologists drew on validation and test films, and maps of their
            finding whose peak lies inside.
        chance: Mean share of the film that a box covers: the hits of a random point.
    """

    agreement: float
    incompleteness: float
    random_correlation: float
    chance_correlation: float
    deletion_share: float
    deletion_films: int
    boxes: int
    hits: int
    chance: float

    @property
    def is_passed(self) -> bool:
        """Whether captures may do without "explanation unverified"."""
        return (
            self.agreement >= LEAST_AGREEMENT
            and self.incompleteness <= LARGEST_INCOMPLETENESS
            and self.random_correlation < LARGEST_RANDOM_CORRELATION
            and self.deletion_share >= LEAST_DELETION_SHARE
        )


class MapDrawer:
    """Scores films and draws the pair's maps on the model grid."""

    def __init__(self, sessions: Sequence[onnxruntime.InferenceSession]) -> None:
        self._sessions = sessions

    def logits(self, inputs: FloatArray) -> FloatArray:
        """Pooled logits (n, findings) of inputs (n, 1, rows, columns)."""
        logits = [run(session, inputs)[0] for session in self._sessions]
        return np.asarray(np.mean(logits, 0), np.float32)

    def maps(self, inputs: FloatArray) -> FloatArray:
        """Maps of the pair, shape (n, findings, rows, columns)."""
        of_members = [run(session, inputs)[1] for session in self._sessions]
        weights = [1 / len(of_members)] * len(of_members)
        films, findings = of_members[0].shape[:2]
        drawn = np.empty((films, findings, *inputs.shape[2:]), np.float32)
        for film, finding in np.ndindex(films, findings):
            drawn[film, finding] = ensemble_map(
                [each[film, finding] for each in of_members], weights, *inputs.shape[2:]
            )
        return drawn


def film_inputs(data: Path, images: Sequence[IndexedImage]) -> FloatArray:
    """Model inputs of some films, shape (n, 1, rows, columns)."""
    return np.stack([prepare(read_p_values(data, image), PREPROCESSING) for image in images])


def flagged_films(
    scored: ScoredImages, thresholds: dict[str, float]
) -> list[tuple[IndexedImage, int]]:
    """Films with a finding whose pooled logit reaches the finding's threshold, and which finding.

    One film of each patient and finding: many films of one child say little more than one.

    Args:
        thresholds: Pooled logit from which each finding is called present.
    """
    flagged = {
        (image.patient, column): image
        for row, image in enumerate(scored.images)
        for column, label in enumerate(scored.labels)
        if image.labels.get(label) == 1 and scored.pooled[row, column] >= thresholds[label]
    }
    return [(image, column) for (_, column), image in flagged.items()]


def incompleteness(drawer: MapDrawer, inputs: FloatArray, biases: npt.NDArray[np.float64]) -> float:
    """Largest distance of a map's mean plus the pooled biases from the pooled logit."""
    summed = drawer.maps(inputs).mean((2, 3)) + biases
    return float(np.abs(summed - drawer.logits(inputs)).max())


def deletion_share(drawer: MapDrawer, inputs: FloatArray, findings: Sequence[int]) -> float:
    """Share of films whose own map beats the mean of some random ones; NaN without films."""
    if not len(inputs):
        return float("nan")
    chosen = np.arange(len(inputs)), np.array(findings)
    before = drawer.logits(inputs)[chosen]
    own = before - drawer.logits(_hide_all(inputs, drawer.maps(inputs)[chosen]))[chosen]
    random = np.random.default_rng(SEED)
    falls = []
    for _ in range(RANDOM_MAPS):
        coarse = random.normal(size=(len(inputs), *COARSE_GRID)).astype(np.float32)
        size = (PREPROCESSING.columns, PREPROCESSING.rows)
        chance = np.stack([cv2.resize(each, size) for each in coarse])
        falls.append(before - drawer.logits(_hide_all(inputs, chance))[chosen])
    return float((own > np.mean(falls, 0)).mean())


def _hide_all(inputs: FloatArray, guides: FloatArray) -> FloatArray:
    return np.stack(
        [_hide(image[0], guide)[None] for image, guide in zip(inputs, guides, strict=True)]
    )


def _hide(image: FloatArray, guide: FloatArray) -> FloatArray:
    """Blur the share of an image where a guide of the same shape is highest."""
    blurred = cv2.blur(image, (BLUR_PIXELS, BLUR_PIXELS))
    return np.where(guide >= np.quantile(guide, 1 - HIDDEN_SHARE), blurred, image).astype(
        np.float32
    )


def correlations_of(first: FloatArray, second: FloatArray) -> list[float]:
    """Of pairs of maps, both of shape (n, rows, columns)."""
    return [
        float(np.corrcoef(one.ravel(), other.ravel())[0, 1])
        for one, other in zip(first, second, strict=True)
    ]


def box_hits(
    drawer: MapDrawer, data: Path, images: Sequence[IndexedImage], labels: Sequence[str]
) -> tuple[int, int, float]:
    """Boxes of the NIH radiologists on these films, hits of the maps' peaks, and chance."""
    by_name = {image.path.rsplit("/", 1)[-1].rsplit(".", 1)[0]: image for image in images}
    path = data / "chest_radiographs" / "labels" / "BBox_List_2017.csv.gz"
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))[1:]
    boxes = hits = 0
    shares = []
    for name, label, *numbers in rows:
        image = by_name.get(name.rsplit(".", 1)[0])
        finding = _BOX_NAMES.get(label, label)
        if image is None or finding not in labels:
            continue
        left, top, width, height = (float(each) / NATIVE_PIXELS for each in numbers[:4])
        grid = drawer.maps(film_inputs(data, [image]))[0, labels.index(finding)]
        row, column = np.unravel_index(int(grid.argmax()), grid.shape)
        across, down = (column + 0.5) / grid.shape[1], (row + 0.5) / grid.shape[0]
        boxes += 1
        hits += left <= across <= left + width and top <= down <= top + height
        shares.append(width * height)
    return boxes, hits, float(np.mean(shares)) if shares else float("nan")
