"""Every check of a bundle's maps, run when it is built."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from chest_xray.explanation_checks import (
    ExplanationChecks,
    MapDrawer,
    box_hits,
    correlations_of,
    deletion_share,
    film_inputs,
    flagged_films,
    incompleteness,
)
from chest_xray.golden_cases import GOLDEN_SHAPES
from chest_xray.images import PREPROCESSING
from chest_xray.recipe import MEMBERS, SEED, build_network
from chest_xray.scoring import open_graphs, run
from chest_xray.tables import Evaluated, calibrated
from chest_xray.trained import Trained, head_of
from imaging_node.inference.bundle import Member
from imaging_node.inference.captum_check import captum_map, load_weights, pearson
from imaging_node.inference.golden import synthetic_thorax
from imaging_node.inference.preprocessing import prepare

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy.typing as npt
    import onnxruntime

CAPTUM = {
    "cnn": ("net.class_layers.relu", "LayerGradCam"),
    "vit": ("norm", "LayerGradientXActivation"),
}
COMPLETENESS_FILMS = 8
RANDOM_HEADS = 20


def check_explanations(
    trained: Trained,
    evaluated: Evaluated,
    graphs: dict[str, bytes],
    data: Path,
) -> ExplanationChecks:
    """Run every check of the maps, on films of the calibration and the test split."""
    sessions = open_graphs(list(graphs.values()))
    drawer = MapDrawer(sessions)
    biases = np.mean([head_of(trained, member).bias.detach().numpy() for member in MEMBERS], 0)
    films = film_inputs(data, evaluated.calibration.images[:COMPLETENESS_FILMS])
    thresholds = _logit_thresholds(evaluated)
    flagged = [
        film
        for scored in (evaluated.calibration, evaluated.test)
        for film in flagged_films(scored, thresholds)
    ]
    boxed = [
        image
        for image in (*evaluated.calibration.images, *evaluated.test.images)
        if image.source == "nih"
    ]
    correlation, by_chance = _random_head_correlations(trained, films)
    boxes, hits, chance = box_hits(drawer, data, boxed, trained.labels)
    return ExplanationChecks(
        agreement=_least_agreement(trained, graphs, sessions),
        incompleteness=incompleteness(drawer, films, biases),
        random_correlation=correlation,
        chance_correlation=by_chance,
        deletion_share=deletion_share(
            drawer,
            film_inputs(data, [image for image, _ in flagged]),
            [column for _, column in flagged],
        ),
        deletion_films=len(flagged),
        boxes=boxes,
        hits=hits,
        chance=chance,
    )


def _logit_thresholds(evaluated: Evaluated) -> dict[str, float]:
    """The pooled logit at which each finding is flagged, from the calibration split's films."""
    thresholds = {}
    for label, finding in evaluated.findings.items():
        pooled = evaluated.calibration.split(label).pooled
        flagged = pooled[calibrated(finding.calibration, pooled) >= finding.operating_point]
        thresholds[label] = float(flagged.min()) if len(flagged) else float("inf")
    return thresholds


@torch.inference_mode()
def _random_head_correlations(
    trained: Trained, films: npt.NDArray[np.float32]
) -> tuple[float, float]:
    """Mean size of the correlation with maps of random heads, and of these with each other."""
    own_sizes: list[float] = []
    chance_sizes: list[float] = []
    inputs = torch.from_numpy(films)
    for member in MEMBERS:
        network, head = trained.networks[member], head_of(trained, member)
        own, weight = network(inputs)[1].numpy(), head.weight.clone()
        flat = (-1, *own.shape[2:])
        before = None
        generator = torch.Generator().manual_seed(SEED)
        for _ in range(RANDOM_HEADS):
            drawn = torch.randn(weight.shape, generator=generator) * weight.std()
            head.weight.copy_(drawn)
            random = network(inputs)[1].numpy().reshape(flat)
            own_sizes += map(abs, correlations_of(own.reshape(flat), random))
            if before is not None:
                chance_sizes += map(abs, correlations_of(before, random))
            before = random
        head.weight.copy_(weight)
    return float(np.mean(own_sizes)), float(np.mean(chance_sizes))


def _least_agreement(
    trained: Trained,
    graphs: dict[str, bytes],
    sessions: Sequence[onnxruntime.InferenceSession],
) -> float:
    """Least correlation of a member's map with Captum's, over golden images and findings."""
    least = 1.0
    for member, session in zip(MEMBERS, sessions, strict=True):
        twin = build_network(member, len(trained.labels), PREPROCESSING.rows)
        load_weights(twin, graphs[member])
        described = Member(
            name=member,
            file="",
            weight=0.5,
            biases=(),
            captum_layer=CAPTUM[member][0],
            captum_method=CAPTUM[member][1],
            model=graphs[member],
        )
        for seed, (rows, columns, opacity) in enumerate(GOLDEN_SHAPES.values()):
            image = prepare(
                synthetic_thorax(rows, columns, opacity=opacity, seed=seed), PREPROCESSING
            )
            served = run(session, image[np.newaxis])[1][0]
            for finding, each in enumerate(served):
                theirs = captum_map(twin, described, image, finding)
                least = min(least, pearson(theirs, each))
    return least
