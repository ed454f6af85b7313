"""Whether an ONNX graph carries all its weights: read from the wire, before any runtime sees it.

A tensor may name a file (`external_data`), which a runtime would open wherever the path leads
and which no manifest covers. Only lengths are walked (protobuf encoding): no weight is copied.
Field numbers are those of onnx.proto3 of ONNX 1.x, which never change.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

_EXTERNAL_DATA, _DATA_LOCATION, _EXTERNAL = 13, 14, 1
# Message: its fields that hold messages in which a tensor may lie.
_PARTS: Final[dict[str, dict[int, str]]] = {
    "Model": {7: "Graph", 20: "Training", 25: "Function"},
    "Training": {1: "Graph", 2: "Graph"},
    "Function": {7: "Node", 11: "Attribute"},
    "Graph": {1: "Node", 5: "Tensor", 15: "Sparse"},
    "Node": {5: "Attribute"},
    "Attribute": {
        5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "Sparse", 23: "Sparse",
    },
    "Sparse": {1: "Tensor", 2: "Tensor"},
}  # fmt: skip
_GRAPH = 7
_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5
_DEEPEST = 64
_LONGEST_VARINT = 10
_32_BITS = 0xFFFFFFFF


class GraphError(Exception):
    """Why a file is not taken as an ONNX graph; the text continues the file's name."""


def require_self_contained(model: bytes) -> None:
    """Let a serialised model pass whose tensors all lie in its own bytes.

    Raises:
        GraphError: It is no ONNX graph, or a tensor lies in another file.
    """
    view = memoryview(model)
    if all(number != _GRAPH for number, _, _ in _fields(view)):
        raise GraphError("is not an ONNX graph")
    _walk(view, "Model", 0)


def _walk(message: memoryview, kind: str, depth: int) -> None:
    if depth > _DEEPEST:
        raise GraphError("nests deeper than any ONNX graph")
    parts = _PARTS.get(kind, {})
    for number, value, content in _fields(message):
        if kind == "Tensor":
            # Runtimes keep 32 bits of an enumeration.
            is_external = number == _DATA_LOCATION and value & _32_BITS == _EXTERNAL
            if is_external or number == _EXTERNAL_DATA:
                raise GraphError(
                    "keeps a tensor in another file (external data); export it with its weights"
                )
        elif number in parts and content is not None:
            _walk(content, parts[number], depth + 1)


def _fields(message: memoryview) -> Iterator[tuple[int, int, memoryview | None]]:
    """Number, value (of a varint) and content (of what has a length) of each field."""
    at = 0
    while at < len(message):
        tag, at = _tag(message, at)
        number, wire_type = tag >> 3, tag & 7
        value, content = 0, None
        if wire_type == _VARINT:
            value, at = _varint(message, at)
        elif wire_type == _LENGTH:
            length, at = _varint(message, at)
            content = message[at : at + length]
            at += length
        elif wire_type in (_EIGHT_BYTES, _FOUR_BYTES):
            at += 8 if wire_type == _EIGHT_BYTES else 4
        else:
            raise GraphError("is not an ONNX graph")
        if at > len(message) or number == 0:
            raise GraphError("is not an ONNX graph")
        yield number, value, content


def _tag(message: memoryview, at: int) -> tuple[int, int]:
    """Field number and wire type as one number, and where they end.

    A tag has 32 bits, of which runtimes drop what is beyond: another field to them than to
    whoever reads all of it. No writer makes one longer than it need be.
    """
    tag, end = _varint(message, at)
    is_overlong = end - at > 1 and message[end - 1] == 0
    if tag > _32_BITS or is_overlong:
        raise GraphError("is not an ONNX graph")
    return tag, end


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """A base-128 number and where it ends."""
    value = 0
    for position in range(_LONGEST_VARINT):
        if at + position >= len(message):
            break
        byte = message[at + position]
        value |= (byte & 0x7F) << (7 * position)
        if not byte & 0x80:
            return value, at + position + 1
    raise GraphError("is not an ONNX graph")
