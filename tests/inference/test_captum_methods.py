"""What Captum says on demand is about the score that was given, and adds up where it claims to."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import nn

from imaging_node.domain.errors import BundleError
from imaging_node.domain.explanation import ExplanationMethod
from imaging_node.inference.bundle import Bundle, load_bundle
from imaging_node.inference.captum_methods import explain, open_twins
from imaging_node.inference.golden import synthetic_thorax
from imaging_node.inference.networks import (
    DenseNetShape,
    MappedDenseNet,
    MappedTransformer,
    TransformerShape,
)
from imaging_node.inference.preprocessing import prepare
from imaging_node.inference.saliency import ensemble_map
from tests.signing import TRUSTED, sign_again

if TYPE_CHECKING:
    from pathlib import Path

SIDE = 64


@pytest.fixture(scope="module")
def twins() -> list[nn.Module]:
    """Small members whose batch norm does not wave everything through."""
    torch.manual_seed(4)
    networks: list[nn.Module] = [
        MappedDenseNet(DenseNetShape(blocks=(2, 2, 2, 2))),
        MappedTransformer(TransformerShape(image_size=SIDE, width=40, depth=2)),
    ]
    for network in networks:
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_mean is not None
                nn.init.normal_(module.running_mean, 0, 0.1)
        network.eval()
    return networks


def film() -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    thorax = synthetic_thorax(SIDE, SIDE, opacity=0.7, seed=5)
    return np.asarray((thorax - 0.5) / 0.25, np.float32)[np.newaxis]


def test_grad_cam_is_the_exact_map_that_the_graphs_give(
    bundle: Bundle, twins: list[nn.Module]
) -> None:
    found = explain(bundle, twins, film(), 0, ExplanationMethod.GRAD_CAM)
    with torch.inference_mode():
        maps = [twin(torch.from_numpy(film()[np.newaxis]))[1][0, 0].numpy() for twin in twins]
    weights = [member.weight for member in bundle.members]
    assert found.values == pytest.approx(ensemble_map(maps, weights, SIDE, SIDE), abs=1e-4)


def test_integrated_gradients_add_up_to_the_difference_from_the_black_film(
    bundle: Bundle, twins: list[nn.Module]
) -> None:
    found = explain(bundle, twins, film(), 0, ExplanationMethod.INTEGRATED_GRADIENTS)
    assert found.baseline_logit is not None
    assert found.incompleteness is not None
    assert found.incompleteness < 0.1 * abs(found.logit - found.baseline_logit) + 0.02


@pytest.mark.parametrize("method", list(ExplanationMethod))
def test_every_method_covers_the_model_grid_and_repeats_itself(
    bundle: Bundle, twins: list[nn.Module], method: ExplanationMethod
) -> None:
    first, second = (explain(bundle, twins, film(), 0, method) for _ in range(2))
    assert first.values.shape == (SIDE, SIDE)
    assert np.isfinite(first.values).all()
    assert first.values.std() > 0
    assert np.array_equal(first.values, second.values)


def test_the_twins_of_the_shipped_bundle_give_its_golden_logits(bundle: Bundle) -> None:
    case = bundle.golden[1]
    image = torch.from_numpy(prepare(case.p_values, bundle.preprocessing)[np.newaxis])
    with torch.inference_mode():
        logits = [twin(image)[0][0].numpy() for twin in open_twins(bundle)]
    assert np.stack(logits) == pytest.approx(case.logits, abs=bundle.golden_tolerance.logit)


def test_a_bundle_that_names_another_class_is_not_built(
    bundle_copy: Path,
) -> None:
    path = bundle_copy / "configs" / "inference.json"
    config = json.loads(path.read_text())
    config["network_def"] = {"_target_": "os.system", "shape": {"_target_": "os.system"}}
    path.write_text(json.dumps(config))
    sign_again(bundle_copy)
    with pytest.raises(BundleError, match="names no network of this product"):
        open_twins(load_bundle(bundle_copy, TRUSTED))
