"""Observations for `drift_run`: simulated, or of public radiographs with planted shifts."""

from __future__ import annotations

import csv
import random as standard_random
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from imaging_node.domain.errors import NotAnalysedError
from imaging_node.domain.image import DecodedImage
from imaging_node.domain.observation import SCORED, ImageObservation
from imaging_node.domain.study import ImageInstance
from imaging_node.flow.observing import observe_refused, observe_scored
from imaging_node.inference.declaration import DeclaredMonitoring
from imaging_node.inference.input_statistics import input_statistics
from imaging_node.inference.lanes import ARCHIVE
from imaging_node.inference.reference import build_reference
from imaging_node.node.models import load_models
from imaging_node.settings import Settings

if TYPE_CHECKING:
    from imaging_node.domain.finding import FloatImage
    from imaging_node.flow.analysis import ConfiguredModel

DEFAULT_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
_THREADS = 4
# A mobile unit that takes one study in two hundred, and always took brighter ones.
_RARE, _RARE_SHARE, _RARE_EXPOSURE = "R", 0.005, 2.0
_GAMMA = 0.6
_NOISE = 0.04


@dataclass(frozen=True, slots=True)
class Scene:
    """A stream and what may happen to it.

    Attributes:
        name: For the table.
        stable: Draws an image of the stable stream.
        reference: What the stream is compared with, where it is not with itself.
        shifts: Draws an image after a change, by the change's name.
    """

    name: str
    stable: Callable[[np.random.Generator], ImageObservation]
    reference: DeclaredMonitoring
    shifts: dict[str, Callable[[np.random.Generator], ImageObservation]]


def simulated(seed: int, reference_images: int) -> Scene:
    """Twenty numbers of known law: what theory speaks of, without any image."""
    draws: dict[str, Callable[[np.random.Generator], ImageObservation]] = {
        "exposure, +1 sd": lambda each: _simulated(each, exposure=1.0),
        "exposure, +0.6 sd (small)": lambda each: _simulated(each, exposure=0.6),
        "noise, sd x 2.5": lambda each: _simulated(each, noise=2.5),
        "another scanner": lambda each: _simulated(each, exposure=0.8, sharpness=-0.8),
        "prevalence 0.3 to 0.7": lambda each: _simulated(each, prevalence=0.7),
        "prevalence 0.3 to 0.5 (small)": lambda each: _simulated(each, prevalence=0.5),
        "feature distance x 2": lambda each: _simulated(each, distance=2.0),
        "refusals 0.02 to 0.35": lambda each: _simulated(each, refused=0.35),
        "refusals 0.02 to 0.2 (small)": lambda each: _simulated(each, refused=0.2),
    }
    random = np.random.default_rng([seed, 1])
    return Scene(
        "simulated",
        _simulated,
        build_reference([_simulated(random) for _ in range(reference_images)]),
        draws,
    )


def _simulated(
    random: np.random.Generator,
    *,
    exposure: float = 0.0,
    noise: float = 1.0,
    sharpness: float = 0.0,
    prevalence: float = 0.3,
    distance: float = 1.0,
    refused: float = 0.02,
) -> ImageObservation:
    groups = {
        "scanner": str(
            random.choice(["A", "B", "C", _RARE], p=[0.6 - _RARE_SHARE, 0.3, 0.1, _RARE_SHARE])
        ),
        "view_position": str(random.choice(["AP", "PA"])),
    }
    if random.random() < refused:
        return ImageObservation(
            model="simulated", model_digest="sha256:0", observed_at=NOW, outcome="blank image",
            scanner=groups["scanner"], view_position=groups["view_position"],
        )  # fmt: skip
    if groups["scanner"] == _RARE:
        exposure += _RARE_EXPOSURE
    normal = random.normal(0, 1, 8)
    probabilities, presences = {}, {}
    for index in range(4):
        is_ill = random.random() < (prevalence if index == 0 else 0.1)
        probability = float(random.beta(6, 2) if is_ill else random.beta(2, 6))
        probabilities[f"Finding {index}"] = probability
        presences[f"Finding {index}"] = "present" if probability >= 0.6 else "absent"  # noqa: PLR2004 - an operating point
    return ImageObservation(
        model="simulated",
        model_digest="sha256:0",
        observed_at=NOW,
        scanner=groups["scanner"],
        view_position=groups["view_position"],
        outcome=SCORED,
        probabilities=probabilities,
        presences=presences,
        disagreement=float(random.exponential(0.05)),
        quantities={
            "input_mean": float(noise * normal[0] + exposure),
            "input_deviation": float(np.exp(normal[1])),
            "input_entropy": float(normal[2]),
            "input_gradient": float(normal[3] + sharpness),
            "input_dark_share": max(0.0, float(normal[4])),
            "input_bright_share": max(0.0, float(normal[5])),
            "feature_distance_deep": float(distance * random.chisquare(16)),
            "feature_distance_shallow": float(random.chisquare(8)),
        },
    )


