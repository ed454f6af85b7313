"""DIMSE command sets as bytes: what the node reads and writes, nothing more.

pynetdicom's classes go through a data set of pydicom, which costs more than receiving a CT slice;
a command set is a flat list of a dozen elements (PS3.7 6.3.1), so it is read as that.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

_ELEMENT = struct.Struct("<HHI")
_UNSIGNED_SHORT = struct.Struct("<H")
_NO_DATASET = 0x0101
_LONGEST_COMMENT = 64  # PS3.5 6.2, VR LO

# Element numbers of group 0000, PS3.7 E.1.
AFFECTED_SOP_CLASS_UID = 0x0002
REQUESTED_SOP_CLASS_UID = 0x0003
COMMAND_FIELD = 0x0100
MESSAGE_ID = 0x0110
MESSAGE_ID_RESPONDED_TO = 0x0120
PRIORITY = 0x0700
COMMAND_DATA_SET_TYPE = 0x0800
STATUS = 0x0900
ERROR_COMMENT = 0x0902
AFFECTED_SOP_INSTANCE_UID = 0x1000
REQUESTED_SOP_INSTANCE_UID = 0x1001
EVENT_TYPE_ID = 0x1002
ACTION_TYPE_ID = 0x1008


class Command(IntEnum):
    """Command Field of the requests that the node knows, PS3.7 E.1."""

    C_STORE = 0x0001
    C_ECHO = 0x0030
    N_EVENT_REPORT = 0x0100
    N_ACTION = 0x0130
    C_CANCEL = 0x0FFF


RESPONSE = 0x8000


@dataclass(frozen=True, slots=True)
class CommandSet:
    """One decoded command.

    Attributes:
        elements: Values by element number, as received.
    """

    elements: Mapping[int, bytes]

    def number(self, element: int) -> int:
        """Value of an element of VR US.

        Raises:
            ValueError: It is missing or has another length.
        """
        value = self.elements.get(element)
        if value is None or len(value) != _UNSIGNED_SHORT.size:
            raise ValueError(f"command element (0000,{element:04X}) is missing or damaged")
        return int(_UNSIGNED_SHORT.unpack(value)[0])

    def uid(self, element: int) -> str:
        """Value of an element of VR UI, padding removed; "" when it is missing."""
        value = self.elements.get(element, b"")
        # One trailing NUL pads; some senders pad with a space. Anything else is not a UID.
        return (
            value[:-1].decode("latin-1") if value[-1:] in (b"\0", b" ") else value.decode("latin-1")
        )

    @property
    def has_dataset(self) -> bool:
        """Whether a dataset follows."""
        return self.number(COMMAND_DATA_SET_TYPE) != _NO_DATASET


def decode_command(encoded: bytes | bytearray) -> CommandSet:
    """Read a command set.

    Raises:
        ValueError: It is no list of elements of group 0000, or an element occurs twice.
    """
    elements: dict[int, bytes] = {}
    position, end = 0, len(encoded)
    while position < end:
        if end - position < _ELEMENT.size:
            raise ValueError("a command set ends within an element")
        group, element, length = _ELEMENT.unpack_from(encoded, position)
        position += _ELEMENT.size
        if group or element in elements or length > end - position:
            raise ValueError("a command set holds what is no command element")
        elements[element] = bytes(encoded[position : position + length])
        position += length
    return CommandSet(elements)


def encode_command(
    numbers: Mapping[int, int],
    uids: Mapping[int, str],
    comment: str = "",
    *,
    has_dataset: bool = False,
) -> bytes:
    """Write a command set.

    Args:
        numbers: Elements of VR US.
        uids: Elements of VR UI; empty ones are left out.
        comment: Error Comment, cut to 64 characters.
    """
    values = {element: _UNSIGNED_SHORT.pack(number) for element, number in numbers.items()}
    values[COMMAND_DATA_SET_TYPE] = _UNSIGNED_SHORT.pack(0 if has_dataset else _NO_DATASET)
    for element, uid in uids.items():
        if uid:
            encoded = uid.encode("ascii")
            values[element] = encoded + b"\0" * (len(encoded) % 2)
    if comment:
        text = comment.encode("ascii", "replace")[:_LONGEST_COMMENT]
        values[ERROR_COMMENT] = text + b" " * (len(text) % 2)
    body = b"".join(
        _ELEMENT.pack(0, element, len(value)) + value for element, value in sorted(values.items())
    )
    return _ELEMENT.pack(0, 0, 4) + struct.pack("<I", len(body)) + body
