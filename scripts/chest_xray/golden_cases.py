"""The synthetic images of a bundle's self-test, and what they scored when it was built."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from chest_xray.images import PREPROCESSING
from chest_xray.recipe import MEMBERS
from chest_xray.scoring import run
from imaging_node.inference.golden import synthetic_thorax
from imaging_node.inference.preprocessing import prepare

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import onnxruntime

    from imaging_node.inference.bundle import Finding

GOLDEN_SHAPES = {"clear": (256, 208, 0.0), "opacity": (200, 240, 0.9), "narrow": (300, 150, 0.5)}
TOLERANCE = {"logit": 0.02, "probability": 0.01, "map": 0.1}


def golden_cases(
    folder: Path,
    sessions: Sequence[onnxruntime.InferenceSession],
    findings: dict[str, Finding],
) -> list[dict[str, object]]:
    """Write the synthetic inputs and their maps; what they scored goes into the metadata."""
    folder.mkdir()
    cases: list[dict[str, object]] = []
    for seed, (name, (rows, columns, opacity)) in enumerate(GOLDEN_SHAPES.items()):
        image = synthetic_thorax(rows, columns, opacity=opacity, seed=seed)
        np.save(folder / f"{name}.npy", image)
        answers = [run(session, prepare(image, PREPROCESSING)[np.newaxis]) for session in sessions]
        for member, answer in zip(MEMBERS, answers, strict=True):
            np.save(folder / f"{name}.{member}.maps.npy", answer[1][0])
        logits = [[round(float(each), 6) for each in answer[0][0]] for answer in answers]
        pooled = np.mean(logits, 0)
        cases.append(
            {
                "input": f"golden/{name}.npy",
                "logits": logits,
                "probabilities": [
                    round(finding.calibration.probability(float(logit)), 6)
                    for finding, logit in zip(findings.values(), pooled, strict=True)
                ],
                "maps": [f"golden/{name}.{member}.maps.npy" for member in MEMBERS],
            }
        )
    return cases
