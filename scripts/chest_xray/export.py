"""From torch to ONNX: the graph that serves, with weights under their torch names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from chest_xray.images import PREPROCESSING
from imaging_node.inference.captum_check import HALF_SUFFIX
from imaging_node.inference.networks import MappedDenseNet, MappedTransformer
from imaging_node.inference.outputs import OUTPUTS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

OPSET = 17
SMALLEST_HALF = 256
HEADS = {"cnn": "net.class_layers.out", "vit": "head"}


class _WithFeatures(nn.Module):
    """The CNN as it is exported: with what the familiarity gate judges."""

    def __init__(self, net: nn.Module, twin: MappedDenseNet) -> None:
        super().__init__()
        self.net = net  # keeps the names of the weights
        self._answer = twin.with_features

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Logits, maps, features."""
        return self._answer(image)


def keep_findings(
    network: MappedDenseNet | MappedTransformer, member: str, kept: Sequence[int]
) -> None:
    """Leave only some output units in the head, in place."""
    head = network.get_submodule(HEADS[member])
    assert isinstance(head, nn.Linear)
    head.weight = nn.Parameter(head.weight.detach()[list(kept)].clone())
    head.bias = nn.Parameter(head.bias.detach()[list(kept)].clone())
    head.out_features = len(kept)


def export_member(network: MappedDenseNet | MappedTransformer, destination: Path) -> bytes:
    """Write a member's graph; the CNN's has features as a third output."""
    exported: nn.Module = network.eval()
    names = list(OUTPUTS[:2])
    if isinstance(network, MappedDenseNet):
        exported, names = _WithFeatures(network.net, network).eval(), list(OUTPUTS)
    size = (2, 1, PREPROCESSING.rows, PREPROCESSING.columns)
    return export_graph(exported, torch.zeros(size), names, destination)


def export_graph(
    network: nn.Module, example: torch.Tensor, names: Sequence[str], destination: Path
) -> bytes:
    """ONNX graph of a network, weights under their torch names, the large ones as float16.

    Args:
        network: In evaluation mode.
        example: An input batch; its first axis becomes free.
        names: Of the outputs.
        destination: Where the graph is also written.
    """
    # The legacy exporter is fast and its graph runs faster. Folding and fusing is left to
    # ONNX Runtime, so that every weight keeps the name under which Captum's twin finds it.
    torch.onnx.export(
        network,
        (example,),
        destination,
        input_names=["image"],
        output_names=list(names),
        dynamic_axes={name: {0: "n"} for name in ("image", *names)},
        dynamo=False,
        opset_version=OPSET,
        do_constant_folding=False,
        training=torch.onnx.TrainingMode.PRESERVE,
    )
    model = onnx.load(destination)
    casts = []
    for initializer in list(model.graph.initializer):
        values = numpy_helper.to_array(initializer)
        if values.dtype != np.float32 or values.size <= SMALLEST_HALF:
            continue
        half = numpy_helper.from_array(values.astype(np.float16), initializer.name + HALF_SUFFIX)
        casts.append(
            helper.make_node("Cast", [half.name], [initializer.name], to=TensorProto.FLOAT)
        )
        model.graph.initializer.remove(initializer)
        model.graph.initializer.append(half)
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.checker.check_model(model)
    graph = bytes(model.SerializeToString())
    destination.write_bytes(graph)
    return graph
