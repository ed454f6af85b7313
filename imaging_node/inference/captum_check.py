"""Captum's opinion of the maps: used when a bundle is built and in tests, never in service.

The graph's second output claims to be the class activation map. Captum computes the same
from gradients at the member's pinned layer, out of a torch network that carries the very
weights of the ONNX file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import torch
from captum.attr import LayerGradCam, LayerGradientXActivation
from onnx import numpy_helper
from torch import nn

if TYPE_CHECKING:
    import numpy.typing as npt

    from imaging_node.inference.bundle import Member

HALF_SUFFIX = "_half"
"""Ends the name of a weight that the ONNX file stores as float16."""


def load_weights(network: nn.Module, model: bytes) -> None:
    """Give `network` the weights of an ONNX graph that was exported from its like, in place.

    Raises:
        RuntimeError: A weight of `network` is not in the graph, or has another shape.
    """
    weights = {
        initializer.name.removesuffix(HALF_SUFFIX): torch.from_numpy(
            numpy_helper.to_array(initializer).astype(np.float32)
        )
        for initializer in onnx.load_from_string(model).graph.initializer
    }
    own = network.state_dict()
    # Batch norm's counter of training batches means nothing in a graph for inference.
    counters = {name: value for name, value in own.items() if name.endswith("batches_tracked")}
    wanted = {name: weights[name] for name in own if name in weights}
    network.load_state_dict({**counters, **wanted}, strict=True)
    network.eval()


def captum_map(
    network: nn.Module, member: Member, image: npt.NDArray[np.float32], finding: int
) -> npt.NDArray[np.float32]:
    """Map of one finding for one image by Captum at the member's pinned layer.

    Args:
        network: Torch twin of the member, in evaluation mode.
        member: Names the layer and the method.
        image: Model input, shape (1, rows, columns).
        finding: Index of the output unit.

    Returns:
        float32, shape (h, w) on the layer's grid; proportional to the graph's map.
    """
    batch = torch.from_numpy(image[np.newaxis])
    layer = network.get_submodule(member.captum_layer)

    def logits(inputs: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = network(inputs)[0]
        return answer

    if member.captum_method == "LayerGradCam":
        attribution = LayerGradCam(logits, layer).attribute(
            batch, target=finding, relu_attributions=False
        )[0, 0]
    else:
        by_token = LayerGradientXActivation(logits, layer).attribute(batch, target=finding)
        summed = by_token[0].sum(-1)
        side = round(summed.numel() ** 0.5)
        attribution = summed.reshape(side, side)
    return np.asarray(attribution.detach().numpy(), np.float32)


def pearson(first: npt.NDArray[np.float32], second: npt.NDArray[np.float32]) -> float:
    """Correlation of two maps of equal shape, in [-1, 1]."""
    return float(np.corrcoef(first.ravel(), second.ravel())[0, 1])
