"""Captum, at the pinned layer, draws the map that the graph puts out."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest
from monai.bundle.config_parser import ConfigParser

from imaging_node.inference.captum_check import captum_map, load_weights, pearson
from imaging_node.inference.execution import Execution
from imaging_node.inference.preprocessing import prepare
from imaging_node.inference.runtime import Sessions

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import nn

    from imaging_node.domain.image import DecodedImage
    from imaging_node.inference.bundle import Bundle

DEFINITIONS = ("network_def", "second_network_def")


@pytest.fixture(scope="module")
def twins(bundle: Bundle) -> list[nn.Module]:
    """The members in torch, with the weights of the shipped graphs."""
    parser = ConfigParser()
    parser.read_config(str(bundle.directory / "configs/inference.json"))
    networks = [parser.get_parsed_content(each) for each in DEFINITIONS]
    for network, member in zip(networks, bundle.members, strict=True):
        load_weights(network, member.model)
    return networks


@pytest.fixture(scope="module")
def model_input(bundle: Bundle, thorax: DecodedImage) -> npt.NDArray[np.float32]:
    return prepare(thorax.p_values, bundle.preprocessing)


@pytest.mark.parametrize("index", [0, 1], ids=["cnn", "vit"])
def test_the_graphs_map_is_captums_at_the_pinned_layer(
    bundle: Bundle, twins: list[nn.Module], model_input: npt.NDArray[np.float32], index: int
) -> None:
    served = Sessions(bundle, Execution()).predict(model_input[None])[0].maps[index][0]
    drawn = captum_map(twins[index], bundle.members[index], model_input, finding=0)
    assert drawn.shape == served.shape
    assert pearson(drawn, served) >= 0.999


def test_the_layer_is_pinned_for_a_reason(
    bundle: Bundle, twins: list[nn.Module], model_input: npt.NDArray[np.float32]
) -> None:
    served = Sessions(bundle, Execution()).predict(model_input[None])[0].maps[0][0]
    before_last_relu = dataclasses.replace(bundle.members[0], captum_layer="net.features.norm5")
    assert pearson(captum_map(twins[0], before_last_relu, model_input, finding=0), served) < 0.999


def test_weights_of_another_network_are_refused(bundle: Bundle, twins: list[nn.Module]) -> None:
    with pytest.raises(RuntimeError, match="Missing key"):
        load_weights(twins[1], bundle.members[0].model)