def radiographs(data: Path, *, reference_images: int, pool: int, shifted: int) -> Scene:
    """Public radiographs scored by the shipped bundle; the test splits are never opened.

    Args:
        data: Folder of the public data sets.
        reference_images: One of each patient.
        pool: Images of other patients, one of each, that the stable stream is drawn from.
        shifted: Images to each planted change.
    """
    model = load_models(Settings())[0]
    # Shuffled once more as patients: in the order of images those with many would come first.
    shuffled = standard_random.Random(7)  # noqa: S311 - no secret
    rows = _rows(data, "kermany")
    shuffled.shuffle(rows)
    patients = list({each["patient_id"]: each for each in rows}.values())
    shuffled.shuffle(patients)
    score = _Scoring(data, model)
    reference = build_reference(score(patients[:reference_images]))
    stream_rows = patients[reference_images : reference_images + pool]
    stable = score(stream_rows)
    ill = [each for row, each in zip(stream_rows, stable, strict=True) if row["Pneumonia"] == "1"]
    well = [each for row, each in zip(stream_rows, stable, strict=True) if row["Pneumonia"] != "1"]
    shifts = _changed(score, stream_rows[:shifted], _rows(data, "nih")[:shifted])
    model.scorer.close()
    prevalence = len(ill) / len(stable)
    return Scene(
        "radiographs",
        _drawn(stable),
        reference,
        shifts
        | {
            f"prevalence {prevalence:.2f} to 0.15": _mixed(ill, well, 0.15),
            f"prevalence {prevalence:.2f} to 0.3 (small)": _mixed(ill, well, 0.3),
        },
    )


def shipped(data: Path, *, shifted: int) -> Scene:
    """The reference that the shipped bundle brings, and a stream of what it was made of.

    It holds one film of each patient of the calibration split, so the stream draws a patient, then
    one of the patient's films.
    """
    model = load_models(Settings())[0]
    reference = model.bundle.monitoring
    if reference is None:
        raise SystemExit("the shipped bundle brings no reference")
    rows = [row for row in _rows(data, "kermany") if row["split"] == "val"]
    score = _Scoring(data, model)
    of_patients: dict[str, list[ImageObservation]] = {}
    ill: list[ImageObservation] = []
    well: list[ImageObservation] = []
    for row, image in zip(rows, score(rows), strict=True):
        of_patients.setdefault(row["patient_id"], []).append(image)
        (ill if row["Pneumonia"] == "1" else well).append(image)
    patients = list(of_patients.values())
    standard_random.Random(7).shuffle(rows)  # noqa: S311 - no secret
    shifts = _changed(score, rows[:shifted], _rows(data, "nih")[:shifted])
    model.scorer.close()
    return Scene(
        "shipped reference",
        lambda random: _pick(patients[int(random.integers(len(patients)))], random),
        reference,
        shifts | {"prevalence to 0.15": _mixed(ill, well, 0.15)},
    )


