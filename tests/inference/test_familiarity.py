"""What lies far from the training images is refused, in whatever direction it lies."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from pydantic import ValidationError

from imaging_node.domain.finding import NotAnalysedReason
from imaging_node.inference.familiarity import (
    DeclaredFamiliarity,
    Depth,
    Familiarity,
    fit_space,
)

FloatArray = npt.NDArray[np.float32]
WIDTH, KEPT = 30, 6


def training(count: int = 600, seed: int = 1) -> FloatArray:
    """Features that vary in six directions much and in the others little."""
    random = np.random.default_rng(seed)
    main = random.normal(size=(count, KEPT)) * np.array([9, 7, 5, 4, 3, 2])
    axes = np.linalg.qr(np.random.default_rng(9).normal(size=(WIDTH, KEPT)))[0]
    noise = random.normal(0, 0.1, (count, WIDTH))
    return np.asarray(main @ axes.T + noise + 5, np.float32)


@pytest.fixture(scope="module")
def familiarity() -> Familiarity:
    features = training()
    space, residual_scale = fit_space(features, KEPT)
    depth = Depth(
        name="deep",
        first=0,
        last=WIDTH,
        mean=space[0],
        directions=space[1:],
        residual_scale=residual_scale,
        neighbours=((features - space[0]) @ space[1:].T)[:300].astype(np.float32),
    )
    found = [depth.distances(row) for row in training(seed=2)]
    limits = {
        name: float(np.quantile([each[name] for each in found], 0.99)) * 1.15 for name in found[0]
    }
    return Familiarity(depths=(depth,), limits=limits)


def test_training_images_lie_at_a_distance_of_about_one(familiarity: Familiarity) -> None:
    distances = [familiarity.distances(row) for row in training()]
    for name in ("distance_deep", "residual_deep"):
        assert np.sqrt(np.mean([each[name] ** 2 for each in distances])) == pytest.approx(
            1, abs=0.02
        )


def test_other_images_of_the_same_kind_pass(familiarity: Familiarity) -> None:
    refused = [familiarity.check(familiarity.distances(row)) for row in training(seed=3)]
    assert sum(map(bool, refused)) <= 0.02 * len(refused)


@pytest.mark.parametrize("direction", range(KEPT + 3))
def test_an_image_far_away_is_refused(familiarity: Familiarity, direction: int) -> None:
    axes = np.linalg.svd(training() - training().mean(0))[2]
    far = training(1, seed=4)[0] + 60 * axes[direction].astype(np.float32)
    [refusal] = familiarity.check(familiarity.distances(far))
    assert refusal.reason is NotAnalysedReason.UNFAMILIAR


def test_a_hole_in_the_middle_of_the_training_images_is_no_neighbourhood() -> None:
    """A ring: its centre has no Mahalanobis distance at all, and no neighbour either."""
    angles = np.linspace(0, 2 * np.pi, 400)
    ring = np.stack([np.cos(angles), np.sin(angles), 0.01 * np.sin(5 * angles)], 1)
    space, residual_scale = fit_space(ring.astype(np.float32), 2)
    depth = Depth(
        name="deep", first=0, last=3, mean=space[0], directions=space[1:],
        residual_scale=residual_scale,
        neighbours=((ring - space[0]) @ space[1:].T).astype(np.float32),
    )  # fmt: skip
    centre = depth.distances(space[0])
    on_ring = depth.distances(ring[7].astype(np.float32))
    assert centre["distance_deep"] < on_ring["distance_deep"]
    assert centre["neighbours_deep"] > 20 * on_ring["neighbours_deep"]


@pytest.mark.parametrize(
    "limits",
    [{}, {"distance_shallow": 2.0}, {"neighbours_deep": 2.0}, {"residual_deep": 0.0}],
    ids=["none", "of another depth", "of neighbours that are not there", "that none can keep"],
)
def test_a_bundle_cannot_declare_limits_that_nothing_measures(limits: dict[str, float]) -> None:
    depth = {"name": "deep", "first": 0, "last": 9, "space": "deep.npy", "residual_scale": 1.0}
    DeclaredFamiliarity.model_validate({"depths": [depth], "limits": {"distance_deep": 2.0}})
    with pytest.raises(ValidationError, match="limits"):
        DeclaredFamiliarity.model_validate({"depths": [depth], "limits": limits})
