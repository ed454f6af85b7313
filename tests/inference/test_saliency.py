"""The map is the score before it was summed, and it lies where the evidence lay."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from imaging_node.inference.ensemble import pool_logits
from imaging_node.inference.lanes import ROUTINE
from imaging_node.inference.saliency import ensemble_map, map_on_source

if TYPE_CHECKING:
    from imaging_node.domain.image import DecodedImage
    from imaging_node.inference.bundle import Bundle
    from imaging_node.inference.scorer import Scorer


def test_the_mean_of_the_ensemble_map_plus_the_biases_is_the_pooled_logit(
    bundle: Bundle, scorer: Scorer, thorax: DecodedImage
) -> None:
    outputs = scorer.score(thorax, ROUTINE).outputs
    weights = [member.weight for member in bundle.members]
    grid_map = ensemble_map([maps[0] for maps in outputs.maps], weights, 224, 224)
    bias = sum(member.weight * member.biases[0] for member in bundle.members)
    pooled = pool_logits(outputs.logits, bundle.members)[0]
    assert float(grid_map.mean(dtype=np.float64)) + bias == pytest.approx(pooled, abs=1e-4)


def test_evidence_in_one_corner_of_the_grid_lies_in_that_corner_of_the_source() -> None:
    coarse, fine = np.zeros((7, 7), np.float32), np.zeros((14, 14), np.float32)
    coarse[0, 6], fine[1, 12] = 3, 5
    drawn = map_on_source(
        ensemble_map([coarse, fine], [0.5, 0.5], 224, 224),
        label="Pneumonia",
        sop_instance_uid="2.25.1",
        source_shape=(2000, 1000),
    ).values
    assert drawn.shape == (2000, 1000)
    peak_row, peak_column = np.unravel_index(np.argmax(drawn), drawn.shape)
    assert peak_row < 2000 * 2 / 7
    assert peak_column > 1000 * 5 / 7
    assert np.abs(drawn[1000:]).max() == 0


def test_a_grid_that_does_not_divide_the_input_is_refused() -> None:
    with pytest.raises(ValueError, match="does not divide"):
        ensemble_map([np.zeros((9, 9), np.float32)], [1.0], 224, 224)