def _changed(
    score: _Scoring, some: Sequence[dict[str, str]], adults: Sequence[dict[str, str]]
) -> dict[str, Callable[[np.random.Generator], ImageObservation]]:
    """Films as another exposure, another detector or another hospital would send them."""
    noise = np.random.default_rng(11)

    def noisy(image: FloatImage) -> FloatImage:
        return np.clip(image + noise.normal(0, _NOISE, image.shape), 0, 1).astype(np.float32)

    return {
        f"exposure: gamma {_GAMMA}": _drawn(score(some, lambda image: image**_GAMMA)),
        "inverted greys": _drawn(score(some, lambda image: 1 - image)),
        f"noise, sd {_NOISE}": _drawn(score(some, noisy)),
        "another scanner and hospital (adults)": _drawn(score(adults)),
    }


def _mixed(
    ill: Sequence[ImageObservation], well: Sequence[ImageObservation], prevalence: float
) -> Callable[[np.random.Generator], ImageObservation]:
    return lambda random: _pick(ill if random.random() < prevalence else well, random)


def _rows(data: Path, source: str) -> list[dict[str, str]]:
    """Training and validation images whose Pneumonia label is known: never the test split."""
    with (data / "chest_radiographs" / "index.csv").open(encoding="utf-8", newline="") as index:
        return [
            row
            for row in csv.DictReader(index)
            if row["source"] == source
            and row["split"] in {"train", "val"}
            and row["Pneumonia"] in {"0", "1"}
        ]


def _drawn(
    images: Sequence[ImageObservation],
) -> Callable[[np.random.Generator], ImageObservation]:
    return lambda random: _pick(images, random)


def _pick(images: Sequence[ImageObservation], random: np.random.Generator) -> ImageObservation:
    # Scanner and view carry nothing here: groups of an exchangeable stream.
    return replace(
        images[int(random.integers(len(images)))],
        scanner=str(random.choice(["A", "B"], p=[0.7, 0.3])),
        view_position=str(random.choice(["AP", "PA"])),
    )


class _Scoring:
    """Scores radiographs as the node does, several at a time."""

    def __init__(self, data: Path, model: ConfiguredModel) -> None:
        self._data = data
        self._model = model

    def __call__(
        self,
        rows: Sequence[dict[str, str]],
        change: Callable[[FloatImage], FloatImage] = lambda image: image,
    ) -> list[ImageObservation]:
        with ThreadPoolExecutor(_THREADS) as threads:
            return list(threads.map(lambda row: self._observe(row, change), rows))

    def _observe(
        self, row: dict[str, str], change: Callable[[FloatImage], FloatImage]
    ) -> ImageObservation:
        grey = cv2.imread(str(self._data / "chest_radiographs" / row["path"]), cv2.IMREAD_GRAYSCALE)
        if grey is None:
            raise SystemExit(f"{row['path']}: cannot be read as a picture; check --data")
        pixels = change(np.asarray(grey / 255, np.float32))
        uid = row["path"]
        instance = ImageInstance(
            path=Path(), digest="", study_instance_uid=uid, series_instance_uid=uid,
            sop_instance_uid=uid, sop_class_uid="", transfer_syntax_uid="", modality="DX",
            body_part="CHEST", view_position=row["view"], photometric_interpretation="",
            presentation_intent="", patient_age_years=None, rows=pixels.shape[0],
            columns=pixels.shape[1], number_of_frames=1, has_pixel_data=True,
            patient_sex=row["sex"],
        )  # fmt: skip
        identity = self._model.bundle.identity
        try:
            analysis = self._model.scorer.score(
                DecodedImage(sop_instance_uid=uid, p_values=pixels), ARCHIVE
            )
        except NotAnalysedError as error:
            return observe_refused(
                instance, error.reason, is_eligible=True, model=identity, observed_at=NOW
            )[1]
        return observe_scored(
            instance, analysis, input_statistics(pixels), model=identity, observed_at=NOW
        )[1]
