"""Gates of a bundle: fitted on training films, with limits from the calibration split."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt
import torch

from chest_xray.export import export_graph
from chest_xray.film_gate_training import FILM_GATE_SIZE, FilmGateNetwork
from imaging_node.inference.familiarity import (
    DeclaredDepth,
    DeclaredFamiliarity,
    Depth,
    fit_space,
)
from imaging_node.inference.film_gate import DeclaredFilmGate, FilmGate
from imaging_node.inference.film_measures import FilmLimits

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from chest_xray.scoring import ScoredImages
    from imaging_node.domain.finding import FloatImage

FILM_GATE_FILE = "gates/film.onnx"
SHALLOW_CHANNELS = 256
DIRECTIONS = {"shallow": 40, "deep": 40}
NEIGHBOURS_KEPT = 600
MAXIMUM_LOSSY_RATIO = 25.0
JPEG_QUALITY = 70
LARGE_SHAPE = (2500, 2048)
_REFUSED_SHARE = 0.002
_MARGIN = 1.15
_SHARE_MARGIN = 1.5


def mildly_compressed(film: FloatImage) -> FloatImage:
    """Through JPEG at a ratio of about 7."""
    grey = np.round(film * 255).astype(np.uint8)
    written = cv2.imencode(".jpg", grey, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1]
    read = cv2.imdecode(written, cv2.IMREAD_GRAYSCALE)
    assert read is not None  # it was written a line above
    return np.asarray(read / 255, np.float32)


def enlarged(film: FloatImage) -> FloatImage:
    """Compressed, then as large as a detector's image."""
    rows, columns = LARGE_SHAPE
    large = cv2.resize(mildly_compressed(film), (columns, rows), interpolation=cv2.INTER_CUBIC)
    return np.clip(large, 0, 1).astype(np.float32)


def limit_above(values: Sequence[float], margin: float = _MARGIN) -> float:
    """A limit that nearly every calibration film keeps, and a little more."""
    return round(float(np.quantile(values, 1 - _REFUSED_SHARE)) * margin, 4)


def fit_film_limits(calibration: Sequence[ScoredImages]) -> FilmLimits:
    """Limits of what can be measured without a model."""
    measures = [each for scored in calibration for each in scored.measures]

    def highest(name: str) -> float:
        return min(1.0, limit_above([each[name] for each in measures], _SHARE_MARGIN))

    smallest_field = float(np.quantile([each["field_share"] for each in measures], _REFUSED_SHARE))
    return FilmLimits(
        maximum_clipped_share=highest("clipped_share"),
        minimum_field_share=round(smallest_field / _SHARE_MARGIN, 4),
        maximum_stroke_share=max(0.01, highest("stroke_share")),
    )


def fit_film_gate(
    network: FilmGateNetwork, directory: Path, calibration: Sequence[ScoredImages]
) -> DeclaredFilmGate:
    """Export the film gate into the bundle and choose its limit."""
    example = torch.zeros(1, 1, FILM_GATE_SIZE, FILM_GATE_SIZE)
    graph = export_graph(network.eval(), example, ["logits"], directory / FILM_GATE_FILE)
    declared = DeclaredFilmGate(
        file=FILM_GATE_FILE, image_size=FILM_GATE_SIZE, minimum_frontal_probability=0
    )
    gate = FilmGate(declared, graph, place=FILM_GATE_FILE)
    frontal = [
        gate.probabilities(film.astype(np.float32) / 255)["frontal"]
        for scored in calibration
        for film in scored.stretched
    ]
    # On the scale of logits a margin means the same at both ends.
    lowest = float(np.quantile(frontal, _REFUSED_SHARE))
    odds = lowest / max(1 - lowest, 1e-9) / 3
    return declared.model_copy(
        update={"minimum_frontal_probability": round(min(0.5, odds / (1 + odds)), 6)}
    )


def fit_familiarity(
    directory: Path, training: ScoredImages, calibration: Sequence[ScoredImages]
) -> DeclaredFamiliarity:
    """Write what training images look like to the CNN, and choose the limits."""
    columns = {
        "shallow": (0, SHALLOW_CHANNELS),
        "deep": (SHALLOW_CHANNELS, training.features.shape[1]),
    }
    declared, distances = [], []
    for name, (first, last) in columns.items():
        features = training.features[:, first:last]
        space, residual_scale = fit_space(features, DIRECTIONS[name])
        places = (features - space[0]) @ space[1:].T
        neighbours = places[:NEIGHBOURS_KEPT].astype(np.float32) if name == "deep" else None
        depth = DeclaredDepth(
            name=name,
            first=first,
            last=last,
            space=f"gates/{name}.npy",
            residual_scale=residual_scale,
            neighbours="" if neighbours is None else f"gates/{name}.neighbours.npy",
        )
        np.save(directory / depth.space, space)
        if neighbours is not None:
            np.save(directory / depth.neighbours, neighbours)
        declared.append(depth)
        distances.append(
            Depth(
                name=name,
                first=first,
                last=last,
                mean=space[0],
                directions=space[1:],
                residual_scale=residual_scale,
                neighbours=neighbours,
            )
        )
    found = [
        distance
        for depth in distances
        for distance in _by_name(depth, [row for each in calibration for row in each.features])
    ]
    return DeclaredFamiliarity(
        depths=tuple(declared), limits={name: limit_above(values) for name, values in found}
    )


def _by_name(
    depth: Depth, features: Sequence[npt.NDArray[np.float32]]
) -> list[tuple[str, list[float]]]:
    measured = [depth.distances(row) for row in features]
    return [(name, [each[name] for each in measured]) for name in measured[0]]
