"""A graph that would read another file never reaches a runtime."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from imaging_node.domain.errors import BundleError
from imaging_node.inference.bundle import load_bundle
from imaging_node.inference.onnx_graph import GraphError, require_self_contained
from tests.signing import TRUSTED, sign_again

if TYPE_CHECKING:
    from pathlib import Path

Proto = Any
"""A message of onnx, which ships no types."""

onnx = pytest.importorskip("onnx", reason="the extra torch is not installed")


def external() -> Proto:
    """A tensor whose values lie in a file of somebody else."""
    tensor = onnx.numpy_helper.from_array(np.zeros(3, np.float32), "weights")
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "/etc/hostname"
    return tensor


def graph(*nodes: Proto, initializers: tuple[Proto, ...] = ()) -> bytes:
    made = onnx.helper.make_graph(list(nodes), "g", [], [], list(initializers))
    return bytes(onnx.helper.make_model(made).SerializeToString())


def constant(tensor: Proto) -> Proto:
    return onnx.helper.make_node("Constant", [], ["weights"], value=tensor)


def in_a_branch() -> bytes:
    branch = onnx.helper.make_graph([constant(external())], "branch", [], [])
    node = onnx.helper.make_node("If", ["c"], ["o"], then_branch=branch, else_branch=branch)
    return graph(node)


def in_a_function() -> bytes:
    function = onnx.helper.make_function("own", "f", [], ["weights"], [constant(external())], [])
    made = onnx.helper.make_graph([], "g", [], [])
    return bytes(onnx.helper.make_model(made, functions=[function]).SerializeToString())


def sparse() -> bytes:
    tensor = onnx.helper.make_sparse_tensor(
        external(), onnx.numpy_helper.from_array(np.zeros(3, np.int64), "i"), [3]
    )
    made = onnx.helper.make_graph([], "g", [], [], sparse_initializer=[tensor])
    return bytes(onnx.helper.make_model(made).SerializeToString())


def only_said_to_be() -> bytes:
    tensor = external()
    tensor.ClearField("external_data")
    return graph(initializers=(tensor,))


@pytest.mark.parametrize(
    "model",
    [
        graph(initializers=(external(),)),
        graph(constant(external())),
        in_a_branch(),
        in_a_function(),
        sparse(),
        only_said_to_be(),
    ],
    ids=["initializer", "constant", "branch", "function", "sparse", "location alone"],
)
def test_a_tensor_in_another_file_is_found_wherever_the_graph_hides_it(model: bytes) -> None:
    with pytest.raises(GraphError, match="external data"):
        require_self_contained(model)


@pytest.mark.parametrize("model", [b"", b"text", b"\x3a\xff", b"\xff" * 40, b"\x3a\x02\x2a\x7f"])
def test_what_is_no_graph_is_refused_without_harm(model: bytes) -> None:
    with pytest.raises(GraphError, match="not an ONNX graph"):
        require_self_contained(model)


def disguised(tag: bytes) -> bytes:
    """A graph whose tensor names its file under another spelling of the field's tag."""
    tensor = external()
    tensor.ClearField("data_location")
    plain = bytes(tensor.SerializeToString())
    # external_data: field 13, with a length.
    assert plain.count(b"\x6a") == 1
    spelt = plain.replace(b"\x6a", tag)
    # GraphProto.initializer is field 5, ModelProto.graph is field 7.
    made = b"\x2a" + bytes([len(spelt)]) + spelt
    return b"\x3a" + bytes([len(made)]) + made


@pytest.mark.parametrize(
    "tag",
    [b"\xea\x80\x80\x80\x10", b"\xea\x80\x80\x80\x80\x01", b"\xea\x00", b"\xea\x80\x80\x00"],
    ids=["2^32 more", "2^35 more", "one byte more", "three bytes more"],
)
def test_no_other_spelling_of_a_tag_hides_a_file(tag: bytes) -> None:
    with pytest.raises(GraphError, match="external data"):
        require_self_contained(disguised(b"\x6a"))
    with pytest.raises(GraphError, match="not an ONNX graph"):
        require_self_contained(disguised(tag))


def test_a_location_that_is_external_in_32_bits_is_external() -> None:
    tensor = external()
    tensor.ClearField("external_data")
    plain = bytes(tensor.SerializeToString())
    assert plain.endswith(b"\x70\x01")  # data_location: field 14
    spelt = plain[:-1] + b"\x81\x80\x80\x80\x10"
    made = b"\x2a" + bytes([len(spelt)]) + spelt
    with pytest.raises(GraphError, match="external data"):
        require_self_contained(b"\x3a" + bytes([len(made)]) + made)


def test_a_graph_with_its_weights_passes() -> None:
    weights = onnx.numpy_helper.from_array(np.zeros(3, np.float32), "weights")
    require_self_contained(graph(constant(weights), initializers=(weights,)))


def test_a_signed_bundle_with_external_data_is_refused_and_the_file_named(
    bundle_copy: Path,
) -> None:
    path = bundle_copy / "models/cnn.onnx"
    model = onnx.load(path)
    model.graph.initializer.append(external())
    path.write_bytes(model.SerializeToString())
    sign_again(bundle_copy)
    with pytest.raises(BundleError, match=r"models/cnn\.onnx: keeps a tensor in another file"):
        load_bundle(bundle_copy, TRUSTED)
