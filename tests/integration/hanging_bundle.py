"""A bundle whose first network never ends on an image with a white corner."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from imaging_node.inference.bundle import default_bundle_directory
from tests.integration.films import picture
from tests.signing import sign_again

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from imaging_node.domain.finding import FloatImage

NAME = "chest_xray_pneumonia"
_CORNER = 16
_WHITE = 1.9  # standardised; the whitest there is becomes 2.0
_FOR_EVER = 2**62


def plant_hanging_bundle(zoo: Path) -> None:
    """Copy the shipped bundle into `zoo` with a loop behind the logits of its first network."""
    directory = shutil.copytree(default_bundle_directory() / NAME, zoo / NAME)
    path = directory / "models" / "cnn.onnx"
    model = onnx.load(path)
    _loop_behind_logits(model.graph)
    onnx.save(model, path)
    sign_again(directory)


def picture_that_hangs() -> FloatImage:
    """A picture that the planted loop never lets go."""
    changed = picture()
    changed[:32, :32] = 1
    return changed


def _loop_behind_logits(graph: onnx.GraphProto) -> None:
    for node in graph.node:
        node.output[:] = ["exact" if name == "logits" else name for name in node.output]
        node.input[:] = ["exact" if name == "logits" else name for name in node.input]
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["goes_on"], ["goes_on_still"]),
            helper.make_node("Identity", ["value"], ["same_value"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("goes_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("value", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("goes_on_still", TensorProto.BOOL, []),
            helper.make_tensor_value_info("same_value", TensorProto.FLOAT, None),
        ],
    )
    constants: dict[str, npt.NDArray[Any]] = {
        "corner_begin": np.array([0, 0], np.int64),
        "corner_end": np.array([_CORNER, _CORNER], np.int64),
        "corner_axes": np.array([2, 3], np.int64),
        "white": np.array(_WHITE, np.float32),
        "for_ever": np.array(_FOR_EVER, np.int64),
        "never": np.array(0, np.int64),
        "yes": np.array(True, np.bool_),
    }
    graph.initializer.extend(
        numpy_helper.from_array(each, name) for name, each in constants.items()
    )
    graph.node.extend(
        [
            helper.make_node(
                "Slice", ["image", "corner_begin", "corner_end", "corner_axes"], ["corner"]
            ),
            helper.make_node("ReduceMin", ["corner"], ["darkest"], axes=[1, 2, 3], keepdims=0),
            helper.make_node("ReduceMax", ["darkest"], ["whitest"], axes=[0], keepdims=0),
            helper.make_node("Greater", ["whitest", "white"], ["is_white"]),
            helper.make_node("Where", ["is_white", "for_ever", "never"], ["turns"]),
            helper.make_node("Loop", ["turns", "yes", "exact"], ["logits"], body=body),
        ]
    )
