"""What a bundle's graphs say about the splits, exactly as the node would ask them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import onnxruntime

from chest_xray.evaluation import Split
from chest_xray.images import PREPROCESSING, IndexedImage, read_p_values
from imaging_node.inference.film_measures import measure_film
from imaging_node.inference.preprocessing import bring_to_grid, standardise

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from imaging_node.domain.finding import FloatImage

FloatArray = npt.NDArray[np.float64]
_BATCH = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredImages:
    """Some images and what the members said about them.

    Attributes:
        labels: Of the findings.
        logits: Shape (members, n, findings).
        pooled: Shape (n, findings).
        features: Of the CNN, shape (n, d).
        stretched: On the model grid, uint8, shape (n, rows, columns).
        measures: Of each film, as from `measure_film`.
    """

    images: Sequence[IndexedImage]
    labels: Sequence[str]
    logits: FloatArray
    features: npt.NDArray[np.float32]
    stretched: npt.NDArray[np.uint8]
    measures: Sequence[dict[str, float]]

    @property
    def pooled(self) -> FloatArray:
        """Mean over the members, shape (n, findings)."""
        return np.asarray(self.logits.mean(0))

    def split(
        self, label: str, keep: Callable[[IndexedImage], bool] = lambda _image: True
    ) -> Split:
        """One finding on those images for which its label is known and that `keep` lets in."""
        column = self.labels.index(label)
        chosen = np.array(
            [
                keep(image) and not np.isnan(image.labels.get(label, np.nan))
                for image in self.images
            ],
            bool,
        )
        images = [image for image, wanted in zip(self.images, chosen, strict=True) if wanted]
        return Split(
            truth=np.array([image.labels[label] for image in images], np.float32),
            patients=[image.patient for image in images],
            names=[image.path for image in images],
            logits=self.logits[:, chosen, column],
            pooled=self.pooled[chosen, column],
        )


def open_graphs(graphs: Sequence[bytes]) -> list[onnxruntime.InferenceSession]:
    """Sessions of one thread, as the sums of a run must not depend on the machine's cores."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return [
        onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        for graph in graphs
    ]


def run(
    session: onnxruntime.InferenceSession, inputs: npt.NDArray[np.float32]
) -> list[npt.NDArray[np.float32]]:
    """All outputs of one member for inputs of shape (n, 1, rows, columns)."""
    parts = [
        session.run(None, {"image": inputs[start : start + _BATCH]})
        for start in range(0, len(inputs), _BATCH)
    ]
    return [np.concatenate(outputs) for outputs in zip(*parts, strict=True)]


def score_images(
    sessions: Sequence[onnxruntime.InferenceSession],
    labels: Sequence[str],
    data: Path,
    images: Sequence[IndexedImage],
    change: Callable[[FloatImage], FloatImage] = lambda film: film,
) -> ScoredImages:
    """Score films, each after `change`, in batches that do not hold all of them at once."""
    logits: list[list[npt.NDArray[np.float32]]] = [[] for _ in sessions]
    features: list[npt.NDArray[np.float32]] = []
    measures: list[dict[str, float]] = []
    kept = np.empty((len(images), PREPROCESSING.rows, PREPROCESSING.columns), np.uint8)
    for start in range(0, len(images), _BATCH):
        inputs = []
        for place, image in enumerate(images[start : start + _BATCH], start):
            gridded = bring_to_grid(change(read_p_values(data, image)), PREPROCESSING)
            measures.append(measure_film(gridded.grid))
            kept[place] = np.round(gridded.stretched * 255)
            inputs.append(standardise(gridded.stretched, PREPROCESSING))
        for member, session in enumerate(sessions):
            answer = session.run(None, {"image": np.stack(inputs)})
            logits[member].append(answer[0])
            features += answer[2:]
    return ScoredImages(
        images=images,
        labels=labels,
        logits=np.stack([np.concatenate(parts) for parts in logits]).astype(np.float64),
        features=np.concatenate(features),
        stretched=kept,
        measures=measures,
    )
