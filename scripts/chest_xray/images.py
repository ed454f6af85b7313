"""The pictures that the models are trained and judged on, as the node would see them."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt

from imaging_node.inference.preprocessing import Preprocessing, resize_to_grid, stretch_percentiles

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imaging_node.domain.finding import FloatImage

DEFAULT_DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
PREPROCESSING = Preprocessing(
    rows=128,
    columns=128,
    resize="stretch",
    lower_percentile=0.5,
    upper_percentile=99.5,
    mean=0.5,
    standard_deviation=0.25,
)
ByteImages = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexedImage:
    """One row of the index.

    Attributes:
        path: Relative to the folder of the index.
        source: "kermany" (children) or "nih" (adults).
        split: "train", "val" or "test"; split by patient.
        view: "AP" or "PA".
        sex: "M", "F" or "" where unknown.
        age_years: None where unknown.
        labels: 1 present, 0 absent, NaN unknown; by finding.
    """

    path: str
    source: str
    patient: str
    split: str
    view: str
    sex: str
    age_years: float | None
    labels: dict[str, float]


def read_index(data: Path) -> list[IndexedImage]:
    """Every row of the index, in its order."""
    with (data / "chest_radiographs" / "index.csv").open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file)
        names = rows.fieldnames or []
        # The label columns stand between the demographics and the text they were mined from.
        findings = names[names.index("No_Finding") : names.index("finding_labels")]
        return [
            IndexedImage(
                path=row["path"],
                source=row["source"],
                patient=row["patient_id"],
                split=row["split"],
                view=row["view"],
                sex=row["sex"],
                age_years=float(row["age"]) if row["age"].replace(".", "", 1).isdigit() else None,
                # Blank means unknown, never absent.
                labels={
                    name: float(row[name]) if row[name] in {"0", "1"} else float("nan")
                    for name in findings
                },
            )
            for row in rows
        ]


def select(
    index: Sequence[IndexedImage],
    *,
    source: str | None = None,
    split: str,
    labels: Sequence[str] = (),
) -> list[IndexedImage]:
    """The images of one split whose `labels` are all known; None: of both sources."""
    return [
        image
        for image in index
        if image.split == split
        and source in (None, image.source)
        and not any(np.isnan(image.labels[label]) for label in labels)
    ]


def read_p_values(data: Path, image: IndexedImage) -> FloatImage:
    """One picture as P-Values in [0, 1]."""
    grey = cv2.imread(str(data / "chest_radiographs" / image.path), cv2.IMREAD_GRAYSCALE)
    if grey is None:
        raise SystemExit(f"{image.path}: cannot be read as a picture; check --data")
    return np.asarray(grey / 255, np.float32)


def load_images(data: Path, images: Sequence[IndexedImage], size: int) -> ByteImages:
    """Pictures stretched to a square grid and between their percentiles, (n, size, size)."""
    loaded = np.empty((len(images), size, size), np.uint8)
    for target, image in zip(loaded, images, strict=True):
        resized = resize_to_grid(read_p_values(data, image), size, size)
        stretched = stretch_percentiles(
            resized, PREPROCESSING.lower_percentile, PREPROCESSING.upper_percentile
        )
        target[:] = np.round(stretched * 255).astype(np.uint8)
    return loaded


def load_labels(images: Sequence[IndexedImage], labels: Sequence[str]) -> Labels:
    """Shape (n, labels), 1, 0 or NaN."""
    return np.array([[image.labels[label] for label in labels] for image in images], np.float32)
